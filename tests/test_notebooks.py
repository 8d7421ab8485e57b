import runpy

from tests.conftest import ROOT


def test_the_notebook_runs(capsys) -> None:
    runpy.run_path(str(ROOT / "notebooks" / "without_kedro.py"))
    assert "after 2 epochs" in capsys.readouterr().out

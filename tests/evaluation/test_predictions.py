import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lt_pipeline.errors import LongTailError
from lt_pipeline.evaluation.predictions import Predictions


def small(**changes) -> Predictions:
    values = {
        "sample_ids": np.array(["a", "b", "ç"]),
        "labels": np.array([0, 2, -1]),
        "logits": np.arange(9, dtype=np.float32).reshape(3, 3),
    }
    return Predictions(**(values | changes))


def assert_same(left: Predictions, right: Predictions) -> None:
    for entry in dataclasses.fields(Predictions):
        a, b = getattr(left, entry.name), getattr(right, entry.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b


def test_file_gives_back_every_bit(routed, tmp_path):
    routed.to_parquet(tmp_path / "p.parquet")
    assert_same(Predictions.from_parquet(tmp_path / "p.parquet"), routed)


def test_file_without_experts_gives_back_none(tmp_path):
    small().to_parquet(tmp_path / "new" / "p.parquet")
    back = Predictions.from_parquet(tmp_path / "new" / "p.parquet")
    assert_same(back, small())
    assert back.expert_logits is None and back.num_experts == 1


def test_experts_keep_their_order_beyond_ten(tmp_path):
    experts = np.arange(12 * 3 * 3, dtype=np.float32).reshape(12, 3, 3)
    small(expert_logits=experts).to_parquet(tmp_path / "p.parquet")
    np.testing.assert_array_equal(Predictions.from_parquet(tmp_path / "p.parquet").expert_logits, experts)


def test_pandas_opens_the_file(routed, tmp_path):
    routed.to_parquet(tmp_path / "p.parquet")
    frame = pd.read_parquet(tmp_path / "p.parquet")
    assert list(frame.columns) == ["sample_id", "label", "logits", "expert_0", "expert_1", "expert_2", "router_score", "experts_used"]
    np.testing.assert_array_equal(np.stack(frame["logits"]), routed.logits)


def test_file_made_with_pandas_alone_is_understood(tmp_path):
    frame = pd.DataFrame({"sample_id": ["x", "y"], "label": [1, 0], "logits": [[0.5, 1.0], [2.0, -1.0]]})
    frame.attrs = {"method": "mine", "train_counts": [30, 5]}
    frame.to_parquet(tmp_path / "p.parquet")
    predictions = Predictions.from_parquet(tmp_path / "p.parquet", facts={"seed": 3})
    assert predictions.logits.tolist() == [[0.5, 1.0], [2.0, -1.0]]
    assert predictions.facts == {"method": "mine", "train_counts": [30, 5], "seed": 3}
    assert predictions.class_names == ["0", "1"]


def test_nothing_is_left_behind_when_writing_fails(tmp_path, monkeypatch):
    small().to_parquet(tmp_path / "p.parquet")
    before = (tmp_path / "p.parquet").read_bytes()
    monkeypatch.setattr(pq, "write_table", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(LongTailError, match="No space left"):
        small(facts={"seed": 1}).to_parquet(tmp_path / "p.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]
    assert (tmp_path / "p.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": np.array([[0, 1, 2], [0, np.nan, 2], [0, 1, 2]])}, r"logits .* NaN or infinity, first for the image 'b'"),
        ({"labels": np.array([0, 3, 1])}, r"'b' has the label 3; allowed are 0..2, or -1"),
        ({"labels": np.array([0, -2, 1])}, "label -2"),
        ({"labels": np.array([0, 1])}, r"labels has the shape \(2,\)"),
        ({"sample_ids": np.array(["a", "b", "a"])}, "'a' occurs 2 times"),
        ({"logits": np.zeros((3, 1))}, "at least 2 classes"),
        ({"expert_logits": np.zeros((2, 3, 4))}, r"expert_logits has the shape \(2, 3, 4\)"),
        ({"expert_logits": np.full((2, 3, 3), np.inf)}, "expert_logits .* NaN or infinity"),
        ({"expert_logits": np.zeros((2, 3, 3)), "router_scores": np.zeros((3, 2))}, r"router_scores .* ask for \(3, 1\)"),
        ({"expert_logits": np.zeros((2, 3, 3)), "experts_used": np.array([1, 2, 3])}, r"outside 1\.\.2"),
        ({"expert_logits": np.zeros((2, 3, 3)), "macs_per_depth": np.ones(3)}, "macs_per_depth"),
        ({"facts": {"class_names": ["a", "b"]}}, "'class_names' has 2 entries, but the logits have 3"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(LongTailError, match=message):
        small(**changes)


def table(**columns) -> pa.Table:
    given = {"sample_id": ["a", "b"], "label": [0, 1], "logits": [[0.0, 1.0], [1.0, 0.0]]} | columns
    return pa.table({name: value for name, value in given.items() if value is not None})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"logits": None}, "lack the column 'logits'"),
        ({"logits": [[0.0, 1.0], [1.0]]}, "differ in length"),
        ({"logits": [[0.0, 1.0], None]}, "differ in length|empty cells"),
        ({"logits": [[0.0, 1.0], [None, 1.0]]}, "NaN"),
        ({"logits": [0.0, 1.0]}, "must hold a list of numbers"),
        ({"logits": [["x", "y"], ["z", "u"]]}, "lists of numbers"),
        ({"label": [0, None]}, "empty cells; write -1"),
        ({"label": [0.5, 1.0]}, "whole numbers"),
        ({"expert_1": [[0.0, 1.0], [1.0, 0.0]]}, "without a gap"),
        ({"expert_0": [[0.0, 1.0], [1.0, 0.0]], "expert_1": [[0.0], [1.0]]}, "disagree about the number of classes"),
    ],
)
def test_wrong_files_get_a_sentence(columns, message, tmp_path):
    pq.write_table(table(**columns), tmp_path / "p.parquet")
    with pytest.raises(LongTailError, match=message):
        Predictions.from_parquet(tmp_path / "p.parquet")


def test_missing_and_truncated_files_get_a_sentence(tmp_path):
    with pytest.raises(LongTailError, match="does not exist"):
        Predictions.from_parquet(tmp_path / "none.parquet")
    small().to_parquet(tmp_path / "p.parquet")
    (tmp_path / "p.parquet").write_bytes((tmp_path / "p.parquet").read_bytes()[:-20])
    with pytest.raises(LongTailError, match="damaged or not a Parquet file"):
        Predictions.from_parquet(tmp_path / "p.parquet")


def test_a_flipped_bit_is_noticed(routed, tmp_path):
    routed.to_parquet(tmp_path / "p.parquet")
    content = bytearray((tmp_path / "p.parquet").read_bytes())
    content[len(content) // 3] ^= 4
    (tmp_path / "p.parquet").write_bytes(content)
    with pytest.raises(LongTailError, match="damaged"):
        Predictions.from_parquet(tmp_path / "p.parquet")


def test_labelled_keeps_only_known_rows(routed):
    labels = routed.labels.copy()
    labels[::2] = -1
    part = dataclasses.replace(routed, labels=labels).labelled()
    np.testing.assert_array_equal(part.labels, routed.labels[1::2])
    np.testing.assert_array_equal(part.expert_logits, routed.expert_logits[:, 1::2])
    assert routed.labelled() is routed
    with pytest.raises(LongTailError, match="No image"):
        small(labels=np.full(3, -1)).labelled()

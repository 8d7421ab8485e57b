"""Freed memory stays with the process, so that the next step need not ask for it."""

import platform
import resource
import sys

import pytest
import torch

from lt_pipeline.training.allocator import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
@pytest.mark.parametrize("mebibytes", [16, 256])
def test_blocks_are_used_again_without_new_pages(mebibytes: int) -> None:
    assert keep_freed_memory()

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(mebibytes * 2**18).sum()  # 256 pages each
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    for _ in range(3):
        faults()
    assert min(faults() for _ in range(5)) < 400


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory.__wrapped__() is False

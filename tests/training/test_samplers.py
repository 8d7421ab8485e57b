import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lt_pipeline.errors import LongTailError
from lt_pipeline.training.config import SamplerConfig
from lt_pipeline.training.samplers import ClassBalanced, Repeated, Uniform, build_sampler

TARGETS = np.repeat(np.arange(4), [40, 10, 5, 1])


def test_uniform_sees_every_image_once_and_differently_each_epoch() -> None:
    sampler = Uniform(100, seed=3)
    first, second = sampler.order(0), sampler.order(1)
    assert sorted(first) == list(range(100)) == sorted(second)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, Uniform(100, seed=3).order(0))
    assert not np.array_equal(first, Uniform(100, seed=4).order(0))


@given(st.integers(1, 50), st.integers(1, 5))
def test_repeated_keeps_the_epoch_size(size: int, repeats: int) -> None:
    order = Repeated(size, repeats, seed=0).order(0)
    assert len(order) == size
    counts = np.unique(order, return_counts=True)[1]
    assert (counts <= repeats).all()
    assert len(counts) == -(-size // repeats)


def test_class_balanced_draws_classes_equally() -> None:
    sampler = ClassBalanced(TARGETS, 4, retain_epoch_size=False, seed=0)
    assert sampler.length == 160
    drawn = np.concatenate([TARGETS[sampler.order(epoch)] for epoch in range(20)])
    assert np.bincount(drawn) / len(drawn) == pytest.approx(np.full(4, 0.25), abs=0.03)


def test_class_balanced_uses_up_a_bucket_before_it_repeats() -> None:
    sampler = ClassBalanced(TARGETS, 4, retain_epoch_size=False, seed=1)
    medium = [item for item in sampler.order(0) if TARGETS[item] == 1]
    for start in range(0, len(medium) - 9, 10):
        assert len(set(medium[start : start + 10])) == 10


def test_class_balanced_continues_exactly_after_a_round_trip_through_json() -> None:
    whole = ClassBalanced(TARGETS, 4, retain_epoch_size=True, seed=5)
    expected = [whole.order(epoch) for epoch in range(4)]
    first = ClassBalanced(TARGETS, 4, retain_epoch_size=True, seed=5)
    first.order(0), first.order(1)
    second = ClassBalanced(TARGETS, 4, retain_epoch_size=True, seed=99)
    second.restore(json.loads(json.dumps(first.state())))
    assert np.array_equal(second.order(2), expected[2])
    assert np.array_equal(second.order(3), expected[3])


def test_an_empty_class_is_refused() -> None:
    with pytest.raises(LongTailError, match="class 1 has none"):
        build_sampler(SamplerConfig(kind="class_balanced"), np.array([0, 2, 2]), 3, seed=0)

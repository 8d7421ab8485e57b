"""timm's RandAugment: its operations are MDCS's, and what it draws comes from a seed."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment

from lt_pipeline.augment.randaugment import RandAugment, randaugment_operation, seeded
from lt_pipeline.errors import LongTailError
from tests.conftest import SHARED, require_shared
from tests.parity.dispatch import check, read_case

FIXTURES = sorted((SHARED / "parity" / "mdcs").glob("randaug_op__*.safetensors"))
OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color",
    "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.shared
def test_there_are_fixtures() -> None:
    require_shared(SHARED / "parity")
    assert FIXTURES


@pytest.mark.shared
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_operation_equals_mdcs(path) -> None:
    case = read_case(path)
    assert (case.rtol, case.atol) == (0, 1)
    given = dict(case.params, op=case.params["op"].removesuffix("Tpu"))  # MDCS's name for timm's Posterize
    check(case, {"image": randaugment_operation(case.given["in.image"], **given)})


def test_the_policy_draws_from_mdcs_operations_at_its_strength() -> None:
    policy = RandAugment("rand-n2-m10-mstd0.5")._transform
    assert policy.num_layers == 2 and policy.choice_weights is None
    assert tuple(op.name for op in policy.ops) == OPERATIONS
    for op in policy.ops:
        assert (op.prob, op.magnitude, op.magnitude_std, op.magnitude_max) == (0.5, 10, 0.5, None)
        assert op.kwargs["fillcolor"] == (124, 116, 104)
        assert set(op.kwargs["resample"]) == {Image.Resampling.BILINEAR, Image.Resampling.BICUBIC}


@pytest.mark.parametrize("op", ["Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel", "ColorIncreasing"])
def test_negation_turns_the_sign_round(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, negated = (randaugment_operation(IMAGE, op, 6, negate) for negate in (False, True))
    assert not torch.equal(kept, negated)
    operation = auto_augment.AugmentOp(op, 1.0, 6, {"img_mean": (124, 116, 104), "interpolation": Image.Resampling.BILINEAR})
    for draw, ours in ((0.0, kept), (1.0, negated)):
        monkeypatch.setattr(random, "random", lambda draw=draw: draw)
        assert np.array_equal(ours, operation(Image.fromarray(IMAGE)))


def test_fill_and_interpolation_are_heeded() -> None:
    assert (randaugment_operation(IMAGE, "TranslateXRel", 10, fill=(1, 2, 3)) == torch.tensor([1, 2, 3])).all(2).any()
    assert not torch.equal(randaugment_operation(IMAGE, "Rotate", 5), randaugment_operation(IMAGE, "Rotate", 5, resample="bicubic"))
    assert torch.equal(randaugment_operation(torch.from_numpy(IMAGE), "Rotate", 5), randaugment_operation(IMAGE, "Rotate", 5))


def test_global_generators_go_on_as_if_nothing_had_happened() -> None:
    def draw() -> tuple[float, ...]:
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002 - what timm draws from

    with seeded(2**40 + 7):
        expected = draw()
    with seeded(2**40 + 7):
        randaugment_operation(IMAGE, "Rotate", 5)
        with pytest.raises(KeyError), seeded(3):
            draw()
            raise KeyError
        assert draw() == expected


def test_equal_seeds_give_equal_images_here_and_where_it_is_unpickled() -> None:
    policy = RandAugment("rand-n2-m10-mstd0.5")
    copy = pickle.loads(pickle.dumps(policy))
    results = []
    for seed in range(8):
        for transform in (policy, copy):
            with seeded(seed):
                results.append(np.asarray(transform(Image.fromarray(IMAGE))).tobytes())
    assert results[::2] == results[1::2]
    assert len(set(results)) > 4


def test_what_timm_does_not_know_is_refused() -> None:
    with pytest.raises(LongTailError, match="rand-n2-m10"):
        RandAugment("rand-q2")
    with pytest.raises(LongTailError, match="Rotate"):
        randaugment_operation(IMAGE, "Swirl", 5)

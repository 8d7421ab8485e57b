import pytest
import torch

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.complexity import macs_per_depth
from lt_pipeline.models.distilled_vit import SIZES, build_distilled_vit, observed


def micro() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_distilled_vit("deit_micro", 5, image_size=16, patch_size=4, drop_path=0.0)


def test_both_answers_come_out_in_training_and_at_test_time() -> None:
    model, images = micro(), torch.randn(3, 3, 16, 16)
    for mode in (True, False):
        outputs = model.train(mode)(images)
        assert outputs["expert_logits"].shape == (2, 3, 5) and outputs["features"].shape == (2, 3, SIZES["deit_micro"][0])
    torch.testing.assert_close(outputs["logits"], model.eval().vit(images))  # timm's own answer at test time
    torch.testing.assert_close(outputs["logits"], outputs["expert_logits"].mean(0))


def test_it_is_timms_deit_tiny_by_name_and_shape() -> None:
    import timm

    theirs = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7, drop_path_rate=0.1)
    ours = build_distilled_vit("deit_tiny", 7)
    ours.vit.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(ours.eval()(images)["logits"], theirs.eval()(images))


def test_observing_changes_no_answer() -> None:
    model, images = micro().eval(), torch.randn(2, 3, 16, 16)
    plain = model(images)["logits"]
    with observed(model) as (tokens, attention):
        watched = model(images)["logits"]
    torch.testing.assert_close(plain, watched)
    assert [tuple(t.shape) for t in tokens] == [(2, 18, 96)] * 4
    assert all(tuple(a.shape) == (2, 3, 18, 18) for a in attention)
    torch.testing.assert_close(attention[0].sum(-1), torch.ones(2, 3, 18))
    model(images)
    assert len(tokens) == 4, "the hooks are gone"


def test_multiply_accumulates_count_every_token() -> None:
    model, width, tokens = micro(), 96, 18
    blocks = 4 * tokens * (4 * width * width + 8 * width * width)
    patches, head = 16 * width * 3 * 16, width * 5
    assert macs_per_depth(model, (16, 16)).tolist() == [patches + blocks + head, patches + blocks + 2 * head]


def test_an_image_that_is_not_made_of_patches_is_refused() -> None:
    with pytest.raises(LongTailError, match="30 pixels is not made of whole patches of 16"):
        build_distilled_vit("deit_tiny", 5, image_size=30)

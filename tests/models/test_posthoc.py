import torch

from lt_pipeline.models.complexity import macs
from lt_pipeline.models.posthoc import PostHocAdjusted
from lt_pipeline.models.registry import build_experts


def test_logits_are_adjusted_outside_training_only() -> None:
    plain = build_experts("resnet32", 4, 1)
    offset = torch.tensor([0.0, 1.0, 2.0, 3.0])
    adjusted = PostHocAdjusted(plain, offset)
    images = torch.randn(2, 3, 8, 8)
    assert "expert_logits" in adjusted.train()(images)
    adjusted.eval()
    torch.testing.assert_close(adjusted(images)["logits"], plain(images)["logits"] + offset)
    assert macs(adjusted, (8, 8)) == macs(plain, (8, 8))
    assert set(adjusted.state_dict()) == {f"network.{name}" for name in plain.state_dict()}

import pytest
import torch

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.complexity import macs_per_depth
from lt_pipeline.models.depth_fusion import build_depth_fused
from lt_pipeline.models.metadata_encoder import MetadataShape
from lt_pipeline.models.metadata_fusion import FusedNetwork, LateFusion, MetadataExperts
from lt_pipeline.models.registry import build_experts

GROUPS = MetadataShape((4, 3))


def test_missing_metadata_leaves_features_as_they_are() -> None:
    fusion, features = LateFusion(GROUPS, 16), torch.randn(4, 16)
    metadata = torch.randn(4, 7)
    torch.testing.assert_close(fusion(features, metadata), features)  # gains start at zero
    for gain in fusion.gains:
        torch.nn.init.ones_(gain)
    metadata[0] = torch.nan
    metadata[1, 4:] = torch.nan
    fused = fusion(features, metadata)
    torch.testing.assert_close(fused[0], features[0], rtol=0, atol=0)
    torch.testing.assert_close(fusion(features), features, rtol=0, atol=0)
    torch.testing.assert_close(fused[1], features[1] + fusion.encoders[0](metadata[1, :4]))
    torch.testing.assert_close(fused[2], features[2] + fusion.encoders[0](metadata[2, :4]) + fusion.encoders[1](metadata[2, 4:]))


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(
    "backbone", ["test_resnet", "test_vit", "test_mambaout", "mobilenetv3_small_050"]
)  # NCHW, tokens, NHWC, a wider head
def test_any_backbone_takes_metadata(backbone: str, tokens: bool) -> None:
    torch.manual_seed(0)
    network = FusedNetwork(backbone, 5, GROUPS, tokens).train()
    side = 160 if backbone == "test_vit" else 64
    images, metadata = torch.randn(3, 3, side, side), torch.randn(3, 7)
    outputs = network(images, metadata)
    assert outputs["logits"].shape == (3, 5) and outputs["features"].shape == (3, network.feature_dim)
    outputs["logits"].square().sum().backward()
    learning = [
        parameter.grad.abs().sum() > 0 for parameter in (network.fusion.gains if not tokens else network.fusion.encoders.parameters())
    ]
    assert all(learning)
    network.eval()
    with torch.no_grad():
        assert not torch.equal(network(images)["logits"], network(images, metadata)["logits"]) or not tokens
    assert macs_per_depth(network, (side, side)).shape == (1,)


def test_places_of_channels_last_backbones_are_places() -> None:
    network = FusedNetwork("test_mambaout", 5, GROUPS, tokens=True).eval()
    with torch.no_grad():
        maps = network.backbone.forward_features(torch.randn(2, 3, 64, 64))
    assert network._places(maps).shape == (2, maps.shape[1] * maps.shape[2], network.feature_dim)


def test_tokens_need_a_feature_map() -> None:
    with pytest.raises(LongTailError, match=r"fusion=tokens needs a feature map, which 'resnet32' does not give"):
        FusedNetwork("resnet32", 5, GROUPS, tokens=True)


def test_each_expert_weighs_the_metadata_for_itself() -> None:
    torch.manual_seed(0)
    plain = build_experts("resnet32", 5, 3)
    network = MetadataExperts(plain, GROUPS).eval()
    images, metadata = torch.randn(2, 3, 32, 32), torch.randn(2, 7)
    with torch.no_grad():
        alone = plain.eval()(images)
        torch.testing.assert_close(network(images, metadata)["expert_logits"], alone["expert_logits"])
        torch.nn.init.ones_(network.fusions[1].gains[0])
        joined = network(images, metadata)
    changed = [not torch.allclose(joined["expert_logits"][k], alone["expert_logits"][k], atol=1e-4) for k in range(3)]
    assert changed == [False, True, False]
    torch.testing.assert_close(joined["logits"], joined["expert_logits"].mean(0))
    assert len(macs_per_depth(network, (32, 32))) == 3


def test_experts_of_another_kind_are_refused() -> None:
    with pytest.raises(LongTailError, match="pool one feature map"):
        MetadataExperts(build_depth_fused("resnet32", 5, 3), GROUPS)

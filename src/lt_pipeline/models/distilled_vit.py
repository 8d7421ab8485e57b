"""The distilled vision transformer (DeiT, Touvron et al., ICML 2021, arXiv 2012.12877, section 4) as timm has it, with both of its answers.

timm gives one answer at test time and two in training; DeiT-LT reports and compares the two tokens, so here both always come out, as two
experts on one trunk: expert 0 is the class token's head, expert 1 the distillation token's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError

SIZES: dict[str, tuple[int, int, int]] = {
    "deit_micro": (96, 4, 3),
    "deit_tiny": (192, 12, 3),
    "deit_small": (384, 12, 6),
    "deit_base": (768, 12, 12),
}
"""Width, blocks and heads; micro is ours, for small images and tests, the others are DeiT's."""

CLASS_TOKEN, DISTILLATION_TOKEN = 0, 1
PREFIX_TOKENS = 2


class DistilledViT(nn.Module):
    """A pre-norm ViT on ``[CLS, DIST, patches]`` with a linear head on each of the two tokens; their mean is the answer.

    Args:
        num_classes: C.
        width: D, a multiple of ``heads``.
        depth: number of blocks.
        heads: of the attention.
        image_size: side in pixels of the square input, a multiple of ``patch_size``.
        patch_size: side of a patch in pixels.
        drop_path: stochastic depth of the last block; it rises linearly from 0 in the first.

    Raises:
        LongTailError: if the image is not made of whole patches.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        image_size: int = 224,
        patch_size: int = 16,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise LongTailError(f"An image of {image_size} pixels is not made of whole patches of {patch_size}; choose a multiple.")
        self.num_experts, self.feature_dim, self.num_classes = 2, width, num_classes
        self.vit = VisionTransformerDistilled(
            img_size=image_size, patch_size=patch_size, embed_dim=width, depth=depth, num_heads=heads, num_classes=num_classes,
            drop_path_rate=drop_path,
        )  # fmt: skip

    def trunk(self, images: Tensor) -> Tensor:
        """Return the normalised tokens after the last block, [B, 2 + patches, D], of images [B, 3, H, W].

        Images of another size than the network was built for get interpolated positions.
        """
        if images.shape[2:] != self.vit.patch_embed.img_size:
            return self._other_size(images)
        tokens: Tensor = self.vit.forward_features(images)
        return tokens

    def positions(self, side: int) -> Tensor:
        """Return the position embedding [1, 2 + patches, D] for square images of ``side`` pixels: bicubic between the patches' places, by
        DeiT's factor, which is a tenth of a patch too large so that rounding cannot lose a row."""
        patch, grid = self.vit.patch_embed.patch_size[0], self.vit.patch_embed.grid_size[0]
        learned = self.vit.pos_embed
        assert learned is not None
        places = learned[:, PREFIX_TOKENS:].mT.unflatten(2, (grid, grid))
        places = F.interpolate(places, scale_factor=(side // patch + 0.1) / grid, mode="bicubic", align_corners=False)
        return torch.cat([learned[:, :PREFIX_TOKENS], places.flatten(2).mT], dim=1)

    def _other_size(self, images: Tensor) -> Tensor:
        vit = self.vit
        assert vit.cls_token is not None
        patches = vit.patch_embed.proj(images).flatten(2).mT
        prefix = torch.cat([vit.cls_token, vit.dist_token], dim=1).expand(len(images), -1, -1)
        tokens: Tensor = vit.norm(vit.blocks(torch.cat([prefix, patches], dim=1) + self.positions(images.shape[-1])))
        return tokens

    @property
    def experts(self) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor]], ...]:
        """The two tokens' heads; each maps the trunk's output to (logits [B, C], features [B, D])."""
        return tuple(
            partial(_answer, head, token) for token, head in ((CLASS_TOKEN, self.vit.head), (DISTILLATION_TOKEN, self.vit.head_dist))
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``logits`` [B, C], ``expert_logits`` [2, B, C] and ``features`` [2, B, D] of images [B, 3, H, W], at least float32."""
        tokens = self.trunk(images)
        logits, features = zip(*(expert(tokens) for expert in self.experts), strict=True)
        expert_logits = torch.stack(logits)
        return {"logits": expert_logits.mean(0), "expert_logits": expert_logits, "features": torch.stack(features)}


def build_distilled_vit(size: str, num_classes: int, image_size: int = 224, patch_size: int = 16, drop_path: float = 0.1) -> DistilledViT:
    """Return a freshly initialised network of a named size, one of :data:`SIZES`.

    Raises:
        LongTailError: if the image is not made of whole patches.
    """
    width, depth, heads = SIZES[size]
    return DistilledViT(num_classes, width, depth, heads, image_size, patch_size, drop_path)


@contextmanager
def observed(model: DistilledViT) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Collect what each block gives out (tokens [B, N, D]) and its attention after softmax [B, heads, N, N] while images run through the model.

    Within the block attention is computed step by step instead of by a fused kernel, which never holds it as a matrix.
    """
    tokens: list[Tensor] = []
    attention: list[Tensor] = []
    blocks: Any = model.vit.blocks
    fused = [block.attn.fused_attn for block in blocks]
    hooks = [block.register_forward_hook(lambda *call: tokens.append(call[2])) for block in blocks]
    hooks += [block.attn.attn_drop.register_forward_hook(lambda *call: attention.append(call[2])) for block in blocks]
    for block in blocks:
        block.attn.fused_attn = False
    try:
        yield tokens, attention
    finally:
        for hook in hooks:
            hook.remove()
        for block, was in zip(blocks, fused, strict=True):
            block.attn.fused_attn = was


def _answer(head: nn.Module, token: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Heads work outside autocast: re-weighted losses live on small differences of logits."""
    features = tokens[:, token]
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    with torch.autocast(features.device.type, enabled=False):
        return head(features), features

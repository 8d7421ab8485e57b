"""Classification heads. Both work in the precision of their weights even under autocast: scaled logits lose the small differences that
margins and priors are made of in 8 or 11 bits of mantissa."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Head = Callable[[int, int], nn.Module]
"""``(in_features, num_classes) -> classifier``."""
NORM_FLOOR = 1e-12
"""Smallest L2 norm that anything is divided by."""


class CosineClassifier(nn.Module):
    """Scaled cosine similarity between features and class vectors (LDAM, Cao et al. 2019, section 3.2; RIDE's head).

    ``logits = scale * normalize(x) @ normalize(W)``. The weight is stored as [D, C] and starts as random unit columns.

    Args:
        in_features: D.
        num_classes: C.
        scale: s; it is applied here and nowhere else.
    """

    def __init__(self, in_features: int, num_classes: int, scale: float = 30.0) -> None:
        super().__init__()
        self.in_features, self.num_classes, self.scale = in_features, num_classes, scale
        self.weight = nn.Parameter(F.normalize(torch.empty(in_features, num_classes).uniform_(-1, 1), dim=0, eps=NORM_FLOOR))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, D]."""
        with torch.autocast(features.device.type, enabled=False):
            directions = F.normalize(features.to(self.weight.dtype), dim=-1, eps=NORM_FLOOR)
            return self.scale * (directions @ F.normalize(self.weight, dim=0, eps=NORM_FLOOR))

    def extra_repr(self) -> str:
        """Describe the head in one line."""
        return f"in_features={self.in_features}, num_classes={self.num_classes}, scale={self.scale}"


class SquashedCosineClassifier(nn.Module):
    """Scaled cosine whose features keep a part of their length: ``logits = scale * x / (1 + |x|) @ normalize(W)^T`` (APA, ECCV 2024).

    The weight is stored as [C, D] and starts uniformly within plus and minus D^-1/2.

    Args:
        in_features: D.
        num_classes: C.
        scale: s; the start of a learned one, which is applied squared.
        learnable: learn the scale.
    """

    def __init__(self, in_features: int, num_classes: int, scale: float = 16.0, learnable: bool = False) -> None:
        super().__init__()
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(num_classes, in_features).uniform_(-bound, bound))
        self.scale: float | nn.Parameter = nn.Parameter(torch.full((1,), scale)) if learnable else scale

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, D]; zero features give zero logits."""
        with torch.autocast(features.device.type, enabled=False):
            x = features.to(self.weight.dtype)
            squashed = x / (1 + x.norm(dim=-1, keepdim=True))
            scale = self.scale**2 if isinstance(self.scale, nn.Parameter) else self.scale
            return scale * (squashed @ F.normalize(self.weight, dim=1, eps=NORM_FLOOR).T)


class LinearClassifier(nn.Linear):
    """An affine head: weight [C, D], bias [C]; no scale."""

    def forward(self, input: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, D]."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def head_factory(cosine: bool, scale: float) -> Head:
    """Return what makes cosine heads with their scale, or linear heads, which have none."""
    return partial(CosineClassifier, scale=scale) if cosine else LinearClassifier

"""Classification heads. Both work in the precision of their weights even under autocast: scaled logits lose the small differences that
margins and priors are made of in 8 or 11 bits of mantissa."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class LinearClassifier(nn.Linear):
    """An affine head: weight [C, D], bias [C]; no scale."""

    def forward(self, input: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, D]."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def build_head(in_features: int, num_classes: int, cosine: bool, scale: float) -> CosineClassifier | LinearClassifier:
    """Return the cosine head with its scale, or the linear head, which has none."""
    return CosineClassifier(in_features, num_classes, scale) if cosine else LinearClassifier(in_features, num_classes)

"""A shared trunk with expert branches (RIDE, Wang et al., ICLR 2021, section 3.1); a plain network is the case of one branch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Expert(nn.Module):
    """One branch: late stages, global average pooling, classifier."""

    def __init__(self, stages: Mapping[str, nn.Module], classifier: nn.Module) -> None:
        super().__init__()
        for name, stage in stages.items():
            self.add_module(name, stage)
        self._stages = tuple(stages)
        self.classifier = classifier

    def forward(self, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, C] (scale included) and pooled features [B, D] of the trunk's feature map [B, c, H, W]."""
        features = self.pooled(shared)
        return self.classifier(features), features

    def pooled(self, shared: Tensor) -> Tensor:
        """Return the features [B, D] that the classifier sees."""
        return global_mean(_through(self, self._stages, shared))


class MultiExpert(nn.Module):
    """K experts on one trunk; the ensemble's logits are the mean of the experts' scaled logits, not of their probabilities.

    The children are the trunk's stages under their own names and ``expert0`` .. ``expert{K-1}``.

    Args:
        trunk: shared stages by name, in order.
        experts: the branches; at least one.
        feature_dim: D, the width of the pooled features.
        num_classes: C.
        taps: trunk stages whose outputs the experts get as a tuple, in the trunk's order; none gives them the last output alone.
    """

    def __init__(
        self,
        trunk: Mapping[str, nn.Module],
        experts: Sequence[nn.Module],
        feature_dim: int,
        num_classes: int,
        taps: Sequence[str] = (),
    ) -> None:
        super().__init__()
        for name, stage in trunk.items():
            self.add_module(name, stage)
        for index, expert in enumerate(experts):
            self.add_module(f"expert{index}", expert)
        self._trunk, self._taps = tuple(trunk), tuple(taps)
        self.num_experts, self.feature_dim, self.num_classes = len(experts), feature_dim, num_classes

    @property
    def experts(self) -> tuple[nn.Module, ...]:
        """The branches in order; each maps the trunk's output to (logits [B, C], features [B, D])."""
        return tuple(self.get_submodule(f"expert{index}") for index in range(self.num_experts))

    def trunk(self, images: Tensor) -> Any:
        """Return what the experts share of images [B, 3, H, W]: a feature map, or the tuple of the tapped ones."""
        if not self._taps:
            return _through(self, self._trunk, images)
        maps = {}
        for name in self._trunk:
            images = maps[name] = self.get_submodule(name)(images)
        return tuple(maps[name] for name in self._taps)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``logits`` [B, C], ``expert_logits`` [K, B, C] and ``features`` [K, B, D] of images [B, 3, H, W], all at least float32."""
        shared = self.trunk(images)
        logits, features = zip(*(expert(shared) for expert in self.experts), strict=True)
        expert_logits = torch.stack(logits)
        return {"logits": expert_logits.mean(0), "expert_logits": expert_logits, "features": torch.stack(features)}


def global_mean(maps: Tensor) -> Tensor:
    """Return the mean [B, D] over the places of maps [B, D, H, W], accumulated and returned in float32 or better."""
    return maps.mean((2, 3), dtype=torch.promote_types(maps.dtype, torch.float32))


def _through(parent: nn.Module, names: Sequence[str], x: Tensor) -> Tensor:
    for name in names:
        x = parent.get_submodule(name)(x)
    return x

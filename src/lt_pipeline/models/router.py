"""Routing: ask a further expert only where it helps (RIDE, Wang et al., ICLR 2021, section 3.3).

Router i (i = 0 .. K-2) looks at the features of expert i and at the running mean of the logits of experts 0 .. i, and scores whether to go on.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.models.heads import NORM_FLOOR


class Router(nn.Module):
    """Scores the K - 1 decisions of K experts.

    ``hidden{i}`` maps the normalised features of expert i to a few units; ``out`` (one for all decisions) or ``out{i}`` maps
    [top logits in descending order, hidden units] to the score. It computes in the precision of its weights even under autocast.

    Args:
        num_experts: K >= 2.
        in_features: D.
        num_classes: C.
        top_choices: how many of the largest running mean logits are seen; at most C.
        hidden: hidden units per decision.
        shared_output: one output layer for all decisions, as published.

    Raises:
        LongTailError: with fewer than two experts.
    """

    def __init__(
        self, num_experts: int, in_features: int, num_classes: int, top_choices: int = 30, hidden: int = 16, shared_output: bool = True
    ) -> None:
        super().__init__()
        if num_experts < 2:
            raise LongTailError(f"A router decides between experts and needs at least 2 of them; the model has {num_experts}.")
        self.num_experts, self.shared_output = num_experts, shared_output
        self.top_choices = min(top_choices, num_classes)
        for index in range(num_experts - 1):
            self.add_module(f"hidden{index}", nn.Linear(in_features, hidden))
        for name in ["out"] if shared_output else [f"out{index}" for index in range(num_experts - 1)]:
            self.add_module(name, nn.Linear(self.top_choices + hidden, 1))

    def score(self, index: int, mean_logits: Tensor, features: Tensor) -> Tensor:
        """Return decision ``index`` for each row, [B].

        Args:
            index: i; the decision after expert i.
            mean_logits: mean scaled logits of experts 0 .. i, [B, C].
            features: pooled features of expert i, [B, D].
        """
        hidden = self.get_submodule(f"hidden{index}")
        out = self.get_submodule("out" if self.shared_output else f"out{index}")
        dtype = next(self.parameters()).dtype
        with torch.autocast(features.device.type, enabled=False):
            directions = F.normalize(features.to(dtype), dim=1, eps=NORM_FLOOR)
            top = mean_logits.to(dtype).topk(self.top_choices, dim=1).values
            scores: Tensor = out(torch.cat([top, F.relu(hidden(directions))], dim=1))
            return scores.squeeze(1)

    def forward(self, expert_logits: Tensor, features: Tensor) -> Tensor:
        """Return all scores [B, K-1] from expert_logits [K, B, C] and pooled features [K, B, D]."""
        means = running_means(expert_logits)
        return torch.stack([self.score(i, means[i], features[i]) for i in range(self.num_experts - 1)], dim=1)


def running_means(expert_logits: Tensor) -> Tensor:
    """Return the mean logits of experts 0 .. i for every i, [K, B, C]."""
    depths = torch.arange(1, len(expert_logits) + 1, device=expert_logits.device, dtype=expert_logits.dtype)
    return expert_logits.cumsum(0) / depths[:, None, None]


def routing_targets(expert_logits: Tensor, target: Tensor) -> Tensor:
    """Return where going on helps, bool [B, K-1]: experts 0 .. i together are wrong and some longer prefix is right.

    Args:
        expert_logits: scaled logits [K, B, C].
        target: labels [B].
    """
    right = running_means(expert_logits).argmax(-1) == target
    right_later = right.flip(0).cummax(0).values.flip(0)  # row i: right at depth i or beyond
    return (~right[:-1] & right_later[1:]).T


def routing_loss(scores: Tensor, targets: Tensor, positive_weight: float = 100.0) -> Tensor:
    """Return the binary cross-entropy over all decisions and rows; "go on" counts ``positive_weight`` times.

    Args:
        scores: [B, K-1].
        targets: bool [B, K-1].
        positive_weight: makes up for how seldom going on helps.
    """
    weight = torch.as_tensor(positive_weight, dtype=scores.dtype, device=scores.device)
    return F.binary_cross_entropy_with_logits(scores, targets.to(scores.dtype), pos_weight=weight)


def route(
    expert: Callable[[int, Tensor], tuple[Tensor, Tensor]], router: Router, batch: Tensor, threshold: float = 0.5
) -> dict[str, Tensor]:
    """Run experts one after the other, each only on the rows that want it.

    A row goes on while sigmoid(score) > threshold; its logits are the mean over the experts it used. Order is kept.

    Args:
        expert: ``(i, rows of batch) -> (logits [b, C], features [b, D])``.
        router: scores the decisions.
        batch: what the experts look at, [B, ...].
        threshold: operating point in 0..1: 0 asks every expert, 1 only the first.

    Returns:
        ``logits`` [B, C] and ``experts_used`` int64 [B] in 1..K.

    Raises:
        LongTailError: if the threshold lies outside 0..1.
    """
    if not 0 <= threshold <= 1:
        raise LongTailError(f"The router's threshold is {threshold}; allowed is 0 (all experts, always) to 1 (the first expert only).")
    bound = torch.tensor(threshold, dtype=torch.float64).logit().item()  # scores against infinities at both ends, no rounding in between
    rows = torch.arange(len(batch), device=batch.device)
    used = torch.ones_like(rows)
    total, features = expert(0, batch)
    total = total.clone()
    for index in range(router.num_experts - 1):
        scores = router.score(index, total[rows] / (index + 1), features)
        onward = torch.nonzero(scores > bound).squeeze(1)
        rows = rows.index_select(0, onward)
        if len(rows) == 0:
            break
        logits, features = expert(index + 1, batch[rows])  # unlike index_select, indexing keeps channels_last
        total.index_add_(0, rows, logits)
        used.index_add_(0, rows, torch.ones_like(rows))
    return {"logits": total / used[:, None], "experts_used": used}


class RoutedExperts(nn.Module):
    """Trained experts, frozen, with a router on top.

    Batch norm of the experts stays in evaluation mode whatever :meth:`train` says, and no gradient graph is kept for them: the routing stage
    trains the router alone.
    """

    def __init__(self, experts: MultiExpert, router: Router) -> None:
        super().__init__()
        self.experts = experts.requires_grad_(False)
        self.router = router
        self.train(self.training)

    def train(self, mode: bool = True) -> "RoutedExperts":
        """Set the mode of the router; the experts stay in evaluation mode."""
        super().train(mode)
        self.experts.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Ask every expert: the output of :class:`MultiExpert` and ``router_scores`` [B, K-1]. Images are [B, 3, H, W]."""
        with torch.no_grad():
            outputs: dict[str, Tensor] = self.experts(images)
        return {**outputs, "router_scores": self.router(outputs["expert_logits"], outputs["features"])}

    @torch.no_grad()
    def predict(self, images: Tensor, threshold: float = 0.5) -> dict[str, Tensor]:
        """Ask only the experts that the router wants: ``logits`` [B, C] and ``experts_used`` [B]. See :func:`route`."""
        branches = self.experts.experts
        return route(lambda index, shared: branches[index](shared), self.router, self.experts.trunk(images), threshold)

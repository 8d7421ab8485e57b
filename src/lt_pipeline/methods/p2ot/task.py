"""What a step of P2OT and SP2OT does: label both views by transport over the memory, let each learn the other's labels."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from lt_pipeline.losses.self_labelling import MemoryBank, feature_drift, swapped_prediction
from lt_pipeline.methods.p2ot.config import P2ot, Sp2ot
from lt_pipeline.methods.p2ot.labels import Labeller
from lt_pipeline.models.clustering import ClusterNetwork
from lt_pipeline.ranks import gathered, rank
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.task import Batch, Task


class ClusteringMemory(nn.Module):
    """What the next step depends on beside the network: banks of logits, warm starts of the solver, sums over the epoch.

    Args:
        clusters: K of each head.
        rows: slots of each bank; none is without a memory of logits.
    """

    potentials: Tensor
    losses: Tensor
    steps: Tensor
    unconverged: Tensor
    sizes: Tensor

    def __init__(self, clusters: Sequence[int], rows: int) -> None:
        super().__init__()
        self.clusters = tuple(clusters)
        self.banks = nn.ModuleList(MemoryBank(rows, count) for count in clusters) if rows else nn.ModuleList()
        self.register_buffer("potentials", torch.zeros(len(clusters), max(clusters) + 1, dtype=torch.float64))
        self.register_buffer("losses", torch.zeros(len(clusters), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("unconverged", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sizes", torch.zeros(len(clusters), max(clusters), dtype=torch.int64))

    def bank(self, head: int) -> MemoryBank:
        """Return the bank of a head."""
        bank = self.banks[head]
        assert isinstance(bank, MemoryBank)
        return bank

    def potential(self, head: int) -> Tensor:
        """Return a view of a head's log-scalings, float64 [K + 1], the virtual cluster last."""
        return self.potentials[head, : self.clusters[head] + 1]


class SelfLabelling(Task):
    """Clusters without labels; ``batch.labels`` is not read.

    Args:
        model: backbone and heads.
        settings: of the method.
        labeller: solves for the labels.
        num_clusters: K of every head, unless the settings say otherwise.
        cached: features of each training image in M draws of each view [2, M, N, D], where the backbone is not trained; ``batch.views`` are
            not read then.
        initial: initial features [N, D] that the features are kept near, where that is asked for.
    """

    model: ClusterNetwork
    memory: ClusteringMemory

    def __init__(
        self,
        model: ClusterNetwork,
        settings: P2ot,
        labeller: Labeller,
        num_clusters: int,
        cached: Tensor | None = None,
        initial: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model, self.settings, self.labeller = model, settings, labeller
        self.clusters = settings.model.clusters or (num_clusters,) * settings.model.heads
        self.memory = ClusteringMemory(self.clusters, settings.bank.batches * settings.clustering.batch_size)
        # not buffers: ranks would send them to each other in every step
        self.cached, self.initial = cached, initial

    def begin(self, batches: Iterator[Batch]) -> None:
        """Fill the memory with the first view of the first batches, where it is used from the first step on."""
        if self.settings.bank.from_epoch or not self.memory.banks:
            return
        self.model.eval()
        with torch.no_grad():
            for batch in islice(batches, self.settings.bank.batches):
                positions = gathered(batch.indices)
                for head, logits in enumerate(self.model.head_logits(self._features(batch)[0])):
                    self.memory.bank(head).write(gathered(logits), positions)

    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Return ``head_<h>``, the swapped prediction of each head, and ``drift`` where features are kept near the initial ones."""
        mass = self.labeller.mass(clock)
        features = self._features(batch)
        positions = gathered(batch.indices)
        own = slice(rank() * len(batch.indices), (rank() + 1) * len(batch.indices))
        logits = [torch.stack([head(view) for view in features]) for head in self.model.heads]
        everyone = [gathered(rows, dim=1) for rows in logits]
        labels = self._labels(everyone, positions, mass, clock)
        terms = {f"head_{head}": swapped_prediction(rows, labels[head][:, own]) for head, rows in enumerate(logits)}
        drift = self._drift(features, batch.indices, mass)
        if drift is not None:
            terms["drift"] = len(logits) * drift
        self._account(everyone, labels, None if drift is None else gathered(drift.reshape(1)).mean())
        return terms

    def epoch_figures(self, clock: Clock) -> dict[str, float]:
        """Choose the head with the lowest loss; return its loss over the mass as ``score``, how the images of the epoch spread over clusters, and how
        many solutions were not converged."""
        memory, mass = self.memory, self.labeller.mass(clock)
        scores = memory.losses / memory.steps / mass
        chosen = int(scores.argmin()) if len(set(self.clusters)) == 1 else 0
        self.model.chosen.fill_(chosen)
        sizes = memory.sizes[chosen, : self.clusters[chosen]].double()
        shares = sizes / sizes.sum()
        entropy = -torch.special.xlogy(shares, shares).sum() / torch.tensor(float(len(sizes))).log()
        figures = {
            "score": float(scores[chosen]),
            "mass": mass,
            "head": float(chosen),
            "empty_clusters": float((sizes == 0).sum()),
            "entropy": float(entropy),
            "unconverged": float(memory.unconverged),
        }
        for sums in (memory.losses, memory.steps, memory.sizes, memory.unconverged):
            sums.zero_()
        return figures

    def _features(self, batch: Batch) -> Tensor:
        """Return the features of both views [2, B, D]."""
        if self.cached is None:
            both: Tensor = self.model.backbone(torch.cat(batch.views))
            return both.unflatten(0, (2, -1))
        if self.cached.device != batch.indices.device:
            self.cached = self.cached.to(batch.indices.device)
        draws = torch.randint(self.cached.shape[1], (2, len(batch.indices))).to(batch.indices.device)
        return torch.stack([view[draw, batch.indices] for view, draw in zip(self.cached, draws, strict=True)])

    @torch.no_grad()
    def _labels(self, logits: list[Tensor], positions: Tensor, mass: float, clock: Clock) -> list[Tensor]:
        """Return each head's labels [2, B, K] of logits [2, B, K] of all ranks; the second view takes the slots of the first."""
        remembered = bool(self.memory.banks) and clock.epoch >= self.settings.bank.from_epoch
        among, labels = None if remembered else self.labeller.among(positions), []
        for head, views in enumerate(logits):
            potential, found = self.memory.potential(head), []
            for number, rows in enumerate(views):
                if self.memory.banks:
                    bank = self.memory.bank(head)
                    if number:
                        bank.rewind(len(rows))
                    slots = bank.write(rows, positions)
                if remembered:
                    if among is None:  # the same rows for both views and all heads
                        among = self.labeller.among(bank.positions)
                    solved, converged = self.labeller.solve(bank.rows, among, mass, potential)
                    found.append(solved[slots])
                else:
                    solved, converged = self.labeller.solve(rows, among, mass, potential)
                    found.append(solved)
                self.memory.unconverged += not converged
            labels.append(torch.stack(found))
        return labels

    def _drift(self, features: Tensor, positions: Tensor, mass: float) -> Tensor | None:
        if self.initial is None or not isinstance(self.settings, Sp2ot):
            return None
        if self.initial.device != positions.device:
            self.initial = self.initial.to(positions.device)
        weight = self.settings.drift_weight * (mass if self.settings.drift_follows_mass else 1.0)
        return weight * feature_drift(features, self.initial[positions])

    @torch.no_grad()
    def _account(self, logits: list[Tensor], labels: list[Tensor], drift: Tensor | None) -> None:
        """Add the losses over the rows of all ranks and the sizes of the clusters to the sums of the epoch."""
        for head, (rows, found) in enumerate(zip(logits, labels, strict=True)):
            self.memory.losses[head] += swapped_prediction(rows, found).double() + (0.0 if drift is None else drift)
            self.memory.sizes[head] += torch.bincount(rows[0].argmax(1), minlength=self.memory.sizes.shape[1])
        self.memory.steps += 1

"""The networks of parametric contrastive learning (PaCo, Cui et al., ICCV 2021) on momentum contrast (MoCo, He et al., CVPR 2020, section 3.2)."""

import copy

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.errors import LongTailError
from lt_pipeline.models.experts import MultiExpert
from lt_pipeline.ranks import gathered, rank, world_size


class ContrastiveNetwork(nn.Module):
    """A classifier and, beside its head, a projection of the pooled features onto the unit sphere, which only training uses.

    Args:
        network: one branch with a linear head.
        dimension: d of the projection.
    """

    def __init__(self, network: MultiExpert, dimension: int) -> None:
        super().__init__()
        width = network.feature_dim
        self.network = network
        self.projection = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, dimension))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the classifier's outputs for images [B, 3, H, W] and, in training, ``projections`` [B, d] of length 1."""
        outputs: dict[str, Tensor] = self.network(images)
        if self.training:
            outputs["projections"] = F.normalize(self.projection(outputs["features"][0]).float(), dim=1)
        return outputs


class MomentumQueue(nn.Module):
    """The slow copy of a network that makes the keys, and the last K keys with their labels.

    Everything here belongs to an unfinished stage, not to its result.

    Args:
        network: the copy's start.
        size: K, a multiple of the images of a step over all ranks.
        dimension: d.
        momentum: m of ``key <- m key + (1 - m) query``.
    """

    queue: Tensor
    queue_labels: Tensor
    pointer: Tensor

    def __init__(self, network: ContrastiveNetwork, size: int, dimension: int, momentum: float = 0.999) -> None:
        super().__init__()
        self.momentum = momentum
        self.key = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(size, dimension), dim=1))
        self.register_buffer("queue_labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """Move the slow copy's parameters towards the network's; running statistics are its own."""
        slow: list[Tensor] = list(self.key.parameters())
        fast: list[Tensor] = list(network.parameters())
        torch._foreach_mul_(slow, self.momentum)
        torch._foreach_add_(slow, fast, alpha=1 - self.momentum)

    @torch.no_grad()
    def keys(self, images: Tensor) -> Tensor:
        """Return unit keys [B, d] of images [B, 3, H, W]; with several ranks the images are dealt anew for batch norm, as in MoCo."""
        if world_size() == 1:
            keys: Tensor = self.key(images)["projections"]
            return keys
        everything = gathered(images)
        order = torch.randperm(len(everything), device=images.device)
        dist.broadcast(order, 0)
        mine = slice(rank() * len(images), (rank() + 1) * len(images))
        shuffled = gathered(self.key(everything[order[mine]])["projections"])
        return shuffled[order.argsort()[mine]]

    @torch.no_grad()
    def enqueue(self, keys: Tensor, labels: Tensor) -> None:
        """Overwrite the oldest entries with the keys [B, d] and labels [B] of all ranks.

        Raises:
            LongTailError: if K is not a multiple of the images of a step.
        """
        keys, labels = gathered(keys), gathered(labels)
        if len(self.queue) % len(keys):
            raise LongTailError(
                f"The queue's size ({len(self.queue)}) must be a multiple of the {len(keys)} images of a step; "
                "change loss.queue_size or batch_size, and keep sampler.drop_last=true."
            )
        places = slice(int(self.pointer), int(self.pointer) + len(keys))
        self.queue[places], self.queue_labels[places] = keys.to(self.queue.dtype), labels
        self.pointer.copy_((self.pointer + len(keys)) % len(self.queue))

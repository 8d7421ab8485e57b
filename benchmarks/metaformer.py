"""A training step of MetaFG (forward, backward, clipping, AdamW) beside the published way, in one run.

The published way is rebuilt from PyTorch's parts on the same weights: a hand-written autograd function for swish, position biases by
``table[index]`` and two copies, scores and softmax step by step, images channels first, AdamW without a fused kernel. Cases alternate; the figures
are medians of CPU time (of wall time on a GPU), the ratios are the ones to quote. "MiB kept" is what autograd holds between forward and backward;
"difference" is the largest of the logits from the published way's, relative to the largest logit.

    python benchmarks/metaformer.py --size metafg_0 --batch 8 --repeats 5
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_pipeline.losses.classification import soft_cross_entropy
from lt_pipeline.models.metadata_encoder import MetadataShape
from lt_pipeline.models.metafg.attention import RelativeAttention
from lt_pipeline.models.metafg.convolution import MBConv
from lt_pipeline.models.metafg.network import SIZES, MetaFG, build_metafg


class Swish(torch.autograd.Function):
    """``x sigmoid(x)`` that keeps x and computes the sigmoid again for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the activation."""
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient."""
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return gradient * (gate * (1 + x * (1 - gate)))


def published_branch(block: MBConv, maps: Tensor) -> Tensor:
    """An MBConv block's branch."""
    x = Swish.apply(block.expand_norm(block.expand(maps)))
    x = Swish.apply(block.depthwise_norm(block.depthwise(x)))
    squeezed = Swish.apply(block.se_reduce(F.adaptive_avg_pool2d(x, 1)))
    return block.project_norm(block.project(torch.sigmoid(block.se_expand(squeezed)) * x))


def published_attention(block: RelativeAttention, tokens: Tensor) -> Tensor:
    """Relative attention, step by step."""
    batch, number, width = tokens.shape
    query, key, value = block.qkv(tokens).reshape(batch, number, 3, block.heads, -1).permute(2, 0, 3, 1, 4)
    scores = (query * (width // block.heads) ** -0.5) @ key.transpose(-2, -1)
    bias = block.bias_table[block.get_buffer("index")].view(number, number, -1).permute(2, 0, 1).contiguous()
    attention = (scores + bias.unsqueeze(0)).softmax(-1)
    return block.out((attention @ value).transpose(1, 2).reshape(batch, number, width))


def published_way(network: MetaFG) -> MetaFG:
    """The network with the published way of computing the same."""
    for module in network.modules():
        if isinstance(module, MBConv):
            module._branch = MethodType(published_branch, module)  # type: ignore[method-assign]
        elif isinstance(module, RelativeAttention):
            module.forward = MethodType(published_attention, module)  # type: ignore[method-assign]
    return network


@dataclass(frozen=True)
class Case:
    """One way of taking a step."""

    published: bool = False
    channels_last: bool = True
    fused: bool = True
    bf16: bool = False
    checkpointed: bool = False
    compiled: bool = False


CASES = {
    "published, fp32": Case(published=True, channels_last=False, fused=False),
    "ours, channels first": Case(channels_last=False, fused=False),
    "ours, fp32": Case(),
    "ours, compiled": Case(compiled=True),
    "ours, checkpointed": Case(checkpointed=True),
    "published, bf16": Case(published=True, channels_last=False, fused=False, bf16=True),
    "ours, bf16": Case(bf16=True),
    "ours, bf16, compiled": Case(bf16=True, compiled=True),
}


class Step:
    """A network, its optimizer and a batch."""

    def __init__(self, case: Case, arguments: argparse.Namespace) -> None:
        torch.manual_seed(0)
        device = torch.device(arguments.device)
        shape = MetadataShape((4, 3))
        network = build_metafg(arguments.size, arguments.classes, arguments.image, shape, checkpointed=case.checkpointed)
        self.network = published_way(network) if case.published else network
        layout = torch.channels_last if case.channels_last else torch.contiguous_format
        self.network.to(device).to(memory_format=layout).train()
        if case.compiled:
            self.network.compile(dynamic=False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), 1e-4, weight_decay=0.05, fused=case.fused or None)
        self.images = torch.randn(arguments.batch, 3, arguments.image, arguments.image).to(device).contiguous(memory_format=layout)
        self.metadata = torch.randn(arguments.batch, 7).to(device)
        self.targets = torch.randn(arguments.batch, arguments.classes).softmax(-1).to(device)
        self.autocast: Callable[[], Any] = (lambda: torch.autocast(device.type, torch.bfloat16)) if case.bf16 else nullcontext

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return logits and loss."""
        with self.autocast():
            logits = self.network(self.images, self.metadata)["logits"]
            return logits, soft_cross_entropy(logits, self.targets)

    def take(self) -> None:
        """Take one step."""
        self.forward()[1].backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def kept(self) -> float:
        """MiB of the distinct storages saved for the backward pass, weights left out."""
        weights = {parameter.untyped_storage().data_ptr() for parameter in self.network.parameters()}
        storages: dict[int, int] = {}

        def pack(saved: Tensor) -> Tensor:
            if saved.untyped_storage().data_ptr() not in weights:
                storages[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            outputs = self.forward()  # alive until the count is done: a freed address may be given out again
        total = sum(storages.values()) / 2**20
        del outputs
        return total


def seconds(step: Step, device: str) -> float:
    """Time of one step: of the processor on a CPU, of the wall on a GPU."""
    if device == "cpu":
        start = time.process_time()
        step.take()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step.take()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="metafg_0")
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(arguments.threads)
    steps = {name: Step(CASES[name], arguments) for name in arguments.cases}
    with torch.no_grad():
        logits = {name: step.forward()[0].float() for name, step in steps.items()}
    kept = {name: step.kept() for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(arguments.repeats + 1):
        for name, step in steps.items():
            elapsed = seconds(step, arguments.device)
            if repeat:  # the first round warms up
                times[name].append(elapsed)
    first = arguments.cases[0]
    medians = {name: statistics.median(values) for name, values in times.items()}
    unit = f"CPU seconds of {arguments.threads} thread(s)" if arguments.device == "cpu" else "seconds"
    print(f"{arguments.size}, {arguments.image} px, batch {arguments.batch}, {unit}, torch {torch.__version__}")
    print(f"{'':22s} {'step':>8s} {'speed-up':>9s} {'MiB kept':>9s} {'difference':>11s}")
    for name, median in medians.items():
        difference = (logits[name] - logits[first]).abs().max() / logits[first].abs().max()
        print(f"{name:22s} {median:8.3f} {medians[first] / median:9.2f} {kept[name]:9.0f} {difference:11.1e}")


if __name__ == "__main__":
    main()

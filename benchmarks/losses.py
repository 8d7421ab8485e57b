"""How fast SHIKE's loss is, beside the sums of the paper taken expert by expert and pair by pair, in one run.

Both give the same value and gradient (checked here); ratios are the figures to quote.

    python benchmarks/losses.py
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lt_pipeline.losses.knowledge_transfer import knowledge_transfer

Loss = Callable[[Tensor, Tensor], Tensor]


def vectorised(logits: Tensor, target: Tensor) -> Tensor:
    """The project's loss."""
    return sum(knowledge_transfer(logits, target).values())


def loops(logits: Tensor, target: Tensor) -> Tensor:
    """The same over experts and ordered pairs, with softmax, logarithm and ``kl_div`` for each."""
    experts, batch, classes = logits.shape
    hot = F.one_hot(target, classes).to(logits.dtype)
    mean, boldest = logits.mean(0), logits.max(0).values
    hardest = (mean * (1 - hot) - 30 * hot).argmax(1, keepdim=True)
    assembled = boldest.scatter(1, hardest, mean.gather(1, hardest)) * (1 - hot)
    total = torch.zeros((), dtype=logits.dtype)
    for i in range(experts):
        total = total - (hot * logits[i].log_softmax(1)).sum() / batch
        student = (logits[i] * (1 - hot) - 30 * hot).log_softmax(1)
        total = total + 10 * F.kl_div(student, assembled.softmax(1), reduction="sum") / (batch * classes)
        for j in range(experts):
            if i != j:
                total = total + F.kl_div(logits[i].log_softmax(1), logits[j].softmax(1), reduction="sum") / (batch * classes)
    return total


def seconds(loss: Loss, logits: Tensor, target: Tensor) -> float:
    """Return the duration of one forward and backward pass."""
    leaf = logits.clone().requires_grad_()
    start = time.perf_counter()
    loss(leaf, target).backward()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'batch x classes':18}{'loop, float64 labels':>22}{'loop':>10}{'ours':>10}{'ratio to float64':>18}{'ratio to loop':>15}")
    for batch, classes in ((128, 100), (256, 1000), (256, 8142)):
        logits, target = 3 * torch.randn(3, batch, classes), torch.randint(classes, (batch,))
        torch.testing.assert_close(vectorised(logits, target), loops(logits, target), rtol=1e-4, atol=1e-4)
        calls: dict[str, tuple[Loss, Tensor]] = {
            "float64": (loops, logits.double()),
            "loop": (loops, logits),
            "ours": (vectorised, logits),
        }
        times = [{name: seconds(loss, x, target) for name, (loss, x) in calls.items()} for _ in range(arguments.rounds)][2:]
        median = {name: 1000 * float(np.median([row[name] for row in times])) for name in calls}
        print(
            f"{f'{batch} x {classes}':18}{median['float64']:19.1f} ms{median['loop']:7.1f} ms{median['ours']:7.1f} ms"
            f"{median['float64'] / median['ours']:18.1f}{median['loop'] / median['ours']:15.1f}"
        )


if __name__ == "__main__":
    main()

"""Running a model over a whole split."""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lt_pipeline.augment.config import View
from lt_pipeline.augment.normalise import Normalise
from lt_pipeline.data.split import ImageSet
from lt_pipeline.errors import LongTailError
from lt_pipeline.progress import progress
from lt_pipeline.training.allocator import keep_freed_memory
from lt_pipeline.training.config import TrainerConfig
from lt_pipeline.training.feed import evaluation_batches

logger = logging.getLogger(__name__)
WORTH_COMPILING = 2000
"""Steps from which the time that compilation saves is well above what it costs."""
_PIXELS = 1 << 19
"""Pixels that a CPU looks at in one pass: 512 images of CIFAR, 10 of 224 pixels."""
_KEPT = ("logits", "expert_logits", "router_scores", "experts_used")


def choose_device(name: str) -> torch.device:
    """Return the device that ``name`` stands for; ``auto`` prefers CUDA, then Apple's, then the CPU.

    Raises:
        LongTailError: if the machine lacks the named device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise LongTailError(f"trainer.device={name}, but PyTorch sees no CUDA device on this machine; use cpu or auto.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise LongTailError("trainer.device=mps, but this machine has no Apple GPU; use cpu or auto.")
    return torch.device(name)


def memory_format(device: torch.device, trainer: TrainerConfig) -> torch.memory_format:
    """Return the layout in which convolutions run fastest on the device, or the one that was asked for."""
    wanted = trainer.channels_last
    if wanted is None:
        wanted = device.type != "cpu" or "AVX512" in torch.backends.cpu.get_cpu_capability()
    return torch.channels_last if wanted else torch.contiguous_format


def wants_compilation(trainer: TrainerConfig, device: torch.device, steps: int) -> bool:
    """Return whether a stage of ``steps`` steps compiles its network: as asked for, or where it pays and works; see ``trainer.compile``."""
    if trainer.compile is not None:
        return trainer.compile
    return device.type == "cpu" and trainer.processes * trainer.nodes == 1 and steps >= WORTH_COMPILING and _compiler_works()


@cache
def _compiler_works() -> bool:
    try:
        torch.compile(torch.sin)(torch.ones(2))
    except Exception as error:  # whatever a missing compiler or header leads to
        logger.info("Training without compilation: %s.", str(error).splitlines()[0] if str(error) else type(error).__name__)
        return False
    logger.info("The network is compiled first, which takes a minute or two; trainer.compile=false starts at once.")
    return True


def warn_if_slow(device: torch.device, precision: str) -> None:
    """Log a warning where the processor lacks the arithmetic that ``precision`` is meant to use."""
    if device.type == "cpu" and precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        logger.warning("This CPU has no bfloat16 arithmetic: trainer.precision=bf16 works but is many times slower than fp32 here.")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision; fp32 switches it off."""
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def in_parts(images: Tensor) -> Sequence[Tensor]:
    """Return images [B, 3, H, W] in the parts that go through a network at a time: on a CPU few large ones, as more are no faster there and
    their activations take gigabytes; else all."""
    if images.device.type != "cpu":
        return (images,)
    return images.split(max(1, _PIXELS // (images.shape[2] * images.shape[3])))


@torch.inference_mode()
def run_model(
    model: nn.Module,
    images: ImageSet,
    view: View,
    mean: Sequence[float],
    std: Sequence[float],
    trainer: TrainerConfig,
    title: str = "",
    kept: Mapping[str, NDArray[np.bool_]] | None = None,
) -> dict[str, np.ndarray]:
    """Return everything the model says about each image of a set, in order.

    Args:
        model: called with images [B, 3, H, W]. It returns tensors by name; ``logits`` [B, C] is required, ``expert_logits`` [K, B, C],
            ``router_scores`` [B, K-1] and ``experts_used`` [B, 1] may come beside it, others are dropped. If its ``takes_metadata`` is true, its
            ``look`` sees the images, and its ``answer`` what that returned and the metadata. It is put in evaluation mode and back.
        images: the set.
        view: the training view, whose test-time transform is used.
        mean: of the normalisation, per channel in [0, 1].
        std: likewise.
        trainer: device, precision and batch size.
        title: shows progress under this name; silent when empty.
        kept: further answers wanted of a model that takes metadata, by name: which of its d numbers it sees for them, bool [d]. Each image is
            looked at once for all of them.

    Returns:
        float32 arrays by name; the image axis (the second last) runs over the whole set. For each name in ``kept`` also the class decided for,
        int64 [N], as ``decisions/<name>``.
    """
    keep_freed_memory()
    device = choose_device(trainer.device)
    layout = memory_format(device, trainer)
    model = model.to(device).to(memory_format=layout)
    network: Any = model
    was_training, parts, decisions = model.training, [], []
    given = images.metadata if getattr(model, "takes_metadata", False) else None
    masks = {name: torch.from_numpy(mask).to(device) for name, mask in (kept or {}).items()} if given is not None else {}
    start = 0
    model.eval()
    batches = evaluation_batches(images, view, Normalise(mean, std), device, trainer.evaluation_batch, layout, trainer.workers)
    feed = (part for batch in batches for part in in_parts(batch))
    with progress(title or "evaluation", len(images.rows)) if title else _silent() as advance:
        for batch in feed:
            with autocast(device, trainer.precision):
                if given is None:
                    outputs = model(batch)
                else:
                    metadata, seen = torch.from_numpy(given[start : start + len(batch)]).to(device), network.look(batch)
                    outputs = network.answer(seen, metadata)
                    partly = ((name, network.answer(seen, metadata.masked_fill(~mask, torch.nan))) for name, mask in masks.items())
                    decisions.append({name: answer["logits"].argmax(1).cpu() for name, answer in partly})
            start += len(batch)
            parts.append({name: outputs[name].float().cpu() for name in _KEPT if name in outputs})
            advance(len(batch))
    model.train(was_training)
    answers = {name: torch.cat([part[name] for part in parts], dim=-2).numpy() for name in parts[0]}
    return answers | {f"decisions/{name}": torch.cat([part[name] for part in decisions]).numpy() for name in masks}


class _silent:
    def __enter__(self) -> "_silent":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, units: int, note: str = "") -> None:
        return None

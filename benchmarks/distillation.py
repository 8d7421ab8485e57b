"""A training step of DeiT-LT's student on 32-pixel images, beside the fastest matrix product of the same machine.

A step is everything that training does: drawing and augmenting packed images to the student's size, mixing, the teacher's answer, forward, backward,
AdamW. Model FLOPs are six for each multiply-accumulate of the student's convolution and linear layers (attention's products are left out) and two for
each of the teacher's. Their share of what a large square product reaches in the same precision is the figure to quote.

    python benchmarks/distillation.py --device cuda --backbones deit_base deit_small --precisions bf16 fp32
    python benchmarks/distillation.py --backbones deit_micro --image 32 --patch 4 --batch 64
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from lt_pipeline.augment.config import TimmCropView
from lt_pipeline.augment.normalise import Normalise
from lt_pipeline.data.images import PackedImages
from lt_pipeline.data.split import ImageSet
from lt_pipeline.methods.deit_lt.config import DeitLt
from lt_pipeline.methods.deit_lt.student import DistillationTask
from lt_pipeline.methods.deit_lt.teacher import FrozenTeacher, teacher_network
from lt_pipeline.methods.facts import DataFacts
from lt_pipeline.models.complexity import macs
from lt_pipeline.models.distilled_vit import SIZES, build_distilled_vit
from lt_pipeline.training.clock import Clock
from lt_pipeline.training.config import TrainerConfig
from lt_pipeline.training.feed import Chunk, build_feed
from lt_pipeline.training.loop import Job, _Run
from lt_pipeline.training.state import Workspace

CLASSES, SIDE = 10, 32
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def synchronised(device: torch.device) -> float:
    """Return the time, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def matmul_peak(device: torch.device, precision: str, size: int) -> float:
    """Return the FLOPs a second that a square matrix product reaches, the best of several."""
    left, right = (torch.randn(size, size, device=device, dtype=TYPES[precision]) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        start = synchronised(device)
        left @ right
        best = min(best, synchronised(device) - start)
    return 2 * size**3 / best


class Step:
    """The engine's step of a student of ``backbone``."""

    def __init__(self, backbone: str, precision: str, arguments: argparse.Namespace, folder: Path) -> None:
        settings = DeitLt()
        student = settings.student
        distillation = student.distillation.model_copy(update={"teacher_size": None if arguments.image == SIDE else SIDE})
        view = TimmCropView(size=arguments.image, test_resize=arguments.image, policy="rand-m9-mstd0.5-inc1")
        stage = student.model_copy(update={"batch_size": arguments.batch, "accumulate": 1, "views": (view,), "distillation": distillation})
        shape = (SIDE, SIDE, 3)
        names = tuple(map(str, range(CLASSES)))
        self.facts = DataFacts(class_names=names, train_counts=(100,) * CLASSES, image_shape=shape, mean=student.mean, std=student.std)
        self.batch, self.device = arguments.batch, torch.device(arguments.device)
        pixels = np.random.default_rng(0).integers(0, 256, (self.batch, *shape), dtype=np.uint8)
        rows, labels = np.arange(self.batch), np.arange(self.batch) % CLASSES
        images = ImageSet(PackedImages(pixels), rows, labels, [str(row) for row in rows])
        build = partial(self.task, backbone, settings, distillation, arguments)
        machine = TrainerConfig(device=arguments.device, precision=precision, compile=arguments.compile, threads=arguments.threads)
        job = Job("deit_lt.student", build, stage, machine, 0, CLASSES, self.facts.mean, self.facts.std, images, {}, Workspace(folder), {})
        self.run = _Run(job)
        normalise = Normalise(job.mean, job.std)
        feed = build_feed(images, stage.views, normalise, self.device, self.run.layout, 0)
        self.batches = feed.batches([Chunk(rows, (0, number)) for number in range(arguments.repeats + 3)])

    def task(self, backbone: str, settings: DeitLt, distillation: object, arguments: argparse.Namespace) -> DistillationTask:
        """Return the student's task, and note what it costs."""
        network = build_distilled_vit(backbone, CLASSES, arguments.image, arguments.patch, 0.1)
        teacher = teacher_network(settings.teacher, CLASSES)
        self.flops = 6 * macs(network, (arguments.image,) * 2) + 2 * macs(teacher, (SIDE, SIDE))
        frozen = FrozenTeacher(teacher, distillation, self.facts, self.facts)
        return DistillationTask(network, frozen, distillation, self.facts.train_counts)

    def seconds(self) -> float:
        """Return how long one step takes."""
        start = synchronised(self.device)
        self.run._optimize(self.run.task, [(next(self.batches), 1.0)], self.batch, Clock(0, 97, 1200), 2.5e-4)
        return synchronised(self.device) - start


def main() -> None:
    """Print one line per network and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", choices=SIZES, default=["deit_base", "deit_small"])
    parser.add_argument("--precisions", nargs="+", choices=TYPES, default=["fp32"])
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    peaks = {name: matmul_peak(device, name, 8192 if device.type == "cuda" else 1024) for name in arguments.precisions}
    print(f"{arguments.image} px in patches of {arguments.patch}, batch {arguments.batch}, {arguments.device}, torch {torch.__version__}")
    print(f"{'':20s} {'step':>9s} {'images/s':>9s} {'TFLOP/s':>8s} {'matmul':>8s} {'share':>6s}")
    with TemporaryDirectory() as folder:
        for backbone in arguments.backbones:
            for precision, peak in peaks.items():
                step = Step(backbone, precision, arguments, Path(folder) / backbone / precision)
                median = statistics.median([step.seconds() for _ in range(arguments.repeats + 3)][3:])
                done = step.flops * step.batch / median
                figures = f"{1000 * median:6.1f} ms {step.batch / median:9,.0f} {done / 1e12:8.3f} {peak / 1e12:8.3f} {done / peak:6.1%}"
                print(f"{backbone + ', ' + precision:20s} {figures}", flush=True)


if __name__ == "__main__":
    main()

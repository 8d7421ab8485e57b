"""What DeiT-LT's input costs on one CPU core: from packed 32-pixel images to 224-pixel views, and the teacher's way back to 32.

The published way takes images one at a time through timm's transform; ours takes batches. Ratios in one run are the figures to quote.

    python benchmarks/deit_lt.py --seconds 3
"""

import argparse

import torch
import torch.nn.functional as F

from augment import rate
from lt_pipeline.augment.batched_crop import BatchedCrop
from lt_pipeline.augment.config import TimmCropView
from lt_pipeline.augment.timm_view import TimmView
from lt_pipeline.methods.deit_lt.teacher import teacher_input

VIEWS = {
    "crop + flip": TimmCropView(),
    "crop + flip + RandAugment": TimmCropView(policy="rand-m9-mstd0.5-inc1"),
    "key view of PaCo, 32 px": TimmCropView(
        size=32, test_resize=32, scale=(0.2, 1.0), color_jitter=(0.4, 0.4, 0.4, 0.1), color_jitter_probability=0.8, grey=0.2, blur=0.5
    ),
}


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU-seconds per figure")
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rough = torch.randint(0, 256, (options.batch, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images = F.interpolate(rough.float(), 32, mode="bicubic").clamp(0, 255).to(torch.uint8)
    single = [image.permute(1, 2, 0).numpy() for image in images]
    print(f"{'images per CPU-second':32s} {'ours':>9s} {'published':>10s} {'ratio':>6s}")
    for name, view in VIEWS.items():
        batched, one = BatchedCrop(view), TimmView(view)
        ours = rate(lambda: batched(images, generator), options.batch, options.seconds)  # noqa: B023
        theirs = rate(lambda: torch.stack([one.draw(image) for image in single]), options.batch, options.seconds)  # noqa: B023
        print(f"{name:32s} {ours:9,.0f} {theirs:10,.0f} {ours / theirs:6.2f}")
    large = torch.randn(32, 3, 224, 224)
    ours = rate(lambda: teacher_input(large, 32).contiguous(), 32, options.seconds)
    theirs = rate(lambda: F.interpolate(large, (32, 32), mode="bicubic", align_corners=False), 32, options.seconds)
    print(f"{'teacher input, 224 to 32':32s} {ours:9,.0f} {theirs:10,.0f} {ours / theirs:6.2f}")


if __name__ == "__main__":
    main()

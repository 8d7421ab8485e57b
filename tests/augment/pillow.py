"""The operations of the policy one image at a time, from Pillow's public functions: what the batched ones are held against."""

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

ENHANCERS = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
    "brightness": ImageEnhance.Brightness,
}


def apply(image: Image.Image, name: str, magnitude: float, sign: int, fill: tuple[int, int, int]) -> Image.Image:
    if name in ENHANCERS:
        return ENHANCERS[name](image).enhance(1 + sign * magnitude)
    if name == "rotate":
        return image.rotate(magnitude, Image.Resampling.NEAREST, fillcolor=fill)
    width, height = image.size
    matrices = {
        "shearX": ((1, sign * magnitude, 0, 0, 1, 0), Image.Resampling.BICUBIC),
        "shearY": ((1, 0, 0, sign * magnitude, 1, 0), Image.Resampling.BICUBIC),
        "translateX": ((1, 0, sign * magnitude * width, 0, 1, 0), Image.Resampling.NEAREST),
        "translateY": ((1, 0, 0, 0, 1, sign * magnitude * height), Image.Resampling.NEAREST),
    }
    if name in matrices:
        matrix, resample = matrices[name]
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill)
    return {
        "posterize": lambda: ImageOps.posterize(image, int(magnitude)),
        "solarize": lambda: ImageOps.solarize(image, magnitude),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
    }[name]()


def to_images(batch: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in batch]


def to_batch(images: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def sample_images(height: int, width: int) -> Tensor:
    """uint8 [12, 3, height, width], channels_last: noise, smooth colour, few levels, one level, narrow range, extremes."""
    random = np.random.default_rng(height * 1000 + width)
    noise = random.integers(0, 256, (4, height, width, 3))
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack(
        [
            128 + 127 * np.sin(np.stack([rows * a / 9 + columns * b / 7 + c for c in range(3)], -1))
            for a, b in ((1, 0.3), (0.2, 1), (0.7, -0.9))
        ]
    )
    others = [
        random.integers(0, 4, (1, height, width, 3)) * 70,
        np.full((1, height, width, 3), 77),
        random.integers(100, 120, (1, height, width, 3)),
        np.where(random.random((1, height, width, 3)) < 0.5, 0, 255),
        np.where(random.random((1, height, width, 3)) < 0.9, 31, noise[:1]),
    ]
    return torch.from_numpy(np.concatenate([noise, smooth, *others]).astype(np.uint8)).permute(0, 3, 1, 2)

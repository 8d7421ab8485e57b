"""timm's RandAugment on whole batches of uint8 images [B, H, W, 3] in memory order, on any device.

timm reads the configuration and says which operations there are and how strong; what is written here carries them out for many images at once.
Operations on levels are bit-equal to Pillow's. Geometric ones interpolate with PyTorch's cubic (a = -0.75) where Pillow's has a = -1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.data.auto_augment import rand_augment_transform
from torch import Generator, Tensor

from lt_pipeline.augment.operations import KERNELS
from lt_pipeline.augment.randaugment import MEAN_COLOUR
from lt_pipeline.augment.resize import pieces_of
from lt_pipeline.errors import LongTailError

_STRONGEST = 10.0


@dataclass(frozen=True)
class _Operation:
    """A kernel and how strong it is at a level between 0 and 10, float64 [b], for a sign of plus or minus one."""

    kernel: str
    amount: Callable[[Tensor, Tensor], Tensor]


def _nothing(level: Tensor, sign: Tensor) -> Tensor:
    return torch.zeros_like(level)


def _enhanced(level: Tensor, sign: Tensor) -> Tensor:
    return level * 0.18 - 0.9


def _away(level: Tensor, sign: Tensor) -> Tensor:
    return (sign * level * 0.09).clamp_min(-0.9)


def _signed(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda level, sign: sign * (level / _STRONGEST) * factor


def _whole(factor: float, limit: float, start: float = 0.0, sense: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda level, sign: start + sense * torch.floor(level / _STRONGEST * factor).clamp_max(limit)


OPERATIONS: dict[str, _Operation] = {
    "AutoContrast": _Operation("autocontrast", _nothing),
    "Equalize": _Operation("equalize", _nothing),
    "Invert": _Operation("invert", _nothing),
    "Rotate": _Operation("rotate", _signed(30.0)),
    "Posterize": _Operation("posterize", _whole(4, 4)),
    "PosterizeIncreasing": _Operation("posterize", _whole(4, 4, start=4, sense=-1)),
    "PosterizeOriginal": _Operation("posterize", _whole(4, 4, start=4)),
    "Solarize": _Operation("solarize", _whole(256, 256)),
    "SolarizeIncreasing": _Operation("solarize", _whole(256, 256, start=256, sense=-1)),
    "SolarizeAdd": _Operation("solarize_add", _whole(110, 128)),
    "Color": _Operation("color", _enhanced),
    "ColorIncreasing": _Operation("color", _away),
    "Contrast": _Operation("contrast", _enhanced),
    "ContrastIncreasing": _Operation("contrast", _away),
    "Brightness": _Operation("brightness", _enhanced),
    "BrightnessIncreasing": _Operation("brightness", _away),
    "Sharpness": _Operation("sharpness", _enhanced),
    "SharpnessIncreasing": _Operation("sharpness", _away),
    "ShearX": _Operation("shearX", _signed(0.3)),
    "ShearY": _Operation("shearY", _signed(0.3)),
    "TranslateXRel": _Operation("translateX", _signed(0.45)),
    "TranslateYRel": _Operation("translateY", _signed(0.45)),
}
"""timm's operations on a batch, by timm's names."""
_GEOMETRIC = ("rotate", "shearX", "shearY", "translateX", "translateY")


class BatchedRandAugment:
    """RandAugment (Cubuk et al., NeurIPS 2020) by timm's configuration.

    Args:
        name: such as ``rand-m9-mstd0.5-inc1``.
        cubic: bicubic geometric operations, otherwise bilinear.
        fill: colour outside the image, in grey levels.

    Raises:
        LongTailError: if timm does not understand the name, or names an operation that there is no batched form of.
    """

    def __init__(self, name: str, cubic: bool = True, fill: Sequence[int] = MEAN_COLOUR) -> None:
        try:
            described = rand_augment_transform(name, {"img_mean": tuple(fill)})
        except (AssertionError, ValueError, KeyError) as error:
            raise LongTailError(f"timm does not understand the policy '{name}' ({error}); an example is rand-m9-mstd0.5-inc1.") from error
        self._names = [operation.name for operation in described.ops]
        if missing := sorted(set(self._names) - set(OPERATIONS)):
            raise LongTailError(f"The policy '{name}' uses {missing[0]}, which has no form for packed images; set source.image_size: null.")
        first = described.ops[0]
        self._layers, self._probability, self._level = described.num_layers, first.prob, float(first.magnitude)
        self._spread, self._largest = float(first.magnitude_std), float(first.magnitude_max or _STRONGEST)
        self._weights = None if described.choice_weights is None else torch.tensor(described.choice_weights)
        self._cubic, self._fill = cubic, tuple(fill)

    def __call__(self, pixels: Tensor, generator: Generator) -> Tensor:
        """Return changed images of the same shape; all draws come from the CPU generator."""
        count = len(pixels)
        choices = self._choices(count, generator)
        for layer in range(self._layers):
            applied = torch.rand(count, generator=generator) < self._probability
            sign = torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, -1.0).double()
            pixels = apply_drawn(
                pixels, self._names, choices[:, layer], applied, self._levels(count, generator), sign, self._cubic, self._fill
            )
        return pixels

    def _choices(self, count: int, generator: Generator) -> Tensor:
        if self._weights is not None:  # timm draws without replacement where the operations are weighted
            return torch.multinomial(self._weights.expand(count, -1), self._layers, generator=generator)
        return torch.randint(len(self._names), (count, self._layers), generator=generator)

    def _levels(self, count: int, generator: Generator) -> Tensor:
        noise = torch.randn(count, generator=generator, dtype=torch.float64)
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        if self._spread == float("inf"):
            return (uniform * self._level).clamp(0, self._largest)
        return (self._level + self._spread * noise).clamp(0, self._largest)


def apply_drawn(
    pixels: Tensor, names: Sequence[str], choice: Tensor, applied: Tensor, level: Tensor, sign: Tensor, cubic: bool, fill: Sequence[int]
) -> Tensor:
    """Apply to each image its drawn operation.

    Args:
        pixels: uint8 [B, H, W, 3].
        names: of operations, keys of :data:`OPERATIONS`.
        choice: int64 [B] on the CPU, which of the names.
        applied: bool [B] on the CPU, whether at all.
        level: float64 [B] on the CPU, 0 to 10.
        sign: float64 [B] on the CPU, plus or minus one.
        cubic: bicubic geometric operations, otherwise bilinear.
        fill: colour outside the image.

    Returns:
        uint8 [B, H, W, 3]; the input is left alone.
    """
    result = pixels.clone()
    groups: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for number, name in enumerate(names):
        members = torch.nonzero((choice == number) & applied)[:, 0]
        if len(members):
            operation = OPERATIONS[name]
            groups.setdefault(operation.kernel, []).append((members, operation.amount(level[members], sign[members])))
    turned = [(kernel, *part) for kernel in _GEOMETRIC for part in groups.pop(kernel, [])]
    for kernel, parts in groups.items():
        members, amount = (torch.cat(values).to(pixels.device) for values in zip(*parts, strict=True))
        for piece in pieces_of(len(members), pixels.device):
            result[members[piece]] = _kernel(kernel)(pixels[members[piece]], amount[piece], fill)
    if turned:
        members = torch.cat([which for _, which, _ in turned]).to(pixels.device)
        matrices = torch.cat([_affine(kernel, amount, *pixels.shape[1:3]) for kernel, _, amount in turned]).to(pixels.device)
        for piece in pieces_of(len(members), pixels.device):
            result[members[piece]] = warped(pixels[members[piece]], matrices[piece], cubic, fill)
    return result


def warped(pixels: Tensor, matrices: Tensor, cubic: bool, fill: Sequence[int]) -> Tensor:
    """Return images whose pixel (x, y) comes from ``matrix @ (x + 1/2, y + 1/2, 1)``, or is ``fill`` where that lies outside.

    Args:
        pixels: uint8 [b, H, W, 3].
        matrices: float64 [b, 2, 3].
        cubic: bicubic, otherwise bilinear.
        fill: colour.
    """
    count, height, width, channels = pixels.shape
    extent = torch.tensor([width, height], dtype=torch.float64, device=pixels.device)
    # affine_grid counts from -1 to 1 on either side of the centre
    turned = matrices[:, :, :2] * (extent / extent[:, None])
    shift = (matrices[:, :, 2] + matrices[:, :, :2] @ (extent / 2) - extent / 2) / (extent / 2)
    theta = torch.cat([turned, shift[:, :, None]], 2).float()
    source = F.affine_grid(theta, [count, channels, height, width], align_corners=False)
    planes = pixels.permute(0, 3, 1, 2).float()
    sampled = F.grid_sample(planes, source, "bicubic" if cubic else "bilinear", "border", align_corners=False).clamp_(0, 255)
    across, down = source.abs().unbind(-1)
    inside = (torch.maximum(across, down) <= 1).float()[:, None]
    colour = torch.tensor(tuple(fill), dtype=torch.float32, device=pixels.device)[:, None, None]
    return sampled.sub_(colour).mul_(inside).add_(colour).short().to(torch.uint8).permute(0, 2, 3, 1)


def _affine(kernel: str, amount: Tensor, height: int, width: int) -> Tensor:
    """Return the matrices [b, 2, 3] with which Pillow follows the output's pixel centres back to the input."""
    one, none = torch.ones_like(amount), torch.zeros_like(amount)
    match kernel:
        case "shearX":
            rows = (one, amount, none, none, one, none)
        case "shearY":
            rows = (one, none, none, amount, one, none)
        case "translateX":
            rows = (one, none, amount * width, none, one, none)
        case "translateY":
            rows = (one, none, none, none, one, amount * height)
        case _:
            cosine, sine = torch.cos(-torch.deg2rad(amount)), torch.sin(-torch.deg2rad(amount))
            x, y = width / 2, height / 2
            rows = (cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y)
    return torch.stack(rows, -1).view(-1, 2, 3)


def _solarize_add(pixels: Tensor, amount: Tensor, fill: Sequence[int]) -> Tensor:
    raised = (pixels.short() + amount.short()[:, None, None, None]).clamp_max(255).to(torch.uint8)
    return torch.where(pixels < 128, raised, pixels)


def _kernel(name: str) -> Callable[[Tensor, Tensor, Sequence[int]], Tensor]:
    return _solarize_add if name == "solarize_add" else KERNELS[name]

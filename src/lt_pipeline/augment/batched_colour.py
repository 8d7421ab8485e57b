"""Colour jitter, grey and blur of whole batches of uint8 images [B, H, W, 3] in memory order (SimCLR, Chen et al., ICML 2020, appendix A)."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from lt_pipeline.augment.operations import KERNELS, to_bytes

_BLUR_RADIUS = 11
_ENHANCERS = ("brightness", "contrast", "color")


def colour_jitter(pixels: Tensor, generator: Generator, strength: Sequence[float], probability: float = 1.0) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image in a random order.

    Args:
        pixels: uint8 [B, H, W, 3].
        generator: a CPU generator.
        strength: factors are uniform in 1 - s to 1 + s (at least 0) for the first three, the shift of the hue is uniform in -s to s turns.
        probability: of changing an image at all.
    """
    count = len(pixels)
    chosen = torch.rand(count, generator=generator) < probability
    order = torch.rand(count, 4, generator=generator).argsort(1)
    amounts = (torch.rand(count, 4, generator=generator, dtype=torch.float64) * 2 - 1) * torch.tensor(strength, dtype=torch.float64)
    amounts[:, :3].clamp_min_(-1)
    result = pixels.clone()
    for place in range(4):
        for kind in range(4):
            members = torch.nonzero(chosen & (order[:, place] == kind))[:, 0].to(pixels.device)
            if len(members) and strength[kind]:
                amount = amounts[members.cpu(), kind].to(pixels.device)
                images = result[members]
                result[members] = KERNELS[_ENHANCERS[kind]](images, amount, ()) if kind < 3 else shift_hue(images, amount)
    return result


def shift_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of images, uint8 [b, H, W, 3], by a share [b] of the colour circle; value and saturation stay."""
    rgb = pixels.float()
    value, brightest = rgb.max(-1)
    chroma = value - rgb.amin(-1)
    safe = chroma.clamp_min(1.0)  # where it is 0 the hue does not matter
    red, green, blue = rgb.unbind(-1)
    sixths = torch.where(
        brightest == 0, (green - blue) / safe, torch.where(brightest == 1, (blue - red) / safe + 2, (red - green) / safe + 4)
    )
    hue = sixths + 6 * turns.float()[:, None, None]
    channels = [value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in (torch.remainder(hue + n, 6) for n in (5, 3, 1))]
    return to_bytes(torch.stack(channels, -1).round_())


def lose_colour(pixels: Tensor, generator: Generator, probability: float) -> Tensor:
    """Make some images grey."""
    amount = torch.where(torch.rand(len(pixels), generator=generator) < probability, -1.0, 0.0).double()
    return KERNELS["color"](pixels, amount.to(pixels.device), ())


def gaussian_blur(pixels: Tensor, generator: Generator, probability: float, sigmas: tuple[float, float] = (0.1, 2.0)) -> Tensor:
    """Blur some images with a standard deviation in pixels that is uniform between ``sigmas``, over 23 pixels, mirrored at the border."""
    count, height, width, _ = pixels.shape
    members = torch.nonzero(torch.rand(count, generator=generator) < probability)[:, 0]
    sigma = sigmas[0] + (sigmas[1] - sigmas[0]) * torch.rand(count, generator=generator)
    if not len(members):
        return pixels
    sigma, members = sigma[members].to(pixels.device), members.to(pixels.device)
    planes = pixels[members].permute(0, 3, 1, 2).float()
    blurred = blurring_matrix(sigma, height)[:, None] @ planes @ blurring_matrix(sigma, width)[:, None].mT
    result = pixels.clone()
    result[members] = to_bytes(blurred.round_()).permute(0, 2, 3, 1)
    return result


def blurring_matrix(sigma: Tensor, size: int) -> Tensor:
    """Return the weights [b, size, size] of a Gaussian blur along one axis for standard deviations [b]."""
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    period = max(2 * (size - 1), 1)
    places = torch.remainder(torch.arange(size, device=sigma.device)[:, None] + offsets, period)
    places = torch.minimum(places, period - places)
    matrix = torch.zeros(len(sigma), size, size, device=sigma.device)
    return matrix.scatter_add_(2, places.expand(len(sigma), -1, -1), weights[:, None].expand(-1, size, -1))

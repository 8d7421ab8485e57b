"""What DeiT-LT's figures measure about a ViT: the rank of its features, how far it looks, how much its two tokens differ (CVPR 2024, section 5).

Arrays are numpy's, of any float type; results are float64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def feature_rank(features: Floats, threshold: float = 0.99, center: bool = True) -> tuple[int, float]:
    """Return how many principal components hold a share of the variance, and the effective rank.

    With singular values s of the (column-centred) features: ``min {k : sum_{j<=k} s_j^2 >= threshold sum_j s_j^2}``, and
    ``exp(-sum p log p)`` with ``p = s / sum s``.

    Args:
        features: of one token at one block [n, d].
        threshold: share of the variance, in (0, 1].
        center: subtract each column's mean first.
    """
    values = np.asarray(features, np.float64)
    singular = np.linalg.svd(values - values.mean(0) if center else values, compute_uv=False)
    if not singular.sum():
        return 0, 0.0
    share = np.cumsum(singular**2) / (singular**2).sum()
    p = singular[singular > 0] / singular.sum()
    return int(np.searchsorted(share, threshold - 1e-12) + 1), float(np.exp(-(p * np.log(p)).sum()))


def attention_distance(
    attention: Floats, grid: tuple[int, int], patch_size: int, num_prefix: int = 2, renormalize: bool = True
) -> NDArray[np.float64]:
    """Return how many pixels away each head looks on average, [H]: attention-weighted distance between patch centres (Dosovitskiy et al., 2021).

    Args:
        attention: after softmax, [B, H, N, N] with N = num_prefix + rows * columns.
        grid: rows and columns of patches.
        patch_size: side of a patch in pixels.
        num_prefix: tokens before the patches, which are left out.
        renormalize: let the attention to patches alone sum to 1 for each query.
    """
    to_patches = np.asarray(attention, np.float64)[:, :, num_prefix:, num_prefix:]
    if renormalize:
        to_patches = to_patches / to_patches.sum(-1, keepdims=True)
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    distances = patch_size * np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    result: NDArray[np.float64] = (to_patches * distances).sum(-1).mean((0, 2))
    return result


def token_similarity(first: Floats, second: Floats, eps: float = 1e-6) -> NDArray[np.float64]:
    """Return the cosine [n] of two tokens' features [n, d]; lengths below ``eps`` count as ``eps``."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    lengths = np.maximum(np.linalg.norm(a, axis=1), eps) * np.maximum(np.linalg.norm(b, axis=1), eps)
    cosine: NDArray[np.float64] = (a * b).sum(1) / lengths
    return cosine


def disagreement(first: Floats, second: Floats) -> float:
    """Return the share of images for which two heads, logits [n, C] each, name different classes."""
    return float((first.argmax(1) != second.argmax(1)).mean())

"""Many, medium and few: the groups that long-tail results are told by."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lt_pipeline.errors import LongTailError


def shot_masks(counts: ArrayLike, convention: str = "strict", many: int = 100, few: int = 20) -> dict[str, NDArray[np.bool_]]:
    """Return which classes are many, medium and few, bool [C] each; they partition the classes.

    strict (RIDE, MDCS, SADE): many have more than ``many`` training images, few fewer than ``few``. inclusive (OLTR): at least, at most.

    Args:
        counts: training images per class [C].
        convention: strict or inclusive.
        many: upper threshold.
        few: lower threshold.

    Raises:
        LongTailError: for an unknown convention.
    """
    n = np.asarray(counts)
    if convention == "strict":
        masks = {"many": n > many, "few": n < few}
    elif convention == "inclusive":
        masks = {"many": n >= many, "few": n <= few}
    else:
        raise LongTailError(f"Unknown shot convention '{convention}'; there are strict and inclusive.")
    return {"many": masks["many"], "medium": ~(masks["many"] | masks["few"]), "few": masks["few"] & ~masks["many"]}

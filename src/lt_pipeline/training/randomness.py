"""Random numbers as a pure function of what they are for.

No generator lives across steps: each draw is seeded by its purpose and place (seed, stage, epoch or step, rank), so a resumed run needs no
saved generator state, and the number of loader workers cannot matter.
"""

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """Return 63 well-mixed bits for a sequence of names and numbers."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Return a fresh CPU generator seeded by :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*parts))

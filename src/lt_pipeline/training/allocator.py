"""Memory of the C library that numbers pass through."""

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK = 32 * 2**20
"""glibc refuses a higher threshold for blocks that are mapped one by one."""


@cache
def keep_freed_memory() -> bool:
    """Let the process keep memory that tensors have freed, and return whether that was possible (Linux with glibc).

    By default glibc maps each large block afresh and gives it back at once, so every activation of every step is made of pages that the kernel
    first has to find and clear: 10 to 20 % of a step's time on a CPU. What a step used is what the next one needs; the peak does not grow.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))

"""Memory of the C library that numbers pass through."""

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


@cache
def keep_freed_memory() -> bool:
    """Let the process keep memory that tensors have freed, and return whether that was possible (Linux with glibc).

    By default glibc maps each large block afresh and gives it back at once, so every activation of every step is made of pages that the kernel
    first has to find and clear: 10 to 20 % of a step's time on small images, most of it on large ones. Here no block is mapped by itself
    any more, and nothing is given back. What a step used is what the next one needs; the peak grows where pieces do not fit, by 15 % in a step of
    EfficientNet-Lite0 at 160 pixels.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))

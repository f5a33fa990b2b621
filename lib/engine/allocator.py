"""Memory that was freed is kept for the next step, and given back after the last one.

glibc hands large blocks back to the system as soon as they are freed and has them zeroed again, page by page, at the
next step of the same size. What it is asked to keep instead is more with every other kind of step.
"""

import ctypes
import sys
from collections.abc import Callable
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BLOCK = 2**25  # bytes; larger blocks are handed back
KEPT_IN_ALL = 2**29


@cache
def keep_freed() -> bool:
    """Whether this process now keeps freed blocks; only glibc is asked to."""
    mallopt = _of_glibc("mallopt")
    return bool(mallopt and mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK) and mallopt(M_TRIM_THRESHOLD, KEPT_IN_ALL))


def give_back() -> None:
    """Hands what this process has freed back to the system: some milliseconds, after work of seconds."""
    trim = _of_glibc("malloc_trim")
    if trim:
        trim(0)


@cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function of the C library, None where that is not glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None

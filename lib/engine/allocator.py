"""Memory that was freed is kept for the next step.

glibc hands large blocks back to the system as soon as they are freed and has them zeroed again, page by page, at the
next step of the same size.
"""

import ctypes
import sys
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BLOCK = 2**25  # bytes; larger blocks are handed back
KEPT_IN_ALL = 2**29


@cache
def keep_freed() -> bool:
    """Whether this process now keeps freed blocks; only glibc is asked to."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK) and mallopt(M_TRIM_THRESHOLD, KEPT_IN_ALL))

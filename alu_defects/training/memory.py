"""The memory of a process that computes on the processor."""

import ctypes
import sys
from contextlib import suppress
from functools import cache

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


@cache
def keep_freed_memory() -> bool:
    """Let this process reuse the memory that it frees instead of giving it back; whether that could be arranged.

    A training step frees and takes hundreds of megabytes in large pieces. glibc returns such pieces to the system at
    once, which must clear every page again when it is touched: a tenth of the time of a step. Other C libraries, those
    of macOS and Windows among them, decide for themselves.
    """
    if sys.platform != "linux":
        return False
    with suppress(OSError, AttributeError):  # musl has no mallopt
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, -1))
    return False

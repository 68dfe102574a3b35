"""One heap for all threads of this process, where the C library can be told so."""

from __future__ import annotations

import ctypes
import sys

ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h


def share_heap() -> bool:
    """Threads that run samples give back what the others can use: glibc would keep a heap for each of them, which costs memory
    and page faults (docs/decisions/0054-one-heap.md). For a process that is the command's own, before it starts a thread.

    True where the C library took the word; others than glibc are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(
        ctypes.CDLL(None), "mallopt", None
    )  # other C libraries for Linux have none, or one that does nothing
    return mallopt is not None and bool(mallopt(ARENA_MAX, 1))

"""Memory that this process has given up, back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import cache
from typing import Any


def give_back() -> None:
    """Frees what nobody holds any more, between two things that are large. glibc keeps freed pieces between others that live, and
    would take new ones from the system beside them; other C libraries are left as they are."""
    gc.collect()
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None

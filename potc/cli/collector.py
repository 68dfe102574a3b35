"""Python's collector of cycles, switched off where it has nothing to find."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Generator[None]:
    """No search for cycles meanwhile: it takes an eighth of the time of short work that keeps nearly all it makes.

    What is there afterwards is never searched again. Not for work that reads models: those are large.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was:
            gc.enable()

"""Tasks that kill who runs them, for tests of executors."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Doubling:
    """Twice each number; ``deadly`` ones kill the worker, ``once`` (an empty folder) only the first one."""

    numbers: tuple[int, ...]
    deadly: frozenset[int] = frozenset()
    once: str = ""

    @property
    def label(self) -> str:
        return f"numbers {self.numbers}"

    def run(self) -> list[int]:
        if not self.deadly.isdisjoint(self.numbers):
            if not self.once:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                (Path(self.once) / f"{self.numbers[0]}").mkdir()
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return [2 * n for n in self.numbers]

    def halves(self) -> Sequence[Doubling]:
        middle = len(self.numbers) // 2
        parts = (self.numbers[:middle], self.numbers[middle:]) if middle else ()
        return [Doubling(p, self.deadly, self.once) for p in parts]

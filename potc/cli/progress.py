"""What is being done: a live bar on a terminal, else one line per stage."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from potc.cli.terminal import Terminal

STAGES = {
    "rules": "reading the rules",
    "model": "reading the model and samples",
    "prepare": "preparing the graph",
    "plan": "matching rules",
    "equalize": "equalizing channels",
    "calibrate": "calibrating",
    "solve": "solving scales",
    "correct": "correcting biases",
    "lower": "writing integers",
    "verify": "verifying",
    "account": "accounting for the error",
}

Stage = Callable[[str], None]
Progress = Callable[[int, int], None]


@contextmanager
def watching(terminal: Terminal) -> Generator[tuple[Stage, Progress]]:
    """The two functions that a compile calls: one per stage, one for the steps inside a long stage."""
    if not terminal.live:
        yield (lambda name: terminal.say(STAGES.get(name, name)), lambda done, total: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
    with Bars(*columns, console=Console(stderr=True, no_color=terminal.color == "never"), transient=True) as bars:
        task = bars.add_task("starting", total=None)

        def stage(name: str) -> None:
            bars.reset(task, total=None, description=STAGES.get(name, name))

        def progress(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield stage, progress

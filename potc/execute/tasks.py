"""Work that is done in pieces, and where: in this process, in others, or on other machines.

A ``Task`` is a pure function of what it holds: doing it twice, or elsewhere, gives the same result. An executor takes tasks as it
has room for them and returns results as they come, each with the number of its task; who needs an order sorts by that. A
task that kills its worker is tried again alone, then in halves, until what kills workers is known and told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from potc.diagnostics.diagnostic import Rejected, reject
from potc.limits import Limits, limited

TRIES = 3  # workers that one task may kill before it is taken for the reason


class Task(Protocol):
    """``label``: what it works on, in words, for messages."""

    @property
    def label(self) -> str: ...

    def run(self) -> Any:
        """The result, which can be pickled. Raises what it raises."""
        ...

    def halves(self) -> Sequence[Task]:
        """Two tasks whose results, one after the other, are this one's (lists); none if it can't be split."""
        ...


class Executor(Protocol):
    """``map`` gives pairs: the number of a task, counted from 0, and its result."""

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[int, Any]]: ...

    def close(self) -> None: ...


class InProcess:
    """One task after the other, here."""

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[int, Any]]:
        for number, task in enumerate(tasks):
            yield number, task.run()

    def close(self) -> None:
        """Nothing is held."""


def run_task(task: Task, within: Limits) -> tuple[Any, Rejected | None]:
    """What a worker calls, with the limits of who sent the task: a rejection comes back as a value, other exceptions are raised
    there."""
    try:
        with limited(within):
            return task.run(), None
    except Rejected as rejected:
        return None, rejected


def checked(answer: tuple[Any, Rejected | None]) -> Any:
    """The result of ``run_task``. Raises Rejected."""
    result, rejected = answer
    if rejected is not None:
        raise rejected
    return result


def isolated(task: Task, attempt: Callable[[Task], Any], lost: type[Exception], tries: int = TRIES - 1) -> Any:
    """The result of a task that was lost with its worker. ``attempt`` runs it where nothing else runs, and raises ``lost`` if that
    worker dies too; ``tries``: how often, before it is split. Raises Rejected(worker-lost) that names the smallest part that
    kills workers."""
    for _ in range(tries):
        try:
            return attempt(task)
        except lost:
            continue
    halves = task.halves()
    if not halves:
        message = f"{task.label} killed every worker that took it"
        raise reject("worker-lost", message, help="leave that sample out, or give the workers more memory")
    return [result for half in halves for result in isolated(half, attempt, lost, max(tries, 1))]

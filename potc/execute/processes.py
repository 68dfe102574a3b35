"""Tasks in other processes of this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from potc.execute.session import use_libraries, used_libraries
from potc.execute.tasks import Task, checked, isolated, run_task
from potc.limits import limits

AHEAD = 2  # tasks for each worker that are handed out: one under way, one waiting


class Processes:
    """``workers`` processes. One that dies takes others' tasks with it: all that were under way are done again, one by one."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[int, Any]]:
        """Raises Rejected as the tasks do, and for a task that always kills its worker."""
        left = enumerate(tasks)
        running: dict[Future[Any], tuple[int, Task]] = {}
        while True:
            room = AHEAD * self._workers - len(running)
            lost: list[tuple[int, Task]] = []
            for number, task in islice(left, room):
                try:
                    running[self._opened().submit(run_task, task, limits())] = (number, task)
                except BrokenProcessPool:
                    lost.append((number, task))
                    break
            if not running and not lost:
                return
            if running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda f: running[f][0]):
                    number, task = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        lost.append((number, task))
                    else:
                        yield number, checked(future.result())
            if lost:
                wait(running)
                for future, entry in list(running.items()):
                    if isinstance(future.exception(), BrokenProcessPool):
                        lost.append(entry)
                        del running[future]
                self._discard()
                for number, task in sorted(lost, key=lambda entry: entry[0]):
                    yield number, isolated(task, self._alone, BrokenProcessPool)

    def _alone(self, task: Task) -> Any:
        with ProcessPoolExecutor(1, **_like_here()) as pool:
            return checked(pool.submit(run_task, task, limits()).result())

    def _opened(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._workers, **_like_here())
        return self._pool

    def _discard(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def close(self) -> None:
        """Ends the workers; what they still do is thrown away."""
        self._discard()


def _like_here() -> dict[str, Any]:
    """Fresh processes that know the operators that this one knows."""
    context = multiprocessing.get_context("spawn")
    return {"mp_context": context, "initializer": use_libraries, "initargs": (used_libraries(),)}

"""Tasks on a Dask cluster. Only an address that the user gives is connected to; who serves it can run code here and there."""

# distributed carries no types.
# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import Any

from potc.diagnostics.diagnostic import reject
from potc.execute.tasks import Task, checked, isolated, run_task
from potc.limits import limits

AHEAD = 2  # tasks for each worker that are handed out
CONNECT = 10  # seconds


class Cluster:
    """The workers behind a scheduler's ``address`` (``tcp://host:port``, ``tls://host:port``). They need potc of the same version.

    A task whose worker dies is done again by another one. The scheduler gives up a task that killed several; then the sample
    that kills them is looked for.
    """

    def __init__(self, address: str, seconds: float = CONNECT) -> None:
        """``seconds``: how long an answer is waited for. Raises Rejected where ``distributed`` is not installed, or nobody
        answers."""
        try:
            from distributed import Client
        except ImportError as error:
            message = "--cluster needs the package `distributed`"
            raise reject("no-cluster", message, help="pip install 'potc[dask]'", exit_code=2) from error
        try:
            self._client = Client(address, timeout=seconds, set_as_default=False)
        except (OSError, ValueError) as error:
            message = f"no Dask scheduler answers at {address}: {error}"
            raise reject("no-cluster", message, help="start one with `dask scheduler`", exit_code=2) from error
        self._numbers = count()

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[int, Any]]:
        """Raises Rejected as the tasks do, and for a task that always kills its worker."""
        from distributed import KilledWorker, wait

        left = enumerate(tasks)
        running: dict[Any, tuple[int, Task]] = {}
        while True:
            room = AHEAD * max(len(self._client.scheduler_info()["workers"]), 1) - len(running)
            for number, task in islice(left, max(room, 0 if running else 1)):
                running[self._submit(task)] = (number, task)
            if not running:
                return
            with self._client.as_current():
                finished: Any = wait(list(running), return_when="FIRST_COMPLETED")
            for future in sorted(finished.done, key=lambda f: running[f][0]):
                number, task = running.pop(future)
                try:
                    found = checked(future.result())
                except KilledWorker:
                    found = isolated(task, lambda t: checked(self._submit(t).result()), KilledWorker, 0)
                yield number, found

    def _submit(self, task: Task) -> Any:
        return self._client.submit(run_task, task, limits(), key=f"potc-{id(self)}-{next(self._numbers)}", pure=False)

    def close(self) -> None:
        """Leaves the cluster running."""
        self._client.close()

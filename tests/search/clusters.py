"""A Dask scheduler and its workers, each a process of its own on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


class DaskCluster:
    """``address``: of the scheduler. One worker that dies of a task is enough to find out what it died of."""

    def __init__(self, workers: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        scheduler = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
        self._scheduler = _started(scheduler)
        self._workers = [self._worker() for _ in range(workers)]

    def _worker(self) -> subprocess.Popen[bytes]:
        words = ["distributed.cli.dask_worker", self.address, "--host", "127.0.0.1", "--nthreads", "1"]
        return _started([*words, "--no-dashboard"])

    def kill_a_worker(self) -> None:
        """Its nanny as well, so that nobody starts it again; another one takes its place."""
        _killed(self._workers.pop())
        self._workers.append(self._worker())

    def close(self) -> None:
        """All of them."""
        for process in (*self._workers, self._scheduler):
            _killed(process)


def _started(words: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "1"
    nothing = subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", *words], env=environment, stdout=nothing, stderr=nothing, start_new_session=True
    )


def _killed(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
    process.wait()

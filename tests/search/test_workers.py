"""Workers: the same answers wherever tasks run; who dies costs a retry, and what kills is named."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import Doubling

from potc.diagnostics.diagnostic import Rejected
from potc.execute.cluster import Cluster
from potc.execute.processes import Processes
from potc.execute.tasks import Executor, InProcess

TASKS = [Doubling((i, i + 1, i + 2, i + 3)) for i in range(0, 40, 4)]
WANTED = [[2 * n for n in t.numbers] for t in TASKS]


def results(executor: Executor, tasks: list[Doubling]) -> list[list[int]]:
    return [value for _, value in sorted(executor.map(tasks))]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scheduler and two workers, each a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"tcp://127.0.0.1:{port}"
    folder = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, str(Path(folder).parents[1])])}
    environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "1"
    host, nothing = ["--host", "127.0.0.1"], subprocess.DEVNULL
    commands = [
        ["distributed.cli.dask_scheduler", *host, "--port", str(port), "--no-dashboard"],
        *[["distributed.cli.dask_worker", where, *host, "--nthreads", "1", "--no-dashboard"]] * 2,
    ]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *words], env=environment, stdout=nothing, stderr=nothing, start_new_session=True
        )
        for words in commands
    ]
    try:
        yield where
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)  # with the workers that they started
            process.wait()


@pytest.fixture(params=["here", "processes", "cluster"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "cluster":
        made: Executor = Cluster(request.getfixturevalue("address"))
    else:
        made = InProcess() if request.param == "here" else Processes(2)
    yield made
    made.close()


def test_results_are_those_of_the_tasks(executor: Executor) -> None:
    assert results(executor, TASKS) == WANTED
    assert results(executor, []) == []


@pytest.mark.parametrize("kind", ["processes", "cluster"])
def test_a_worker_that_dies_costs_a_retry(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    executor = Processes(2) if kind == "processes" else Cluster(request.getfixturevalue("address"))
    deadly = [Doubling(t.numbers, frozenset((5,)), str(tmp_path)) for t in TASKS]
    assert results(executor, deadly) == WANTED
    assert len(list(tmp_path.iterdir())) == 1  # it died once
    executor.close()


@pytest.mark.parametrize("kind", ["processes", "cluster"])
def test_what_always_kills_is_named(kind: str, request: pytest.FixtureRequest) -> None:
    executor = Processes(2) if kind == "processes" else Cluster(request.getfixturevalue("address"))
    with pytest.raises(Rejected, match=r"worker-lost: numbers \(6,\) killed every worker that took it"):
        results(executor, [TASKS[0], Doubling((5, 6), frozenset((6,)))])
    executor.close()


def test_nobody_answers() -> None:
    started = time.monotonic()
    with pytest.raises(Rejected, match=r"no-cluster: no Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        Cluster("tcp://127.0.0.1:1", seconds=1)
    assert time.monotonic() - started < 30

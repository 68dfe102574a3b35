"""Workers: the same answers wherever tasks run; who dies costs a retry, and what kills is named."""

from __future__ import annotations

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


@pytest.fixture(params=["here", "processes", "cluster"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "cluster":
        made: Executor = Cluster(request.getfixturevalue("cluster").address)
    else:
        made = InProcess() if request.param == "here" else Processes(2)
    yield made
    made.close()


def test_results_are_those_of_the_tasks(executor: Executor) -> None:
    assert results(executor, TASKS) == WANTED
    assert results(executor, []) == []


@pytest.mark.parametrize("kind", ["processes", "cluster"])
def test_a_worker_that_dies_costs_a_retry(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    executor = Processes(2) if kind == "processes" else Cluster(request.getfixturevalue("cluster").address)
    deadly = [Doubling(t.numbers, frozenset((5,)), str(tmp_path)) for t in TASKS]
    assert results(executor, deadly) == WANTED
    assert len(list(tmp_path.iterdir())) == 1  # it died once
    executor.close()


@pytest.mark.parametrize("kind", ["processes", "cluster"])
def test_what_always_kills_is_named(kind: str, request: pytest.FixtureRequest) -> None:
    executor = Processes(2) if kind == "processes" else Cluster(request.getfixturevalue("cluster").address)
    with pytest.raises(Rejected, match=r"worker-lost: numbers \(6,\) killed every worker that took it"):
        results(executor, [TASKS[0], Doubling((5, 6), frozenset((6,)))])
    executor.close()


def test_nobody_answers() -> None:
    started = time.monotonic()
    with pytest.raises(Rejected, match=r"no-cluster: no Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        Cluster("tcp://127.0.0.1:1", seconds=1)
    assert time.monotonic() - started < 30

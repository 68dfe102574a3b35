"""Killed at any moment, a search goes on where it was, and ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from clusters import DaskCluster
from hypothesis import given, settings
from hypothesis import strategies as st

from potc.diagnostics.diagnostic import Rejected
from potc.limits import limited, stated
from potc.search.journal import Journal
from potc.search.records import decoded, encoded

HERE = Path(__file__).parent
SCRIPT = HERE / "resumed.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}


def started(folder: Path, workers: str = "0") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), workers], env=ENVIRONMENT)


def finished(folder: Path, workers: str = "0") -> bytes:
    assert started(folder, workers).wait() == 0
    assert not (folder / "out.onnx.journal").exists()
    return (folder / "out.onnx").read_bytes()


def killed_after(folder: Path, results: int) -> None:
    """SIGKILL once so many results are computed, or the search is over."""
    process = started(folder)
    computed = folder / "computed"
    while process.poll() is None and (not computed.exists() or computed.read_bytes().count(b"\n") < results):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    """Bytes of an uninterrupted search, and how many results it computes."""
    folder = tmp_path_factory.mktemp("whole")
    return finished(folder), len((folder / "computed").read_text().splitlines())


def test_kills_lose_at_most_one_shard_and_change_nothing(whole: tuple[bytes, int], tmp_path: Path) -> None:
    wanted, total = whole
    moments = sorted(random.Random(3).sample(range(1, total), 2))
    for moment in moments:
        killed_after(tmp_path, moment)
    assert finished(tmp_path) == wanted
    computed = Counter((tmp_path / "computed").read_text().splitlines())
    assert len(computed) == total
    assert sum(computed.values()) - total <= len(moments)


@pytest.mark.parametrize("workers", ["1", "2", "4"])
def test_workers_give_the_same_bytes(whole: tuple[bytes, int], workers: str, tmp_path: Path) -> None:
    """Calibration, ranking and evaluations are all theirs."""
    assert finished(tmp_path, workers) == whole[0]


def test_a_cluster_gives_the_same_bytes_though_a_worker_is_killed(
    whole: tuple[bytes, int], cluster: DaskCluster, tmp_path: Path
) -> None:
    searching = started(tmp_path, cluster.address)
    computed = tmp_path / "computed"
    while searching.poll() is None and (not computed.exists() or computed.read_bytes().count(b"\n") < whole[1] // 3):
        time.sleep(0.01)
    assert searching.poll() is None  # it is not over yet
    cluster.kill_a_worker()
    assert searching.wait(60) == 0
    assert (tmp_path / "out.onnx").read_bytes() == whole[0]
    assert len(computed.read_text().splitlines()) == whole[1]  # what the worker had finished was not done again


# ---------------------------------------------------------------------------------------------- the journal


def filled(path: Path, count: int = 5) -> bytes:
    path.unlink(missing_ok=True)
    journal = Journal(str(path), "inputs")
    for i in range(count):
        journal.put(f"key {i}", [i, {"value": i / 3}])
    journal.close()
    return path.read_bytes()


def test_a_journal_is_found_again(tmp_path: Path) -> None:
    filled(tmp_path / "j")
    journal = Journal(str(tmp_path / "j"), "inputs")
    assert journal.resumed == 5
    assert journal.get("key 3") == [3, {"value": 1.0}]
    with pytest.raises(Rejected, match="another search is writing it"):
        Journal(str(tmp_path / "j"), "inputs")
    journal.close()
    assert Journal(str(tmp_path / "j"), "other inputs").resumed == 0


def test_cut_anywhere_the_rest_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "j"
    content = filled(path)
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content)):
        path.write_bytes(content[:length])
        journal = Journal(str(path), "inputs")
        whole_lines = sum(end <= length for end in ends)
        assert journal.resumed == max(whole_lines - 1, 0)
        journal.put("more", length)
        journal.close()
        again = Journal(str(path), "inputs")
        assert again.get("more") == length
        again.close()


def test_a_damaged_line_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "j"
    content = filled(path)
    place = content.index(b"key 2") + 4
    path.write_bytes(content[:place] + b"9" + content[place + 1 :])
    assert Journal(str(path), "inputs").resumed == 2


numbers = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
records = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(st.one_of(st.text(), st.integers()), inner)
    ),
)


@settings(max_examples=25)
@given(records)
def test_records_come_back(record: object) -> None:
    assert decoded(encoded(record)) == record


def test_arrays_come_back_and_other_objects_are_refused() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    back = decoded(encoded({"a": (array, np.float64(1 / 3))}))
    assert back["a"][0].dtype == np.float32
    assert (back["a"][0] == array).all()
    assert back["a"][1] == 1 / 3
    with pytest.raises(TypeError):
        encoded(object())
    with pytest.raises(ValueError, match="is no module of potc"):
        decoded({"class": "os:system", "fields": {}})


def test_a_line_of_a_journal_that_is_too_long_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(str(path), "inputs")
    journal.put("a", 1)
    journal.put("b", "x" * 2000)
    journal.close()
    with limited(stated({"journal-line-bytes": 1000})):
        again = Journal(str(path), "inputs")
    assert (again.resumed, again.get("a")) == (1, 1)
    assert "b" not in again
    again.close()

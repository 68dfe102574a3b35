"""What people run often must start at once, so it must not import what it does not need."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from potc.shipped import shipped_rules

ROOT = Path(__file__).parents[2]
HEAVY = ("onnxruntime", "networkx", "onnx_graphsurgeon", "rich", "lark")
BUDGET_S = 2.0
PROGRAM = """
import sys
from potc.cli.main import main
code = main(sys.argv[1:])
print("imported:", *(m for m in {heavy!r} if m in sys.modules), file=sys.stderr)
sys.exit(code)
"""


# Work that nobody will make faster, to measure others with: a second on one machine is two on another.
STANDARD = "f = lambda n: n if n < 2 else f(n - 1) + f(n - 2); f(31)"
CHECK_STANDARDS = 6.5  # what `potc check` of all shipped rules may cost; 4.4 when this was written


def spent(*command: str, **environment: str) -> tuple[float, str]:
    """The CPU seconds of a Python program (the wall time of a busy machine says nothing), and its last words."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, *command]
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, "".join(done.stderr.splitlines()[-1:])


def start(*arguments: str, **environment: str) -> tuple[float, str]:
    """The CPU seconds of a command and what it imported."""
    return spent("-c", PROGRAM.format(heavy=HEAVY), *arguments, **environment)


@pytest.mark.parametrize("arguments", [("--version",), ("check", *shipped_rules())], ids=lambda a: a[0])
def test_start(arguments: tuple[str, ...], tmp_path: Path) -> None:
    start("check", "std", XDG_CACHE_HOME=str(tmp_path))  # stores the parser's tables
    attempts = [start(*arguments, XDG_CACHE_HOME=str(tmp_path)) for _ in range(3)]
    assert {imported for _, imported in attempts} == {"imported:"}
    assert min(seconds for seconds, _ in attempts) < BUDGET_S


def test_the_shipped_rules_are_checked_at_once() -> None:
    """Both are measured in turns, and the best of each counts: what else the machine does takes time from both."""
    turns = [(start("check", *shipped_rules())[0], spent("-c", STANDARD)[0]) for _ in range(3)]
    checked, standard = (min(column) for column in zip(*turns, strict=True))
    assert checked < CHECK_STANDARDS * standard


def test_a_compile_imports_no_networkx(tmp_path: Path) -> None:
    """It takes a tenth of the time of a small compile, and only regions and cycles need it."""
    digits = ROOT / "samples" / "digits"
    words = ("compile", str(digits / "model.onnx"), "--rules", "cpu", "--data", str(digits / "calib.npz"))
    _, imported = start(*words, "--preset", "fast", "--samples", "2", "-q", "-o", str(tmp_path / "out.onnx"))
    assert "networkx" not in imported.split()

"""What people run often must start at once, so it must not import what it does not need."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from potc.shipped import shipped_rules

ROOT = Path(__file__).parents[2]
HEAVY = ("onnxruntime", "networkx", "onnx_graphsurgeon", "rich")
BUDGET_S = 2.0
PROGRAM = """
import sys
from potc.cli.main import main
code = main(sys.argv[1:])
print("imported:", *(m for m in {heavy!r} if m in sys.modules), file=sys.stderr)
sys.exit(code)
"""


def start(*arguments: str) -> tuple[float, str]:
    """The CPU seconds of a command (the wall time of a busy machine says nothing) and what it imported."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", PROGRAM.format(heavy=HEAVY), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, done.stderr.splitlines()[-1]


@pytest.mark.parametrize("arguments", [("--version",), ("check", *shipped_rules())], ids=lambda a: a[0])
def test_start(arguments: tuple[str, ...]) -> None:
    attempts = [start(*arguments) for _ in range(3)]
    assert {imported for _, imported in attempts} == {"imported:"}
    assert min(spent for spent, _ in attempts) < BUDGET_S


def test_a_compile_imports_no_networkx(tmp_path: Path) -> None:
    """It takes a tenth of the time of a small compile, and only regions and cycles need it."""
    digits = ROOT / "samples" / "digits"
    words = ("compile", str(digits / "model.onnx"), "--rules", "cpu", "--data", str(digits / "calib.npz"))
    _, imported = start(*words, "--preset", "fast", "--samples", "2", "-q", "-o", str(tmp_path / "out.onnx"))
    assert "networkx" not in imported.split()

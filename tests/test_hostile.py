"""A short version of the benchmark of hostile inputs and kills."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_nothing_is_lost_and_nothing_else_is_touched() -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "hostile.py"),
        "--inputs",
        "16",
        "--kills",
        "2",
        "--disks",
        "0",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 hostile inputs, 0 with problems" in done.stdout
    assert "2 kills, 0 with losses" in done.stdout

"""A search that is killed again and again: are its bytes those of an uninterrupted one, and how much is done twice?

python benchmarks/kills.py [--kills 100]
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEARCH = Path(__file__).parents[1] / "tests" / "search" / "resumed.py"


def search(folder: Path, limit: float | None) -> bool:
    """Runs it, killed after ``limit`` seconds; True if it came to its end before: the result is there, the journal is gone."""
    process = subprocess.Popen([sys.executable, str(SEARCH), str(folder)])
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return (folder / "out.onnx").exists() and not (folder / "out.onnx.journal").exists()


def main() -> None:
    """Exit code 1 if any search ends with other bytes, or loses more than a result for each kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    wanted_kills = parser.parse_args().kills
    moments = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        started = time.monotonic()
        assert search(whole, None)
        seconds = time.monotonic() - started
        wanted, total = (whole / "out.onnx").read_bytes(), len((whole / "computed").read_text().splitlines())
        kills = searches = different = twice = 0
        while kills < wanted_kills:
            folder = Path(name) / f"killed{searches}"
            folder.mkdir()
            mine = 0
            while not search(folder, moments.uniform(0.2, 1.0) * seconds):
                mine += 1
            searches, kills = searches + 1, kills + mine
            different += (folder / "out.onnx").read_bytes() != wanted
            lost = len((folder / "computed").read_text().splitlines()) - total
            twice += max(lost - mine, 0)
    print(f"{kills} kills in {searches} searches of {total} results: {different} ended with other bytes")
    print(f"results done again beyond one for each kill: {twice}")
    sys.exit(bool(different or twice))


if __name__ == "__main__":
    main()

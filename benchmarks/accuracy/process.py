"""Runs a command and prints, as JSON, what it took.

    python process.py LOG TIMEOUT COMMAND [ARG ...]

A process of its own, and a small one: Linux counts the memory of the process that starts a command as the command's own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    log, timeout, words = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    began = time.perf_counter()
    with log.open("wb") as file:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
        timer = threading.Timer(timeout, lambda: os.killpg(child.pid, signal.SIGKILL))
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)  # children that it waited for count as its own CPU time
        timer.cancel()
    child.returncode = code = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    unit = 1e6 if sys.platform == "darwin" else 1e3  # ru_maxrss: bytes there, kilobytes elsewhere
    failed = ""
    if code:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        failed = f"no answer in {timeout:g} s" if wall >= timeout else (lines[-1][:200] if lines else f"exit {code}")
    took = {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / unit,
        "failed": failed,
    }
    print(json.dumps(took))


if __name__ == "__main__":
    main()

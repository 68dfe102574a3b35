"""The command's threads share one heap, and a program that imports potc keeps its own way."""

from __future__ import annotations

import platform
import subprocess
import sys

GLIBC = platform.libc_ver()[0] == "glibc"
THREADS = """
import ctypes, threading
{first}
places = []
def hold():
    allocate = ctypes.CDLL(None).malloc
    allocate.restype = ctypes.c_void_p
    places.append(allocate(64))
def run():
    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
hold()
run()
print(1 if max(places) - min(places) < 1 << 30 else 2)  # heaps of threads lie far from the first one
"""


def heaps_after(first: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", THREADS.format(first=first)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_threads_share_a_heap_only_where_the_command_says_so() -> None:
    assert heaps_after("from potc.cli.heap import share_heap; share_heap()") <= heaps_after("import potc")
    if GLIBC:
        assert (heaps_after("import potc"), heaps_after("import potc.cli.heap as h; assert h.share_heap()")) == (2, 1)

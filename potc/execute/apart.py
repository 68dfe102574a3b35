"""Work that may crash or never end, in a process of its own, and commands of the user. Neither can harm this process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from potc.limits import Limits, limited, limits

PRINTED = 1 << 20  # bytes that are kept of what a command prints, the last ones
ENDING = 10.0  # seconds that a process has for ending once it has answered


class Died(Exception):
    """The process ended without an answer: the name of the signal, or its exit code."""


class TooLong(Exception):
    """It took longer than it may; it was ended."""


def apart(work: Callable[..., Any], arguments: Sequence[Any], seconds: float) -> Any:
    """What ``work`` returns, a function of a module, for plain arguments. What it prints is lost. Raises Died, TooLong."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["potc.compiler"])  # so that a process costs milliseconds
    else:
        context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(there, work, arguments, limits()), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(seconds):
            raise TooLong(f"more than {seconds:g} s")
        return here.recv()
    except EOFError:
        process.join(ENDING)
        raise Died(_ending(process.exitcode)) from None
    finally:
        process.join(ENDING if here.closed else 0)
        if process.is_alive():
            process.kill()
        process.join()
        here.close()


def _tell(pipe: Connection, work: Callable[..., Any], arguments: Sequence[Any], within: Limits) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    with limited(within):
        pipe.send(work(*arguments))


def run_command(words: Sequence[str], seconds: float) -> tuple[int, str]:
    """The exit code of a program that the user named, negative for a signal, and the last of what it printed to both streams. No
    shell; nothing to read. Raises OSError where it can't be started, TooLong."""
    try:
        with tempfile.TemporaryFile(prefix="potc-") as printed:  # a pipe would have to be emptied while it runs
            code = subprocess.run(
                list(words), stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, timeout=seconds, check=False
            ).returncode
            printed.seek(max(0, printed.seek(0, os.SEEK_END) - PRINTED))
            return code, printed.read().decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        raise TooLong(f"more than {seconds:g} s") from error


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"

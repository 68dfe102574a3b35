"""Python code of the user, named on the command line as ``FILE.py:NAME``: the only code that runs besides potc's own."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from potc.diagnostics.diagnostic import Rejected, reject


def is_python(text: str) -> bool:
    """True for ``FILE.py:NAME``."""
    path, _, name = text.rpartition(":")
    return path.endswith(".py") and name.isidentifier()


def load_python(text: str) -> Any:
    """What ``FILE.py:NAME`` names; the file runs once a process. Its prints go to standard error: stdout is for answers.

    Raises Rejected: missing-file (exit code 2); python-failed where the file fails or has no such name.
    """
    path, _, name = text.rpartition(":")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise reject("missing-file", f"can't read {path}: {error.strerror or error}", exit_code=2) from error
    module = _run(path, content)
    if not hasattr(module, name):
        raise reject("python-failed", f"{path} defines no `{name}`", help="check its name")
    return getattr(module, name)


def call_python(text: str, function: Any, *arguments: Any) -> Any:
    """The result of user code. Raises Rejected(python-failed) whatever it raises."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return function(*arguments)
    except Rejected:
        raise
    except (Exception, SystemExit) as error:
        message = f"{text} failed: {type(error).__name__}: {error}"
        raise reject("python-failed", message, help="run it with python, and repair it") from error


def _run(path: str, content: bytes) -> ModuleType:
    name = f"potc file {hashlib.sha256(path.encode() + content).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # dataclasses and the like look their module up
    try:
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(content, path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        message = f"{path} can't be run: {type(error).__name__}: {error}"
        raise reject("python-failed", message, help="run it with python, and repair it") from error
    return module

"""Predicates that are Python functions: only of files that are named on the command line, so that rule files stay data."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

from potc.diagnostics.diagnostic import reject
from potc.language import syntax
from potc.language.program import Extern, Program
from potc.language.scope import Scope


@dataclass(frozen=True, slots=True)
class ExternFile:
    """A file of Python code as given on the command line; ``content`` is what runs and what is hashed."""

    path: str
    content: bytes

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def is_called(self, name: str) -> bool:
        """True if a rule file may mean this file: ``ext``, ``ext.py``, ``folder/ext.py`` or ``folder.ext``."""
        wanted = PurePath(name.removesuffix(".py") if name.endswith(".py") else name.replace(".", "/")).parts
        return bool(wanted) and PurePath(self.path).with_suffix("").parts[-len(wanted) :] == wanted


def read_extern_files(paths: Sequence[str]) -> tuple[ExternFile, ...]:
    """Reads the files, runs nothing. Raises Rejected(missing-file), exit code 2."""
    files: list[ExternFile] = []
    for path in dict.fromkeys(paths):
        try:
            files.append(ExternFile(path, Path(path).read_bytes()))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise reject("missing-file", f"`{path}` can't be read: {why}", exit_code=2) from None
    return tuple(files)


def with_externs(program: Program, scope: Scope, files: Sequence[ExternFile]) -> Program:
    """The program with its functions, for all parts of a meet. Runs the files that some ``extern pred`` names.

    Tells predicates whose file was not given, or has no such function; the digest is left to the caller.
    """
    found = _functions(scope, files)
    hashes = tuple(sorted(f.hash for f in files))
    sources = tuple(dict.fromkeys((*program.sources, *(f.path for f in files))))

    def complete(part: Program) -> Program:
        parts = tuple(complete(p) for p in part.parts)
        return replace(part, externs=found, extern_files=hashes, sources=sources, parts=parts)

    return complete(program)


def _functions(scope: Scope, files: Sequence[ExternFile]) -> tuple[Extern, ...]:
    modules: dict[str, ModuleType | None] = {}
    found: list[Extern] = []
    for name, predicate in sorted(scope.predicates.items()):
        if not isinstance(predicate, syntax.ExternPredicate):
            continue
        function = _function(scope, predicate, files, modules)
        if function is not None:
            found.append(Extern(name, predicate.origin, function))
    return tuple(found)


def _function(
    scope: Scope, predicate: syntax.ExternPredicate, files: Sequence[ExternFile], modules: dict[str, ModuleType | None]
) -> Callable[..., Any] | None:
    where, _, wanted = predicate.origin.rpartition(":")
    named = [f for f in files if f.is_called(where)]
    if not named:
        message = f"`{predicate.name}` is a Python function of `{where}`, and nothing allows that to run"
        shown = where if where.endswith(".py") else f"{where.replace('.', '/')}.py"
        help_ = f"give `--extern {shown}` if you trust it"
        scope.error("extern-not-allowed", message, predicate.span, help_)
        return None
    if len(named) > 1:
        both = " and ".join(f"`{f.path}`" for f in named[:2])
        message = f"{both} may both be `{where}`"
        scope.error("extern-failed", message, predicate.span, "write more of the path in the rule file")
        return None
    file = named[0]
    if file.path not in modules:
        modules[file.path] = _run(scope, file, predicate)
    module = modules[file.path]
    if module is None:
        return None
    function = getattr(module, wanted, None)
    if not callable(function):
        message = f"`{file.path}` defines no function `{wanted}`"
        scope.error("extern-failed", message, predicate.span, "check its name")
        return None
    return function


def _run(scope: Scope, file: ExternFile, predicate: syntax.ExternPredicate) -> ModuleType | None:
    """The file as a module; None where it fails. What it prints goes to standard error: stdout is for answers."""
    name = f"potc extern {file.hash}"
    module = ModuleType(name)
    module.__file__ = file.path
    sys.modules[name] = module  # dataclasses and the like look their module up
    try:
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(file.content, file.path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        message = f"`{file.path}` can't be run: {type(error).__name__}: {error}"
        scope.error("extern-failed", message, predicate.span, "run it with python, and repair it")
        return None
    return module

"""What the package can't do: no pickle, no eval, no network, no programs. The exceptions are named, with their reasons."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "potc"
MODULES = {
    *("pickle", "cPickle", "dill", "cloudpickle", "shelve", "joblib", "yaml"),
    *("subprocess", "pty", "ctypes", "code", "codeop", "runpy"),
    *("socket", "ssl", "http", "urllib", "ftplib", "smtplib", "requests", "httpx", "asyncio", "webbrowser", "xmlrpc"),
    *("marshal", "multiprocessing", "concurrent.futures.process"),
}
CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
METHODS = {"system", "popen", "execv", "execve", "spawnv", "posix_spawn", "import_module", "spec_from_file_location"}

# File, and what it may: why.
ALLOWED = {
    ("language/extern.py", "exec"): "Python files that are named by --extern",
    ("language/extern.py", "compile"): "the same",
    ("data/python_file.py", "exec"): "samples and metrics that the user names as FILE.py:NAME",
    ("data/python_file.py", "compile"): "the same",
    ("__init__.py", "import_module"): "the public functions, imported when they are asked for, from a table",
    ("evaluate/__init__.py", "import_module"): "potc.api.models, by a constant name",
    ("report.py", "import_module"): "three libraries by constant names, for their versions",
    ("language/tables.py", "marshal"): "the parser's tables in the user's own cache: plain data with a digest",
    ("diagnostics/render_sarif.py", "urllib.parse"): "quotes a path, opens nothing",
    ("execute/processes.py", "multiprocessing"): "workers of one's own: tasks and results go through pipes to them",
    ("execute/processes.py", "concurrent.futures.process"): "the same",
    ("execute/apart.py", "multiprocessing"): "tries of `potc reduce` in processes of one's own",
    ("execute/apart.py", "multiprocessing.connection"): "the same",
    ("execute/apart.py", "subprocess"): "the command of `potc reduce --run`, as the user gives it, without a shell",
    ("search/records.py", "import_module"): "potc's own dataclasses, by name, and nothing else",
    ("cli/heap.py", "ctypes"): "one word to the C library that this process has loaded already: no file is named",
    ("execute/freed.py", "ctypes"): "tells the C library to give freed memory back",
    ("cli/main.py", "import_module"): "potc's own commands, from a table",
    ("language/operators.py", "import_module"): "onnx.defs without the rest of onnx",
}


def found() -> set[tuple[str, str]]:
    """Uses of forbidden things, each with its file."""
    uses: set[tuple[str, str]] = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        file = str(path.relative_to(PACKAGE))
        text = path.read_text()
        if not any(word in text for word in (*MODULES, *CALLS, *METHODS, "allow_pickle")):
            continue
        for node in ast.walk(ast.parse(text)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            uses |= {(file, n) for n in names if n in MODULES or n.split(".")[0] in MODULES}
            if isinstance(node, ast.Call):
                if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                    uses.add((file, node.func.id))
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in METHODS:
                    uses.add((file, called))
                uses |= {(file, "allow_pickle") for k in node.keywords if k.arg == "allow_pickle" and _true(k.value)}
    return uses


def _true(value: ast.expr) -> bool:
    return not (isinstance(value, ast.Constant) and value.value is False)


def test_nothing_but_the_named_exceptions() -> None:
    assert found() == ALLOWED.keys()

"""The samples for make, ninja and CMake are run: what is touched is compiled again, and nothing else.

Bazel and pre-commit are not asked for here: the command that Bazel's rule builds, and the entries of the hooks, are run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from potc.cli.main import main

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples" / "build"
INPUTS = ("model.onnx", "calib.npz", "device.rules", "limits.rules")
POTC = f"{sys.executable} -m potc"
FAST = "--preset fast --samples 1"


def make(folder: Path) -> Callable[..., str]:
    return _run(folder, "make", f"POTC={POTC}", f"POTCFLAGS={FAST}")


def ninja(folder: Path) -> Callable[..., str]:
    (folder / "flags.ninja").write_text(f"flags = {FAST}\npotc = {POTC}\n")
    return _run(folder, "ninja", "-v")


def cmake(folder: Path) -> Callable[..., str]:
    launcher = folder / "potc"  # a program has no arguments
    launcher.write_text(f'#!/bin/sh\nexec {POTC} "$@"\n')
    launcher.chmod(0o755)
    words = ("-S", ".", "-B", "build", f"-DPOTC_EXECUTABLE={launcher}", f"-DPOTC_OPTIONS={FAST.replace(' ', ';')}")
    _run(folder, "cmake", "-G", "Ninja" if shutil.which("ninja") else "Unix Makefiles", *words)()
    return _run(folder, "cmake", "--build", "build", "--verbose")


def _run(folder: Path, *command: str) -> Callable[..., str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [*command, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


# What a system says where it makes something of the compiled model.
SYSTEMS = [
    pytest.param(system, behind, id=system.__name__)
    for system, behind in ((make, "wc -c"), (ninja, "wc -c"), (cmake, "model.copy"))
    if shutil.which(system.__name__)
]


@pytest.mark.parametrize(("system", "behind"), SYSTEMS)
def test_what_is_touched_is_compiled_again(
    system: Callable[[Path], Callable[..., str]], behind: str, tmp_path: Path
) -> None:
    for source in (*(SAMPLES / system.__name__).iterdir(), *SAMPLES.glob("*.rules")):
        shutil.copy(source, tmp_path)
    for name in ("model.onnx", "calib.npz"):
        shutil.copy(ROOT / "samples" / "digits" / name, tmp_path)
    build = system(tmp_path)
    model = tmp_path / ("build/model.int8.onnx" if system is cmake else "model.int8.onnx")
    first = build()
    assert "compile" in first and behind in first
    assert "compile" not in build(), "nothing was touched"
    before = model.stat().st_mtime_ns
    for name in INPUTS if system is not cmake else ():
        old = (tmp_path / name).stat().st_mtime
        _touch(tmp_path, name)
        assert "compile" in build("-n"), f"{name} was touched"
        os.utime(tmp_path / name, (old, old))
    _touch(tmp_path, INPUTS[-1])  # the farthest one: only the dependency file knows it
    again = build()
    assert "compile" in again
    assert behind not in again, "the model is as it was"
    assert model.stat().st_mtime_ns == before
    if system is not ninja:
        return
    text = (tmp_path / "device.rules").read_text()
    (tmp_path / "device.rules").write_text(text.replace("extends cpu ", "extends cpu_vnni "))
    _touch(tmp_path, "device.rules")  # behind the times that were set above, however fast the machine is
    again = build()
    assert "compile" in again and behind in again, "another model, and what is made of it"
    assert model.stat().st_mtime_ns > before


def _touch(folder: Path, name: str) -> None:
    later = max(p.stat().st_mtime for p in folder.rglob("*")) + 2
    os.utime(folder / name, (later, later))


def test_hooks_run_on_the_files_of_a_commit(tmp_path: Path) -> None:
    """Each entry, as pre-commit calls it: with names of files behind it, changed files or an exit code stop the commit."""
    hooks = dict(
        re.findall(r"- id: (\S+)\n  name: .*\n.*\n  entry: (.*)\n", (ROOT / ".pre-commit-hooks.yaml").read_text())
    )
    assert hooks == {"potc-fmt": "potc fmt", "potc-check": "potc check"}
    sample = (SAMPLES / "pre-commit" / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"- id: (\S+)", sample)) == hooks.keys()
    rules = tmp_path / "a.rules"
    shutil.copy(SAMPLES / "limits.rules", tmp_path)
    rules.write_text((SAMPLES / "device.rules").read_text().replace("{", "{   "))
    assert main([*hooks["potc-fmt"].split()[1:], str(rules)]) == 0
    tidy = rules.read_text()
    assert main([*hooks["potc-fmt"].split()[1:], str(rules)]) == 0
    assert rules.read_text() == tidy
    assert main([*hooks["potc-check"].split()[1:], "--deny-warnings", str(rules)]) == 0
    rules.write_text("potc 1\ndevice {")
    assert main([*hooks["potc-check"].split()[1:], "--deny-warnings", str(rules)]) == 1


class Recorded:
    """What a rule of Bazel does with ``ctx.actions.args()``; names of files stand for files."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def add(self, *words: object) -> None:
        self.words += map(str, words)

    def add_all(self, words: list[str]) -> None:
        self.words += words

    def use_param_file(self, form: str, use_always: bool) -> None:
        assert (form, use_always) == ("@%s", True)

    def set_param_file_format(self, form: str) -> None:
        assert form == "shell"  # quoted as ``@FILE`` is read


def test_the_command_that_bazel_would_run_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """potc.bzl is read as Python, which knows all words in it; only Bazel's own things are pretended."""
    monkeypatch.chdir(tmp_path)
    for source in (*SAMPLES.glob("*.rules"), *(ROOT / "samples" / "digits" / n for n in ("model.onnx", "calib.npz"))):
        shutil.copy(source, tmp_path)
    made: dict[str, Any] = {}
    bazel: dict[str, Any] = {
        "attr": SimpleNamespace(**{k: lambda **w: w for k in ("label", "label_list", "string", "string_list")}),
        "rule": lambda **words: made.update(words) or (lambda **call: made.update(call=call)),
        **{name: lambda *words, **more: (words, more) for name in ("DefaultInfo", "OutputGroupInfo", "depset")},
        "load": lambda *names: None,
        "alias": lambda **words: None,
        "entry_point": lambda name: name,
    }
    exec((SAMPLES / "bazel" / "potc.bzl").read_text(), bazel)
    exec((SAMPLES / "bazel" / "BUILD.bazel").read_text(), bazel)
    call, words, ran = made["call"], Recorded(), dict[str, Any]()
    made["implementation"](
        SimpleNamespace(
            actions=SimpleNamespace(
                declare_file=lambda name: name, args=lambda: words, run=lambda **more: ran.update(more)
            ),
            label=SimpleNamespace(name=call["name"]),
            file=SimpleNamespace(**{n: call.get(n) for n in ("model", "rules", "data")}),
            files=SimpleNamespace(imports=call["imports"], external_data=[]),
            attr=SimpleNamespace(device="cpu", options=["--preset", "fast", "--samples", "1"]),
            executable=SimpleNamespace(potc="potc"),
        )
    )
    assert {path.name for path in tmp_path.iterdir()} == set(ran["inputs"]), "a sandbox holds what is declared alone"
    (tmp_path / "params").write_text("\n".join(map(shlex.quote, words.words)))
    assert main(["@params"]) == 0
    assert set(ran["outputs"]) == {"model.int8.onnx", "model.int8.report.json"}
    assert all((tmp_path / name).exists() for name in ran["outputs"])

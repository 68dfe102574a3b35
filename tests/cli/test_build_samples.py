"""The samples for make, ninja and CMake are run: what is touched is compiled again, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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

"""How long tools take to quantize a model, and how fast the result is: one command, a table and a picture.

    python benchmarks/speed.py MODEL.onnx --data calib.npz [--rules cpu] [--samples N] [--repeat 3] [--nncf-python PYTHON]
        [--markdown table.md] [--svg picture.svg] [--json all.json]
    python benchmarks/speed.py MODEL.onnx --data calib.npz --profile docs/explain/where-time-goes.md

potc with its defaults and with ``--preset fast``, onnxruntime's min-max quantizer, and NNCF where an interpreter that has
it is given. Each tool runs as a whole process, imports included, alternately; the medians are told. CPU time counts on a machine
that does other things as well. One run of each is not counted: it compiles bytecode, as pip does when it installs.
``--profile``: where a compile spends its time, stage by stage, as a page.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks" / "accuracy"), str(ROOT / "benchmarks")]

from bars import Bar, bars  # noqa: E402
from compare_onnxruntime import baseline_command, feeds, open_model, potc_command  # noqa: E402
from costs import Process, measured  # noqa: E402
from profile_compile import FLOAT, page, profile  # noqa: E402

from potc.evaluate.latency import Paired, measure  # noqa: E402
from potc.workbench.bench import integer_share  # noqa: E402

TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Row:
    """One tool: medians of its processes, and what came out. ``passes``: its CPU time in passes of the float model over the
    same samples. ``share``: part of the executed operators that read integers. ``latency``: against the float model."""

    tool: str
    wall_s: float
    cpu_s: float
    passes: float
    peak_mb: float
    size: int
    share: float
    latency: Paired | None
    failed: str = ""


def commands(options: argparse.Namespace, folder: Path) -> dict[str, tuple[list[str], Path]]:
    """By tool: its command, and where it leaves the model."""
    model, data, samples = options.model, options.data, options.samples
    own = folder / "potc.onnx"
    fast = folder / "fast.onnx"
    ort_out = folder / "ort" / "model.onnx"
    ort_out.parent.mkdir()
    found = {
        "potc": (potc_command(model, data, str(own), options.rules, samples), own),
        "potc --preset fast": (
            [*potc_command(model, data, str(fast), options.rules, samples), "--preset", "fast"],
            fast,
        ),
        "onnxruntime": (baseline_command(model, data, str(ort_out), samples), ort_out),
    }
    if options.nncf_python:
        out = folder / "nncf.onnx"
        peer = ROOT / "benchmarks" / "accuracy" / "peers" / "nncf_quantize.py"
        data = cut(data, samples, folder)
        found["NNCF"] = ([options.nncf_python, str(peer), model, data, str(out)], out)
    return found


def cut(data: str, samples: int | None, folder: Path) -> str:
    """A file with the first samples only, for a tool that takes all of a file."""
    if samples is None:
        return data
    path = folder / "samples.npz"
    with np.load(data) as file:
        np.savez(path, **{name: file[name][:samples] for name in file.files})
    return str(path)


def float_pass(options: argparse.Namespace, folder: Path) -> float:
    """CPU seconds of running the float model over the samples, one thread, without imports: the least that calibration can cost."""
    words = [sys.executable, str(Path(__file__).with_name("profile_compile.py")), FLOAT, options.model, options.data]
    done = subprocess.run([*words, str(options.samples or 0)], capture_output=True, text=True, check=True, cwd=folder)
    return float(done.stdout)


def compare(options: argparse.Namespace) -> tuple[list[Row], float]:
    """All tools in turn, ``--repeat`` times."""
    with tempfile.TemporaryDirectory(prefix="potc-speed-") as name:
        folder = Path(name)
        tools = commands(options, folder)
        for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"):
            os.environ.pop(name, None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        for words, _ in tools.values():
            measured(words, folder / "log", TIMEOUT_S)
        took: dict[str, list[Process]] = {tool: [] for tool in tools}
        passes: list[float] = []
        for _ in range(options.repeat):
            passes.append(float_pass(options, folder))
            for tool, (words, _) in tools.items():
                if not any(p.failed for p in took[tool]):
                    took[tool].append(measured(words, folder / "log", TIMEOUT_S))
        one = statistics.median(passes)
        return [row(tool, took[tool], tools[tool][1], one, options) for tool in tools], one


def row(tool: str, took: list[Process], out: Path, one: float, options: argparse.Namespace) -> Row:
    wall, cpu, peak = (statistics.median(getattr(p, n) for p in took) for n in ("wall_s", "cpu_s", "peak_mb"))
    failed = next((p.failed for p in took if p.failed), "")
    if failed or not out.exists():
        return Row(tool, wall, cpu, cpu / one, peak, 0, 0.0, None, failed or "no model came out")
    integer, count = integer_share(str(out))
    return Row(tool, wall, cpu, cpu / one, peak, out.stat().st_size, integer / count, latency(options, out))


def latency(options: argparse.Namespace, out: Path) -> Paired:
    """The float model and the result in turns, on one thread: CPU time."""
    first, second = open_model(options.model, "all"), open_model(str(out), "all")
    given = list(feeds(options.data, first, 4))
    names = [[o.name for o in session.get_outputs()] for session in (first, second)]
    return measure(
        lambda turn: first.run(names[0], given[turn % len(given)]),
        lambda turn: second.run(names[1], given[turn % len(given)]),
        options.rounds,
        5,
        time.process_time,
    )


def table(rows: list[Row], one: float, options: argparse.Namespace) -> Iterator[str]:
    name = Path(options.model).parent.name or options.model
    yield f"`{name}`, {options.samples or 'all'} samples, onnxruntime {ort.__version__},"
    yield f"medians of {options.repeat}. One pass of the float model over the samples: {one:.2f} s of CPU time."
    yield ""
    yield "| tool | CPU s | float passes | wall s | peak MB | size MB | operators on integers | float / result latency |"
    yield "|---|---|---|---|---|---|---|---|"
    for r in rows:
        if r.latency is None:
            yield f"| {r.tool} | {r.cpu_s:.2f} | | | {r.peak_mb:.0f} | | | failed: {r.failed} |"
        else:
            speed = f"{r.latency.ratio:.2f} ({r.latency.low:.2f} .. {r.latency.high:.2f})"
            yield (
                f"| {r.tool} | {r.cpu_s:.2f} | {r.passes:.1f} | {r.wall_s:.2f} | {r.peak_mb:.0f} "
                f"| {r.size / 1e6:.2f} | {r.share:.0%} | {speed} |"
            )


def picture(rows: list[Row], one: float) -> str:
    shown = [Bar("one float pass", one), *(Bar(r.tool, r.cpu_s, r.failed) for r in rows)]
    return bars("CPU seconds to quantize, imports included", "s", shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--rules", default="cpu")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=100, help="latency: counted runs of each model")
    parser.add_argument("--nncf-python", help="an interpreter that has nncf and onnx")
    for kind in ("markdown", "svg", "json", "profile"):
        parser.add_argument(f"--{kind}", metavar="FILE")
    options = parser.parse_args()
    options.model, options.data = str(Path(options.model).absolute()), str(Path(options.data).absolute())
    if options.profile:
        Path(options.profile).write_text(page(profile(options.model, options.data, options.rules, options.samples)))
        return
    rows, one = compare(options)
    text = "\n".join(table(rows, one, options)) + "\n"
    print(text)
    if options.markdown:
        Path(options.markdown).write_text(text)
    if options.svg:
        Path(options.svg).write_text(picture(rows, one))
    if options.json:
        Path(options.json).write_text(json.dumps({"float_pass_s": one, "rows": [asdict(r) for r in rows]}, indent=1))


if __name__ == "__main__":
    main()

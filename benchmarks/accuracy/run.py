"""potc and other post-training quantizers on the same models, samples and labels: accuracy, noise, speed, cost.

    python benchmarks/accuracy/run.py --models TREE [--only MODEL,MODEL] [--tools "potc,NNCF*"] [--rounds 3]
        [--peer-python nncf=/path/python] [--no-install] [--keep FOLDER] [--out benchmarks/accuracy/results.json]

TREE holds ``pairs.json``, ``models/<model>/model.onnx`` and ``data/<data>/eval.py`` (see scoring.py). A tool gets the float model
and the calibration samples that eval.py writes, which its evaluation never uses. Every quantized model is scored on onnxruntime's
integer kernels (all optimizations) and simulated (none), with the same session options and threads.

Rows of models and tools that were not selected stay as they are in the output. ``--table`` makes the Markdown again from the JSON.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import scoring
from costs import Process, latencies, measured
from coverage import Coverage, coverage
from elsewhere import Elsewhere
from host import machine
from table import page
from tools import BASELINE, TOOLS, Environments, Tool, command, serve, suffix

HERE = Path(__file__).parent
Row = dict[str, Any]


def calibration(tree: Path, pair: dict[str, Any], folder: Path) -> Path:
    """The samples that every tool gets."""
    script = tree / "data" / pair.get("calib_data", pair["data"]) / "eval.py"
    target = folder / "samples.npz"
    words = [sys.executable, str(script), "--calib-out", str(target), "--model", pair["model"]]
    words += ["--calib-n", str(pair["calib_n"])] if "calib_n" in pair else []
    subprocess.run(words, check=True, capture_output=True)
    return target


def quantize(
    tools: list[Tool], environments: Environments, model: Path, samples: Path, folder: Path, options: argparse.Namespace
) -> dict[str, Row]:
    """Runs every tool ``options.rounds`` times, in turn, every other round backwards; the last result is scored."""
    rows: dict[str, Row] = {}
    costs: dict[str, list[Process]] = {}
    for turn in range(options.rounds):
        for tool in tools if turn % 2 == 0 else reversed(tools):
            row = rows.setdefault(tool.name, {"what": tool.what})
            python = environments.python(tool.peer)
            if python is None:
                row["failed"] = environments.reasons[tool.peer]
            if "failed" in row:
                continue
            target = place(folder, tool)
            scratch = Path(tempfile.mkdtemp(dir=folder))
            written = scratch / f"out{suffix(tool)}"
            words = command(tool, python, str(model), str(samples), str(written), options.rules)
            done = measured(words, scratch / "log", options.timeout)
            costs.setdefault(tool.name, []).append(done)
            if done.failed:
                row["failed"] = done.failed
            elif not written.is_file():
                row["failed"] = "it wrote no model"
            else:
                for file in files_of(written):
                    file.replace(target.with_suffix(file.suffix))
            print(f"  {tool.name}: {row.get('failed') or f'{done.wall_s:.1f} s'}", file=sys.stderr, flush=True)
            subprocess.run(["rm", "-rf", str(scratch)], check=True)
    reference = [] if "failed" in rows.get(BASELINE, {}) else costs.get(BASELINE, [])
    for name, found in costs.items():
        if "failed" not in rows[name]:
            rows[name]["processes"] = [asdict(c) for c in found]
            rows[name]["cpu_ratios"] = [c.cpu_s / r.cpu_s for c, r in zip(found, reference, strict=False)]
    return rows


def place(folder: Path, tool: Tool) -> Path:
    return folder / f"{tool.name.replace(' ', '_')}{suffix(tool)}"


def files_of(model: Path) -> list[Path]:
    """The model and, for one of OpenVINO, its weights."""
    return [path for path in (model, model.with_suffix(".bin")) if path.is_file()]


def measure(
    tree: Path, pair: dict[str, Any], tools: list[Tool], environments: Environments, options: argparse.Namespace
) -> Row:
    """One model: everything that is told of it."""
    name = str(pair["model"])
    model = tree / "models" / name / "model.onnx"
    module = scoring.load(tree / "data" / str(pair["data"]) / "eval.py")
    with tempfile.TemporaryDirectory(prefix="accuracy-") as temporary:
        folder = (options.keep / name) if options.keep else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        samples = calibration(tree, pair, folder)
        rows = quantize(tools, environments, model, samples, folder, options)
        reference = scoring.score(module, str(model), "all", options.threads, options.limit)
        plain = scoring.compare(reference, reference)
        for tool in tools:
            row = rows[tool.name]
            if "failed" not in row:
                try:
                    row.update(scored(module, reference, place(folder, tool), serve(tool, environments), options))
                except Exception as error:  # a peer's model may be anything
                    row["failed"] = f"its model does not run: {first_line(error)}"
        working = {
            tool.name: place(folder, tool)
            for tool in tools
            if "failed" not in rows[tool.name] and not serve(tool, environments)
        }
        times = (
            latencies({"float": model, **working}, samples, options.latency_rounds) if options.latency_rounds else {}
        )
        for tool_name, found in times.items():
            if tool_name != "float":
                rows[tool_name]["latency"] = found
    float_row: Row = {"value": plain.value, "interval": plain.interval, "bytes": model.stat().st_size, **plain.more}
    if "float" in times:
        float_row["latency"] = times["float"]
    return {
        "metric": reference.metric,
        "n": reference.n,
        "higher_is_better": bool(module.HIGHER),
        "data": pair["data"],
        "float": float_row,
        "tools": rows,
    }


def scored(module: Any, reference: scoring.Scored, path: Path, server: list[str], options: argparse.Namespace) -> Row:
    """What a quantized model is worth, on integer kernels and simulated. ``server``: the command that runs it elsewhere."""
    row: Row = {"bytes": sum(file.stat().st_size for file in files_of(path))}
    for way, optimize in (("kernels", "all"), ("simulated", "off")):
        other = scoring.score(module, str(path), optimize, options.threads, options.limit, reference.names, server)
        row["extra_outputs"] = len(other.names) - len(reference.names)
        row[way] = asdict(scoring.compare(reference, other))
    row["coverage"] = asdict(covered(path, server, options.threads))
    return row


def covered(path: Path, server: list[str], threads: int) -> Coverage:
    if not server:
        return coverage(path.read_bytes())
    elsewhere = Elsewhere(server, str(path), threads, "all")
    elsewhere.close()
    return Coverage(elsewhere.about["integer"], elsewhere.about["products"])


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def selected(options: argparse.Namespace) -> list[Tool]:
    patterns = [p.strip() for p in options.tools.split(",")]
    return [tool for tool in TOOLS if any(fnmatch.fnmatch(tool.name, p) for p in patterns)]


def revision() -> str:
    """Which potc this is: a commit, with + if files were changed since."""
    words = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else os.environ.get("POTC_REVISION", "")


def options_of(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, metavar="TREE", default=HERE.parents[2] / "shared")
    parser.add_argument("--only", default="*", help="models, as patterns with commas between")
    parser.add_argument("--tools", default="*", help="tools, as patterns with commas between")
    parser.add_argument("--rules", default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="how often every tool quantizes, for times")
    parser.add_argument("--latency-rounds", type=int, default=40, help="alternating runs of the results; 0: none")
    parser.add_argument("--threads", type=int, default=2, help="of the sessions that score")
    parser.add_argument("--limit", type=int, help="fewer evaluation samples: no intervals then")
    parser.add_argument("--timeout", type=float, default=900, help="seconds that one quantization may take")
    parser.add_argument("--peer-python", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "potc-peers")
    parser.add_argument("--no-install", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the quantized models there")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--table", action="store_true", help="only make the Markdown from the JSON")
    options = parser.parse_args(arguments)
    if options.keep:
        options.keep = options.keep.absolute()
    return options


def save(out: Path, document: Row) -> None:
    out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    out.with_suffix(".md").write_text(page(document))


def main() -> None:
    options = options_of(sys.argv[1:])
    document: Row = json.loads(options.out.read_text()) if options.out.exists() else {"models": {}}
    if options.table:
        save(options.out, document)
        return
    given = dict(word.split("=", 1) for word in options.peer_python)
    environments = Environments(given, options.environments.absolute(), not options.no_install)
    tools = selected(options)
    peers = dict.fromkeys(tool.peer for tool in tools)
    document.update(machine=machine(), threads=options.threads, baseline=BASELINE)
    document["command"] = "python " + shlex.join(["benchmarks/accuracy/run.py", *shown(sys.argv[1:])])
    document.setdefault("versions", {}).update({peer: environments.versions(peer) for peer in peers})
    if "potc" in peers:
        document["versions"]["potc"]["potc"] = revision()
    pairs = json.loads((options.models / "pairs.json").read_text())
    for pair in pairs:
        name = str(pair["model"])
        if not any(fnmatch.fnmatch(name, p.strip()) for p in options.only.split(",")):
            continue
        print(f"{name} ({time.strftime('%H:%M:%S')})", file=sys.stderr, flush=True)
        row = measure(options.models.absolute(), pair, tools, environments, options)
        row["measured"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        old = document["models"].get(name, {})
        row["tools"] = {**old.get("tools", {}), **row["tools"]}
        document["models"][name] = row
        document["models"] = {
            str(p["model"]): document["models"][p["model"]] for p in pairs if p["model"] in document["models"]
        }
        save(options.out, document)


def shown(arguments: list[str]) -> list[str]:
    """Without where interpreters and scratch folders are on this machine."""
    kept: list[str] = []
    skip = False
    for word in arguments:
        if skip or word.startswith(("--peer-python=", "--keep=", "--out=", "--environments=")):
            skip = False
        elif word in ("--peer-python", "--keep", "--out", "--environments"):
            skip = True
        else:
            kept.append(word)
    return kept


if __name__ == "__main__":
    main()

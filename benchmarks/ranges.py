"""Which range estimator loses least? Every model of a tree with every estimator, on samples that calibration did not see.

    python benchmarks/ranges.py TREE [--rules cpu] [--only NAME,NAME] [--estimators max,mse] [--sqnr-only] [--json rows.json]

TREE is laid out as ``models.py`` says. Of the calibration samples that ``eval.py`` writes, every second one calibrates and
the others are held back for the SQNR of the model's first output; the metric is that of ``eval.py MODEL --opt all`` on its
own evaluation samples. ``weights:NAME`` is an estimator of weights, with ``max`` for activations. Everything runs on
onnxruntime's integer kernels. Prints one Markdown table of SQNR and one of metrics; a metric in bold is further from the
first column's than two standard errors of a difference of shares, sqrt(2 p (1 - p) / n), and means nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from potc.compiler import Job, Trace, match_model, observe, quantize
from potc.diagnostics.diagnostic import Rejected
from potc.evaluate.measures import Sqnr
from potc.execute.session import open_session
from potc.quantize.tuning import RangeSettings, Tuning

ESTIMATORS = ("max", "default", "quantile", "percentile", "mse", "entropy", "weights:quantile", "weights:mse")


def settings(name: str) -> Tuning:
    kind, _, weights = name.partition(":")
    return Tuning(ranges=RangeSettings(weight_estimator=weights) if weights else RangeSettings(estimator=kind))


def halves(path: Path, folder: Path) -> tuple[Path, Path]:
    """Files with every second sample, and with the others."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    files = folder / "calibrate.npz", folder / "held.npz"
    for offset, file in enumerate(files):
        np.savez(file, **{name: array[offset::2] for name, array in arrays.items()})
    return files


def measure(
    tree: Path, pair: dict[str, object], names: list[str], rules: str, sqnr_only: bool
) -> Iterator[dict[str, object]]:
    model = tree / "models" / str(pair["model"]) / "model.onnx"
    script = tree / "data" / str(pair["data"]) / "eval.py"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        samples = folder / "all.npz"
        command = [sys.executable, str(script), "--calib-out", str(samples), "--model", str(pair["model"])]
        subprocess.run(command, check=True, capture_output=True)
        calibrate, held = halves(samples, folder)
        judged = match_model(Job(str(model), rules, str(held)), Trace())
        matched = match_model(Job(str(model), rules, str(calibrate)), Trace())
        reference = open_session(matched.model.proto.SerializeToString(), optimize=True)
        output = reference.get_outputs()[0].name
        for name in names:
            row: dict[str, object] = {"model": pair["model"], "estimator": name, "held": len(judged.samples)}
            try:
                tuning = settings(name)
                ranges = observe(matched, matched.samples, tuning, Trace())
                compiled = quantize(matched, ranges, tuning, Trace()).compiled
            except Rejected as error:
                yield {**row, "failed": str(error)}
                continue
            ratio, session = Sqnr(), open_session(compiled, optimize=True)
            for feed in judged.samples.feeds():
                ratio.add(reference.run([output], dict(feed))[0], session.run([output], dict(feed))[0])
            row["sqnr_db"] = ratio.db
            if not sqnr_only:
                out = folder / "out.onnx"
                out.write_bytes(compiled)
                command = [sys.executable, str(script), str(out), "--opt", "all"]
                told = subprocess.run(command, capture_output=True, text=True, check=True)
                row |= json.loads(told.stdout.strip().splitlines()[-1])
            yield row


def tables(rows: list[dict[str, object]], names: list[str], sqnr_only: bool) -> str:
    by_model: dict[object, dict[object, dict[str, object]]] = {}
    for row in rows:
        by_model.setdefault(row["model"], {})[row["estimator"]] = row
    head = f"| {' | '.join(['model', 'N', *names])} |\n|{'---|' * (len(names) + 2)}"
    first, second = [head], [head]
    for model, found in by_model.items():
        cells = [f"{found[n]['sqnr_db']:.1f}" if "sqnr_db" in found[n] else "failed" for n in names]
        best = max((float(c) for c in cells if c != "failed"), default=0.0)
        cells = [f"**{c}**" if c == f"{best:.1f}" else c for c in cells]
        base = found[names[0]]
        first.append(f"| {model} | {base['held']} | {' | '.join(cells)} |")
        second.append(f"| {model} | {base.get('n')} | {' | '.join(_metric(found[n], base) for n in names)} |")
    return "\n".join(first if sqnr_only else [*first, "", *second])


def _metric(row: dict[str, object], base: dict[str, object]) -> str:
    if "value" not in row:
        return "failed"
    value, p, n = float(str(row["value"])), float(str(base["value"])), int(str(base["n"]))
    far = abs(value - p) > 2 * math.sqrt(2 * max(p * (1 - p), 1e-6) / n)
    return f"**{value:.4f}**" if far else f"{value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--rules", default="cpu")
    parser.add_argument("--only", default="")
    parser.add_argument("--estimators", default=",".join(ESTIMATORS))
    parser.add_argument("--sqnr-only", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names: list[str] = options.estimators.split(",")
    rows: list[dict[str, object]] = []
    for pair in json.loads((options.tree / "pairs.json").read_text()):
        if options.only and pair["model"] not in options.only.split(","):
            continue
        for row in measure(options.tree, pair, names, options.rules, options.sqnr_only):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))
    print(tables(rows, names, options.sqnr_only))


if __name__ == "__main__":
    main()

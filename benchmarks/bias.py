"""Which bias correction loses least? Every model of a tree with every method.

    python benchmarks/bias.py TREE [--rules cpu] [--only NAME,NAME] [--sqnr-only] [--json rows.json]

TREE is laid out as ``models.py`` says. SQNR: of the calibration samples that ``eval.py`` writes, every second one calibrates, and
the others judge the model's first output. Metric: all of them calibrate, and ``eval.py`` scores on its own samples. Both on
onnxruntime's integer kernels. In parentheses CPU seconds of quantizing: everything behind calibration. Prints two Markdown
tables.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from models import score
from ranges import halves

from potc.compiler import Job, Trace, match_model, observe, quantize
from potc.evaluate.measures import Sqnr
from potc.execute.session import open_session
from potc.quantize.tuning import BIAS_METHODS, BiasSettings, Tuning


def compiled(model: Path, rules: str, samples: Path) -> Iterator[tuple[str, bytes, float]]:
    """Each method with the model that it makes, and the CPU seconds that took."""
    matched = match_model(Job(str(model), rules, str(samples)), Trace())
    ranges = observe(matched, matched.samples, Tuning(), Trace())
    for method in BIAS_METHODS:
        start = time.process_time()
        done = quantize(matched, ranges, Tuning(bias=BiasSettings(method)), Trace())
        yield method, done.compiled, time.process_time() - start


def ratios(model: Path, rules: str, calibrate: Path, held: Path) -> Iterator[dict[str, object]]:
    judged = match_model(Job(str(model), rules, str(held)), Trace())
    reference = open_session(judged.model.proto.SerializeToString(), optimize=True, threads=1)
    output = reference.get_outputs()[0].name
    expected = [np.asarray(reference.run([output], dict(feed))[0]) for feed in judged.samples.feeds()]
    for method, found, seconds in compiled(model, rules, calibrate):
        ratio, session = Sqnr(), open_session(found, optimize=True, threads=1)
        for wanted, feed in zip(expected, judged.samples.feeds(), strict=True):
            ratio.add(wanted, np.asarray(session.run([output], dict(feed))[0]))
        yield {"method": method, "sqnr_db": ratio.db, "held": len(expected), "seconds": seconds}


def measure(tree: Path, pair: dict[str, object], rules: str, sqnr_only: bool) -> Iterator[dict[str, object]]:
    model = tree / "models" / str(pair["model"]) / "model.onnx"
    script = tree / "data" / str(pair["data"]) / "eval.py"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        samples = folder / "all.npz"
        command = [sys.executable, str(script), "--calib-out", str(samples), "--model", str(pair["model"])]
        command += ["--calib-n", str(pair["calib_n"])] if "calib_n" in pair else []
        subprocess.run(command, check=True, capture_output=True)
        yield from ratios(model, rules, *halves(samples, folder))
        if sqnr_only:
            return
        yield {"method": "float", "metric": score(script, model, "all")}
        for method, found, _ in compiled(model, rules, samples):
            (folder / "model.onnx").write_bytes(found)
            yield {"method": method, "metric": score(script, folder / "model.onnx", "all")}


def sqnr_table(rows: list[dict[str, object]]) -> str:
    lines = [f"| SQNR, dB | N | {' | '.join(BIAS_METHODS)} |", f"|{'---|' * (2 + len(BIAS_METHODS))}"]
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        found = {row["method"]: row for row in rows if row["model"] == model and "sqnr_db" in row}
        best = max(round(float(str(row["sqnr_db"])), 1) for row in found.values())
        cells: list[str] = []
        for method in BIAS_METHODS:
            db = f"{found[method]['sqnr_db']:.1f}"
            cells.append(f"{f'**{db}**' if float(db) == best else db} ({found[method]['seconds']:.1f} s)")
        lines.append(f"| {model} | {found[BIAS_METHODS[0]]['held']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def metric_table(rows: list[dict[str, object]]) -> str:
    columns = ("float", *BIAS_METHODS)
    lines = [f"| metric | N | {' | '.join(columns)} |", f"|{'---|' * (2 + len(columns))}"]
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        found = {row["method"]: row["metric"] for row in rows if row["model"] == model and "metric" in row}
        if found:
            told = dict(found["float"])  # type: ignore[call-overload]
            values = " | ".join(f"{100 * dict(found[c])['value']:.2f}" for c in columns)  # type: ignore[call-overload]
            lines.append(f"| {model}, {told['metric']} | {told['n']} | {values} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--rules", default="cpu")
    parser.add_argument("--only", default="")
    parser.add_argument("--sqnr-only", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for pair in json.loads((options.tree / "pairs.json").read_text()):
        if options.only and pair["model"] not in options.only.split(","):
            continue
        for row in measure(options.tree, pair, options.rules, options.sqnr_only):
            rows.append({"model": pair["model"], **row})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))
    print(sqnr_table(rows))
    if not options.sqnr_only:
        print(f"\n{metric_table(rows)}")


if __name__ == "__main__":
    main()

"""Does equalization help? Every model of a tree, on several devices, with every method, on samples that calibration did not see.

    python benchmarks/equalization.py TREE [--rules cpu,xint8,gna] [--only NAME,NAME] [--methods none,best] [--samples 64]

TREE is laid out as ``models.py`` says. Of the calibration samples that ``eval.py`` writes, every second one calibrates (at most
``--samples``) and as many others are held back for the SQNR of the model's first output, in float arithmetic between the
quantizers. Prints one Markdown table for each device; bold is more than 0.5 dB above the first column. ``--json`` writes the rows,
with the number of groups of channels that were scaled and the CPU seconds of the pass.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from potc.compiler import Job, Trace, equalized, match_model, observe, quantize
from potc.data.part import Part
from potc.diagnostics.diagnostic import Rejected
from potc.evaluate.measures import Sqnr
from potc.execute.session import open_session
from potc.quantize.tuning import EQUALIZATIONS, EqualizeSettings, Tuning

BETTER_DB = 0.5


def measure(
    tree: Path, pair: dict[str, object], rules: list[str], methods: list[str], most: int
) -> Iterator[dict[str, object]]:
    model = tree / "models" / str(pair["model"]) / "model.onnx"
    script = tree / "data" / str(pair["data"]) / "eval.py"
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "all.npz"
        command = [sys.executable, str(script), "--calib-out", str(samples), "--model", str(pair["model"])]
        subprocess.run(command, check=True, capture_output=True)
        for name in rules:
            yield from on_device(str(model), str(samples), name, methods, most)


def on_device(model: str, samples: str, rules: str, methods: list[str], most: int) -> Iterator[dict[str, object]]:
    row: dict[str, object] = {"model": Path(model).parent.name, "rules": rules}
    try:
        matched = match_model(Job(model, rules, samples), Trace())
    except Rejected as error:
        yield from ({**row, "method": method, "failed": str(error)} for method in methods)
        return
    total = len(matched.samples)
    judging = Part(matched.samples, list(range(1, total, 2))[:most])
    matched = replace(matched, samples=Part(matched.samples, list(range(0, total, 2))[:most]))
    reference = open_session(matched.model.proto.SerializeToString(), optimize=True)
    output = reference.get_outputs()[0].name
    feeds = [dict(feed) for feed in judging.feeds()]
    wanted = [np.asarray(reference.run([output], feed)[0]) for feed in feeds]
    for method in methods:
        tuning, started = Tuning(equalize=EqualizeSettings(method)), time.process_time()
        try:
            changed = equalized(matched, tuning, Trace())
            spent = time.process_time() - started
            ranges = observe(changed, changed.samples, tuning, Trace())
            compiled = quantize(changed, ranges, tuning, Trace()).compiled
        except Rejected as error:
            yield {**row, "method": method, "failed": str(error)}
            continue
        ratio, session = Sqnr(), open_session(compiled, optimize=False)
        for feed, expected in zip(feeds, wanted, strict=True):
            ratio.add(expected, np.asarray(session.run([output], feed)[0]))
        groups = len(changed.equalization.groups) if changed.equalization else 0
        yield {**row, "method": method, "held": len(feeds), "sqnr_db": ratio.db, "groups": groups, "cpu_s": spent}


def table(rows: list[dict[str, object]], rules: str, methods: list[str]) -> str:
    lines = [f"| {rules} | N | {' | '.join(methods)} |\n|{'---|' * (len(methods) + 2)}"]
    by_model: dict[object, dict[object, dict[str, object]]] = {}
    for row in rows:
        if row["rules"] == rules:
            by_model.setdefault(row["model"], {})[row["method"]] = row
    for model, found in by_model.items():
        base = float(str(found[methods[0]].get("sqnr_db", "inf")))
        cells = [_cell(found.get(method, {}), base) for method in methods]
        lines.append(f"| {model} | {found[methods[0]].get('held', '')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, object], base: float) -> str:
    if "sqnr_db" not in row:
        return "refused"
    db = float(str(row["sqnr_db"]))
    return f"**{db:.1f}**" if db > base + BETTER_DB else f"{db:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--rules", default="cpu,xint8,gna")
    parser.add_argument("--only", default="")
    parser.add_argument("--methods", default=",".join(EQUALIZATIONS))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    methods, devices = options.methods.split(","), options.rules.split(",")
    rows: list[dict[str, object]] = []
    for pair in json.loads((options.tree / "pairs.json").read_text()):
        if options.only and pair["model"] not in options.only.split(","):
            continue
        for row in measure(options.tree, pair, devices, methods, options.samples):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))
    print("\n\n".join(table(rows, name, methods) for name in devices))


if __name__ == "__main__":
    main()

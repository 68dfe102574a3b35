"""Which rounding of weights loses least? Every model of a tree with every rounding, on samples that calibration did not see.

    python benchmarks/rounding.py TREE [--devices cpu,gna,weight_only] [--only NAME,NAME] [--json rows.json]

TREE is laid out as ``models.py`` says. Of the calibration samples that ``eval.py`` writes, every second one calibrates and
the others are held back for the SQNR of the model's first output. ``cpu`` runs on onnxruntime's integer kernels; other devices
run as the model is written, in float arithmetic between the quantizers: their kernels are not those of this host. ``gna`` takes
its 8-bit weights (``--preset performance``). Prints one Markdown table for each device: SQNR in dB, and CPU seconds that
quantizing took (everything behind calibration) in parentheses.
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
from ranges import halves

from potc.compiler import Job, Matched, Trace, match_model, observe, quantize
from potc.diagnostics.diagnostic import Rejected
from potc.evaluate.measures import Sqnr
from potc.execute.session import open_session
from potc.quantize.tuning import ROUNDINGS, RangeSettings, RoundingSettings, Tuning

PRESETS = {"gna": "performance"}
ON_KERNELS = {"cpu"}


def measure(model: Path, files: tuple[Path, Path], device: str) -> Iterator[dict[str, object]]:
    calibrate, held = (Job(str(model), device, str(file)) for file in files)
    try:
        matched, judged = match_model(calibrate, Trace()), match_model(held, Trace())
        settings = RangeSettings(PRESETS.get(device, "mixed"))
        ranges = observe(matched, matched.samples, Tuning(ranges=settings), Trace())
    except Rejected as error:
        yield {"failed": str(error)}
        return
    optimize = device in ON_KERNELS
    reference = open_session(matched.model.proto.SerializeToString(), optimize=optimize)
    output = reference.get_outputs()[0].name
    expected = [np.asarray(reference.run([output], dict(feed))[0]) for feed in judged.samples.feeds()]
    for method in ROUNDINGS:
        tuning = Tuning(ranges=settings, rounding=RoundingSettings(method))
        start = time.process_time()
        done = quantize(matched, ranges, tuning, Trace())
        params, compiled = done.params, done.compiled
        seconds = time.process_time() - start
        ratio, session = Sqnr(), open_session(compiled, optimize=optimize)
        for wanted, feed in zip(expected, judged.samples.feeds(), strict=True):
            ratio.add(wanted, session.run([output], dict(feed))[0])
        rounded = sum(not why for why in params.second_order.values())
        yield {
            "rounding": method,
            "sqnr_db": ratio.db,
            "seconds": seconds,
            "rounded": rounded,
            "weights": _weights(matched),
            "held": len(expected),
        }


def _weights(matched: Matched) -> int:
    return sum(constant.role == "weight" for constant in matched.plan.constants)


def table(rows: list[dict[str, object]], device: str) -> str:
    lines = [f"| model, {device} | weights | N | {' | '.join(ROUNDINGS)} |", f"|{'---|' * (3 + len(ROUNDINGS))}"]
    mine = [row for row in rows if row["device"] == device]
    for model in dict.fromkeys(str(row["model"]) for row in mine):
        found = {row.get("rounding"): row for row in mine if row["model"] == model}
        if None in found:
            lines.append(f"| {model} | | | {found[None]['failed']} |")
            continue
        best = max(round(float(str(row["sqnr_db"])), 1) for row in found.values())
        cells: list[str] = []
        for method in ROUNDINGS:
            db = f"{found[method]['sqnr_db']:.1f}"
            cells.append(f"{f'**{db}**' if float(db) == best else db} ({found[method]['seconds']:.1f} s)")
        last = found[ROUNDINGS[-1]]
        lines.append(f"| {model} | {last['rounded']} of {last['weights']} | {last['held']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--devices", default="cpu,gna,weight_only")
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    devices: list[str] = options.devices.split(",")
    rows: list[dict[str, object]] = []
    for pair in json.loads((options.tree / "pairs.json").read_text()):
        if options.only and pair["model"] not in options.only.split(","):
            continue
        with tempfile.TemporaryDirectory() as place:
            samples, script = Path(place) / "all.npz", options.tree / "data" / pair["data"] / "eval.py"
            command = [sys.executable, str(script), "--calib-out", str(samples), "--model", pair["model"]]
            subprocess.run(command, check=True, capture_output=True)
            files = halves(samples, Path(place))
            model = options.tree / "models" / pair["model"] / "model.onnx"
            for device in devices:
                for row in measure(model, files, device):
                    rows.append({"model": pair["model"], "device": device, **row})
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                    if options.json:
                        options.json.write_text(json.dumps(rows, indent=1))
    print("\n\n".join(table(rows, device) for device in devices))


if __name__ == "__main__":
    main()

"""Compiles every model of a tree and scores float and compiled models on labelled data that calibration never saw.

    python benchmarks/models.py TREE [--rules cpu] [--only NAME,NAME] [--keep FOLDER]

TREE holds ``pairs.json`` (a list of {"model", "data", "calib_n"?}), ``models/<model>/model.onnx`` and
``data/<data>/eval.py``; an eval.py scores a model (``eval.py MODEL --opt all|off`` prints one JSON line with metric, value
and n) and writes calibration inputs (``eval.py --calib-out FILE.npz --model NAME``). Every step runs as a command of its
own, as a user would. Prints a Markdown table: the metric of the float model, of the compiled one on integer kernels
(``--opt all``) and simulated (``--opt off``), SQNR and kernel share as potc reports them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def score(script: Path, model: Path, optimize: str) -> dict[str, object]:
    command = [sys.executable, str(script), str(model), "--opt", optimize]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def compile_one(model: Path, data: Path, out: Path, report: Path, rules: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "potc", "compile", str(model), "--rules", rules, "--data", str(data)]
    return subprocess.run(
        [*command, "-o", str(out), "--report", str(report), "-q"], capture_output=True, text=True, check=False
    )


def measure(tree: Path, pair: dict[str, object], rules: str, folder: Path) -> dict[str, object]:
    name = str(pair["model"])
    model, script = tree / "models" / name / "model.onnx", tree / "data" / str(pair["data"]) / "eval.py"
    calibration = tree / "data" / str(pair.get("calib_data", pair["data"])) / "eval.py"
    samples, out, report = folder / f"{name}.npz", folder / f"{name}.{rules}.onnx", folder / f"{name}.json"
    command = [sys.executable, str(calibration), "--calib-out", str(samples), "--model", name]
    if "calib_n" in pair:
        command += ["--calib-n", str(pair["calib_n"])]
    subprocess.run(command, check=True, capture_output=True)
    done = compile_one(model, samples, out, report, rules)
    row: dict[str, object] = {"model": name, "float": score(script, model, "all"), "exit": done.returncode}
    if done.returncode != 0:
        return {**row, "message": done.stderr.strip()[:500]}
    row["report"] = json.loads(report.read_text())
    return {**row, "int8": score(script, out, "all"), "simulated": score(script, out, "off")}


def line(row: dict[str, object]) -> str:
    name, float_score = row["model"], row["float"]
    head = f"| {name} | {float_score['metric']} | {float_score['n']} | {float_score['value']:.4f} |"  # type: ignore[index]
    if row["exit"]:
        return f"{head} exit {row['exit']} | | | |"
    report = row["report"]
    sqnr = " / ".join(f"{o['sqnr_db']:.1f}" for o in report["verification"]["outputs"])  # type: ignore[index]
    share = report["share"]  # type: ignore[index]
    values = f"{row['int8']['value']:.4f} | {row['simulated']['value']:.4f}"  # type: ignore[index]
    return f"{head} {values} | {sqnr} | {share['weighted_integer']}/{share['weighted']} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--rules", default="cpu")
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path, help="write all rows here")
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    rows: list[dict[str, object]] = []
    print("| model | metric | n | float | int8 kernels | simulated | SQNR dB | weighted nodes on integer kernels |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for pair in json.loads((options.tree / "pairs.json").read_text()):
            if not only or pair["model"] in only:
                rows.append(measure(options.tree, pair, options.rules, folder))
                print(line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

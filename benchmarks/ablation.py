"""What is each pass worth? Every model of a tree, compiled with the default and with one thing changed, on its labelled data.

    python benchmarks/ablation.py TREE --rows rows.jsonl [--passes bias,rounding] [--devices cpu,xint8] [--only NAME,NAME]
    python benchmarks/ablation.py --rows rows.jsonl --table

TREE is laid out as ``models.py`` says. All calibration samples that ``eval.py`` writes calibrate. The float model and each compiled
one then see the same evaluation samples, none of which calibrated: SQNR of the outputs (the mean of their decibels), the share of
equal answers where ``eval.py`` scores top-1, and the metric on labels. ``cpu`` runs on onnxruntime's integer kernels and, with all
optimizations off, in float arithmetic between the quantizers; other devices only so, as this host has no kernels of theirs.

Each measurement is a line in ``--rows``; one that is there already is not made again, so an interrupted run goes on. ``seconds``
are CPU seconds of everything behind calibration. ``--calibrate even`` and ``odd`` take every second calibration sample: two
calibrations that share none say how much of a difference is chance. ``--table`` prints Markdown tables of the rows and measures
nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ranges import halves
from sixteen_bits import loaded

from potc.choose import choose
from potc.compiler import Job, Matched, Trace, equalized, match_model, observe, quantize
from potc.diagnostics.diagnostic import Rejected
from potc.evaluate.measures import Sqnr
from potc.quantize.ranges import Ranges
from potc.quantize.tuning import BiasSettings, EqualizeSettings, RangeSettings, RoundingSettings, Tuning

Row = dict[str, Any]
DEFAULT = "default"
AUTO = "--preset auto"
WIDE = "weights not narrowed"
PASSES: Mapping[str, Mapping[str, Tuning]] = {
    "bias": {f"--bias-correction {m}": Tuning(bias=BiasSettings(m)) for m in ("none", "fast")},
    "rounding": {f"--rounding {m}": Tuning(rounding=RoundingSettings(m)) for m in ("nearest", "gptq")},
    "equalization": {
        f"--equalize {m}": Tuning(equalize=EqualizeSettings(m)) for m in ("align", "cross-layer", "smooth", "best")
    },
    "unasked": {"--equalize none": Tuning(equalize=EqualizeSettings("none"))},
    "limits": {"--equalize best --equalize-limits spread": Tuning(equalize=EqualizeSettings("best", "spread"))},
    "ranges": {
        f"--range-estimator {m}": Tuning(ranges=RangeSettings(estimator=m))
        for m in ("default", "quantile", "percentile", "mse", "entropy")
    },
    "weights": {
        f"--weight-range-estimator {m}": Tuning(ranges=RangeSettings(weight_estimator=m)) for m in ("quantile", "mse")
    },
    "narrowing": {WIDE: Tuning(narrow=False)},
    "preset": {f"--preset {m}": Tuning(ranges=RangeSettings(m)) for m in ("performance", "accuracy")},
}
ON_KERNELS = {"cpu"}


@dataclass(slots=True)
class Watched:
    """Outputs of the float model by call, in the order of the evaluation, and how close another model comes to them."""

    expected: list[list[np.ndarray]] = field(default_factory=list[list[np.ndarray]])
    ratios: dict[int, Sqnr] = field(default_factory=dict[int, Sqnr])
    equal: int = 0
    answers: int = 0

    def add(self, wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> None:
        floats = [k for k, array in enumerate(wanted) if array.dtype.kind == "f"]
        for k in floats:
            self.ratios.setdefault(k, Sqnr()).add(wanted[k], found[k])
        same = wanted[floats[0]].argmax(-1) == found[floats[0]].argmax(-1)
        self.equal, self.answers = self.equal + int(same.sum()), self.answers + same.size


class Labelled:
    """The evaluation of one model's data, with the float model's outputs kept."""

    def __init__(self, script: Path, model: Path, folder: Path) -> None:
        self._module, self._folder = loaded(script), folder
        expected: list[list[np.ndarray]] = []

        class Keeping(self._module.E.Run):
            def __call__(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
                expected.append(super().__call__(feed))
                return expected[-1]

        self.scored = self._module.evaluate(Keeping(str(model), 1, "all"), None)
        self._expected = expected

    def judge(self, compiled: bytes, optimize: str) -> Row:
        """``optimize``: all or off, as ``eval.py`` takes it."""
        watched, left = Watched(), iter(self._expected)

        class Comparing(self._module.E.Run):
            def __call__(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
                found = super().__call__(feed)
                watched.add(next(left), found)
                return found

        out = self._folder / "compiled.onnx"
        out.write_bytes(compiled)
        scored = self._module.evaluate(Comparing(str(out), 1, optimize), None)
        decibels = [ratio.db for ratio in watched.ratios.values()]
        row: Row = {"sqnr_db": sum(decibels) / len(decibels), "value": float(scored["value"])}
        if self._module.METRIC == "top1":
            row["equal"] = watched.equal / watched.answers
        return row


@dataclass(slots=True)
class Bench:
    """One model on one device. A calibration serves all settings with the same ranges and the same scaling."""

    matched: Matched
    scaled: dict[EqualizeSettings, Matched] = field(default_factory=dict[EqualizeSettings, Matched])
    ranges: dict[tuple[RangeSettings, EqualizeSettings, bool], Ranges] = field(
        default_factory=dict[tuple[RangeSettings, EqualizeSettings, bool], Ranges]
    )

    def compiled(self, tuning: Tuning) -> tuple[bytes, float]:
        """The model, and CPU seconds of all but matching and calibration."""
        started = time.process_time()
        if tuning.equalize not in self.scaled:
            self.scaled[tuning.equalize] = equalized(self.matched, tuning, Trace())
        matched, spent = self.scaled[tuning.equalize], time.process_time() - started
        key = (tuning.ranges, tuning.equalize, tuning.bias.method == "none")
        if key not in self.ranges:
            self.ranges[key] = observe(matched, matched.samples, tuning, Trace())
        started = time.process_time()
        done = quantize(matched, self.ranges[key], tuning, Trace())
        return done.compiled, spent + time.process_time() - started


def measure(
    tree: Path, pair: Mapping[str, Any], device: str, wanted: Mapping[str, str], options: argparse.Namespace
) -> Iterator[Row]:
    """``wanted``: pass by option."""
    model = tree / "models" / str(pair["model"]) / "model.onnx"
    script = tree / "data" / str(pair["data"]) / "eval.py"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        samples = folder / "all.npz"
        command = [sys.executable, str(script), "--calib-out", str(samples), "--model", str(pair["model"])]
        command += ["--calib-n", str(pair["calib_n"])] if "calib_n" in pair else []
        subprocess.run(command, check=True, capture_output=True)
        labelled = Labelled(script, model, folder)
        whole = {"metric": loaded(script).METRIC, "n": int(labelled.scored["n"]), "float": labelled.scored["value"]}
        if options.calibrate != "all":
            samples = halves(samples, folder)[options.calibrate == "odd"]
        job = Job(str(model), device, str(samples))
        try:
            bench = Bench(match_model(job, Trace()))
        except Rejected as error:
            yield from ({"option": option, "pass": wanted[option], "failed": str(error)} for option in wanted)
            return
        for option, name in wanted.items():
            row: Row = {"pass": name, "option": option, **whole}
            try:
                compiled, told = _automatic(job) if option == AUTO else _set(bench, _tuning(name, option))
            except Rejected as error:
                yield {**row, "failed": str(error)}
                continue
            row |= told
            if device in ON_KERNELS:
                row |= labelled.judge(compiled, "all")
            if device not in ON_KERNELS or not options.kernels_only:
                simulated = labelled.judge(compiled, "off")
                row = {**simulated, **row, "simulated_db": simulated["sqnr_db"]}
            yield row


def _tuning(name: str, option: str) -> Tuning:
    return Tuning() if option == DEFAULT else PASSES[name][option]


def _set(bench: Bench, tuning: Tuning) -> tuple[bytes, Row]:
    compiled, seconds = bench.compiled(tuning)
    return compiled, {"seconds": seconds}


def _automatic(job: Job) -> tuple[bytes, Row]:
    """What ``--preset auto`` makes, with all that it tried and how that did on the samples that it held back."""
    started = time.process_time()
    done, choice = choose(replace(job, preset="auto"))
    seconds = time.process_time() - started
    tries = [
        {
            "changed": t.changed,
            "failed": t.failed,
            **({"db": t.score.mean_db, "divergence": t.score.divergence} if t.score else {}),
        }
        for t in choice.tries
    ]
    return done.compiled, {"seconds": seconds, "tries": tries, "best": choice.best, "held_back": choice.held_back}


# ---------------------------------------------------------------------------------------------- tables


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """For each device the decibels of the default and what each option changes of them, simulated where there are kernels too;
    and the metric, in percent, of the float model and with each option."""
    for device, part in dict.fromkeys((row["device"], row["calibrate"]) for row in rows):
        mine = [row for row in rows if (row["device"], row["calibrate"]) == (device, part)]
        title = device if part == "all" else f"{device}, {part} samples"
        yield _decibels(mine, f"{title}, dB", "sqnr_db")
        if device in ON_KERNELS:
            yield _decibels(mine, f"{title}, simulated, dB", "simulated_db")
        yield _metrics(mine, title)


def _by_option(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["option"], {})[row["model"]] = row
    return {DEFAULT: found[DEFAULT], **found}


def _decibels(rows: Sequence[Row], title: str, key: str) -> str:
    by_option = _by_option(rows)
    base = by_option.pop(DEFAULT)
    lines = [_head(title, list(base), ["mean"])]
    lines.append(_line(DEFAULT, [f"{row[key]:.1f}" if key in row else "refused" for row in base.values()], ""))
    for option, told in by_option.items():
        gains = {m: told[m][key] - base[m][key] for m in base if key in told.get(m, {}) and key in base[m]}
        cells = [f"{gains[m]:+.1f}" if m in gains else "refused" if "failed" in told.get(m, {}) else "" for m in base]
        if gains:
            lines.append(_line(option, cells, f"{np.mean(list(gains.values())):+.2f} ({len(gains)})"))
    return "\n".join(lines)


def _metrics(rows: Sequence[Row], title: str) -> str:
    by_option = _by_option(rows)
    base = by_option[DEFAULT]
    models = [f"{m}, {r['metric']}, N {r['n']}" if "n" in r else m for m, r in base.items()]
    lines = [_head(f"{title}, %", models, ["mean change"])]
    lines.append(_line("float model", [f"{100 * r['float']:.2f}" if "float" in r else "" for r in base.values()], ""))
    for option, told in by_option.items():
        cells = [_score(told.get(m, {})) for m in base]
        changes = [100 * (r["value"] - r["float"]) for r in told.values() if "value" in r]
        if changes:
            lines.append(_line(option, cells, f"{np.mean(changes):+.2f} ({len(changes)})"))
    return "\n".join(lines)


def _score(row: Row) -> str:
    equal = f" ({100 * row['equal']:.1f})" if "equal" in row else ""
    return f"{100 * row['value']:.2f}{equal}" if "value" in row else "refused" if "failed" in row else ""


def _head(title: str, models: Sequence[str], more: Sequence[str]) -> str:
    cells = [title, *models, *more]
    return f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}"


def _line(option: str, cells: Sequence[str], mean: str) -> str:
    told = option if option in (DEFAULT, "float model", WIDE) else f"`{option}`"
    return f"| {told} | {' | '.join(cells)} | {mean} |"


def _chosen(names: Sequence[str]) -> dict[str, str]:
    """Passes by option."""
    passes = {**{name: tuple(options) for name, options in PASSES.items()}, "auto": (AUTO,)}
    return {o: name for name, all_of in passes.items() for o in all_of if name in names or o in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, nargs="?")
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument(
        "--passes", default=",".join((*PASSES, "auto")), help="names of passes, or single options of theirs"
    )
    parser.add_argument("--devices", default="cpu")
    parser.add_argument("--only", default="")
    parser.add_argument("--calibrate", choices=("all", "even", "odd"), default="all")
    parser.add_argument("--kernels-only", action="store_true", help="no simulation where this host has kernels")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    rows: list[Row] = (
        [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    )
    if options.table:
        print("\n\n".join(tables(rows)))
        return
    chosen = {DEFAULT: DEFAULT} | _chosen(options.passes.split(","))
    only = set(filter(None, options.only.split(",")))
    known = {(row["model"], row["device"], row["option"], row["calibrate"]) for row in rows}
    for device in options.devices.split(","):
        for pair in json.loads((options.tree / "pairs.json").read_text()):
            model = str(pair["model"])
            wanted = {o: name for o, name in chosen.items() if (model, device, o, options.calibrate) not in known}
            if wanted and (not only or model in only):
                for row in measure(options.tree, pair, device, wanted, options):
                    whole = {"model": model, "device": device, "calibrate": options.calibrate, **row}
                    with options.rows.open("a") as file:
                        print(json.dumps(whole), file=file, flush=True)


if __name__ == "__main__":
    main()

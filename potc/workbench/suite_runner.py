"""Runs a conformance kit on a board and prints a table. Needs numpy and nothing else; this file belongs to the kit.

Fill in ``run_on_board`` and start it in the folder of the kit: ``python run.py``, or ``python run.py conv`` for the cases
with "conv" in their names. The exit code is 1 if a case fails.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[Path, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Refused(Exception):
    """The board's compiler does not take the model, or not as integers on the kernel in question."""


def run_on_board(model: Path, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """One sample: ``inputs`` by name, as the ONNX model takes them; returns its outputs by name.

    An output may come as float32, as the model gives it, or as the codes that are stored (any integer type). Raise Refused
    where the board's compiler refuses the model.
    """
    raise NotImplementedError("write here how your board loads and runs a model")


@dataclass(frozen=True)
class Outcome:
    """``status``: "pass", "FAIL" or "refused". ``largest``: difference in codes, over all outputs that are stored;
    ``wrong``: elements that differ and may not; ``where``: sample, output and index of the first of them."""

    name: str
    status: str
    largest: int
    wrong: int
    where: str


def check_case(kit: Path, case: Mapping[str, Any], run: Run) -> Outcome:
    """Runs all samples of one case and compares them."""
    inputs = np.load(kit / case["files"]["inputs"])
    expected = np.load(kit / case["files"]["expected"])
    largest = wrong = 0
    where = ""
    for sample, words in enumerate(case["samples"]):
        try:
            found = run(kit / case["files"]["model"], {i["name"]: inputs[i["name"]][sample] for i in case["inputs"]})
        except Refused as refused:
            return Outcome(case["name"], "FAIL" if case["must_run"] else "refused", 0, 0, str(refused))
        for output in case["outputs"]:
            differs, apart = compare(case, output, expected, sample, np.asarray(found[output["name"]]))
            largest = max(largest, apart)
            if differs.any() and not where:
                index = [int(i) for i in np.argwhere(differs)[0]] if differs.ndim else []
                where = f"sample {words!r}, output {output['name']!r}, element {index}"
            wrong += int(differs.sum())
    return Outcome(case["name"], "FAIL" if wrong else "pass", largest, wrong, where)


def compare(
    case: Mapping[str, Any],
    output: Mapping[str, Any],
    expected: Mapping[str, np.ndarray],
    sample: int,
    found: np.ndarray,
) -> tuple[np.ndarray, int]:
    """Which elements are wrong, and the largest difference in codes (0 for an output that is not stored)."""
    stored = output["stored"]
    wanted = expected[output["array"]][sample]
    if found.shape != wanted.shape:
        return np.ones(wanted.shape, bool), 0
    if stored is None:
        if wanted.dtype.kind != "f":
            return found != wanted, 0
        allowed = output["float_tolerance"] * max(1e-30, float(np.abs(wanted).max(initial=0)))
        return ~(np.abs(found.astype(np.float64) - wanted) <= allowed), 0
    codes = found.astype(np.float64)
    if found.dtype.kind == "f":
        scale, zero_point = (_along(stored, stored[name], found.ndim) for name in ("scale", "zero_point"))
        codes = np.rint(codes / scale) + zero_point
    apart = np.abs(codes - expected[stored["codes"]][sample])
    apart = np.where(np.isfinite(apart), apart, 1 << 16).astype(np.int64)
    allowed = expected[stored["near_tie"]][sample].astype(np.int64)
    if sample in case["undecided_samples"]:
        allowed = np.ones_like(allowed)
    return apart > allowed, int(apart.max(initial=0))


def _along(stored: Mapping[str, Any], numbers: object, rank: int) -> np.ndarray:
    """One number, or those of each channel in a shape that fits the tensor."""
    array = np.asarray(numbers, np.float64)
    return array if stored["axis"] is None else array.reshape([-1 if a == stored["axis"] else 1 for a in range(rank)])


def check(kit: Path, run: Run, words: str = "") -> list[Outcome]:
    """All cases of a kit whose names hold some words."""
    manifest = json.loads((kit / "manifest.json").read_text(encoding="utf-8"))
    return [check_case(kit, case, run) for case in manifest["cases"] if words in case["name"]]


def main(arguments: Sequence[str]) -> int:
    outcomes = check(Path(__file__).parent, run_on_board, " ".join(arguments))
    width = max((len(o.name) for o in outcomes), default=4)
    print(f"{'case':{width}}  {'':7}  largest difference in codes  wrong elements")
    for o in outcomes:
        print(f"{o.name:{width}}  {o.status:7}  {o.largest:27}  {o.wrong:14}  {o.where}".rstrip())
    failed = sum(o.status == "FAIL" for o in outcomes)
    print(f"{len(outcomes)} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

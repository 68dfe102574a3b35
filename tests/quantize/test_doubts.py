"""Doubts: each is told where it should be, and none with samples as the models take them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from potc.compiler import Job, Trace, match_model, observe
from potc.language.program import QType
from potc.quantize.doubts import doubts, faint_tensors
from potc.quantize.histogram import Histogram
from potc.quantize.numbers import QuantParams
from potc.quantize.params import Params
from potc.quantize.plan import Origin, Plan, Quantizer
from potc.quantize.ranges import Ranges, merge_ranges
from potc.quantize.seen import Seen, merge_seen, see
from potc.quantize.statistic import Statistic
from potc.quantize.tuning import Tuning

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "samples" / "digits"
SHARED = ROOT.parent / "shared"
U8 = QType("u8", 0, 255, False)
NUMBERS = QuantParams(U8, np.array(1 / 255, np.float32), np.array(0, np.uint8), None)
NOISE = np.random.default_rng(0).normal(size=(24, 1, 3, 8, 8)).astype(np.float32)
PIXELS = np.rint(np.clip(NOISE * 50 + 128, 0, 255))


def plan_of(*tensors: str) -> Plan:
    quantizers = (Quantizer(i, (t,), (t,), (U8,), (Origin("r", "p", "test"),)) for i, t in enumerate(tensors))
    return Plan("core", tuple(quantizers), (), (), (), ())


def told(seen: Seen, generated: bool = False, **statistics: Statistic) -> str:
    ranges = Ranges(statistics, seen=seen, generated=generated)
    return "\n".join(doubts(plan_of(*statistics), ranges, numbers(len(statistics))))


def numbers(count: int, of_each: QuantParams = NUMBERS) -> Params:
    return Params((of_each,) * count, (), (), (), ())


def ends(inputs: np.ndarray, outputs: np.ndarray) -> Seen:
    found = Seen()
    for given, result in zip(inputs, outputs, strict=True):
        found = merge_seen(found, see({"x": given}, {"y": result}))
    return found


def steady(count: int, high: float = 1.0) -> Statistic:
    return Statistic.of_samples([0.0] * count, np.linspace(0.99, 1, count) * high)


ANSWERS = np.eye(10, dtype=np.float32)[np.arange(24) % 10][:, None]
ONE_ANSWER = np.eye(10, dtype=np.float32)[np.full(24, 3)][:, None] * np.arange(1, 25, dtype=np.float32)[:, None, None]
COUNTS = Histogram.of_values(np.append(np.full(99_999, 0.5, np.float32), np.float32(8)))
HALF_OUTSIDE = Histogram.of_values(np.array([0.5, 3, 3, 0.5], np.float32))

SILENT = {
    "as it should be": (ends(NOISE, ANSWERS), {"a": steady(24)}),
    "whole numbers that the model expects": (ends(PIXELS, ANSWERS), {"a": steady(24, 30)}),
    "whole numbers in the range of one bit": (ends((NOISE > 0).astype(np.float32), ANSWERS), {"a": steady(24, 90)}),
    "tokens": (ends(PIXELS.astype(np.int64), ANSWERS), {"a": steady(24, 500)}),
    "a table of small numbers": (ends(NOISE[:, 0, 0, 0] * 1e-4, ANSWERS), {"a": steady(24)}),
    "one of two classes": (ends(NOISE, ONE_ANSWER[..., 2:4]), {"a": steady(24)}),
    "few samples of one class": (ends(NOISE[:19], ONE_ANSWER[:19]), {"a": steady(19)}),
    "one quiet sample among few": (
        ends(NOISE[:5], ANSWERS[:5]),
        {"a": Statistic.of_samples([0] * 5, [1, 1, 1, 1, 1.1])},
    ),
    "a model without what is observed": (ends(NOISE, ANSWERS), {}),
}


@pytest.mark.parametrize(("seen", "statistics"), SILENT.values(), ids=SILENT)
def test_nothing_is_told(seen: Seen, statistics: Mapping[str, Statistic]) -> None:
    assert told(seen, **statistics) == ""


TOLD = {
    "few samples": (ends(NOISE[:3], ANSWERS[:3]), {"a": steady(3)}, "3 samples only"),
    "equal samples": (ends(NOISE[[0] * 9], ANSWERS[[0] * 9]), {"a": steady(9)}, "all 9 samples are equal"),
    "growing": (ends(NOISE, ANSWERS), {"a": Statistic.of_samples([0] * 24, 2.0 ** np.arange(24))}, "ranges still grow"),
    "unscaled": (ends(PIXELS, ANSWERS), {"x": steady(24, 255), "a": steady(24, 900)}, "expects scaled pictures"),
    "scaled twice": (ends(NOISE / 1000, ANSWERS), {"a": steady(24)}, "scaled twice"),
    "a constant output": (ends(NOISE, ANSWERS[[0] * 24]), {"a": steady(24)}, "`y` is the same for all samples"),
    "one answer": (ends(NOISE, ONE_ANSWER), {"a": steady(24)}, "largest at place 3 of 10"),
    "unseen": (ends(NOISE, ANSWERS), {"a": steady(24), "b": Statistic()}, "no sample reached `b`"),
    "constant": (
        ends(NOISE, ANSWERS),
        {t: Statistic.of_samples([2] * 9, [2] * 9) for t in "abcd"},
        "`a`, `b`, `c` and 1 more tensors never changed",
    ),
    "one sample alone": (
        ends(NOISE, ANSWERS),
        {"a": Statistic.of_samples([0] * 200, [1] * 199 + [50])},
        "one sample alone makes the range of `a` up to 50 times",
    ),
    "far": (
        ends(NOISE, ANSWERS),
        {"a": Statistic.of_samples([0.5] * 9, [0.5] * 7 + [8, 8], histogram=COUNTS)},
        "up to 15.9 times its 99.99 % quantile",
    ),
    "cut off": (
        ends(NOISE, ANSWERS),
        {"a": Statistic.of_samples([0.5] * 9, [3] * 9, histogram=HALF_OUTSIDE)},
        "50.0 % of the values of `a` lie outside",
    ),
}


@pytest.mark.parametrize(("seen", "statistics", "text"), TOLD.values(), ids=TOLD)
def test_each_doubt_is_told(seen: Seen, statistics: Mapping[str, Statistic], text: str) -> None:
    assert text in told(seen, **statistics)


def test_of_generated_samples_only_what_was_not_reached_is_told() -> None:
    assert told(ends(NOISE[:2], ANSWERS[:2]), generated=True, a=steady(2)) == ""
    assert "no sample reached `b`" in told(Seen(), generated=True, a=steady(2), b=Statistic())


def test_tensors_near_nothing_are_told_and_zeros_are_not() -> None:
    smallest = replace(NUMBERS, scale=np.array(2.0**-63, np.float32))
    for high, expected in ((1e-30, ["a"]), (0.0, []), (1e-17, [])):
        ranges = Ranges({"a": Statistic.of_sample(0.0, high)})
        assert faint_tensors(plan_of("a"), ranges, numbers(1, smallest)) == expected
        assert faint_tensors(plan_of("a"), ranges, numbers(1)) == []


def test_what_is_seen_at_the_ends_merges_in_any_order() -> None:
    parts = [see({"x": x}, {"y": y}) for x, y in zip(NOISE[:6], ANSWERS[:6], strict=True)]
    whole = ends(NOISE[:6], ANSWERS[:6])
    assert (
        merge_seen(merge_seen(parts[5], parts[0]), merge_seen(parts[4], merge_seen(parts[1], merge_seen(*parts[2:4]))))
        == whole
    )
    assert Seen.from_json(json.loads(json.dumps(whole.to_json()))) == whole
    saved = Ranges({}, seen=whole, generated=True)
    assert Ranges.from_json(merge_ranges(saved, Ranges({})).to_json()) == saved


# ---------------------------------------------------------------------------------------------- real models


def doubts_about(model: Path, data: Path | dict[str, np.ndarray], folder: Path) -> str:
    if isinstance(data, dict):
        np.savez(folder / "samples.npz", **data)
        data = folder / "samples.npz"
    matched = match_model(Job(str(model), "cpu", str(data), samples=40), Trace())
    ranges = observe(matched, matched.samples, Tuning(), Trace())
    return "\n".join(doubts(replace(matched.plan, constants=()), ranges, numbers(len(matched.plan.quantizers))))


def test_no_false_alarm_on_real_models(tmp_path: Path) -> None:
    assert doubts_about(DIGITS / "model.onnx", DIGITS / "calib.npz", tmp_path) == ""
    pairs = json.loads((SHARED / "pairs.json").read_text()) if (SHARED / "pairs.json").exists() else []
    for pair in pairs:
        data = SHARED / "data" / pair["data"] / "calib.npz"
        if data.exists() and pair["model"] != "breastcancer_mlp":  # 40 rows of that table are too few indeed
            found = doubts_about(SHARED / "models" / pair["model"] / "model.onnx", data, tmp_path)
            assert found == "", pair["model"]


MISTAKES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "not scaled": (lambda x: np.rint(x * 255), "scaled pictures"),
    "scaled twice": (lambda x: x / 255, "scaled twice"),
    "zeros": (lambda x: x * 0, "are equal"),
}


@pytest.mark.parametrize(("change", "text"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_of_a_real_model(change: Callable, text: str, tmp_path: Path) -> None:
    samples = {name: change(array).astype(array.dtype) for name, array in np.load(DIGITS / "calib.npz").items()}
    assert text in doubts_about(DIGITS / "model.onnx", samples, tmp_path)

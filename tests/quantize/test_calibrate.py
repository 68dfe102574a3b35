"""Calibration: what is seen, what is refused, and that samples may be split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from onnx import parser

from potc.data.dataset import Dataset
from potc.diagnostics.diagnostic import Rejected
from potc.graph.model import Model
from potc.language.program import QType
from potc.limits import limited, stated
from potc.quantize.calibrate import calibrate
from potc.quantize.plan import Origin, Plan, Quantizer
from potc.quantize.ranges import Ranges, merge_ranges, read_ranges
from potc.quantize.statistic import Statistic
from potc.quantize.tuning import RangeSettings

PROTO = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x, bool[1] c) => (float[N, 4] y) {
  a = Exp(x)
  b = If(c) <then_branch = t () => (float[N, 4] p) { p = Neg(a) },
    else_branch = e () => (float[N, 4] q) { q = Add(a, a) }>
  y = Relu(b)
}""")
U8 = QType("u8", 0, 255, False)


class Listed:
    """A data set held in memory."""

    generated = False

    def __init__(self, *samples: object) -> None:
        self.samples = [np.array(s, np.float32).reshape(-1, 4) for s in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def feeds(self) -> Iterator[dict[str, np.ndarray]]:
        for index, sample in enumerate(self.samples):
            yield {"x": sample, "c": np.array([index % 2 == 0])}


def plan_of(*tensors: str) -> Plan:
    quantizers = (Quantizer(i, (t,), (t,), (U8,), (Origin("r", "p", "test"),)) for i, t in enumerate(tensors))
    return Plan("cpu", tuple(quantizers), (), (), (), ())


def run(dataset: Listed, *tensors: str, estimator: str = "max") -> Ranges:
    model = Model("m.onnx", PROTO, ("m.onnx",))
    settings = RangeSettings(estimator=estimator)
    return calibrate(model, plan_of(*tensors), cast(Dataset, dataset), lambda done, total: None, settings)


def test_extremes_of_each_sample_are_kept_sorted() -> None:
    found = run(Listed([0, 1, 2, -4], [3, 0, 0, 0]), "x").by_tensor["x"]
    assert (found.samples, found.min, found.max, found.histogram) == (2, -4, 3, None)
    assert {name: row.tolist() for name, row in found.rows.items()} == {
        "min": [-4, 0],
        "max": [2, 3],
        "abs_max": [3, 4],
    }


def test_values_are_fetched_only_for_estimators_that_need_them() -> None:
    samples = Listed([0, 1, 2, -1], [3, 0, 0, 0])
    quantiles = run(samples, "x", estimator="quantile").by_tensor["x"]
    assert sorted(quantiles.rows) == ["abs_max", "max", "min", "quantile 0.0001", "quantile 0.9999"]
    assert quantiles.rows["quantile 0.9999"].tolist() == pytest.approx([1.9997, 2.9991])
    histogram = run(samples, "x", estimator="mse").by_tensor["x"].histogram
    assert histogram is not None
    assert (histogram.total, histogram.zeros) == (8, 4)


def test_both_branches_and_batches_of_any_length() -> None:
    found = run(Listed([0] * 4, [0] * 8, []), "b", "y")
    assert found.by_tensor["b"] == Statistic.of_samples([-1, 2], [-1, 2])
    assert found.by_tensor["y"].samples == 2  # the third sample has no elements


def test_progress_is_told_and_nothing_is_run_for_nothing() -> None:
    told: list[tuple[int, int]] = []
    model = Model("m.onnx", PROTO, ("m.onnx",))
    calibrate(
        model, plan_of("x"), cast(Dataset, Listed([0] * 4, [0] * 4)), lambda done, total: told.append((done, total))
    )
    assert told == [(1, 2), (2, 2)]
    assert run(Listed([0] * 4)).by_tensor == {}


NON_FINITE = [("x", [0, np.nan, 0, 0], "NaN"), ("x", [np.inf, 0, 0, 0], "infinity"), ("a", [100, 0, 0, 0], "infinity")]


@pytest.mark.parametrize(("tensor", "sample", "what"), NON_FINITE)
def test_nan_and_infinity_name_the_tensor_and_the_sample(tensor: str, sample: list[float], what: str) -> None:
    with pytest.raises(Rejected, match=f"non-finite-data: `{tensor}` holds {what} in sample 1"):
        run(Listed([0] * 4, sample), tensor)


def test_a_sum_that_overflows_is_no_infinity() -> None:
    top = float(np.finfo(np.float32).max)
    assert run(Listed([top, top, top, -1]), "x").by_tensor["x"] == Statistic.of_sample(-1, top)


def test_a_sample_that_can_not_run_is_named() -> None:
    dataset = Listed([0] * 4)
    dataset.samples.append(np.zeros((1, 3), np.float32))
    with pytest.raises(Rejected, match=r"sample-failed: .*sample 1"):
        run(dataset, "x")


@pytest.mark.parametrize("estimator", ["max", "default", "quantile", "mse"])
def test_samples_may_be_split(estimator: str) -> None:
    samples = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    parts = [run(Listed(*samples[a:b]), "x", "a", estimator=estimator) for a, b in ((4, 6), (0, 4))]
    assert merge_ranges(*parts).to_json() == run(Listed(*samples), "x", "a", estimator=estimator).to_json()


def test_json_round_trip() -> None:
    found = run(Listed([0.1, -7, 3e-40, 5]), "x", "a", estimator="entropy")
    assert Ranges.from_json(found.to_json()) == found


BROKEN = {
    "no JSON": "{",
    "another kind": '{"potc": "plan", "version": 1}',
    "a list": "[]",
    "another version": '{"potc": "ranges", "version": 99, "tensors": {}}',
    "a field is missing": '{"potc": "ranges", "version": 4, "tensors": {"x": {"samples": 1}}}',
    "tensors are a list": '{"potc": "ranges", "version": 4, "tensors": []}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_broken_files_are_refused(text: str) -> None:
    with pytest.raises(Rejected):
        Ranges.from_json(text)


def test_written_json_has_no_extensions() -> None:
    assert json.loads(Ranges({"x": Statistic()}).to_json(), parse_constant=lambda c: pytest.fail(c))["potc"] == "ranges"


def test_saved_ranges_that_are_no_file_to_read(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b" " * 1001)
    for path in (str(tmp_path / "r.json"), "/dev/zero"):
        with limited(stated({"table-bytes": 1000})), pytest.raises(Rejected, match="too-large"):
            read_ranges(path)
    (tmp_path / "r.json").write_bytes(b"\xff")
    with pytest.raises(Rejected, match="not-ranges"):
        read_ranges(str(tmp_path / "r.json"))
    with pytest.raises(Rejected, match="missing-file"):
        read_ranges(str(tmp_path / "none.json"))

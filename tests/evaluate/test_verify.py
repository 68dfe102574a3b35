"""Verification: each way in which a compiled model can be wrong fails the check of that name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
from onnx import parser

from potc.data.dataset import Dataset
from potc.diagnostics.diagnostic import Rejected
from potc.evaluate.verify import SAMPLES, verify
from potc.execute.session import open_session
from potc.graph.model import Model

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
FLOAT = parser.parse_model(
    HEAD + "g (float[N, 4] x) => (float[N, 4] y, int64[N] i) { y = Relu(x) i = ArgMax<axis = 1, keepdims = 0>(y) }"
)


class Samples:
    def __init__(self, count: int, width: int = 4) -> None:
        self.count, self.width = count, width

    def __len__(self) -> int:
        return self.count

    def feeds(self) -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(0)
        for _ in range(self.count):
            yield {"x": rng.normal(size=(2, self.width)).astype(np.float32)}


def compiled(body: str, outputs: str = "float[N, 4] y, int64[N] i", inputs: str = "float[N, 4] x") -> bytes:
    tail = " i = ArgMax<axis = 1, keepdims = 0>(y)" if "int64[N] i" in outputs else ""
    return parser.parse_model(f"{HEAD} g ({inputs}) => ({outputs}) {{ {body}{tail} }}").SerializeToString()


def run(model: bytes, samples: Samples | None = None, *, simulate: bool = False):
    return verify(Model("m.onnx", FLOAT, ("m.onnx",)), model, cast(Dataset, samples or Samples(3)), simulate=simulate)


CONSTANTS = "s = Constant<value = float {0.02}>() z = Constant<value = uint8 {0}>()"
QDQ = f"{CONSTANTS} r = Relu(x) q = QuantizeLinear(r, s, z) y = DequantizeLinear(q, s, z)"
NOISY = "t = Constant<value = float {0.6}>() a = Abs(x) b = Mul(a, t) y = Add(b, t)"


def test_a_good_model_passes() -> None:
    found = run(compiled(QDQ))
    assert found.ok
    assert not found.failed
    assert [c.name for c in found.checks] == ["valid", "interface", "loads", "runs", "results", "finite", "alive"]
    assert found.sqnr["y"] > 30
    assert list(found.sqnr) == ["y"]
    assert found.samples == 3


def test_an_output_that_is_off_by_less_than_a_step_is_alive() -> None:
    """As of a detector of what no sample holds."""
    zeros = compiled("y = Sub(x, x)")
    model, samples = Model("m.onnx", FLOAT, ("m.onnx",)), cast(Dataset, Samples(3))
    largest = max(float(feed["x"].max()) for feed in Samples(3).feeds())
    assert verify(model, zeros, samples, steps={"y": largest}).ok
    assert [c.name for c in verify(model, zeros, samples, steps={"y": largest * 0.99}).failed] == ["alive"]


def test_samples_are_spread_over_the_data_set() -> None:
    assert run(compiled(QDQ), Samples(100)).samples == SAMPLES


WRONG = {
    "no ONNX operator": (compiled("y = Nothing(x)"), {"valid", "loads"}),
    "another input": (compiled("y = Relu(z)", inputs="float[N, 4] z"), {"interface", "runs"}),
    "another declared shape": (compiled("y = Relu(x)", outputs="float[N, 5] y, int64[N] i"), {"valid", "interface"}),
    "an output is missing": (compiled("y = Relu(x)", outputs="float[N, 4] y"), {"interface", "runs"}),
    "another result shape": (compiled("y = Concat<axis = 0>(x, x)"), {"results"}),
    "NaN": (compiled("n = Neg(x) p = Relu(n) m = Neg(p) y = Sqrt(m)"), {"finite", "alive"}),
    "zeros": (compiled("y = Sub(x, x)"), {"alive"}),
    "noise": (compiled(NOISY), {"alive"}),
}


@pytest.mark.parametrize(("model", "failed"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(model: bytes, failed: set[str]) -> None:
    found = run(model)
    assert not found.ok
    assert failed <= {c.name for c in found.failed} <= failed | {"alive", "results"}
    assert all(c.detail for c in found.checks)


def test_a_float_model_that_can_not_run_is_the_users_concern() -> None:
    with pytest.raises(Rejected, match="sample-failed"):
        run(compiled(QDQ), Samples(1, width=3))


def test_devices_that_do_not_saturate_are_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this machine's kernels saturate and the device's do not, the model as it is written counts."""
    good, dead = compiled(QDQ), compiled("y = Sub(x, x)")

    def saturating(model: bytes, *, optimize: bool, threads: int) -> object:
        return open_session(dead if model == good and optimize else model, optimize=optimize, threads=threads)

    monkeypatch.setattr("potc.evaluate.verify.open_session", saturating)
    assert run(good, simulate=True).ok
    assert not run(good).ok
    assert not run(dead, simulate=True).ok

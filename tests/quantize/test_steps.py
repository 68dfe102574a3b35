"""Numbers that lie on a grid of powers of two are stored exactly where a type has the bits for it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

from potc.compiler import Compilation, Job, compile_model
from potc.quantize.params import dequantize, quantize
from potc.quantize.ranges import Ranges, merge_ranges
from potc.quantize.seen import LARGEST_STEP, see, step_of

RANDOM = np.random.default_rng(5)
SOUND = RANDOM.integers(-9000, 9000, (3, 1, 64)).astype(np.float32) / 32768
STEPS = {
    "sound": (SOUND, 2.0**-15),
    "whole numbers": (np.array([3, -255, 0, 8]), 1.0),
    "whole tens": (np.array([40.0, -80.0]), 8.0),
    "large numbers": (np.array([2.0**100, 3 * 2.0**99]), 2.0**99),
    "zeros": (np.zeros(4), LARGEST_STEP),
    "nothing": (np.zeros(0), LARGEST_STEP),
    "any floats": (RANDOM.standard_normal(40).astype(np.float32), 0.0),
    "too far apart": (np.array([1.0, 2.0**-23]), 0.0),
    "just near enough": (np.array([1.0, 2.0**-22]), 2.0**-22),
    "not finite": (np.array([1.0, np.inf]), 0.0),
}


@pytest.mark.parametrize(("values", "step"), STEPS.values(), ids=STEPS)
def test_the_largest_power_of_two_that_divides_all(values: np.ndarray, step: float) -> None:
    assert step_of(values) == step


@given(st.integers(-70, 70), st.integers(1, 26), st.integers(0, 2**32), st.integers(0, 300))
def test_what_a_few_promise_is_asked_of_all(exponent: int, bits: int, seed: int, odd: int) -> None:
    """300 numbers, of which one may lie between the steps of all others."""
    generator = np.random.default_rng(seed)
    whole = generator.integers(-(2**bits), 2**bits, 300) * 4
    if odd < 300:
        whole[odd] += generator.integers(0, 4)
    values = np.ldexp(whole.astype(np.float64), exponent).astype(np.float32)
    exact = [Fraction(float(v)) / Fraction(2) ** (exponent - 2) for v in values if v]
    lowest = min((int(n) & -int(n) for n in exact), default=0)
    expected = float(lowest) * 2.0 ** (exponent - 2)
    far = lowest and float(np.abs(values).max()) / expected >= 2.0**23
    assert step_of(values) == (LARGEST_STEP if not lowest else 0.0 if far else expected)


def compiled(folder: Path, samples: np.ndarray, rules: str = "gna") -> Compilation:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[1, 64] x) => (float[1, 64] y) { y = Relu (x) }'
    onnx.save(parser.parse_model(text), folder / "m.onnx")
    np.savez(folder / "s.npz", x=samples)
    return compile_model(Job(str(folder / "m.onnx"), rules, str(folder / "s.npz")))


FLOATS = RANDOM.standard_normal((3, 1, 64)).astype(np.float32)
EXACT = {
    "sound": (SOUND, 2.0**-16),
    "loud sound": (SOUND * 3, 2.0**-15),
    "bits": ((SOUND > 0).astype(np.float32), 2.0**-14),  # finer than the step, as far as the range goes
    "all of 16 bits": (np.full((3, 1, 64), 32767, np.float32), 1.0),
}


@pytest.mark.parametrize(("samples", "scale"), EXACT.values(), ids=EXACT)
def test_such_an_input_is_stored_exactly(samples: np.ndarray, scale: float, tmp_path: Path) -> None:
    done = compiled(tmp_path, samples)
    params = done.params.activations[next(q.id for q in done.plan.quantizers if "x" in q.tensors)]
    assert float(params.scale) == scale
    assert (dequantize(quantize(samples, params), params) == samples).all()


@pytest.mark.parametrize("samples", [FLOATS, np.zeros((3, 1, 64), np.float32)], ids=["floats", "zeros"])
def test_others_get_the_scale_of_their_range(samples: np.ndarray, tmp_path: Path) -> None:
    done = compiled(tmp_path, samples)
    params = done.params.activations[next(q.id for q in done.plan.quantizers if "x" in q.tensors)]
    assert float(np.log2(params.scale)) % 1 != 0


def test_what_was_seen_merges_and_is_kept_in_files() -> None:
    parts = [
        Ranges({}, seen=see({"x": values}, {})) for values, _ in (STEPS["sound"], STEPS["whole tens"], STEPS["zeros"])
    ]
    both = merge_ranges(merge_ranges(parts[0], parts[1]), parts[2])
    assert both.seen.inputs["x"].step == 2.0**-15
    assert merge_ranges(parts[2], merge_ranges(parts[1], parts[0])).seen == both.seen
    assert Ranges.from_json(both.to_json()).seen == both.seen

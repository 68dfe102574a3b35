"""Centred channels: results stay as they were, ranges become smaller, and it stops where a layer can't make up for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from test_equalize import equal_results, match, with_method

from potc.compiler import Trace, observe, quantize
from potc.evaluate.measures import Sqnr
from potc.execute.session import open_session
from potc.quantize.tuning import EqualizeSettings, Tuning

FRONT = "t = Conv <pads = [1,1,1,1]> (x, w, b)"
BEHIND = "y = Conv (t, v, c)"


def offsets(count: int, seed: int) -> np.ndarray:
    """Far apart, so that channels have little in common."""
    return np.random.default_rng(seed).normal(scale=200.0, size=count).astype(np.float32)


def chain(
    front: str = FRONT,
    behind: str = BEHIND,
    outputs: str = "float[1,4,A,B] y",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    inputs: str = "float[1,3,8,8] x",
) -> onnx.ModelProto:
    """Two layers without a function between."""
    named = {"w": (6, 3, 3, 3), "b": (6,), "v": (4, 6, 1, 1), "c": (4,), **(shapes or {})}
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {front} {behind} }}"""
    proto = parser.parse_model(text)
    generator = np.random.default_rng(1)
    read = {name for node in proto.graph.node for name in node.input}
    for seed, (name, shape) in enumerate(named.items()):
        values = offsets(shape[0], seed) if len(shape) == 1 else generator.normal(size=shape).astype(np.float32)
        if name in read:
            proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return proto


CENTRED = {
    "convolutions": chain(),
    "without a bias behind": chain(behind="y = Conv (t, v)"),
    "a window behind": chain(
        behind="y = Conv <strides = [2,2], dilations = [1,2]> (t, v, c)", shapes={"v": (4, 6, 3, 2)}
    ),
    "groups behind": chain(behind="y = Conv <group = 2> (t, v, c)", shapes={"v": (4, 3, 1, 1)}),
    "one filter for each channel in front": chain(
        "t = Conv <pads = [1,1,1,1], group = 3> (x, w, b)", shapes={"w": (6, 1, 3, 3)}
    ),
    "two layers behind": chain(
        behind="y = Conv (t, v, c) z = Conv (t, u)",
        outputs="float[1,4,A,B] y, float[1,5,A,B] z",
        shapes={"u": (5, 6, 1, 1)},
    ),
    "one bias for both": chain(behind="y = Conv (t, v, b)", outputs="float[1,6,A,B] y", shapes={"v": (6, 6, 1, 1)}),
    "products and sums": chain(
        "p = MatMul (x, w) t = Add (p, b)",
        "q = MatMul (t, v) y = Add (q, c)",
        "float[5,4] y",
        {"w": (8, 6), "v": (6, 4)},
        "float[5,8] x",
    ),
    "a transposed weight": chain(
        "t = Gemm (x, w, b)",
        "y = Gemm <transB = 1> (t, v, c)",
        "float[5,4] y",
        {"w": (8, 6), "v": (4, 6)},
        "float[5,8] x",
    ),
}
KEPT = {
    "padding behind": chain(behind="y = Conv <pads = [0,1,0,1]> (t, v, c)"),
    "padding by name": chain(behind='y = Conv <auto_pad = "SAME_UPPER"> (t, v, c)', shapes={"v": (4, 6, 3, 3)}),
    "spread results": chain(behind="y = ConvTranspose <strides = [2,2]> (t, v, c)", shapes={"v": (6, 4, 3, 3)}),
    "another reader": chain(behind=f"{BEHIND} z = Relu (t)", outputs="float[1,4,A,B] y, float[1,6,A,B] z"),
    "a result of the model": chain(outputs="float[1,4,A,B] y, float[1,6,A,B] t"),
    "a function between": chain(behind="r = Relu (t) y = Conv (r, v, c)"),
}


@pytest.mark.parametrize("proto", CENTRED.values(), ids=CENTRED)
@pytest.mark.parametrize("method", ["align", "best"])
def test_results_stay_and_extents_shrink(proto: onnx.ModelProto, method: str) -> None:
    matched = match(proto, "cpu")
    after = with_method(matched, method)
    assert after.equalization is not None
    (told,) = after.equalization.centred
    assert told.channels == 6
    assert told.share < 0.5
    equal_results(matched, after)


@pytest.mark.parametrize("proto", KEPT.values(), ids=KEPT)
def test_what_a_layer_can_not_make_up_for_stays(proto: onnx.ModelProto) -> None:
    after = with_method(match(proto, "cpu"), "align")
    assert after.equalization is not None
    assert after.equalization.centred == ()


def test_accumulators_of_16_bit_products_have_no_room() -> None:
    after = with_method(match(chain(), "gna"), "align")
    assert after.equalization is not None
    assert after.equalization.centred == ()


@pytest.mark.parametrize("method", ["cross-layer", "smooth"])
def test_other_methods_move_no_means(method: str) -> None:
    after = with_method(match(chain(), "cpu"), method)
    assert after.equalization is not None
    assert after.equalization.centred == ()


def test_less_noise() -> None:
    """Offsets far larger than what lies about them, taken back by the next bias: nearly all codes between stand for nothing."""
    proto = chain()
    stored = {t.name: t for t in proto.graph.initializer}
    b, v = (numpy_helper.to_array(stored[n]) for n in ("b", "v"))
    stored["c"].CopyFrom(numpy_helper.from_array(-v[:, :, 0, 0] @ b, "c"))
    matched = match(proto, "cpu")
    reference = open_session(matched.prepared.proto.SerializeToString(), optimize=False, threads=1)
    found: dict[str, float] = {}
    for method in ("none", "align"):
        tuning = Tuning(equalize=EqualizeSettings(method))
        after = matched if method == "none" else with_method(matched, method)
        compiled = quantize(after, observe(after, after.samples, tuning, Trace()), tuning, Trace()).compiled
        session, ratio = open_session(compiled, optimize=False, threads=1), Sqnr()
        for feed in matched.samples.feeds():
            ratio.add(*(np.asarray(s.run(None, dict(feed))[0]) for s in (reference, session)))
        found[method] = ratio.db
    assert found["align"] > found["none"] + 10

"""Sizes that shapes tell become constants, and results stay as they were for every number of samples."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potc.execute.session import open_session
from potc.graph.model import Model
from potc.graph.prepare import infer_shapes
from potc.graph.sizes import COPY, REST, settle_sizes, target

SETTLED = {
    "the rest is resolved, then asked for": (
        """g (float[N,4,3,2] x) => (float[N,M] y) <int64[1] zero = {0}, int64[1] two = {2}, int64[1] rest = {-1}, int64 last = {2}> {
          s = Shape (x) b = Slice (s, zero, two) t = Concat <axis = 0> (b, rest) r = Reshape (x, t)
          q = Shape (r) g = Gather (q, last) c = Cast <to = 1> (g) m = Mul (r, c) y = Flatten (m) }""",
        ["Reshape", "Cast", "Mul", "Flatten"],
    ),
    "a size in a vector, from the end": (
        """g (float[N,4] x) => (int64[1] y) <int64[1] at = {-1}> { s = Shape (x) g = Gather (s, at) y = Neg (g) }""",
        ["Neg"],
    ),
    "a part of a shape": (
        """g (float[N,4,5] x) => (int64 y) <int64 at = {0}> { s = Shape <start = -2> (x) g = Gather (s, at) y = Neg (g) }""",
        ["Neg"],
    ),
    "zeros that would have meant zeros": (
        """g (float[N,6] x) => (float[N,K] y) <int64[2] most = {2, 3}> {
          s = Shape <end = 1> (x) t = Concat <axis = 0> (s, most) r = Reshape <allowzero = 1> (x, t) y = Flatten (r) }""",
        ["Reshape", "Flatten"],
    ),
}
LEFT = {
    "a symbol": """g (float[N,4] x) => (int64 y) <int64 at = {0}> { s = Shape (x) g = Gather (s, at) y = Neg (g) }""",
    "two sizes that are not known": """g (float[N,4] x, int64[3] t) => (float[A,B] y) { r = Reshape (x, t) y = Flatten (r) }""",
    "symbols in other places": """g (float[N,M,4] x) => (float[A,B] y) <int64[1] four = {4}, int64[2] swap = {1, 0}> {
      s = Shape (x) b = Gather (s, swap) t = Concat <axis = 0> (b, four) r = Reshape (x, t) y = Flatten (r) }""",
    "what the model returns is believed by nobody": """g (float[N,4] x, int64[2] t) => (float[N,4] y) { y = Reshape (x, t) }""",
    "a question for several": """g (float[2,N,4] x) => (int64[2] y) <int64[2] at = {0, 2}> {
      s = Shape (x) g = Gather (s, at) y = Neg (g) }""",
    "an operator of somebody else": """g (float[N,4] x) => (float[N,4] y) { y = other.Reshape (x) }""",
}


def model(text: str) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17, "other": 1]>\n{text}')
    for n, node in enumerate(proto.graph.node):
        node.name = f"n{n}"
    return infer_shapes(Model("m.onnx", proto, ()))


@pytest.mark.parametrize(("text", "operators"), SETTLED.values(), ids=SETTLED)
def test_known_sizes_are_constants(text: str, operators: list[str]) -> None:
    before = model(text)
    after = settle_sizes(before)
    assert [n.op_type for n in after.proto.graph.node] == operators
    onnx.checker.check_model(after.proto)
    shape = [d.dim_value for d in before.proto.graph.input[0].type.tensor_type.shape.dim]
    for samples in (1, 3):
        x = np.random.default_rng(samples).normal(size=[samples, *shape[1:]]).astype(np.float32)
        old, new = (
            open_session(m.proto.SerializeToString(), optimize=False).run(None, {"x": x})[0] for m in (before, after)
        )
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("text", LEFT.values(), ids=LEFT)
def test_what_no_constant_says_is_left(text: str) -> None:
    before = model(text)
    assert settle_sizes(before) is before


def test_a_settled_model_has_nothing_left_to_settle() -> None:
    after = settle_sizes(model(SETTLED["the rest is resolved, then asked for"][0]))
    assert settle_sizes(after) is after


SIZES = st.lists(st.sampled_from([1, 2, 3, "N", "M", ""]), min_size=1, max_size=4)


@given(SIZES, SIZES, st.integers(1, 3), st.integers(1, 3))
def test_a_target_gives_the_shape_whatever_symbols_stand_for(
    before: list[int | str], after: list[int | str], n: int, m: int
) -> None:
    """A size without a name may be anything: here it is what makes both shapes of one length, where one does."""
    told = target(tuple(before), tuple(after))
    stands = {"N": n, "M": m, "": 1}
    old = [size if isinstance(size, int) else stands[size] for size in before]
    new = [size if isinstance(size, int) else stands[size] for size in after]
    if "" in after:
        rest, left = divmod(int(np.prod(old)), int(np.prod(new)))
        if left:
            return
        new[after.index("")] = rest
    if told is None or np.prod(old) != np.prod(new):
        return
    assert told.count(REST) <= 1
    resolved = [old[k] if size == COPY else size for k, size in enumerate(told)]
    assert list(np.zeros(old).reshape(resolved).shape) == new


def test_targets_of_real_chains() -> None:
    assert target(("N", 64, 4, 4), ("N", 64, "")) == (COPY, 64, REST)
    assert target(("N", 17, 192), ("N", 17, 3, 4, 16)) == (REST, 17, 3, 4, 16)
    assert target(None, ("N", 4)) == (REST, 4)
    assert target(("N", "M"), ("M", "N")) is None
    assert target((0, 4), (4, 0)) is None
    assert target(("N",), None) is None

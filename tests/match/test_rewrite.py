"""Rewrites leave results as they were, fire only where their conditions hold, and end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from potc.diagnostics.diagnostic import Rejected
from potc.execute.session import open_session
from potc.graph.model import Model
from potc.graph.prepare import infer_shapes
from potc.language.program import Program
from potc.language.resolve import load_rules
from potc.match.rewrite import Change, apply_rewrites

DEVICE = "device d {\n  opset ai.onnx 13 .. 25\n}\n"

CONV_BN = """g (float[2,{ins},8,7] x) => (float[2,{outs},{h},{w}] y)
  <float[{outs},{per_group},3,3] k{bias}, float[{outs}] gamma, float[{outs}] beta, float[{outs}] mean, float[{outs}] var> {{
  c = Conv <pads = [{pads}], group = {group}> (x, k{read})
  y = BatchNormalization <epsilon = {epsilon}> (c, gamma, beta, mean, var)
}}"""

PAD_CONV = """g (float[1,3,6,5] x) => (float[1,4,h,w] y) <float[4,3,3,3] k{bias}, int64[8] p = {{0,0,{begin},0,0,{end}}}> {{
  t = Pad (x, p)
  y = Conv <{own}> (t, k{read})
}}"""

BIAS_ADD = """g (float[2,4,6,6] x) => (float[2,6,4,4] y) <float[6,{per_group},3,3] k{bias}, float[{shape}] d> {{
  c = Conv <group = {group}> (x, k{read})
  y = Add ({order})
}}"""

MATMUL_ADD = """g (float[5,7] x) => (float[5,{n}] y) <float[7,{n}] m, float[{shape}] d> {{
  t = MatMul (x, m)
  y = Add ({order})
}}"""

GEMM = """g (float[{x}] x) => (float[5,3] y) <float[{m}] m{bias}> {{
  y = Gemm <alpha = {alpha}, beta = {beta}, transA = {ta}, transB = {tb}> (x, m{read})
}}"""


def biased(bias: bool, length: int) -> dict[str, str]:
    return {"bias": f", float[{length}] b" if bias else "", "read": ", b" if bias else ""}


def conv_bn(ins: int, outs: int, group: int, pads: tuple[int, int, int, int], bias: bool, epsilon: float) -> str:
    top, left, bottom, right = pads
    return CONV_BN.format(
        ins=ins,
        outs=outs,
        per_group=ins // group,
        group=group,
        pads=", ".join(map(str, pads)),
        h=8 + top + bottom - 2,
        w=7 + left + right - 2,
        epsilon=epsilon,
        **biased(bias, outs),
    )


def pad_conv(begin: str, end: str, own: str, bias: bool = False) -> str:
    return PAD_CONV.format(begin=begin, end=end, own=own, **biased(bias, 4))


def bias_add(group: int, bias: bool, order: str, shape: str = "1,6,1,1") -> str:
    return BIAS_ADD.format(group=group, per_group=4 // group, order=order, shape=shape, **biased(bias, 6))


def gemm(alpha: float, beta: float, ta: int, tb: int, bias: str) -> str:
    return GEMM.format(
        alpha=alpha,
        beta=beta,
        ta=ta,
        tb=tb,
        x="7,5" if ta else "5,7",
        m="3,7" if tb else "7,3",
        bias=f", float[{bias}] b" if bias else "",
        read=", b" if bias else "",
    )


FIRES = [
    ("fold_batchnorm", conv_bn(3, 5, 1, (0, 0, 0, 0), False, 1e-5)),
    ("fold_batchnorm", conv_bn(4, 6, 2, (1, 2, 0, 1), True, 1e-3)),
    ("fold_batchnorm", conv_bn(4, 8, 4, (0, 1, 2, 0), False, 0.1)),
    ("fold_batchnorm", conv_bn(6, 6, 6, (1, 1, 1, 1), True, 1e-5)),
    ("fold_pad", pad_conv("1,2", "0,3", "strides = [1, 1]", bias=True)),
    ("fold_pad", pad_conv("1,0", "2,1", "pads = [0, 1, 2, 0]")),
    ("fold_pad", pad_conv("2,1", "1,2", "strides = [2, 1], dilations = [1, 2]", bias=True)),
    ("fold_bias_add", bias_add(1, False, "c, d")),
    ("fold_bias_add", bias_add(2, True, "d, c")),
    ("matmul_add_to_gemm", MATMUL_ADD.format(n=4, shape="4", order="t, d")),
    ("matmul_add_to_gemm", MATMUL_ADD.format(n=3, shape="1,3", order="d, t")),
    ("matmul_add_to_gemm", MATMUL_ADD.format(n=1, shape="1", order="t, d")),
    ("fold_gemm_factors", gemm(0.5, 1.0, 0, 0, "3")),
    ("fold_gemm_factors", gemm(1.0, 2.5, 1, 1, "5,1")),
    ("fold_gemm_factors", gemm(-2.0, 0.25, 0, 1, "1")),
    ("fold_gemm_alpha", gemm(3.0, 0.5, 1, 0, "")),
    ("fold_gemm_alpha", gemm(0.5, 1.0, 0, 1, "")),
    ("fold_gemm_alpha", gemm(1.0, 2.0, 0, 0, "")),
    ("drop_identity", "g (float[2,3] x) => (float[2,3] y) { t = Relu (x) i = Identity (t) y = Tanh (i) }"),
    ("drop_identity", "g (float[2,3] x) => (float[2,3] y) { t = Relu (x) y = Identity (t) }"),
    (
        "drop_identity",
        "g (float[2,3] x) => (float[2,3] y, float[2,3] z) { t = Relu (x) y = Identity (t) z = Identity (t) }",
    ),
    ("drop_identity", "g (float[2,3] x) => (float[2,3] y) { i = Identity (x) j = Identity (i) y = Neg (j) }"),
]

STAYS = {
    "pad value is not zero": """g (float[1,3,6,6] x) => (float[1,4,6,6] y)
      <float[4,3,3,3] k, int64[8] p = {0,0,1,1,0,0,1,1}, float v = {1.0}> { t = Pad (x, p, v) y = Conv (t, k) }""",
    "pad of the channel axis": """g (float[1,2,6,6] x) => (float[1,4,4,4] y)
      <float[4,3,3,3] k, int64[8] p = {0,1,0,0,0,0,0,0}> { t = Pad (x, p) y = Conv (t, k) }""",
    "pad of the batch axis at its end": """g (float[1,3,6,6] x) => (float[2,4,4,4] y)
      <float[4,3,3,3] k, int64[8] p = {0,0,0,0,1,0,0,0}> { t = Pad (x, p) y = Conv (t, k) }""",
    "negative pad": """g (float[1,3,6,6] x) => (float[1,4,3,4] y)
      <float[4,3,3,3] k, int64[8] p = {0,0,-1,0,0,0,0,0}> { t = Pad (x, p) y = Conv (t, k) }""",
    "reflected pad": """g (float[1,3,6,6] x) => (float[1,4,6,6] y)
      <float[4,3,3,3] k, int64[8] p = {0,0,1,1,0,0,1,1}> { t = Pad <mode = "reflect"> (x, p) y = Conv (t, k) }""",
    "convolution pads by itself": """g (float[1,3,6,6] x) => (float[1,4,8,8] y)
      <float[4,3,3,3] k, int64[8] p = {0,0,1,1,0,0,1,1}> { t = Pad (x, p) y = Conv <auto_pad = "SAME_UPPER"> (t, k) }""",
    "addend per column": """g (float[1,3,6,6] x) => (float[1,4,4,4] y)
      <float[4,3,3,3] k, float[1,1,1,4] d> { t = Conv (x, k) y = Add (t, d) }""",
    "addend of lower rank": """g (float[1,3,6,6] x) => (float[1,4,4,4] y)
      <float[4,3,3,3] k, float[4] d> { t = Conv (x, k) y = Add (t, d) }""",
    "one addend for all channels": """g (float[1,3,6,6] x) => (float[1,4,4,4] y)
      <float[4,3,3,3] k, float[1] d> { t = Conv (x, k) y = Add (t, d) }""",
    "stacked matrices": """g (float[2,5,7] x) => (float[2,5,4] y)
      <float[7,4] m, float[4] d> { t = MatMul (x, m) y = Add (t, d) }""",
    "addend per row": """g (float[4,7] x) => (float[4,4] y)
      <float[7,4] m, float[4,1] d> { t = MatMul (x, m) y = Add (t, d) }""",
    "addend adds rows": """g (float[1,7] x) => (float[5,4] y)
      <float[7,4] m, float[5,4] d> { t = MatMul (x, m) y = Add (t, d) }""",
    "addend of higher rank": """g (float[5,7] x) => (float[1,5,4] y)
      <float[7,4] m, float[1,1,4] d> { t = MatMul (x, m) y = Add (t, d) }""",
    "gemm with a computed bias": """g (float[5,7] x, float[5,3] b) => (float[5,3] y)
      <float[7,3] m> { y = Gemm <alpha = 2.0> (x, m, b) }""",
    "plain gemm": "g (float[5,7] x) => (float[5,3] y) <float[7,3] m> { y = Gemm (x, m) }",
    "second reader": """g (float[1,3,6,6] x) => (float[1,4,4,4] y, float[1,4,4,4] z)
      <float[4,3,3,3] k, float[1,4,1,1] d> { t = Conv (x, k) y = Add (t, d) z = Relu (t) }""",
    "the model returns the inner tensor": """g (float[1,3,6,6] x) => (float[1,4,4,4] y, float[1,4,4,4] t)
      <float[4,3,3,3] k, float[1,4,1,1] d> { t = Conv (x, k) y = Add (t, d) }""",
    "input is the output": "g (float[2] x) => (float[2] y) { y = Identity (x) }",
}


def model(text: str, seed: int = 3) -> Model:
    """A model from text; tensors declared without a value become random weights (``var``: positive)."""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]>\n{text}')
    generator = np.random.default_rng(seed)
    known = {t.name for t in proto.graph.initializer} | {o for n in proto.graph.node for o in n.output}
    for value in [v for v in proto.graph.value_info if v.name not in known]:
        array = generator.normal(size=[d.dim_value for d in value.type.tensor_type.shape.dim]).astype(np.float32)
        array = np.abs(array) + 0.1 if value.name == "var" else array
        proto.graph.initializer.append(numpy_helper.from_array(array, value.name))
        proto.graph.value_info.remove(value)
    for i, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    return infer_shapes(Model("model.onnx", proto, ()))


def run(found: Model) -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    feed = {
        i.name: generator.normal(size=[d.dim_value for d in i.type.tensor_type.shape.dim]).astype(np.float32)
        for i in found.proto.graph.input
    }
    return open_session(found.proto.SerializeToString(), optimize=False, threads=1).run(None, feed)


def rules(folder: Path, body: str) -> Program:
    path = folder / "device.rules"
    path.write_text(f"potc 1\nuse std\n{body}")
    return load_rules(str(path))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return rules(tmp_path_factory.mktemp("rules"), f"use prepare\n{DEVICE}")


def assert_same(before: Model, after: Model) -> None:
    onnx.checker.check_model(after.proto)
    assert [o.name for o in after.proto.graph.output] == [o.name for o in before.proto.graph.output]
    for a, b in zip(run(before), run(after), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * float(np.abs(a).max()))


def names(changes: tuple[Change, ...]) -> set[str]:
    return {change.rewrite for change in changes}


@pytest.mark.parametrize(("name", "text"), FIRES)
def test_results_stay_and_nodes_go(name: str, text: str, program: Program) -> None:
    before = model(text)
    done = apply_rewrites(before, program)
    after, changes = done.model, done.changes
    assert names(changes) == {name}
    assert all(change.place.startswith("prepare.rules:") for change in changes)
    if not name.startswith("fold_gemm"):
        assert len(after.proto.graph.node) < len(before.proto.graph.node)
    assert_same(before, after)


@pytest.mark.parametrize("text", STAYS.values(), ids=STAYS)
def test_does_not_fire(text: str, program: Program) -> None:
    before = model(text)
    done = apply_rewrites(before, program)
    after, changes = done.model, done.changes
    assert changes == ()
    assert after.proto == before.proto


def test_a_chain_of_folds_ends_in_one_convolution(program: Program) -> None:
    before = model("""g (float[1,4,8,8] x) => (float[1,6,10,9] y)
      <float[6,2,3,3] k, float[6] gamma, float[6] beta, float[6] mean, float[6] var, float[1,6,1,1] d, float[1,6,1,1] e,
       int64[8] p = {0,0,1,2,0,0,3,1}> {
      q = Pad (x, p) c = Conv <group = 2> (q, k) i = Identity (c) n = BatchNormalization (i, gamma, beta, mean, var)
      s = Add (n, d) y = Add (e, s) }""")
    done = apply_rewrites(before, program)
    after, changes = done.model, done.changes
    assert [n.op_type for n in after.proto.graph.node] == ["Conv"]
    assert names(changes) == {"drop_identity", "fold_batchnorm", "fold_bias_add", "fold_pad"}
    assert_same(before, after)


def test_shared_weights_are_not_changed_for_the_other_reader(program: Program) -> None:
    before = model("""g (float[1,3,6,6] x) => (float[1,4,4,4] y, float[1,4,4,4] z)
      <float[4,3,3,3] k, float[4] b, float[1,4,1,1] d> { t = Conv (x, k, b) y = Add (t, d) z = Conv (x, k, b) }""")
    done = apply_rewrites(before, program)
    after, changes = done.model, done.changes
    assert names(changes) == {"fold_bias_add"}
    assert_same(before, after)


def test_a_tensor_that_a_nested_graph_reads_keeps_its_name(program: Program) -> None:
    before = model("""g (float[2] x) => (float[2] y) <bool c = {1}> {
      t = Relu (x)
      i = Identity (t)
      y = If (c) <then_branch = g1 () => (float[2] a) { a = Neg (i) }, else_branch = g2 () => (float[2] a) { a = Abs (i) }>
    }""")
    done = apply_rewrites(before, program)
    after, changes = done.model, done.changes
    assert changes == ()
    assert_same(before, after)


def test_an_endless_rewrite_is_told_by_name(tmp_path: Path) -> None:
    endless = "rewrite around {\n  match Relu(x) as y\n  emit y = Relu(x)\n}\n"
    with pytest.raises(Rejected) as rejected:
        apply_rewrites(model(FIRES[-3][1]), rules(tmp_path, endless + DEVICE))
    (diagnostic,) = rejected.value.diagnostics
    assert diagnostic.code == "endless-rewrite"
    assert "`around`" in diagnostic.message
    assert diagnostic.at is not None
    assert diagnostic.at.place.endswith("device.rules:3")


def test_once_leaves_alone_what_it_made(tmp_path: Path) -> None:
    body = "rewrite twice once {\n  match Relu(x) as y\n  emit z = Relu(x)\n       y = Relu(z)\n}\n"
    before = model("g (float[2,3] x) => (float[2,3] y) { t = Relu (x) u = Tanh (t) y = Relu (u) }")
    done = apply_rewrites(before, rules(tmp_path, body + DEVICE))
    after, changes = done.model, done.changes
    assert len(changes) == 2
    assert [n.op_type for n in after.proto.graph.node] == ["Relu", "Relu", "Tanh", "Relu", "Relu"]
    assert_same(before, after)


def test_a_second_output_that_is_read_keeps_its_node(tmp_path: Path) -> None:
    body = "rewrite pool {\n  match MaxPool(x) as y\n  emit y = Relu(x)\n}\n"
    before = model("""g (float[1,1,4,4] x) => (float[1,1,4,4] y, int64[1,1,4,4] i) {
      y, i = MaxPool <kernel_shape = [1, 1]> (x)
    }""")
    assert apply_rewrites(before, rules(tmp_path, body + DEVICE)).changes == ()


def test_a_node_without_its_first_output_is_not_matched(tmp_path: Path) -> None:
    body = "rewrite swap {\n  match TopK(x, k) -> Relu as y\n  emit y = Relu(x)\n}\n"
    before = model("""g (float[4] x) => (int64[2] i, float[4] y) <int64[1] k = {2}> {
      v, i = TopK (x, k)
      y = Relu (x)
    }""")
    before.proto.graph.node[0].output[0] = ""
    assert apply_rewrites(before, rules(tmp_path, body + DEVICE)).changes == ()


def test_constants_have_the_element_type_of_the_operand_beside_them(tmp_path: Path) -> None:
    """Also behind emitted nodes; a shape stays what the operator wants."""
    body = "rewrite twice {\n  match Relu(x) -> Relu as y\n  emit t = Mul(x, 2)\n       u = Add(3, t)\n       v = Reshape(u, concat(2, 2))\n       y = Sub(v, t)\n}\n"
    for dtype, element in (("float", np.float32), ("float16", np.float16), ("double", np.float64)):
        before = model(f"g ({dtype}[2,2] x) => ({dtype}[2,2] y) {{ a = Relu (x) y = Relu (a) }}")
        done = apply_rewrites(before, rules(tmp_path, body + DEVICE))
        after, changes = done.model, done.changes
        assert len(changes) == 1
        stored = [numpy_helper.to_array(t) for t in after.proto.graph.initializer]
        assert [(a.dtype, a.tolist()) for a in stored] == [
            (np.dtype(element), 2),
            (np.dtype(element), 3),
            (np.dtype(np.int64), [2, 2]),
        ]
        onnx.checker.check_model(after.proto, full_check=True)

"""Rewrites that are right pass with many graphs; a planted mistake of each kind is found."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser
import pytest

from potc.language.program import Program
from potc.language.resolve import load_rules
from potc.sketch.oracle import bystander_of
from potc.workbench.validate import validate_rewrite, validation

DEVICE = "device d {\n  opset ai.onnx 13 .. 25\n}\n"
SHIPPED = [rewrite.name for rewrite in load_rules("cpu").rewrites]

BATCHNORM = """  match Conv(x, w: const, b: const?) as c -> BatchNormalization(prev, gamma: const, beta: const, mean: const, var: const) as y
  emit k  = {k}
       w2 = w * along(k, w, {axis})
       b2 = {b2}
       y  = {conv}(x, w2, b2)"""
PAD = """  match Pad[mode == "constant"](x, pads: const, value: const?) -> Conv[auto_pad == "NOTSET"](prev, w: const, b: const?) as y
  require len(pads) == 2 * w.rank and all(slice(pads, 0, 2) == 0) and all(slice(pads, w.rank, w.rank + 2) == 0)
  require all(pads >= 0){require}
  emit own = {own}
       y   = Conv[attrs of y, pads = own + concat(slice(pads, 2, w.rank), slice(pads, w.rank + 2, 2 * w.rank))](x, w, b)"""
GEMM = """  match Gemm[alpha != 1](x, w: const, b: const?) as y
  require absent(b) and w.dtype == f32
  emit w2 = w * {factor}
       y  = {node}(x, w2)"""


def batchnorm(**changes: str) -> str:
    right = {
        "k": "gamma / sqrt(var + y.epsilon)",
        "axis": "out",
        "b2": "beta + (opt(b, 0) - mean) * k",
        "conv": "Conv[attrs of c]",
    }
    return BATCHNORM.format(**(right | changes))


def pad(**changes: str) -> str:
    right = {"require": " and all(opt(value, 0) == 0)", "own": "opt(y.pads, zeros(2 * (w.rank - 2)))"}
    return PAD.format(**(right | changes))


def gemm(**changes: str) -> str:
    right = {"factor": "y.alpha", "node": "Gemm[attrs of y, alpha = 1.0]"}
    return GEMM.format(**(right | changes))


RIGHT = {"batchnorm": batchnorm(), "pad": pad(), "gemm": gemm()}
WRONG = {
    "wrong sign": batchnorm(b2="beta + (opt(b, 0) + mean) * k"),
    "forgotten epsilon": batchnorm(k="gamma / sqrt(var)"),
    "factor is inverted": batchnorm(k="sqrt(var + y.epsilon) / gamma"),
    "bias is forgotten": batchnorm(b2="beta - mean * k"),
    "wrong axis": batchnorm(axis="in"),
    "dropped attributes": batchnorm(conv="Conv"),
    "padding that is not zero": pad(require=""),
    "own padding is forgotten": pad(own="zeros(2 * (w.rank - 2))"),
    "factor is squared": gemm(factor="(y.alpha * y.alpha)"),
    "dropped transposition": gemm(node="Gemm"),
    "factor is applied twice": gemm(node="Gemm[attrs of y]"),
    "order of operands": "  match Sub(a, b) as y\n  emit y = Sub(b, a)",
    "no operation at all": "  match Relu(x) as y\n  emit y = x",
    "type changes": "  match Neg(x) as y\n  emit y = Cast[to = 10](x)",
}


def program(folder: Path, body: str) -> Program:
    path = folder / "device.rules"
    path.write_text(f"potc 1\nuse std\nrewrite tried once {{\n{body}\n}}\n{DEVICE}")
    return load_rules(str(path))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_rewrites_are_right(name: str) -> None:
    shipped = load_rules("cpu")
    rewrite = next(r for r in shipped.rewrites if r.name == name)
    found = validation(shipped, rewrite, 24, 5)
    assert found.counterexample is None, found.counterexample and found.counterexample.message
    assert found.compared >= 40


@pytest.mark.parametrize("body", RIGHT.values(), ids=RIGHT)
def test_what_the_mistakes_are_planted_in_is_right(body: str, tmp_path: Path) -> None:
    tried = program(tmp_path, body)
    found = validation(tried, tried.rewrites[0], 24, 0)
    assert found.counterexample is None, found.counterexample and found.counterexample.message
    assert found.compared >= 40


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_planted_mistakes_are_found(body: str, tmp_path: Path) -> None:
    tried = program(tmp_path, body)
    found = validate_rewrite(tried, tried.rewrites[0], 40, 0)
    assert found is not None
    assert found.diagnostic.code == "wrong-rewrite"
    assert found.difference > 0
    assert found.shapes
    onnx.parser.parse_graph(found.before.split(">\n", 1)[-1] if found.before.startswith("<") else found.before)


def test_equal_seeds_give_equal_counterexamples(tmp_path: Path) -> None:
    tried = program(tmp_path, WRONG["wrong sign"])
    assert validate_rewrite(tried, tried.rewrites[0], 9, 3) == validate_rewrite(tried, tried.rewrites[0], 9, 3)


def test_no_rule_speaks_of_what_stands_around_a_sketch() -> None:
    shipped = load_rules("cpu")
    assert bystander_of(shipped) not in {
        op for r in shipped.rules for way in r.pattern.ways for n in way.nodes for op in n.ops
    }

"""Laws of explaining: every node, tensor and rule has an answer that agrees with the plan, and what stopped is said first."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import onnx
from hypothesis import given, settings
from test_matching import models

from potc.graph.model import Model
from potc.language.program import Program
from potc.language.resolve import load_rules
from potc.workbench.explain_model import Question, examine_model, explain, to_json
from potc.workbench.explain_nodes import NodeAnswer
from potc.workbench.explain_tensors import TensorAnswer
from potc.workbench.explain_text import answer_lines

RULES = """potc 1
use std
device small {
  opset ai.onnx 13 .. 25
  qtype a8 = u8 asym per_tensor
  rule conv { match Conv(x, w: const) -> Relu? as y quant x, y: a8, w: i8 sym per_channel(out) }
  rule product { match MatMul(x: value, w: const) -> Add(prev, b: const)? as y quant x: a8, w: i8 sym, y: a8 | none }
  rule sum {
    match Add(a: value, b: value) as y
    require stored(a) and stored(b) else "both must be stored"
    quant a, b, y: a8
  }
  float tanh { match Tanh(x) }
}
device large {
  opset ai.onnx 13 .. 25
  qtype a8 = u8 asym per_tensor | i8 sym per_tensor
  rule conv { match Conv(x, w: const) -> (Relu | Clip)? -> Tanh? as y quant x, y: a8, w: i8 sym per_channel(out) }
  rule gate { match { a = Relu(x) b = Mul(a, 0.5) y = Add(b, x) } quant x, y: a8 }
  rule sum { match any(Add, Mul)(a: value, b: value) ~> Relu? as y quant a, b, y: a8 }
  rule product { match MatMul(x: value, w: const) as y quant x, y: a8, w: i8 sym }
  pass Clip
}
device both = small & large
"""


@cache
def programs() -> tuple[Program, ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "devices.rules"
        path.write_text(RULES)
        return tuple(load_rules(str(path), device=name) for name in ("small", "large", "both"))


@settings(max_examples=60)
@given(proto=models())
def test_everything_has_an_answer(proto: onnx.ModelProto) -> None:
    model = Model("m.onnx", proto, ())
    tensors = {*(n for node in proto.graph.node for n in (*node.input, *node.output) if n), "x"}
    for program in programs():
        examined = examine_model(model, program)
        nodes = tuple(node.name for node in proto.graph.node)
        answers = explain(examined, Question(nodes, tuple(sorted(tensors))))
        per_rule = explain(examined, Question(nodes=nodes, rules=("*",)))
        overview, rules = explain(examined, Question()), explain(examined, Question(rules=("*",)))
        for answer in (*answers, *per_rule, *overview, *rules):
            lines = list(answer_lines(answer))
            assert lines and all(line == line.rstrip() and line for line in lines)
        json.loads(to_json(answers))
        told = {a.node: a for a in answers if isinstance(a, NodeAnswer)}
        assert told.keys() >= set(examined.node_ids)
        for node, answer in told.items():
            assert bool(answer.kernel) == (node in examined.kernel_of)
            assert bool(answer.reasons) != bool(answer.kernel)
            taken = {part.rule for part in answer.parts}
            assert all(other.rule not in taken for part in answer.parts for other in part.others)
        stored = {i.tensor for i in examined.plan.insertions} | {c.tensor for c in examined.plan.constants}
        for answer in (a for a in answers if isinstance(a, TensorAnswer)):
            assert bool(answer.stored) == (answer.tensor in stored)
            assert (answer.reason is None) == bool(answer.stored)

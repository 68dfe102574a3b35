"""What names are bound to: further outputs, steps with optional ends, other alternatives, patterns by name."""

from __future__ import annotations

from pathlib import Path

import onnx.parser
import pytest

from potc.graph.model import Model
from potc.graph.prepare import infer_shapes
from potc.graph.snapshot import take_snapshot
from potc.language.resolve import load_rules
from potc.match.environment import Scope
from potc.match.found import Binding
from potc.match.match import Matcher

HEAD = """potc 1
use std
pattern Shrunk(x) match Relu(x) -> Clip? as t require t.rank == 2
pattern Parts(x) match {
    r    = Relu(x)
    a, b = Split(r)
  }
  require a.shape[0] == 1 and b.shape[0] == 1
device d {
  opset ai.onnx 13 .. 25
"""


def bindings(folder: Path, pattern: str, graph: str) -> list[dict[str, object]]:
    """For each match, longest first: the tensor of each name (None: absent), private names left out."""
    path = folder / "device.rules"
    path.write_text(f"{HEAD}  float f {{ match {pattern} }}\n}}\n")
    program = load_rules(str(path))
    weights = ", ".join("1" * 16)
    text = f'<ir_version: 9, opset_import: ["" : 17]> g (float[2,4] x) => (float[n,m] y) <float[4,4] w = {{{weights}}}> {{ {graph} }}'
    proto = onnx.parser.parse_model(text)
    for node in proto.graph.node:
        node.name = node.output[0] or node.output[1]
    snapshot = take_snapshot(infer_shapes(Model("model.onnx", proto, ())).proto)
    (rule,) = program.rules
    matcher = Matcher(rule.pattern, rule.requires, snapshot, Scope.of(program), program.signatures)
    anchors = (n for op in sorted(matcher.anchor_ops) for n in snapshot.by_op.get(op, ()))
    found = sorted((m for n in anchors for m in matcher.matches(n)), key=lambda m: -len(m.nodes))

    def name(binding: Binding) -> object:
        if isinstance(binding, tuple):
            return tuple(map(name, binding))
        return None if binding is None else snapshot.tensors[binding.tensor]

    return [{k: name(b) for k, b in m.bindings.items() if not k.startswith("_")} for m in found]


@pytest.mark.parametrize(
    ("pattern", "graph", "first"),
    [
        ("{ a, b = Split(x) y = Tanh(b) }", "s, t = Split (x) y = Tanh (t)", {"x": "x", "a": "s", "b": "t", "y": "y"}),
        ("{ a, b = Split(x) y = Tanh(b) }", '"", t = Split (x) y = Tanh (t)', {"x": "x", "a": None, "b": "t", "y": "y"}),
        ("{ a, b, c = Split(x) }", "y, t = Split (x)", {"x": "x", "a": "y", "b": "t", "c": None}),
        ("(Tanh(a) | Relu(b)) as r -> Clip as y", "s = Relu (x) y = Clip (s)", {"a": None, "b": "x", "r": "s", "y": "y"}),
        ("(Relu(a) -> Clip?) as r -> Tanh as y", "s = Relu (x) y = Tanh (s)", {"a": "x", "r": "s", "y": "y"}),
        (
            "(Relu(a) -> Clip?) as r -> Tanh as y",
            "s = Relu (x) t = Clip (s) y = Tanh (t)",
            {"a": "x", "r": "t", "y": "y"},
        ),
        ("Abs(a) -> (Relu -> Clip?) as r -> Tanh as y", "s = Abs (x) t = Relu (s) y = Tanh (t)", {"a": "x", "r": "t", "y": "y"}),
        ("Abs(a) -> Relu? as r -> Tanh as y", "s = Abs (x) y = Tanh (s)", {"a": "x", "r": None, "y": "y"}),
        ("Relu(a) * 1 .. 3 as r -> Tanh as y", "s = Relu (x) t = Relu (s) y = Tanh (t)", {"a": "x", "r": "t", "y": "y"}),
        ("Abs(a) -> Shrunk(prev) as r -> Tanh as y", "s = Abs (x) t = Relu (s) y = Tanh (t)", {"a": "x", "r": "t", "y": "y"}),
        ("Shrunk(a) as r -> Tanh as y", "s = Relu (x) t = Clip (s) y = Tanh (t)", {"a": "x", "r": "t", "y": "y"}),
        ("{ s = Shrunk(a) y = Add(s, s) }", "t = Relu (x) y = Add (t, t)", {"a": "x", "s": "t", "y": "y"}),
        ("{ u, v = Parts(a) y = Add(v, c) }", "r = Relu (x) s, t = Split (r) y = Add (x, t)", {"a": "x", "u": "s", "v": "t", "c": "x", "y": "y"}),
        ("Abs(a) -> Parts(prev) as r -> Tanh as y", "q = Abs (x) r = Relu (q) s, t = Split (r) y = Tanh (s)", {"a": "x", "r": "s", "y": "y"}),
        ("Abs(a) -> Add(prev, MatMul(b, w: const)) as y", "s = Abs (x) t = MatMul (x, w) y = Add (t, s)", {"a": "x", "b": "x", "w": "w", "y": "y"}),
    ],
)  # fmt: skip
def test_bindings(pattern: str, graph: str, first: dict[str, object], tmp_path: Path) -> None:
    assert bindings(tmp_path, pattern, graph)[0] == first


def test_requirements_of_patterns_by_name_speak_of_their_results(tmp_path: Path) -> None:
    assert not bindings(tmp_path, "Abs(a) -> Parts(prev)", "q = Abs (w) r = Relu (q) y, t = Split (r)")


def test_longest_first(tmp_path: Path) -> None:
    graph = "s = Relu (x) t = Relu (s) y = Relu (t)"
    assert [b["y"] for b in bindings(tmp_path, "Relu(a) * 1 .. 2 as y", graph)] == ["t", "y", "s", "t", "y"]

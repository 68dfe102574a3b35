"""Laws of plans: they survive files, do not depend on names or order, and say where each decision comes from."""

from __future__ import annotations

import json
import random
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from potc.diagnostics.diagnostic import Rejected
from potc.graph.model import Model
from potc.graph.prepare import infer_shapes
from potc.graph.snapshot import take_snapshot
from potc.language.program import Program
from potc.language.resolve import load_rules
from potc.quantize.plan import Plan
from potc.quantize.plan_file import plan_from_json, plan_to_json
from potc.quantize.solve import solve

STATEMENTS = (
    "opset ai.onnx 13 .. 25",
    "feature wide: bool = false",
    "qtype a8 = u8 sym | u8 asym",
    "qtype w8 = i8[-127..127] sym per_channel(out)",
    "accum i16 lanes 2 along (kernel, in) unless wide",
    "accum i32 lanes 1 along (kernel, in)",
    """rule conv {
    match Conv(x, w: const) -> (Relu | Clip)? as y
    quant x: a8, w: w8, y: a8
  }""",
    """rule pointwise {
    match Conv(x, w: const) -> (Relu | Clip)? as y
    require w.shape[2] == 1 and w.shape[3] == 1 else "larger kernels"
    accum i32 lanes 1 along (in)
    quant x, y: u8 asym, w: w8
  }""",
    """rule sum {
    match Add(a: value, b: value) -> Relu? as y
    require stored(a) and stored(b) else "not stored"
    quant a, b: a8, y: a8 | none
  }""",
    """rule gate {
    match Mul(a: value, b: value) as y
    quant a, b, y: u8 asym
    unify a, b
  }""",
    """float sigmoid {
    match Sigmoid as y
    note "a table is too coarse"
  }""",
    "pass MaxPool, Reshape",
    "pass MaxPool where ceil_mode == 1",
    "same_scale Concat",
    "graph input: a8",
    'prefer pointwise over conv because "it adds in 32 bits"',
)
UNARY = ("Relu", "Clip", "Sigmoid", "MaxPool", "Tanh")
SHAPE = (1, 4, 6, 6)


def load(statements: tuple[str, ...]) -> Program:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "device.rules"
        path.write_text("potc 1\nuse std\ndevice d {\n  " + "\n  ".join(statements) + "\n}\n")
        return load_rules(str(path))


@cache
def shuffled_program(seed: int) -> Program:
    """Seed 0: as written."""
    statements = list(STATEMENTS)
    if seed:
        random.Random(seed).shuffle(statements)
    return load(tuple(statements))


# ---------------------------------------------------------------------------------------------- graphs


def build(nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    f32 = onnx.TensorProto.FLOAT
    read = {name for node in nodes for name in node.input}
    outputs = [node.output[0] for node in nodes if node.output[0] not in read]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", f32, SHAPE)],
        [helper.make_tensor_value_info(name, f32, None) for name in outputs],
        [
            helper.make_tensor(name, f32, dims, [0.5] * (dims[0] * dims[1] * dims[2] ** 2))
            for name, dims in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return infer_shapes(Model("model.onnx", model, ())).proto


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """A residual graph without twins: no two nodes have the same operator, attributes and structure above them."""
    tensors: list[tuple[str, object]] = [("input", "input")]
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, tuple[int, ...]] = {}
    seen: set[object] = set()
    for k in range(draw(st.integers(1, 12))):
        op = draw(st.sampled_from(("Conv", "Conv", "Add", "Mul", "Concat", *UNARY)))
        recent = st.sampled_from(tensors[-3:])
        chosen = [draw(recent)] if op in UNARY or op == "Conv" else [draw(recent), draw(recent)]
        size = draw(st.sampled_from((1, 3, 5))) if op == "Conv" else 0
        structure = (op, size, *(s for _, s in chosen))
        if structure in seen:
            continue
        seen.add(structure)
        inputs, attributes = [name for name, _ in chosen], {}
        if op == "Conv":
            weights[f"weight{k}"] = (4, 4, size, size)
            inputs.append(f"weight{k}")
            attributes = {"pads": [size // 2] * 4}
        elif op == "MaxPool":
            attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        elif op == "Concat":
            attributes = {"axis": 0}
        nodes.append(helper.make_node(op, inputs, [f"tensor{k}"], name=f"node{k}", **attributes))
        if op != "Concat":  # its result has another shape: what follows is a model output
            tensors.append((f"tensor{k}", structure))
    return build(nodes, weights)


def plan_of(model: onnx.ModelProto, program: Program) -> Plan:
    return solve(program, take_snapshot(model))


def without_places(plan: Plan) -> str:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if key != "place"}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    text = json.dumps(strip(json.loads(plan_to_json(plan))))
    return re.sub(r"[\w/.-]*\.rules:\d+", "PLACE", text)  # reasons name places too


# ---------------------------------------------------------------------------------------------- files


@given(model=models())
def test_a_plan_survives_its_file(model: onnx.ModelProto) -> None:
    plan = plan_of(model, shuffled_program(0))
    text = plan_to_json(plan)
    assert plan_from_json(text) == plan
    assert plan_to_json(plan_from_json(text)) == text


@cache
def example() -> str:
    convolution = helper.make_node("Conv", ["input", "weight"], ["t"], name="c", pads=[1, 1, 1, 1])
    nodes = [convolution, helper.make_node("Tanh", ["t"], ["y"], name="n")]
    return plan_to_json(plan_of(build(nodes, {"weight": (4, 4, 3, 3)}), shuffled_program(0)))


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, item in inner for p in ((*path, key), *places(item, (*path, key)))]


@pytest.mark.parametrize("change", ["remove", "replace", "add"])
def test_a_plan_file_with_one_wrong_thing_is_refused(change: str) -> None:
    for path in places(json.loads(example())):
        document = json.loads(example())
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        if change == "replace":
            holder[path[-1]] = {"no": "such thing"}
        elif isinstance(holder, list):
            continue  # lists have any length
        elif change == "remove":
            del holder[path[-1]]
        else:
            holder["extra"] = 1
        with pytest.raises(Rejected) as rejected:
            plan_from_json(json.dumps(document))
        assert [d.code for d in rejected.value.diagnostics] == ["invalid-plan"], path


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '"plan"', "{}", '{"potc": "plan"}', "[" * 100_000, '{"a": ' * 100_000, "1" * 5000],
    ids=range(11),
)
def test_text_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(Rejected) as rejected:
        plan_from_json(text)
    assert [d.code for d in rejected.value.diagnostics] == ["invalid-plan"]


@given(cut=st.integers(0, 10_000))
def test_a_plan_file_that_was_cut_is_refused(cut: int) -> None:
    text = example()
    with pytest.raises(Rejected):
        plan_from_json(text[: cut % (len(text) - 1)])


# ---------------------------------------------------------------------------------------------- names and order


def renamed(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *graph.node):
        value.name = names[value.name]
    for node in graph.node:
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    return result


@given(model=models(), seed=st.integers(0, 1000))
def test_names_change_nothing_but_names(model: onnx.ModelProto, seed: int) -> None:
    graph = model.graph
    old = {v.name for v in (*graph.input, *graph.initializer, *graph.node)} | {o for n in graph.node for o in n.output}
    numbers = random.Random(seed).sample(range(1000, 10_000), len(old))
    names = {name: f"v{number}" for name, number in zip(sorted(old), numbers, strict=True)}
    back = {new: name for name, new in names.items()}
    plan = plan_to_json(plan_of(model, shuffled_program(0)))
    again = plan_to_json(plan_of(renamed(model, names), shuffled_program(0)))
    assert re.sub(r"\bv\d{4}\b", lambda m: back[m[0]], again) == plan


@given(model=models(), seed=st.integers(1, 12), order=st.randoms(use_true_random=False))
def test_order_changes_nothing(model: onnx.ModelProto, seed: int, order: random.Random) -> None:
    plan = plan_of(model, shuffled_program(0))
    assert without_places(plan_of(model, shuffled_program(seed))) == without_places(plan)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    order.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert plan_to_json(plan_of(model, shuffled_program(0))) == plan_to_json(plan)


@settings(max_examples=50)
@given(model=models())
def test_every_decision_has_an_origin(model: onnx.ModelProto) -> None:
    program = shuffled_program(0)
    plan = plan_of(model, program)
    rules = {rule.qualified for rule in program.rules}
    for decision in (*plan.quantizers, *plan.constants):
        assert decision.types
        assert decision.origins
        for origin in decision.origins:
            assert origin.rule in rules | {"graph input"}
            assert re.search(r"device\.rules:\d+$", origin.place)
            assert origin.reason
    stored = [tensor for quantizer in plan.quantizers for tensor in quantizer.tensors]
    assert len(stored) == len(set(stored)) == len(plan.insertions)
    covered = [node for kernel in plan.kernels for node in kernel.nodes] + [left.node for left in plan.left]
    assert sorted(covered) == sorted(node.name for node in model.graph.node)
    assert all(left.reasons for left in plan.left)


# ---------------------------------------------------------------------------------------------- which rule wins

BOTH = (
    "opset ai.onnx 13 .. 25",
    'rule first { match Relu(x) as y require x.rank == 4 else "pictures" quant x, y: u8 asym }',
    'rule second { match Relu(x) as y require x.dtype == f32 else "floats" quant x, y: u8 sym }',
)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_rules_that_nothing_orders_are_told_with_both_places(order: tuple[int, ...]) -> None:
    model = build([helper.make_node("Relu", ["input"], ["y"], name="the_node")], {})
    with pytest.raises(Rejected) as rejected:
        plan_of(model, load(tuple(BOTH[k] for k in order)))
    (diagnostic,) = rejected.value.diagnostics
    assert diagnostic.code == "overlapping-rules"
    assert diagnostic.at is not None
    spans = [diagnostic.at, *(related.at for related in diagnostic.related)]
    assert [span.source.text[span.start : span.end].split()[1] for span in spans] == ["first", "second"]
    assert "the_node" in diagnostic.message
    assert diagnostic.help is not None
    assert "prefer first over second" in diagnostic.help


@pytest.mark.parametrize(("winner", "loser"), [("first", "second"), ("second", "first")])
def test_prefer_orders_them(winner: str, loser: str) -> None:
    model = build([helper.make_node("Relu", ["input"], ["y"], name="n")], {})
    plan = plan_of(model, load((*BOTH, f"prefer {winner} over {loser}")))
    assert [kernel.rule for kernel in plan.kernels] == [f"d.{winner}"]

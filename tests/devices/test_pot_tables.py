"""Device files against the hardware tables of the Post-training Optimization Tool, operation by operation.

Each operation type is compiled in its ONNX forms, between convolutions that store 8 or 16 bits and a reader that wants
them; what the rule that took it says of its tensors must equal the table, or be a difference with a reason.

Read with the tables: the tool puts quantizers before readers, rules say what a kernel stores as well; so results are
compared only where the tool has a list for them. A list that begins with the accumulator also says what is stored
where a reader does not take it: the tool leaves that to the runtime.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from pot_tables import DIFFERENCES, FILES, ONNX, TABLES, Difference, Form, Row

from potc.compiler import prepare
from potc.graph.read import read_model
from potc.graph.snapshot import take_snapshot
from potc.language.program import Alternatives, Choice, Program, QType, QuantStatement, Rule
from potc.language.resolve import load_rules
from potc.quantize.plan import Kernel
from potc.quantize.solve import solve

ROWS = [(device, name, entry) for device, table in TABLES.items() for entry in table for name in entry.operations]
ASPECTS = ("kind", "activations", "weights", "outputs", "unified")


@dataclass(frozen=True)
class Found:
    """What a rule file says of one form of an operation. Lists are None where the form has no such tensor."""

    kind: str
    activations: tuple[str, ...] | None = None
    weights: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    unified: str | None = None


@cache
def program(device: str) -> Program:
    return load_rules(FILES[device], device=device)


# ---------------------------------------------------------------------------------------------- what rules say


def spelled(qtype: QType, limits: bool) -> str:
    """A format in the words of the tables. Symmetric: zero point 0, or fixed in the middle of the codes."""
    zero = 0 if qtype.symmetric else qtype.zero_point
    middle = zero is not None and (zero == 0 or zero == (qtype.low + qtype.high + 1) // 2)
    words = [str(qtype.bits), "sym" if middle else "asym", qtype.granularity.value.removeprefix("per_")]
    if limits:
        words.append(f"{qtype.low}..{qtype.high}")
    return " ".join(words)


def listed(types: tuple[QType, ...], like: tuple[str, ...]) -> tuple[str, ...]:
    """Formats in order, each once, with the range of codes where the table has one for that width and mode. Behind the
    accumulator nothing counts."""
    with_limits = {" ".join(text.split()[:3]) for text in like if ".." in text}
    names = tuple(dict.fromkeys(spelled(t, spelled(t, False) in with_limits) for t in types))
    return names[:1] if types and types[0].bits == 32 else names


def branches(choice: Choice) -> tuple[Alternatives, ...]:
    """The branches of a choice, the last one (what holds by default) first."""
    rest = () if choice.otherwise is None else branches(choice.otherwise)
    return (*rest, choice.alternatives)


def types_of(statement: QuantStatement, tensor: str) -> tuple[QType, ...]:
    """Types of a tensor, those of an opposite condition (constant or not) left out."""
    found = branches(statement.choice)
    if len(found) == 2 and "constant" in repr(statement.choice.condition):
        found = found[:1] if tensor != "w" else found[1:]
    return tuple(t for alternatives in found for t in alternatives.types)


def statements(rule: Rule, kernel: Kernel, tensor: str) -> tuple[QuantStatement, ...]:
    names = {name for name, bound in kernel.bindings if bound == tensor}
    return tuple(s for s in rule.quants if s.target in names)


def model_of(form: Form) -> onnx.ModelProto:
    """The form between convolutions, with seeded constants."""
    stored = ", ".join(
        filter(
            None,
            (f"float{form.weight} w" if form.weight else "", form.stored, "float[16,4,1,1] wa, float[16,4,1,1] wb"),
        )
    )
    truth = "l, r" in form.lines or "(l)" in form.lines
    result = "bool[N] z" if form.reader.startswith("z = Not") else "float[N] z" if form.reader else "float[N] y"
    others = ", float[N] z2" if "z2" in form.lines else ""
    inputs = "bool[1,16,8,8] l, bool[1,16,8,8] r, " if truth else ""
    both = re.search(r"\bb\b", form.lines)
    body = f"a = Conv (x, wa) {'b = Conv (v, wb)' if both else ''} {form.lines} {form.reader}"
    text = f"g ({inputs}float[1,4,8,8] x, float[1,4,8,8] v) => ({result}{others}) <{stored}> {{ {body} }}"
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]>\n{text}')
    generator = np.random.default_rng(7)
    made = {t.name for t in proto.graph.initializer} | {o for n in proto.graph.node for o in n.output}
    for value in [v for v in proto.graph.value_info if v.name not in made]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        array = generator.normal(0, 1, shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, value.name))
        proto.graph.value_info.remove(value)
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(proto)


def found(device: str, entry: Row, form: Form, folder: Path) -> Found:
    """What happens to the node that makes ``y``, and what its rule says of the tensors around it."""
    path = folder / "model.onnx"
    onnx.save(model_of(form), path)
    rules = program(device)
    prepared, _ = prepare(read_model(str(path)), rules)
    plan = solve(rules, take_snapshot(prepared.proto))
    node = next(n.name for n in prepared.proto.graph.node if "y" in n.output)
    kernel = next((k for k in plan.kernels if node in k.nodes), None)
    if kernel is None:
        return Found("float")
    if kernel.rule == f"{device}.pass":
        return Found("pass", unified="all")
    rule = next(r for r in rules.rules if r.qualified == kernel.rule)
    inputs = [t for t in re.findall(r"\b[abcdf]\b(?!\s*=)", form.lines) if statements(rule, kernel, t)]
    activations = {tuple(t for s in statements(rule, kernel, i) for t in types_of(s, i)) for i in inputs}
    assert len(activations) == 1, "all computed inputs of an operation have the same formats"
    names = {s.target for i in inputs for s in statements(rule, kernel, i)}
    unified = "all" if any(names <= set(group) for group in rule.unify) else ""
    weights = tuple(t for s in statements(rule, kernel, "w") for t in types_of(s, "w"))
    outputs = tuple(t for s in statements(rule, kernel, "y") for t in types_of(s, "y"))
    return Found(
        "kernel",
        listed(next(iter(activations)), entry.activations),
        listed(weights, entry.weights) if form.weight else None,
        listed(outputs, entry.outputs) if entry.outputs else None,
        unified if len(inputs) > 1 else None,
    )


def said(device: str, name: str, entry: Row, folder: Path) -> dict[str, str]:
    """Aspect -> what the rule file says, over all forms of the operation."""
    rules = program(device)
    ends = {"Parameter": ("outputs", rules.graph_input), "Result": ("activations", rules.graph_output)}
    if name in ends:
        aspect, alternatives = ends[name]
        return {
            aspect: "float"
            if alternatives is None
            else ", ".join(listed(alternatives.types, entry.activations or entry.outputs))
        }
    if not ONNX[name]:
        return {"kind": "float"}
    answers: dict[str, set[str]] = {}
    for form in ONNX[name]:
        one = found(device, entry, form, folder)
        constant = bool(form.weight) and len(ONNX[name]) > 1 and ONNX[name][0].weight == ""
        if constant:  # an element-wise operator with a constant operand: what the table says of weights
            answers.setdefault("weights", set()).add(", ".join(one.weights) if one.weights else one.kind)
            continue
        answers.setdefault("kind", set()).add(one.kind)
        for aspect in ASPECTS[1:]:
            value = getattr(one, aspect)
            if value is not None:
                answers.setdefault(aspect, set()).add(value if isinstance(value, str) else ", ".join(value))
    return {aspect: " / ".join(sorted(values)) for aspect, values in answers.items()}


def wanted(entry: Row) -> dict[str, str]:
    return {
        "kind": "pass" if entry.passes else "kernel",
        "activations": ", ".join(entry.activations),
        "weights": ", ".join(entry.weights),
        "outputs": ", ".join(entry.outputs),
        "unified": entry.unified,
    }


def differing(device: str, name: str, entry: Row, folder: Path) -> dict[str, str]:
    """Aspect -> what the rule file says where that is not what the table says."""
    ours, table = said(device, name, entry, folder), wanted(entry)
    if ours.get("kind") == "float" and not (set(ours) - {"kind", "weights"}):
        return {"kind": "float"}
    return {
        aspect: value
        for aspect, value in ours.items()
        if value != table[aspect] and not (aspect == "unified" and entry.passes and not entry.unified)
    }


def stated(device: str, name: str) -> dict[str, Difference]:
    return {d.aspect: d for d in DIFFERENCES if device in d.devices.split() and name in d.operations.split()}


@pytest.mark.parametrize(("device", "name", "entry"), ROWS, ids=[f"{d}-{n}" for d, n, _ in ROWS])
def test_rules_say_what_the_table_says(device: str, name: str, entry: Row, tmp_path: Path) -> None:
    ours = differing(device, name, entry, tmp_path)
    assert ours == {aspect: d.ours for aspect, d in stated(device, name).items()}


def test_every_difference_is_of_a_row_and_has_a_reason() -> None:
    rows = {(device, name) for device, name, _ in ROWS}
    for difference in DIFFERENCES:
        assert len(difference.reason.split()) >= 4, difference
        assert difference.aspect in ASPECTS
        for device in difference.devices.split():
            for name in difference.operations.split():
                assert (device, name) in rows, (device, name)


def test_no_operation_has_two_rows_or_is_never_listed() -> None:
    assert {name for _, name, _ in ROWS} == set(ONNX)
    for device, table in TABLES.items():
        names = [name for entry in table for name in entry.operations]
        assert len(names) == len(set(names)), device

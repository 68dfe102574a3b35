"""Sketches match where they should, break what they say, and are the same for equal seeds."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potc.graph.snapshot import take_snapshot
from potc.language.program import Program, Rewrite, Rule
from potc.language.resolve import load_rules
from potc.sketch.common import draw_common
from potc.sketch.constraints import Constraint, constraints
from potc.sketch.draw import Sketch, draw, draw_broken, excluded
from potc.sketch.model import onnx_text
from potc.sketch.oracle import find
from potc.sketch.variants import MOST, variants
from potc.workbench.fuzz import fuzz, judge_broken, name_of, snapshot_of

ROOT = Path(__file__).parents[2]
KINDS = str(Path(__file__).with_name("kinds.rules"))
DEVICES = sorted(p.stem for p in (ROOT / "rules").glob("*.rules") if "\ndevice " in p.read_text())
PER_RULE = 8  # variants and constraints of one rule that one test looks at

# What no graph of small whole-number constants has, or what this search does not find: the number of a variant.
UNDRAWN = {"resize": 1, "detection_tail": 3}


def rules_of(program: Program) -> list[tuple[Program, Rule | Rewrite]]:
    """Each rule once, with the device that states it."""
    found = {str(r.span): (m, r) for m in program.members for r in (*m.rules, *m.rewrites)}
    return list(found.values())


def matches(program: Program, rule: Rule | Rewrite, sketch: Sketch) -> bool:
    return find(program, rule, snapshot_of(sketch), set(sketch.nodes)) is not None


@pytest.mark.parametrize("device", DEVICES)
def test_variants_of_shipped_rules_are_drawn_and_match(device: str) -> None:
    for program, rule in rules_of(load_rules(device)):
        possible = [v for v in variants(rule.pattern) if not excluded(program, rule, v)]
        assert possible, rule.name
        missing: list[str] = []
        for k, variant in enumerate(possible[:: max(1, len(possible) // PER_RULE)]):
            sketch = draw(program, rule, k % 3, variant)
            if sketch is None:
                missing.append(variant.words)
                continue
            onnx.checker.check_model(sketch.model, full_check=True)
            assert matches(program, rule, sketch), f"{rule.name}: {variant.words}"
            assert sketch.variant == variant.words
        assert len(missing) <= UNDRAWN.get(rule.name, 0), f"{rule.name}: {missing}"


def broken(programs: list[Program], count: int) -> list[tuple[Program, Rule | Rewrite, Constraint, int]]:
    """So many constraints, spread evenly over the rules; of a rule that has fewer, each with other seeds."""
    rules = list({str(r.span): (p, r) for program in programs for p, r in rules_of(program)}.values())
    turns = ((p, r, n) for n in itertools.count() for p, r in rules)
    listed = ((p, r, cs[n % len(cs)], n // len(cs)) for p, r, n in turns if (cs := constraints(r)))
    return list(itertools.islice(listed, count))


def test_what_is_broken_is_what_is_told() -> None:
    programs = [load_rules(d) for d in (*DEVICES, KINDS)]
    told: Counter[str] = Counter()
    wrong: list[str] = []
    for program, rule, constraint, seed in broken(programs, 500):
        sketch = draw_broken(program, rule, constraint, seed)
        if sketch is None:
            told["unbroken"] += 1
            continue
        failure = judge_broken(program, rule, constraint, sketch)
        told["named" if failure is None else failure.kind] += 1
        wrong += [] if failure is None else [f"{failure.rule}: {failure.message}\n{failure.graph}"]
    print(dict(told))
    drawn = sum(told.values()) - told["unbroken"]
    assert told["named"] >= 0.95 * drawn, "\n".join(wrong)
    assert not told["matched"], "\n".join(wrong)
    assert told["unbroken"] <= 0.05 * drawn


@pytest.mark.parametrize(
    ("rule", "constraint"),
    [(r, c) for _, r in rules_of(load_rules(KINDS)) for c in constraints(r)],
    ids=lambda x: f"{x.kind} {x.words}" if isinstance(x, Constraint) else name_of(x),
)
def test_every_kind_of_constraint_is_broken(rule: Rule, constraint: Constraint) -> None:
    program = load_rules(KINDS)
    sketch = draw_broken(program, rule, constraint, 0)
    assert sketch is not None
    onnx.checker.check_model(sketch.model, full_check=True)
    assert judge_broken(program, rule, constraint, sketch) is None
    assert not matches(program, rule, sketch)


def test_the_kinds_are_all_there() -> None:
    found = Counter(c.kind for _, r in rules_of(load_rules(KINDS)) for c in constraints(r))
    wanted = {
        "require",
        "condition",
        "constant",
        "computed",
        "given",
        "same",
        "literal",
        "edge",
        "operator",
        "excluded",
    }
    assert set(found) == wanted


@settings(max_examples=40)
@given(st.integers(0, 1000), st.sampled_from([r.name for r in load_rules(KINDS).rules]))
def test_equal_seeds_give_equal_bytes(seed: int, name: str) -> None:
    program = load_rules(KINDS)
    rule = next(r for r in program.rules if r.name == name)
    first, second = draw(program, rule, seed), draw(program, rule, seed)
    assert first is not None
    assert second is not None
    assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(deterministic=True)
    assert matches(program, rule, first)
    assert (first.nodes, dict(first.bindings)) == (second.nodes, dict(second.bindings))


def test_seeds_differ() -> None:
    program = load_rules("cpu")
    conv = next(r for r in program.rules if r.name == "conv")
    drawn = [draw(program, conv, seed, variants(conv.pattern)[0]) for seed in range(8)]
    assert len({onnx_text(s.model) for s in drawn if s is not None}) >= 6


def test_text_is_what_tests_of_rules_take() -> None:
    program = load_rules("cpu")
    for rule in (*program.rules, *program.rewrites):
        sketch = draw(program, rule, 1)
        assert sketch is not None
        graph = onnx.parser.parse_graph(
            onnx_text(sketch.model).split(">\n", 1)[-1]
            if onnx_text(sketch.model).startswith("<opset")
            else onnx_text(sketch.model)
        )
        assert [n.op_type for n in graph.node] == [n.op_type for n in sketch.model.graph.node]
        assert [len(n.input) for n in graph.node] == [len(n.input) for n in sketch.model.graph.node]


def test_variants_are_bounded_and_simplest_first() -> None:
    for _, rule in rules_of(load_rules("gpu")):
        sizes = [len(v.patterns) for v in variants(rule.pattern)]
        assert sizes == sorted(sizes)
        assert len(sizes) == len(set(variants(rule.pattern))) <= MOST


# ---------------------------------------------------------------------------------------------- two rules at once


def test_the_smallest_common_graph_of_two_rules() -> None:
    program = load_rules("cpu")
    by_name = {r.name: r for r in (*program.rules, *program.rewrites)}
    sketch = draw_common(program, by_name["conv"], by_name["depthwise"])
    assert sketch is not None
    assert len(sketch.nodes) == 1
    snapshot = take_snapshot(sketch.model)
    assert all(d == 1 for shape in snapshot.shapes for d in (shape or ())[2:])
    assert draw_common(program, by_name["conv"], by_name["gemm"]) is None
    assert draw_common(program, by_name["gemm"], by_name["matmul"]) is None
    both = draw_common(program, by_name["matmul"], by_name["matmul_add_to_gemm"])
    assert both is not None
    assert [n.op_type for n in both.model.graph.node] == ["MatMul", "Add"]


@pytest.mark.parametrize(
    ("first", "second", "operators"),
    [
        ("Conv(x, w: const) -> Relu? as y", "any(Conv, Gemm)(x, w) -> (Relu | Tanh) as y", ["Conv", "Relu"]),
        ("{ a = Mul(x, 0.5)  y = Add(a, 1) }", "{ a = Mul(x, z: const)  y = Add(v: const, a) }", ["Mul", "Add"]),
        ("Add(x, x) as y", "Add(a: value, b: value) as y", ["Add"]),
        ("Conv(x, w: const) as y", "Conv(x, w: value) as y", None),
        ("Mul(x, 0.5) as y", "Mul(x, 0.25) as y", None),
        ("Conv(x, w) -> Relu as y", "Conv(x, w) -> not Relu -> any(Relu, Tanh) as y", None),
        (
            "{ a = Relu(x)  b = Tanh(x)  y = Add(a, b) }",
            "{ b = Tanh(x)  a = Relu(v)  y = Add(b, a) }",
            ["Relu", "Tanh", "Add"],
        ),
        ("Relu(x) ~> Mul(x, prev) as y", "{ a = Relu(x)  y = Mul(z, a) }", ["Relu", "Mul"]),
    ],
)
def test_common_graphs(first: str, second: str, operators: list[str] | None, tmp_path: Path) -> None:
    path = tmp_path / "device.rules"
    rules = "\n".join(f"  float r{k} {{ match {p} }}" for k, p in enumerate((first, second)))
    path.write_text(f"potc 1\nuse std\ndevice d {{\n  opset ai.onnx 13 .. 22\n{rules}\n}}\n")
    program = load_rules(str(path))
    sketch = draw_common(program, *program.rules)
    if operators is None:
        assert sketch is None
        return
    assert sketch is not None
    assert sorted(n.op_type for n in sketch.model.graph.node) == sorted(operators)
    assert all(matches(program, rule, sketch) for rule in program.rules)


# ---------------------------------------------------------------------------------------------- fuzzing


def test_shipped_rules_do_what_they_say() -> None:
    program = load_rules("cpu")
    report = fuzz(program, 60, 3)
    assert report.failures == ()
    assert report.matched == 60
    assert report.named == report.broken
    assert fuzz(program, 20, 3) == fuzz(program, 20, 3)


def test_rules_that_can_not_match_or_overlap_are_told(tmp_path: Path) -> None:
    path = tmp_path / "device.rules"
    path.write_text(
        "potc 1\nuse std\ndevice d {\n  opset ai.onnx 13 .. 22\n"
        "  rule never { match Relu(x) as y   require x.rank == 2 and x.rank == 3   quant x, y: u8 asym }\n"
        "  rule one { match Tanh(x) as y   require x.rank >= 2   quant x, y: u8 asym }\n"
        "  rule two { match any(Tanh, Erf)(x) as y   require x.rank <= 4   quant x, y: u8 asym }\n}\n"
    )
    report = fuzz(load_rules(str(path)), 9, 0)
    found = {(f.rule, f.kind) for f in report.failures}
    assert ("d.never", "undrawn") in found
    assert ("d.one", "overlapping") in found

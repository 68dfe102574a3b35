"""What is carried over from a node to others of the same look is what the matcher finds there."""

from __future__ import annotations

import onnx
from hypothesis import given, settings
from test_matching import models, program

from potc.graph.snapshot import take_snapshot
from potc.language.resolve import load_rules
from potc.match.alike import sees_only_looks
from potc.match.cover import Finder, is_late
from potc.match.environment import Scope
from potc.match.match import Matcher


def found(program, model: onnx.ModelProto) -> tuple[set[object], set[object]]:
    """Candidates by looks, and node by node."""
    snapshot = take_snapshot(model)
    by_looks = {
        (c.rule.qualified, c.match.nodes, tuple(sorted(c.match.bindings.items())), c.match.result)
        for c in Finder(program, snapshot).candidates()
    }
    one_by_one: set[object] = set()
    for rule in program.rules:
        early = tuple(r for r in rule.requires if not is_late(r))
        matcher = Matcher(rule.pattern, early, snapshot, Scope.of(program), program.signatures)
        for node in range(len(snapshot.ops)):
            if snapshot.ops[node] in matcher.anchor_ops:
                for m in matcher.matches(node):
                    one_by_one.add((rule.qualified, m.nodes, tuple(sorted(m.bindings.items())), m.result))
    return by_looks, one_by_one


@settings(max_examples=150)
@given(models())
def test_looks_change_no_match(model: onnx.ModelProto) -> None:
    by_looks, one_by_one = found(program(), model)
    assert by_looks == one_by_one


@settings(max_examples=60)
@given(models())
def test_looks_change_no_match_of_a_device(model: onnx.ModelProto) -> None:
    by_looks, one_by_one = found(load_rules("cpu"), model)
    assert by_looks == one_by_one


def test_most_rules_see_only_looks() -> None:
    rules = load_rules("cpu").rules
    kernels = [r for r in rules if not r.is_float]
    plain = [r for r in kernels if sees_only_looks(r.pattern, tuple(q for q in r.requires if not is_late(q)))]
    assert len(plain) > len(kernels) / 2

"""Which rule implies which, and which can't meet: proofs compared with the matcher on many graphs."""

from __future__ import annotations

import itertools
from functools import cache

import onnx
from hypothesis import given, settings
from test_matching import models, program

from potc.graph.snapshot import take_snapshot
from potc.language.precedence import Forest, implies, shared_form
from potc.match.cover import Finder


@cache
def proofs() -> tuple[frozenset[tuple[str, str]], frozenset[tuple[str, str]]]:
    """Pairs of rules by name: those of which the first implies the second, and those that are kept apart."""
    forest = Forest(program())
    implied, apart = set[tuple[str, str]](), set[tuple[str, str]]()
    for a, b in itertools.permutations(program().rules, 2):
        if implies(a, b, forest):
            implied.add((a.qualified, b.qualified))
        if a.qualified < b.qualified and next(shared_form(a, b, forest), None) is None:
            apart.add((a.qualified, b.qualified))
    return frozenset(implied), frozenset(apart)


def test_there_is_something_to_prove() -> None:
    implied, apart = proofs()
    rules = len(program().rules)
    assert len(implied) >= 5
    assert 100 < len(apart) < rules * (rules - 1) / 2


@settings(max_examples=200)
@given(models())
def test_proofs_hold_on_graphs(model: onnx.ModelProto) -> None:
    implied, apart = proofs()
    covered: dict[str, set[frozenset[int]]] = {}
    for candidate in Finder(program(), take_snapshot(model)).candidates():
        covered.setdefault(candidate.rule.qualified, set()).add(frozenset(candidate.match.nodes))
    for a, b in implied:
        assert covered.get(a, set()) <= covered.get(b, set()), (a, b)
    for a, b in apart:
        assert not covered.get(a, set()) & covered.get(b, set()), (a, b)

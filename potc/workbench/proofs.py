"""What `potc check` says of rules only with models at hand: a graph that two rules both match, rules that match nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx

from potc.compiler import prepare
from potc.diagnostics.diagnostic import Diagnostic, Severity, reject
from potc.diagnostics.source import Span
from potc.graph.snapshot import take_snapshot
from potc.graph.widen import read_runnable
from potc.language.precedence import Forest, Shared, shared_form
from potc.language.program import (
    Arg,
    Capture,
    Kind,
    Literal,
    Pattern,
    PatternNode,
    Program,
    Require,
    Result,
    Rule,
)
from potc.language.satisfy import ABSENT
from potc.language.scope import names_in
from potc.match.cover import Finder
from potc.sketch.draw import draw, onnx_text

SEEDS = 3
MAX_FORMS = 4  # pairs of forms that are drawn


def find_common(program: Program, a: Rule, b: Rule) -> str | None:
    """The smallest model found on which two rules match the same nodes, as ONNX text; None where none is found."""
    forest = Forest(program)
    for number, shared in enumerate(shared_form(a, b, forest)):
        if number >= MAX_FORMS:
            break
        pattern = _pattern(shared)
        both = replace(a, pattern=pattern, requires=_requires(shared, pattern))
        for seed in range(SEEDS):
            sketch = draw(program, both, seed)
            if sketch is not None and _meet(program, a, b, sketch.model):
                return onnx_text(sketch.model)
    return None


def _meet(program: Program, a: Rule, b: Rule, model: onnx.ModelProto) -> bool:
    """True if both rules really match the same nodes of a model."""
    covered: dict[str, set[frozenset[int]]] = {a.qualified: set(), b.qualified: set()}
    for candidate in Finder(program, take_snapshot(model)).candidates():
        if candidate.rule.qualified in covered:
            covered[candidate.rule.qualified].add(frozenset(candidate.match.nodes))
    return bool(covered[a.qualified] & covered[b.qualified])


def _pattern(shared: Shared) -> Pattern:
    """What both forms want of nodes and inputs, as lines."""
    found = shared.tensors
    back = {i: j for j, i in shared.placement.spot.items()}
    nodes: list[PatternNode] = []
    for i, mine in enumerate(shared.a.spots):
        theirs = shared.b.spots[back[i]]
        args: list[Arg] = []
        for port in range(max(len(mine.args), len(theirs.args))):
            other = theirs.arg(shared.placement.port(i, port))
            if isinstance(other, Result):
                other = replace(other, node=shared.placement.spot[other.node])
            args.append(_both(mine.arg(port), other, found.find(f"i{i}_{port}"), mine.span))
        nodes.append(PatternNode(shared.operators[i], tuple(args), (), f"o{i}", mine.span))
    return Pattern(tuple(nodes), (), f"o{len(nodes) - 1}", shared.a.spots[0].span)


def _both(mine: Arg | None, theirs: Arg | None, name: str, at: Span) -> Arg:
    """One argument that is as narrow as both."""
    given = [arg for arg in (mine, theirs) if arg is not None]
    for kind in (Result, Literal):
        for arg in given:
            if isinstance(arg, kind):
                return arg
    captures = [arg for arg in given if isinstance(arg, Capture)]
    kinds = [c.kind for c in captures if c.kind is not Kind.ANY]
    optional, variadic = all(c.optional for c in captures), all(c.variadic for c in captures)
    return Capture(name, kinds[0] if kinds else Kind.ANY, optional, variadic, at)


def _requires(shared: Shared, pattern: Pattern) -> tuple[Require, ...]:
    """The conditions of both, but for those that speak of tensors without a name: the matcher has the last word anyway."""
    at = pattern.span
    unnamed = {shared.tensors.find(f"i{i}_{p}") for i, n in enumerate(pattern.nodes) for p in range(len(n.args))}
    unnamed -= {a.name for n in pattern.nodes for a in n.args if isinstance(a, Capture)}
    unnamed = (unnamed | {ABSENT}) - {n.name for n in pattern.nodes}
    conditions = shared.conditions(shared.tensors)
    return tuple(Require(c, None, at) for c in conditions if unnamed.isdisjoint(n.name for n in names_in(c)))


def find_never_fired(programs: Iterable[Program], corpus: tuple[str, ...]) -> Iterator[Diagnostic]:
    """``never-fired`` for each rule of the devices that matches in none of the models.

    ``corpus``: paths of models, or of folders, whose ``.onnx`` files are taken, those of folders below included. Raises
    Rejected where there are none, or one is no model.
    """
    listed = list(programs)
    fired: set[str] = set()
    models = _models(corpus)
    for path in models:
        model = read_runnable(path)
        for program in listed:
            prepared, _ = prepare(model, program)
            candidates = Finder(program, take_snapshot(prepared.proto)).candidates()
            fired.update(c.rule.qualified for c in candidates)
    count = f"{len(models)} model{'s' if len(models) != 1 else ''}"
    rules = {r.qualified: r for p in listed for r in p.rules}
    for name, rule in sorted(rules.items()):
        if name not in fired:
            message = f"`{rule.name}` matches in none of {count}"
            help_ = "look whether its conditions are too narrow, or give models that have its kernel"
            yield Diagnostic("never-fired", message, Severity.WARNING, at=rule.span, label="never matched", help=help_)


def _models(corpus: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for place in corpus:
        path = Path(place)
        found.extend([place] if not path.is_dir() else map(str, sorted(path.rglob("*.onnx"))))
    if not found:
        places = ", ".join(f"`{p}`" for p in corpus)
        raise reject(
            "missing-file", f"there is no model in {places}", help="give a folder with .onnx files", exit_code=2
        )
    return found

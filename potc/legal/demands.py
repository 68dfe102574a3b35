"""One match of one rule in a quantized model: is it a kernel on integers, and if not, which demand is not met?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from potc.diagnostics.diagnostic import Related
from potc.diagnostics.source import Span
from potc.language.lattice import spell
from potc.language.program import Choice, Granularity, QuantStatement, Rule
from potc.legal.sites import Site, Sites
from potc.legal.stored import CLOSE, Stored, why_not_allowed
from potc.match.cover import Candidate, is_late
from potc.match.environment import MatchEnvironment, axis_of
from potc.match.found import Bound
from potc.match.truth import is_true, why_not
from potc.quantize.constants import choose_branch, lanes_of
from potc.quantize.narrow import unsafe_groups

ACTIVATION_SPAN = 255


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a match is no kernel on integers here."""

    code: str
    message: str
    at: Span
    site: Site | None = None
    related: tuple[Related, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """A match with what it would explain, and what is wrong with it."""

    candidate: Candidate
    sites: frozenset[Site]
    problems: tuple[Problem, ...]


def may_be_kernel(candidate: Candidate, sites: Sites, floats: Mapping[int, Rule]) -> bool:
    """No float statement, none of its inner edges quantized, no node that a float statement wins."""
    rule, match = candidate.rule, candidate.match
    if rule.is_float or rule.keep or not floats.keys().isdisjoint(match.nodes):
        return False
    inside = set(match.nodes)
    for node in match.nodes:
        for port, tensor in enumerate(sites.snapshot.inputs[node]):
            inner = tensor >= 0 and sites.snapshot.producer[tensor] in inside
            if inner and ((node, port) in sites.read or tensor in sites.made):
                return False
    return True


def judged(candidate: Candidate, sites: Sites) -> Judged:
    """Every demand of a match, against what is stored there."""
    rule, match = candidate.rule, candidate.match
    environment = MatchEnvironment(sites.snapshot, sites.scope, match.bindings, None)
    problems: list[Problem] = []
    spoken: set[Site] = set()
    for require in rule.requires:
        if is_late(require) and not is_true(require.condition, environment):
            reason = why_not(require.condition, environment)
            words = f"{require.reason} ({reason})" if require.reason else reason
            problems.append(Problem("requirement-violated", words, require.span))
    for statement in rule.quants:
        binding = match.bindings.get(statement.target)
        branch = choose_branch(statement.choice, environment)
        for bound in binding if isinstance(binding, tuple) else (binding,):
            if bound is None:
                continue
            site = sites.of_bound(bound)
            spoken.add(site)
            problems += _stated(candidate, sites, statement, bound, site, branch)
    for node in match.nodes:
        for port in range(len(sites.snapshot.inputs[node])):
            for kind, table in (("read", sites.read), ("constant", sites.constants)):
                site: Site = (kind, node, port)
                if (node, port) in table and site not in spoken:
                    words = f"`{sites.name(sites.snapshot.inputs[node][port])}` is {table[node, port].words()}"
                    words += f", and `{rule.name}` takes it in float"
                    problems.append(Problem("must-stay-float", words, rule.span, site))
    problems += _unified(candidate, sites)
    problems += _saturating(candidate, sites)
    found = frozenset(s for s in spoken if sites.at(s) is not None)
    return Judged(candidate, found, tuple(problems))


def _stated(
    candidate: Candidate,
    sites: Sites,
    statement: QuantStatement,
    bound: Bound,
    site: Site,
    branch: Choice,
) -> Iterator[Problem]:
    """What one `quant` statement says, against what is there."""
    found, name, at = sites.at(site), sites.name(bound.tensor), statement.span
    types, none = branch.alternatives.types, branch.alternatives.none
    if found is None:
        accumulates = any(t.bits >= 32 for t in types) and site[0] != "constant"
        if types and not none and not accumulates:
            wanted = " | ".join(map(spell, types))
            yield Problem("must-be-stored", f"`{name}` is float, and must be {wanted}", at, site)
        return
    if not types:
        yield Problem("must-stay-float", f"`{name}` is {found.words()}, and must be float", at, site)
        return
    axes = {t: _axis(sites, t.axis, bound) for t in types if t.granularity is not Granularity.PER_TENSOR}
    reason = why_not_allowed(found, types, sites.program.interchange, axes)
    if reason:
        yield Problem("format-not-allowed", f"`{name}` is {reason}", at, site)
    elif branch.derived:
        yield from _derived(candidate, sites, statement, branch.derived, bound, site, found)


def _axis(sites: Sites, axis: str | int | None, bound: Bound) -> int | None:
    rank = len(sites.snapshot.shapes[bound.tensor] or ())
    if axis is None or isinstance(axis, int):
        return None if axis is None or not rank else axis % rank
    return axis_of(sites.snapshot, sites.program.signatures, bound.node, bound.port, axis, rank)


def _derived(
    candidate: Candidate,
    sites: Sites,
    statement: QuantStatement,
    derived: tuple[str, ...],
    bound: Bound,
    site: Site,
    found: Stored,
) -> Iterator[Problem]:
    expected = np.ones(())
    for name in derived:
        other = candidate.match.bindings.get(name)
        stored = sites.at(sites.of_bound(other)) if isinstance(other, Bound) else None
        if stored is None:
            return  # told as a value that must be stored
        expected = expected * stored.scale.ravel()
    if found.scale.size not in (1, expected.size) or not np.allclose(found.scale.ravel(), expected, rtol=CLOSE, atol=0):
        factors = " * ".join(f"scale({n})" for n in derived)
        words = f"the scale of `{sites.name(bound.tensor)}` is not {factors}"
        yield Problem("wrong-derived-scale", words, statement.span, site)


def _unified(candidate: Candidate, sites: Sites) -> Iterator[Problem]:
    for group in candidate.rule.unify:
        bounds = [
            b
            for name in group
            for b in bounds_of(candidate, name)
            if not sites.snapshot.is_constant(b.tensor) and sites.at(sites.of_bound(b)) is not None
        ]
        for a, b in pairwise(bounds):
            first, second = sites.at(sites.of_bound(a)), sites.at(sites.of_bound(b))
            if first is not None and second is not None and not first.same_as(second):
                words = f"`{sites.name(a.tensor)}` and `{sites.name(b.tensor)}` must share one scale"
                yield Problem("scales-differ", words, candidate.rule.span, sites.of_bound(b))


def _saturating(candidate: Candidate, sites: Sites) -> Iterator[Problem]:
    """Weights whose products could leave a narrow accumulator."""
    for accumulator in candidate.rule.accumulators:
        if accumulator.lanes < 2:
            continue
        for statement in candidate.rule.quants:
            for bound in bounds_of(candidate, statement.target):
                site = sites.of_bound(bound)
                stored = sites.at(site) if site[0] == "constant" else None
                signature = sites.program.signatures.get(sites.snapshot.ops[bound.node])
                if stored is None or stored.codes is None or signature is None:
                    continue
                if bound.port >= len(signature.inputs) or signature.inputs[bound.port].role != "weight":
                    continue
                rank = stored.codes.ndim
                lanes = lanes_of(accumulator, bound, sites.snapshot, sites.scope, rank)
                zero = stored.zero_point.ravel()[0] if stored.is_per_tensor else 0
                unsafe = unsafe_groups(stored.codes - zero, stored.axis, lanes, ACTIVATION_SPAN)
                if unsafe:
                    words = (
                        f"{unsafe} sums of {lanes.lanes} products of `{sites.name(bound.tensor)}` can leave"
                        f" {lanes.storage}"
                    )
                    yield Problem("saturating-accumulator", words, accumulator.span, site)


def bounds_of(candidate: Candidate, name: str) -> list[Bound]:
    """Where a name of a match is bound: nowhere, once, or several times."""
    binding = candidate.match.bindings.get(name)
    return [b for b in (binding if isinstance(binding, tuple) else (binding,)) if b is not None]

"""Is a quantized model legal on a device? Every quantizer must be one that some kernel of the device asks for.

Quantized tensors are barriers: nothing fuses across them. Of the matches that are left, those are kernels on integers
whose every demand is met; any set of them that explains all quantizers will do, not only the largest. What nothing
explains is told with the rule that came nearest, and what it misses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from potc.diagnostics.diagnostic import Diagnostic, Related
from potc.diagnostics.source import Span
from potc.graph.model import Model
from potc.graph.snapshot import Snapshot, take_snapshot
from potc.language.lattice import spell
from potc.language.program import Choice, Granularity, Program, QuantStatement, Rule
from potc.legal.forms import Annotated, read_quantized
from potc.legal.stored import CLOSE, Stored, why_not_allowed
from potc.match.cover import Candidate, Finder, choose, is_late
from potc.match.environment import MatchEnvironment, Scope, axis_of
from potc.match.joint import ports
from potc.match.match import Bound, is_true, operators_of, why_not
from potc.quantize.constants import choose_branch, lanes_of
from potc.quantize.narrow import unsafe_groups

ACTIVATION_SPAN = 255
SEARCH = 2000  # steps of the search for a cover in one knot of overlapping kernels; real knots need a handful

Site = tuple[str, int, int]  # ("read" | "constant", node, port) or ("made", tensor, -1): where a stored value is met


@dataclass(frozen=True, slots=True)
class Verdict:
    """``violations``: empty if the model is legal. ``kernels``: those found on integers; ``quantizers``: values stored."""

    device: str
    violations: tuple[Diagnostic, ...]
    kernels: int
    quantizers: int


def judge(model: Model, program: Program) -> tuple[Verdict, ...]:
    """One verdict for each device that must accept the model: the parts of a meet, else the device."""
    annotated = read_quantized(model)
    snapshot = take_snapshot(annotated.model.proto)
    return tuple(_Judge.of(annotated, snapshot, part).verdict() for part in program.members)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a match is no kernel on integers here."""

    code: str
    message: str
    at: Span
    site: Site | None = None
    related: tuple[Related, ...] = ()


@dataclass(frozen=True, slots=True)
class _Judged:
    """A match with what it would explain, and what is wrong with it."""

    candidate: Candidate
    sites: frozenset[Site]
    problems: tuple[Problem, ...]


@dataclass(slots=True)
class _Judge:
    annotated: Annotated
    snapshot: Snapshot
    program: Program
    scope: Scope
    made: dict[int, Stored]
    read: dict[tuple[int, int], Stored]
    constants: dict[tuple[int, int], Stored]
    floats: dict[int, Rule] = field(default_factory=dict)
    kept: dict[int, Rule] = field(default_factory=dict)
    found: list[Diagnostic] = field(default_factory=list)

    @staticmethod
    def of(annotated: Annotated, snapshot: Snapshot, program: Program) -> _Judge:
        ids = snapshot.tensor_ids
        nodes = {name: n for n, name in enumerate(snapshot.names)}
        made = {ids[t]: s for t, s in annotated.made.items() if t in ids}
        read = {(nodes[n], p): s for (n, p), s in annotated.read.items() if n in nodes}
        constants = {(nodes[n], p): s for (n, p), s in annotated.constants.items() if n in nodes}
        scope = Scope.of(program, made.__contains__)
        return _Judge(annotated, snapshot, program, scope, made, read, constants)

    def verdict(self) -> Verdict:
        finder = Finder(self.program, self.snapshot)
        candidates = finder.candidates()
        self._keep_floats(candidates)
        judged = [self._judged(c) for c in candidates if self._may_be_kernel(c)]
        legal = [j for j in judged if not j.problems and j.sites]
        chosen = list(_cover(legal))
        explained = {site for j in chosen for site in j.sites} | self._ends()
        passing = self._passing()
        self._forward(passing, explained)
        self._unexplained(finder, judged, explained, passing)
        self._shared_scales(passing)
        for name in self.annotated.integers:
            message = f"`{name}` computes from codes whose scale is not a constant: nothing can be said of it"
            help_ = "quantize with constant scales"
            self.found.append(Diagnostic("unknown-form", message, node=name, help=help_))
        quantizers = len(self._sites())
        return Verdict(self.program.device, tuple(dict.fromkeys(self.found)), len(chosen), quantizers)

    # ------------------------------------------------------------------------------------------ floats

    def _keep_floats(self, candidates: Sequence[Candidate]) -> None:
        """Nodes that `float` statements win, and tensors that they keep, quantized or not."""
        for node, owner in choose(self.program, self.snapshot, candidates).owner.items():
            if owner.rule.is_float:
                self.floats[node] = owner.rule
        for candidate in candidates:
            for name in candidate.rule.keep:
                binding = candidate.match.bindings.get(name)
                for bound in binding if isinstance(binding, tuple) else (binding,):
                    if bound is not None:
                        self.kept[bound.tensor] = candidate.rule
        for tensor, rule in self.kept.items():
            stored = self._stored_anyhow(tensor)
            if stored is not None:
                message = f"`{self._name(tensor)}` is {stored.words()}, and `{rule.name}` keeps it in float"
                self._tell("must-stay-float", message, rule.span, self._maker(tensor))

    def _stored_anyhow(self, tensor: int) -> Stored | None:
        reads = (self.read[r] for r in self.snapshot.consumers[tensor] if r in self.read)
        return self.made.get(tensor) or next(reads, None)

    # ------------------------------------------------------------------------------------------ one match

    def _may_be_kernel(self, candidate: Candidate) -> bool:
        """No float statement, none of its inner edges quantized, no node that a float statement wins."""
        rule, match = candidate.rule, candidate.match
        if rule.is_float or rule.keep or not self.floats.keys().isdisjoint(match.nodes):
            return False
        inside = set(match.nodes)
        for node in match.nodes:
            for port, tensor in enumerate(self.snapshot.inputs[node]):
                inner = tensor >= 0 and self.snapshot.producer[tensor] in inside
                if inner and ((node, port) in self.read or tensor in self.made):
                    return False
        return True

    def _judged(self, candidate: Candidate) -> _Judged:
        rule, match = candidate.rule, candidate.match
        environment = MatchEnvironment(self.snapshot, self.scope, match.bindings, None)
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
                site = self._site(bound)
                spoken.add(site)
                problems += self._stated(candidate, statement, bound, site, branch)
        for node in match.nodes:
            for port in range(len(self.snapshot.inputs[node])):
                for kind, table in (("read", self.read), ("constant", self.constants)):
                    site: Site = (kind, node, port)
                    if (node, port) in table and site not in spoken:
                        words = f"`{self._name(self.snapshot.inputs[node][port])}` is {table[node, port].words()}"
                        words += f", and `{rule.name}` takes it in float"
                        problems.append(Problem("must-stay-float", words, rule.span, site))
        problems += self._unified(candidate)
        problems += self._saturating(candidate)
        sites = frozenset(s for s in spoken if self._at(s) is not None)
        return _Judged(candidate, sites, tuple(problems))

    def _stated(
        self,
        candidate: Candidate,
        statement: QuantStatement,
        bound: Bound,
        site: Site,
        branch: Choice,
    ) -> Iterator[Problem]:
        """What one `quant` statement says, against what is there."""
        found, name, at = self._at(site), self._name(bound.tensor), statement.span
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
        axes = {t: self._axis(t.axis, bound) for t in types if t.granularity is not Granularity.PER_TENSOR}
        reason = why_not_allowed(found, types, self.program.interchange, axes)
        if reason:
            yield Problem("format-not-allowed", f"`{name}` is {reason}", at, site)
        elif branch.derived:
            yield from self._derived(candidate, statement, branch.derived, bound, site, found)

    def _axis(self, axis: str | int | None, bound: Bound) -> int | None:
        rank = len(self.snapshot.shapes[bound.tensor] or ())
        if axis is None or isinstance(axis, int):
            return None if axis is None or not rank else axis % rank
        return axis_of(self.snapshot, self.program.signatures, bound.node, bound.port, axis, rank)

    def _derived(
        self,
        candidate: Candidate,
        statement: QuantStatement,
        derived: tuple[str, ...],
        bound: Bound,
        site: Site,
        found: Stored,
    ) -> Iterator[Problem]:
        expected = np.ones(())
        for name in derived:
            other = candidate.match.bindings.get(name)
            stored = self._at(self._site(other)) if isinstance(other, Bound) else None
            if stored is None:
                return  # told as a value that must be stored
            expected = expected * stored.scale.ravel()
        if found.scale.size not in (1, expected.size) or not np.allclose(
            found.scale.ravel(), expected, rtol=CLOSE, atol=0
        ):
            factors = " * ".join(f"scale({n})" for n in derived)
            words = f"the scale of `{self._name(bound.tensor)}` is not {factors}"
            yield Problem("wrong-derived-scale", words, statement.span, site)

    def _unified(self, candidate: Candidate) -> Iterator[Problem]:
        for group in candidate.rule.unify:
            bounds = [
                b
                for name in group
                for b in _bounds(candidate, name)
                if not self.snapshot.is_constant(b.tensor) and self._at(self._site(b)) is not None
            ]
            for a, b in pairwise(bounds):
                first, second = self._at(self._site(a)), self._at(self._site(b))
                if first is not None and second is not None and not first.same_as(second):
                    words = f"`{self._name(a.tensor)}` and `{self._name(b.tensor)}` must share one scale"
                    yield Problem("scales-differ", words, candidate.rule.span, self._site(b))

    def _saturating(self, candidate: Candidate) -> Iterator[Problem]:
        """Weights whose products could leave a narrow accumulator."""
        for accumulator in candidate.rule.accumulators:
            if accumulator.lanes < 2:
                continue
            for statement in candidate.rule.quants:
                for bound in _bounds(candidate, statement.target):
                    site = self._site(bound)
                    stored = self._at(site) if site[0] == "constant" else None
                    signature = self.program.signatures.get(self.snapshot.ops[bound.node])
                    if stored is None or stored.codes is None or signature is None:
                        continue
                    if bound.port >= len(signature.inputs) or signature.inputs[bound.port].role != "weight":
                        continue
                    rank = stored.codes.ndim
                    lanes = lanes_of(accumulator, bound, self.snapshot, self.scope, rank)
                    zero = stored.zero_point.ravel()[0] if stored.is_per_tensor else 0
                    unsafe = unsafe_groups(stored.codes - zero, stored.axis, lanes, ACTIVATION_SPAN)
                    if unsafe:
                        words = (
                            f"{unsafe} sums of {lanes.lanes} products of `{self._name(bound.tensor)}` can leave"
                            f" {lanes.storage}"
                        )
                        yield Problem("saturating-accumulator", words, accumulator.span, site)

    # ------------------------------------------------------------------------------------------ sites

    def _site(self, bound: Bound) -> Site:
        if bound.port < 0:
            return ("made", bound.tensor, -1)
        return ("constant" if self.snapshot.is_constant(bound.tensor) else "read", bound.node, bound.port)

    def _at(self, site: Site) -> Stored | None:
        kind, first, port = site
        if kind == "made":
            return self.made.get(first)
        return (self.constants if kind == "constant" else self.read).get((first, port))

    def _sites(self) -> list[Site]:
        """Stored values that need a reason: each constant, and each tensor, wherever it is met first."""
        return [
            *(("constant", n, p) for n, p in sorted(self.constants)),
            *(("read", n, p) for n, p in sorted(self.read)),
        ]

    def _name(self, tensor: int) -> str:
        name = self.snapshot.tensors[tensor]
        return self.annotated.names.get(name, name)

    def _maker(self, tensor: int) -> str | None:
        maker = self.snapshot.producer[tensor]
        return self.snapshot.names[maker] if maker >= 0 else None

    def _tell(
        self, code: str, message: str, at: Span | None, node: str | None, related: tuple[Related, ...] = ()
    ) -> None:
        self.found.append(Diagnostic(code, message, at=at, node=node, related=related))

    # ------------------------------------------------------------------------------------------ ends and passes

    def _ends(self) -> set[Site]:
        """What the device says of the model's own inputs and outputs: told if wrong, and what it explains."""
        explained: set[Site] = set()
        snapshot = self.snapshot
        for words, stated, tensors in (
            ("input", self.program.graph_input, snapshot.graph_inputs),
            ("output", self.program.graph_output, snapshot.graph_outputs),
        ):
            for tensor in sorted(tensors) if stated is not None else ():
                if stated is None or not snapshot.is_float(tensor) or tensor in self.kept:
                    continue
                found = self.made.get(tensor)
                if found is None and not stated.none:
                    wanted = " | ".join(map(spell, stated.types))
                    message = f"the model's {words} `{self._name(tensor)}` is float, and must be {wanted}"
                    self._tell("must-be-stored", message, stated.span, self._maker(tensor))
                elif found is not None:
                    reason = why_not_allowed(found, stated.types, self.program.interchange, {})
                    if reason:
                        message = f"the model's {words} `{self._name(tensor)}` is {reason}"
                        self._tell("format-not-allowed", message, stated.span, self._maker(tensor))
                    explained.update(("read", n, p) for n, p in snapshot.consumers[tensor] if words == "input")
                    explained.add(("made", tensor, -1))
        return explained

    def _passing(self) -> dict[int, Span]:
        """Nodes that run on integers because they pass values through, and the statement that says so."""
        found: dict[int, Span] = {}
        for statement in self.program.passes:
            for op in sorted(statement.ops):
                for node in self.snapshot.by_op.get(op, ()):
                    ins, outs = ports(self.snapshot, node)
                    stored = all((node, p) in self.read for p, t in enumerate(self.snapshot.inputs[node]) if t in ins)
                    if not ins or not outs or not stored or all(self._stored_anyhow(t) is None for t in outs):
                        continue  # with one float among them, it runs in float
                    environment = MatchEnvironment(self.snapshot, self.scope, {}, node)
                    if statement.where is None or is_true(statement.where, environment):
                        found.setdefault(node, statement.span)
        return found

    def _forward(self, passing: Mapping[int, Span], explained: set[Site]) -> None:
        """A pass-through node reads stored values for the sake of what it makes, and makes them because of what it reads."""
        snapshot = self.snapshot
        for node in (*sorted(passing, reverse=True), *sorted(passing)):
            outs = ports(snapshot, node)[1]
            reads = [("read", node, p) for p in range(len(snapshot.inputs[node])) if (node, p) in self.read]
            behind = [("made", t, -1) for t in outs] + [
                ("read", n, p) for t in outs for n, p in snapshot.consumers[t] if (n, p) in self.read
            ]
            if any(self._is_explained(s, explained) for s in (*reads, *behind)):
                explained.update(reads)
                explained.update(("made", t, -1) for t in outs)

    def _is_explained(self, site: Site, explained: set[Site]) -> bool:
        """A value is stored once: whoever asks for it explains it for all that read it in this format."""
        if site in explained:
            return True
        kind, first, port = site
        if kind == "constant":
            return False
        tensor = first if kind == "made" else self.snapshot.inputs[first][port]
        mine = self._at(site)
        if ("made", tensor, -1) in explained and tensor in self.made:
            return True
        for reader in self.snapshot.consumers[tensor]:
            other = self.read.get(reader)
            if other is not None and ("read", *reader) in explained and (mine is None or other.same_as(mine)):
                return True
        return False

    def _shared_scales(self, passing: Mapping[int, Span]) -> None:
        """`pass` and `same_scale`: what goes in and out of one node has one scale."""
        groups = [(node, span, "passes values through") for node, span in passing.items()]
        for statement in self.program.same_scale:
            for op in sorted(statement.ops):
                for node in self.snapshot.by_op.get(op, ()):
                    ins, outs = ports(self.snapshot, node)
                    if all(self._stored_anyhow(t) is not None for t in (*ins, *outs)):
                        groups.append((node, statement.span, "has one scale for all it reads and writes"))
        for node, span, words in groups:
            ins, outs = ports(self.snapshot, node)
            met = [s for p in range(len(self.snapshot.inputs[node])) if (s := self.read.get((node, p))) is not None]
            met += [s for t in outs if (s := self._stored_anyhow(t)) is not None]
            if any(not s.same_as(met[0]) for s in met[1:]):
                name, op = self.snapshot.names[node], self.snapshot.ops[node]
                told = ", ".join(dict.fromkeys(s.place for s in met))
                self._tell("scales-differ", f"{op} `{name}` {words}, and {told} differ", span, name)

    # ------------------------------------------------------------------------------------------ what is wrong

    def _unexplained(
        self, finder: Finder, judged: Sequence[_Judged], explained: set[Site], passing: Mapping[int, Span]
    ) -> None:
        told: set[tuple[object, ...]] = set()
        for site in self._sites():
            if self._is_explained(site, explained):
                continue
            for diagnostic in self._reasons(finder, judged, site):
                # What is wrong with a whole kernel is told once, not for each of its tensors.
                whole = diagnostic.code in ("requirement-violated", "no-kernel")
                key = (diagnostic.code, diagnostic.at, diagnostic.node if whole else diagnostic.message)
                if key not in told:
                    told.add(key)
                    self.found.append(diagnostic)

    def _reasons(self, finder: Finder, judged: Sequence[_Judged], site: Site) -> list[Diagnostic]:
        """What the nearest kernel misses; else why no rule matches; else that no rule speaks of it."""
        snapshot = self.snapshot
        kind, first, port = site
        tensor = snapshot.inputs[first][port]
        nodes = {first}
        if kind == "read":
            nodes |= {n for n, _ in snapshot.consumers[tensor]}
            nodes |= {snapshot.producer[tensor]} if snapshot.producer[tensor] >= 0 else set()
        near = [j for j in judged if j.problems and not nodes.isdisjoint(j.candidate.match.nodes)]
        near = [j for j in near if site in j.sites or ("made", tensor, -1) in j.sites] or near
        if near:
            best = min(near, key=lambda j: (len(j.problems), -len(j.candidate.match.nodes), j.candidate.rule.qualified))
            node = snapshot.names[best.candidate.match.nodes[0]]
            return [
                Diagnostic(
                    p.code, f"{p.message} ({best.candidate.rule.qualified})", at=p.at, node=node, related=p.related
                )
                for p in best.problems
            ]
        return [self._no_kernel(finder, site, sorted(nodes))]

    def _no_kernel(self, finder: Finder, site: Site, nodes: Sequence[int]) -> Diagnostic:
        snapshot = self.snapshot
        stored = self._at(site)
        tensor = snapshot.inputs[site[1]][site[2]]
        what = f"`{self._name(tensor)}` is {stored.words() if stored is not None else 'stored'}"
        for node in (site[1], *nodes):
            if node in self.floats:
                rule = self.floats[node]
                message = f"{what}, and `{rule.name}` keeps {snapshot.ops[node]} `{snapshot.names[node]}` in float"
                return Diagnostic("must-stay-float", message, at=rule.span, node=snapshot.names[node])
            misses = finder.near_misses(node)
            if misses:
                rule, trail = max(misses, key=lambda m: (m[1].steps, m[0].qualified))
                message = f"{what}, and no kernel takes {snapshot.ops[node]} `{snapshot.names[node]}`: {trail.reason}"
                return Diagnostic(
                    "requirement-violated",
                    f"{message} ({rule.qualified})",
                    at=trail.at or rule.span,
                    node=snapshot.names[node],
                )
        node = site[1]
        near = next((r for r in self.program.rules if snapshot.ops[node] in operators_of(r.pattern)), None)
        message = f"{what}, and no kernel of `{self.program.device}` reads it at {snapshot.ops[node]} `{snapshot.names[node]}`"
        return Diagnostic("no-kernel", message, at=None if near is None else near.span, node=snapshot.names[node])


def _bounds(candidate: Candidate, name: str) -> list[Bound]:
    binding = candidate.match.bindings.get(name)
    return [b for b in (binding if isinstance(binding, tuple) else (binding,)) if b is not None]


# ---------------------------------------------------------------------------------------------- covers


def _cover(legal: Sequence[_Judged]) -> Iterator[_Judged]:
    """Kernels that share no node and explain as much as all of them together, knot by knot where they overlap."""
    for knot in _knots(legal):
        if len(knot) == 1:
            yield knot[0]
        else:
            yield from _Search(knot).best()


def _knots(legal: Sequence[_Judged]) -> list[list[_Judged]]:
    """Groups of matches that are connected by shared nodes."""
    group_of: dict[int, list[_Judged]] = {}
    for j in legal:
        merged = [j]
        for group in {id(g): g for n in j.candidate.match.nodes if (g := group_of.get(n)) is not None}.values():
            merged += group
        for member in merged:
            group_of.update(dict.fromkeys(member.candidate.match.nodes, merged))
    return list({id(g): g for g in group_of.values()}.values())


@dataclass(slots=True)
class _Search:
    """The best disjoint choice in one knot: site by site, the one with the fewest choices first."""

    knot: list[_Judged]
    steps: int = 0
    most: int = -1
    chosen: tuple[_Judged, ...] = ()

    def best(self) -> tuple[_Judged, ...]:
        self.knot.sort(
            key=lambda j: (-len(j.candidate.match.nodes), j.candidate.match.nodes, j.candidate.rule.qualified)
        )
        self._try((), frozenset(), frozenset(), frozenset(s for j in self.knot for s in j.sites))
        return self.chosen

    def _try(
        self, chosen: tuple[_Judged, ...], used: frozenset[int], done: frozenset[Site], open_: frozenset[Site]
    ) -> None:
        self.steps += 1
        if len(done) > self.most:
            self.most, self.chosen = len(done), chosen
        left = open_ - done
        if not left or self.steps > SEARCH or len(done) + len(left) <= self.most:
            return
        site = min(left, key=lambda s: (sum(s in j.sites for j in self.knot), s))
        for j in self.knot:
            if site in j.sites and used.isdisjoint(j.candidate.match.nodes):
                self._try((*chosen, j), used | set(j.candidate.match.nodes), done | j.sites, open_)
        self._try(chosen, used, done, open_ - {site})

"""Is a quantized model legal on a device? Every quantizer must be one that some kernel of the device asks for.

Quantized tensors are barriers: nothing fuses across them. Of the matches that are left, those are kernels on integers
whose every demand is met; any set of them that explains all quantizers will do, not only the largest. What nothing
explains is told with the rule that came nearest, and what it misses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from potc.diagnostics.diagnostic import Diagnostic, Related
from potc.diagnostics.source import Span
from potc.graph.model import Model
from potc.graph.snapshot import Snapshot, take_snapshot
from potc.language.lattice import spell
from potc.language.program import Program, Rule
from potc.legal.demands import Judged, judged, may_be_kernel
from potc.legal.disjoint import disjoint
from potc.legal.forms import read_quantized
from potc.legal.sites import Site, Sites
from potc.legal.stored import why_not_allowed
from potc.match.cover import Candidate, Finder, choose
from potc.match.environment import MatchEnvironment
from potc.match.joint import ports
from potc.match.pattern_parts import operators_of
from potc.match.truth import is_true
from potc.quantize.borders import with_float_borders


@dataclass(frozen=True, slots=True)
class Verdict:
    """``violations``: empty if the model is legal. ``kernels``: those found on integers; ``quantizers``: values stored."""

    device: str
    violations: tuple[Diagnostic, ...]
    kernels: int
    quantizers: int


def judge(model: Model, program: Program) -> tuple[Verdict, ...]:
    """One verdict for each device that must accept the model: the parts of a meet, else the device."""
    annotated = read_quantized(model.with_proto(with_float_borders(model.proto)))
    snapshot = take_snapshot(annotated.model.proto)
    return tuple(_Judge(Sites.of(annotated, snapshot, part), annotated.integers).verdict() for part in program.members)


@dataclass(slots=True)
class _Judge:
    """One device looks at one model. ``floats``: nodes that float statements win; ``kept``: tensors that they keep."""

    sites: Sites
    integers: tuple[str, ...]
    floats: dict[int, Rule] = field(default_factory=dict[int, Rule])
    kept: dict[int, Rule] = field(default_factory=dict[int, Rule])
    found: list[Diagnostic] = field(default_factory=list[Diagnostic])

    @property
    def snapshot(self) -> Snapshot:
        return self.sites.snapshot

    @property
    def program(self) -> Program:
        return self.sites.program

    def verdict(self) -> Verdict:
        finder = Finder(self.program, self.snapshot)
        candidates = finder.candidates()
        self._keep_floats(candidates)
        tried = [judged(c, self.sites) for c in candidates if may_be_kernel(c, self.sites, self.floats)]
        legal = [j for j in tried if not j.problems and j.sites]
        chosen = list(disjoint(legal))
        explained = {site for j in chosen for site in j.sites} | self._ends()
        passing = self._passing()
        self._forward(passing, explained)
        self._unexplained(finder, tried, explained)
        self._shared_scales(passing)
        for name in self.integers:
            message = f"`{name}` computes from codes whose scale is not a constant: nothing can be said of it"
            help_ = "quantize with constant scales"
            self.found.append(Diagnostic("unknown-form", message, node=name, help=help_))
        quantizers = len(self.sites.all())
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
            stored = self.sites.anyhow(tensor)
            if stored is not None:
                message = f"`{self.sites.name(tensor)}` is {stored.words()}, and `{rule.name}` keeps it in float"
                self._tell("must-stay-float", message, rule.span, self.sites.maker(tensor))

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
                found = self.sites.made.get(tensor)
                if found is None and not stated.none:
                    wanted = " | ".join(map(spell, stated.types))
                    message = f"the model's {words} `{self.sites.name(tensor)}` is float, and must be {wanted}"
                    self._tell("must-be-stored", message, stated.span, self.sites.maker(tensor))
                elif found is not None:
                    reason = why_not_allowed(found, stated.types, self.program.interchange, {})
                    if reason:
                        message = f"the model's {words} `{self.sites.name(tensor)}` is {reason}"
                        self._tell("format-not-allowed", message, stated.span, self.sites.maker(tensor))
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
                    stored = all(
                        (node, p) in self.sites.read for p, t in enumerate(self.snapshot.inputs[node]) if t in ins
                    )
                    if not ins or not outs or not stored or all(self.sites.anyhow(t) is None for t in outs):
                        continue  # with one float among them, it runs in float
                    environment = MatchEnvironment(self.snapshot, self.sites.scope, {}, node)
                    if statement.where is None or is_true(statement.where, environment):
                        found.setdefault(node, statement.span)
        return found

    def _forward(self, passing: Mapping[int, Span], explained: set[Site]) -> None:
        """A pass-through node reads stored values for the sake of what it makes, and makes them because of what it reads."""
        snapshot = self.snapshot
        for node in (*sorted(passing, reverse=True), *sorted(passing)):
            outs = ports(snapshot, node)[1]
            reads = [("read", node, p) for p in range(len(snapshot.inputs[node])) if (node, p) in self.sites.read]
            behind = [("made", t, -1) for t in outs] + [
                ("read", n, p) for t in outs for n, p in snapshot.consumers[t] if (n, p) in self.sites.read
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
        mine = self.sites.at(site)
        if ("made", tensor, -1) in explained and tensor in self.sites.made:
            return True
        for reader in self.snapshot.consumers[tensor]:
            other = self.sites.read.get(reader)
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
                    if all(self.sites.anyhow(t) is not None for t in (*ins, *outs)):
                        groups.append((node, statement.span, "has one scale for all it reads and writes"))
        for node, span, words in groups:
            ins, outs = ports(self.snapshot, node)
            met = [
                s for p in range(len(self.snapshot.inputs[node])) if (s := self.sites.read.get((node, p))) is not None
            ]
            met += [s for t in outs if (s := self.sites.anyhow(t)) is not None]
            if any(not s.same_as(met[0]) for s in met[1:]):
                name, op = self.snapshot.names[node], self.snapshot.ops[node]
                told = ", ".join(dict.fromkeys(s.place for s in met))
                self._tell("scales-differ", f"{op} `{name}` {words}, and {told} differ", span, name)

    # ------------------------------------------------------------------------------------------ what is wrong

    def _unexplained(self, finder: Finder, tried: Sequence[Judged], explained: set[Site]) -> None:
        told: set[tuple[object, ...]] = set()
        for site in self.sites.all():
            if self._is_explained(site, explained):
                continue
            for diagnostic in self._reasons(finder, tried, site):
                # What is wrong with a whole kernel is told once, not for each of its tensors.
                whole = diagnostic.code in ("requirement-violated", "no-kernel")
                key = (diagnostic.code, diagnostic.at, diagnostic.node if whole else diagnostic.message)
                if key not in told:
                    told.add(key)
                    self.found.append(diagnostic)

    def _reasons(self, finder: Finder, tried: Sequence[Judged], site: Site) -> list[Diagnostic]:
        """What the nearest kernel misses; else why no rule matches; else that no rule speaks of it."""
        snapshot = self.snapshot
        kind, first, port = site
        tensor = snapshot.inputs[first][port]
        nodes = {first}
        if kind == "read":
            nodes |= {n for n, _ in snapshot.consumers[tensor]}
            nodes |= {snapshot.producer[tensor]} if snapshot.producer[tensor] >= 0 else set()
        near = [j for j in tried if j.problems and not nodes.isdisjoint(j.candidate.match.nodes)]
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
        stored = self.sites.at(site)
        tensor = snapshot.inputs[site[1]][site[2]]
        what = f"`{self.sites.name(tensor)}` is {stored.words() if stored is not None else 'stored'}"
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

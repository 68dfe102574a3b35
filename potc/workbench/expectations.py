"""What a test expects, compared with what was found: each `expect` holds, or fails with what is there and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from potc.diagnostics.diagnostic import Diagnostic, Related
from potc.diagnostics.source import Source, Span
from potc.language.operators import suggest
from potc.language.program import Program
from potc.language.syntax import Expect, Test
from potc.quantize.plan import Kernel, Origin
from potc.workbench.found import Found, Stored, Types, gone_by, kernel_of, lists_of, maker_of, owner_of, placed, written


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that does not hold. ``instead``: the statements that would (what `--update` writes), None where
    nobody can say."""

    expect: Expect
    expected: str
    found: str
    reasons: tuple[Origin, ...]
    instead: tuple[str, ...] | None
    code: str = "failed-expectation"
    help: str = "correct the rule or the expectation; `potc test --update` writes what was found"

    def diagnostic(self, title: str, device: str, sources: Mapping[str, Source]) -> Diagnostic:
        """As it is told to people, with the places of the rules that decided."""
        related = [Related(span, f"{r.rule}: {r.reason}") for r in self.reasons for span in _spans(r.place, sources)]
        loose = [f"{r.rule}: {r.reason}" for r in self.reasons if not any(_spans(r.place, sources))]
        message = f"{self.found}, expected {self.expected}" if self.expected else self.found
        return Diagnostic(
            self.code,
            "; ".join((message, *loose)),
            at=self.expect.span,
            label=f'in "{title}" for {device}',
            related=tuple(related),
            help=self.help,
        )


def _spans(place: str, sources: Mapping[str, Source]) -> Iterable[Span]:
    """``a.rules:3, b.rules:5`` as the lines that it names."""
    for entry in place.split(", ") if place else ():
        path, _, line = entry.rpartition(":")
        if path in sources and line.isdigit():
            text = sources[path].line(int(line))
            start = sum(len(row) + 1 for row in sources[path].text.split("\n")[: int(line) - 1])
            blank = len(text) - len(text.lstrip())
            yield Span(sources[path], start + blank, start + len(text))


def judge(test: Test, found: Found) -> tuple[Failure, ...]:
    """All expectations of a test that do not hold, in the order in which they are written."""
    failures: list[Failure] = []
    for expect in test.expects:
        failure = _misnamed(expect, found) or _JUDGES[expect.what](expect, found)
        if failure is not None:
            failures.append(failure)
    return tuple(sorted((*failures, *_untold(test, found, failures)), key=lambda f: f.expect.span.start))


# ---------------------------------------------------------------------------------------------- names


def _misnamed(expect: Expect, found: Found) -> Failure | None:
    """A tensor or rule that there is not: nothing was found, so nothing can be written instead."""
    known = {*found.named, *(t for graph in found.graphs for t in graph.snapshot.tensors)}
    for name in expect.names:
        if name not in known:
            return _no_such(expect, "tensor", name, known)
    if expect.what == "rule":
        rules = _rule_names(found.program)
        if expect.rule not in rules:
            return _no_such(expect, "rule", expect.rule, rules)
    return None


def _no_such(expect: Expect, what: str, name: str, known: Iterable[str]) -> Failure:
    near = suggest(name, tuple(sorted(known)))
    help_ = f"did you mean `{near}`?" if near else f"this test knows: {', '.join(sorted(known))}"
    where = "in the graph of this test" if what == "tensor" else "of the device"
    return Failure(expect, "", f"there is no {what} `{name}` {where}", (), None, "unknown-name", help_)


def _rule_names(program: Program) -> frozenset[str]:
    """Every way to call a rule: alone, with the device that states it, or with the device at hand."""
    names: set[str] = set()
    for part in program.members:
        names |= {f"{part.device}.pass", f"{program.device}.pass"}
        for rule in part.rules:
            names |= {rule.name, rule.qualified, f"{part.device}.{rule.name}"}
    return frozenset(names)


# ---------------------------------------------------------------------------------------------- formats


def _types(expect: Expect, found: Found) -> Failure | None:
    """The tensor is stored in exactly these formats, in this order; `none`: it is not stored."""
    name = expect.names[0]
    listed, none = found.types[expect]
    gone = gone_by(name, found)
    stored = {} if gone is not None else lists_of(name, found)
    if none:
        return None if not stored else _other_types(expect, "none", stored, found)
    wanted = tuple(placed(t, name, found) for t in listed) if gone is None else listed
    return None if wanted in stored else _other_types(expect, written(listed), stored, found)


def _other_types(expect: Expect, expected: str, stored: Mapping[Types, Stored], found: Found) -> Failure:
    name = expect.names[0]
    if not stored:
        reasons, words = _why_not_stored(name, found)
        return Failure(expect, expected, f"`{name}` {words}", reasons, (f"expect {name}: none",))
    told = tuple(dict.fromkeys(o for s in stored.values() for o in s.origins))
    there = [written(s.types) for s in stored.values()]
    others = {
        tuple(placed(t, name, found) for t in types)
        for other, (types, none) in found.types.items()
        if other is not expect and other.names == expect.names and not none
    }
    instead = tuple(f"expect {name}: {written(s.types)}" for types, s in stored.items() if types not in others)
    return Failure(expect, expected, f"`{name}` is stored as {' and as '.join(there)}", told, instead)


def _untold(test: Test, found: Found, failures: Iterable[Failure]) -> Iterable[Failure]:
    """A tensor that is stored in several ways needs an `expect` for each; failed ones have told already."""
    failed = {f.expect for f in failures}
    by_name: dict[str, list[Expect]] = {}
    for expect in test.expects:
        if expect.what == "types" and found.having(expect.names[0]):
            by_name.setdefault(expect.names[0], []).append(expect)
    for name, expects in by_name.items():
        if failed & set(expects):
            continue
        told = {tuple(placed(t, name, found) for t in found.types[e][0]) for e in expects}
        untold = [s for types, s in lists_of(name, found).items() if types not in told]
        if untold:
            reasons = tuple(dict.fromkeys(o for s in untold for o in s.origins))
            also = " and as ".join(written(s.types) for s in untold)
            instead = (_source(expects[-1]), *(f"expect {name}: {written(s.types)}" for s in untold))
            yield Failure(expects[-1], "no other formats", f"`{name}` is also stored as {also}", reasons, instead)


def _source(expect: Expect) -> str:
    return expect.span.source.text[expect.span.start : expect.span.end]


def _why_not_stored(name: str, found: Found) -> tuple[tuple[Origin, ...], str]:
    """Why nothing stores a tensor: it is gone, inside of a kernel, or makers and readers stay in float."""
    gone = gone_by(name, found)
    if gone is not None:
        return (gone,), "is no longer in the graph"
    found = found.home(name)
    snapshot = found.snapshot
    tensor = snapshot.tensor_ids[name]
    nodes = [n for n in (snapshot.producer[tensor], *(c for c, _ in snapshot.consumers[tensor])) if n >= 0]
    owners = {snapshot.names[n]: kernel_of(n, found) for n in nodes}
    kernels = list(owners.values())
    if kernels and kernels[0] is not None and kernels.count(kernels[0]) == len(kernels) > 1:
        return (_of(kernels[0]),), f"is inside of the kernel {kernels[0].rule}"
    left = {left.node: left.reasons for left in found.plan.left}
    reasons = tuple(dict.fromkeys(r for node in owners for r in left.get(node, ())))
    return reasons, "is not stored"


# ---------------------------------------------------------------------------------------------- scales and kernels


def _same_scale(expect: Expect, found: Found) -> Failure | None:
    """All tensors are stored, and some quantizer is common to them."""
    whole = found
    having = [g for g in whole.graphs if all(name in g.snapshot.tensor_ids for name in expect.names)]
    found = having[0] if having else whole.home(expect.names[0])  # scales are shared within one graph
    owners = {name: {i.quantizer for i in found.plan.insertions if i.tensor == name} for name in expect.names}
    if set.intersection(*owners.values()):
        return None
    loose = [name for name in expect.names if not owners[name]]
    groups: dict[int, list[str]] = {}
    for name, quantizers in owners.items():
        for quantizer in quantizers:
            groups.setdefault(quantizer, []).append(name)
    largest = max(groups.values(), key=len, default=[])
    instead = (f"expect same_scale {', '.join(largest)}",) if len(largest) > 1 else ()
    if loose:
        reasons, words = _why_not_stored(loose[0], whole)
        if loose[0] in {c.tensor for c in found.plan.constants}:
            reasons, words = (), "is a constant, which has a scale of its own"
        return Failure(expect, "one scale", f"`{loose[0]}` {words}", reasons, instead)
    told = tuple(dict.fromkeys(o for q in sorted(groups) for o in found.plan.quantizers[q].origins))
    apart = "; ".join(", ".join(f"`{n}`" for n in groups[q]) for q in sorted(groups))
    return Failure(expect, "one scale", f"these have scales of their own: {apart}", told, instead)


def _float(expect: Expect, found: Found) -> Failure | None:
    """No kernel covers the nodes that make these tensors."""
    covered: dict[str, Kernel] = {}
    for name in expect.names:
        made = maker_of(name, found)
        if made is None:
            return _nothing_makes(expect, name, found)
        kernel = kernel_of(made[1], made[0])
        if kernel is not None:
            covered[name] = kernel
    if not covered:
        return None
    name, kernel = next(iter(covered.items()))
    rest = [n for n in expect.names if n not in covered]
    instead = [f"expect float {', '.join(rest)}"] if rest else []
    instead += [f"expect rule {_first(k)} covers {n}" for n, k in covered.items()]
    return Failure(expect, "float", f"`{name}` is made by the kernel {kernel.rule}", (_of(kernel),), tuple(instead))


def _rule(expect: Expect, found: Found) -> Failure | None:
    """One kernel of this rule covers the nodes that make these tensors."""
    makers: dict[str, tuple[Found, int]] = {}
    for name in expect.names:
        made = maker_of(name, found)
        if made is None:
            return _nothing_makes(expect, name, found)
        makers[name] = made
    owners = {name: owner_of(node, graph) for name, (graph, node) in makers.items()}
    if len(set(owners.values())) == 1 and _is_called(expect.rule, next(iter(owners.values())), found):
        return None
    instead: list[str] = []
    for rule, nodes in dict.fromkeys(owners.values()):
        names = ", ".join(n for n, owner in owners.items() if owner == (rule, nodes))
        instead.append(f"expect rule {rule.split(' & ')[0]} covers {names}" if rule else f"expect float {names}")
    expected = f"one kernel of {expect.rule}" if len(expect.names) > 1 else expect.rule
    name = next((n for n, owner in owners.items() if not _is_called(expect.rule, owner, found)), None)
    if name is None:
        there = "; ".join(", ".join(nodes) for _, nodes in dict.fromkeys(owners.values()))
        return Failure(expect, expected, f"these are {len(set(owners.values()))} kernels: {there}", (), tuple(instead))
    rule, nodes = owners[name]
    found_words = f"`{name}` is made by {rule} on {', '.join(nodes)}" if rule else f"`{name}` stays in float"
    return Failure(expect, expected, found_words, _why_other(expect.rule, *makers[name]), tuple(instead))


def _is_called(name: str, owner: tuple[str, tuple[str, ...]], found: Found) -> bool:
    """Is this one of the rules of a kernel? Those of a meet are joined by `&`, and any of them may be named."""
    devices = {part.device for part in found.program.members} | {found.program.device}
    for rule in filter(None, owner[0].split(" & ")):
        bare = rule.split(".")[-1]
        if name in (rule, bare) or (name.split(".")[-1] == bare and name.split(".")[0] in devices and "." in name):
            return True
    return False


def _why_other(rule: str, found: Found, node: int) -> tuple[Origin, ...]:
    """What the wanted rule says of a node, if it says something; else who has it, or all reasons."""
    name = found.snapshot.names[node]
    reasons = next((left.reasons for left in found.plan.left if left.node == name), ())
    told = tuple(r for r in reasons if r.rule.split(".")[-1] == rule.split(".")[-1])
    kernel = kernel_of(node, found)
    return told or ((_of(kernel),) if kernel is not None else reasons)


def _nothing_makes(expect: Expect, name: str, found: Found) -> Failure:
    gone = gone_by(name, found)
    if gone is None:
        words, help_ = "is an input or a weight: no node makes it", "name a tensor that a node makes"
    else:
        words, help_ = "is no longer in the graph", "name a tensor that is left after the rewrites"
    reasons = (gone,) if gone is not None else ()
    return Failure(expect, "", f"`{name}` {words}", reasons, None, "invalid-test", help_)


def _of(kernel: Kernel) -> Origin:
    return Origin(kernel.rule, kernel.place, f"covers {', '.join(kernel.nodes)}")


def _first(kernel: Kernel) -> str:
    return kernel.rule.split(" & ")[0]


def _error(expect: Expect, found: Found) -> Failure:
    """There is a plan, so nothing was rejected."""
    return Failure(expect, expect.rule, "the graph is accepted", (), ())


_JUDGES: Mapping[str, Callable[[Expect, Found], Failure | None]] = {
    "types": _types,
    "same_scale": _same_scale,
    "float": _float,
    "rule": _rule,
    "error": _error,
}

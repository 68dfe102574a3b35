"""What two rule files say differently about a device: statements added, removed and changed. Comments, reasons, places and
the order of statements make no difference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from potc.diagnostics.source import Span
from potc.language.lattice import spell
from potc.language.program import Accumulator, Alternatives, Choice, OpStatement, Program, Rewrite
from potc.language.resolve import canonical
from potc.language.text import text
from potc.workbench.document import load_devices

VERSION = 1
STATED = "stated"  # of what is there or not, and has no more to say


@dataclass(frozen=True, slots=True)
class RuleDifference:
    """``statement``: "rule conv", "pass", ...; ``detail``: the part of it that differs, empty if all of it does. ``a`` and
    ``b``: what each file says (empty: nothing), with the places."""

    device: str
    statement: str
    detail: str
    a: str
    b: str
    place_a: str
    place_b: str


@dataclass(frozen=True, slots=True)
class RulesDiff:
    a: str
    b: str
    differences: tuple[RuleDifference, ...]

    def to_json(self) -> str:
        document = {"potc": "diff-rules", "version": VERSION, **asdict(self)}
        return json.dumps(document, indent=1, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Fact:
    """One thing that a device states: ``meaning`` decides whether two are the same, ``words`` show it."""

    meaning: str
    words: str
    place: str


_Facts = dict[str, dict[str, _Fact]]  # statement -> detail -> fact


def diff_rules(a: str, b: str) -> RulesDiff:
    """Compares all devices of two rule files, by name. Raises Rejected for a file that is not right."""
    mine, theirs = ({p.device: p for p, _ in load_devices(path)} for path in (a, b))
    found: list[RuleDifference] = []
    for device in sorted({*mine, *theirs}):
        x, y = mine.get(device), theirs.get(device)
        if x is None or y is None:
            words = ["" if p is None else _extent(p) for p in (x, y)]
            found.append(RuleDifference(device, f"device {device}", "", words[0], words[1], "", ""))
        elif x.digest != y.digest:
            found += _diff(device, _facts(x), _facts(y))
    return RulesDiff(a, b, tuple(found))


def _extent(program: Program) -> str:
    """What a device holds, in words; a meet has no rules of its own."""
    if program.parts:
        return f"meet of {', '.join(p.device for p in program.parts)}"
    return f"{len(program.rules)} rule{'s' if len(program.rules) != 1 else ''}"


def rule_diff_lines(diff: RulesDiff) -> Iterator[str]:
    """For people: the differences of each device, and a line that counts them."""
    yield f"A  {diff.a}"
    yield f"B  {diff.b}"
    for device in dict.fromkeys(d.device for d in diff.differences):
        found = [d for d in diff.differences if d.device == device]
        yield f"device {device}"
        rows = [(_state(d), " ".join(filter(None, (d.statement, d.detail))), _places(d), _words(d)) for d in found]
        widths = [max(len(row[k]) for row in rows) for k in range(3)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True))
            yield f"  {'  '.join((*cells, row[3]))}".rstrip()
    count = len(diff.differences)
    yield f"{count} difference{'s' if count != 1 else ''}" if count else "no differences"


def _state(difference: RuleDifference) -> str:
    if difference.a and difference.b:
        return "changed"
    return "removed" if difference.a else "added"


def _places(difference: RuleDifference) -> str:
    return " -> ".join(dict.fromkeys(filter(None, (difference.place_a, difference.place_b))))


def _words(difference: RuleDifference) -> str:
    if difference.a and difference.b:
        return f"{difference.a} becomes {difference.b}"
    words = difference.a or difference.b
    return "" if words == STATED else words


def _diff(device: str, a: _Facts, b: _Facts) -> Iterator[RuleDifference]:
    for statement in sorted({*a, *b}):
        mine, theirs = a.get(statement, {}), b.get(statement, {})
        # A rule that only one file has is one difference, however much it says.
        details = [""] if "" in {**mine, **theirs} and not (mine and theirs) else sorted({*mine, *theirs})
        for detail in details:
            x, y = mine.get(detail), theirs.get(detail)
            if x is None or y is None or x.meaning != y.meaning:
                sides = [(f.words, f.place) if f is not None else ("", "") for f in (x, y)]
                yield RuleDifference(device, statement, detail, sides[0][0], sides[1][0], sides[0][1], sides[1][1])


# ---------------------------------------------------------------------------------------------- what a device states


def _facts(program: Program) -> _Facts:
    facts: _Facts = {}
    for part in program.parts:  # of a meet, each device under its own name
        for statement, details in _facts(part).items():
            facts[f"{part.device}: {statement}"] = details
    if program.parts:
        return facts
    for statement, detail, fact in (*_device_facts(program), *_rule_facts(program)):
        facts.setdefault(statement, {})[detail] = fact
    return facts


def _fact(value: object, words: str, span: Span | None = None) -> _Fact:
    return _Fact(canonical(value), words, "" if span is None else span.place)


def _device_facts(program: Program) -> Iterator[tuple[str, str, _Fact]]:
    yield "opset", "", _fact(program.opset, f"{program.opset[0]} .. {program.opset[1]}")
    for domain, versions in program.domains.items():
        yield "opset", domain, _fact(versions, f"{versions[0]} .. {versions[1]}")
    for name, value in program.features.items():
        yield "feature", name, _fact(value, str(value).lower())
    for word, statements in (("pass", program.passes), ("same_scale", program.same_scale)):
        for statement in statements:
            yield from _operators(word, statement)
    for prefer in program.prefers:
        yield "prefer", f"{prefer.winner} over {prefer.loser}", _fact("", STATED, prefer.span)
    for end, stated in (("graph input", program.graph_input), ("graph output", program.graph_output)):
        if stated is not None:
            yield end, "", _fact(stated, _types(stated), stated.span)
    yield from _accumulators("accum", program.accumulators)
    if program.interchange:
        yield "interchange", "", _fact(program.interchange, ", ".join(sorted(program.interchange)))
    if program.requantize:
        yield "requantize", "", _fact(True, STATED)
    for rewrite in program.rewrites:
        yield f"rewrite {rewrite.name}", "", _fact(rewrite, _source(rewrite), rewrite.span)
    for op, signature in sorted(program.signatures.items()):
        yield "op", op, _fact(signature, _flat(signature.span), signature.span)


def _operators(word: str, statement: OpStatement) -> Iterator[tuple[str, str, _Fact]]:
    condition = "" if statement.where is None else f" where {text(statement.where)}"
    for op in sorted(statement.ops):
        yield word, f"{op}{condition}", _fact("", STATED, statement.span)


def _accumulators(statement: str, accumulators: tuple[Accumulator, ...]) -> Iterator[tuple[str, str, _Fact]]:
    for accum in accumulators:
        words = f"{accum.storage} lanes {accum.lanes} along ({', '.join(accum.along)})"
        yield statement, f"accum {words}" if statement != "accum" else words, _fact(accum, STATED, accum.span)


def _rule_facts(program: Program) -> Iterator[tuple[str, str, _Fact]]:
    for rule in program.rules:
        name = f"{'float' if rule.is_float else 'rule'} {rule.qualified}"
        yield name, "", _fact("", _flat(rule.pattern.span), rule.span)
        yield name, "match", _fact(rule.pattern, _flat(rule.pattern.span), rule.pattern.span)
        for require in rule.requires:
            yield name, f"require {text(require.condition)}", _fact("", STATED, require.span)
        for quant in rule.quants:
            yield name, f"quant {quant.target}", _fact(quant.choice, _choice(quant.choice), quant.span)
        for group in rule.unify:
            yield name, f"unify {', '.join(group)}", _fact("", STATED, rule.span)
        if rule.keep:
            yield name, f"keep {', '.join(rule.keep)}", _fact("", STATED, rule.span)
        if rule.speedup != 1.0:
            yield name, "speedup", _fact(rule.speedup, f"{rule.speedup:g}", rule.span)
        if rule.accumulators != program.accumulators:
            yield from _accumulators(name, rule.accumulators)


def _types(stated: Alternatives) -> str:
    return " | ".join((*map(spell, stated.types), *(["none"] if stated.none else [])))


def _choice(choice: Choice) -> str:
    derived = " * ".join(f"scale({t})" for t in choice.derived)
    words = _types(choice.alternatives) + (f" = {derived}" if derived else "")
    if choice.condition is not None:
        words += f" when {text(choice.condition)}"
    return words if choice.otherwise is None else f"{words} else {_choice(choice.otherwise)}"


def _source(rewrite: Rewrite) -> str:
    return _flat(rewrite.pattern.span)


def _flat(span: Span) -> str:
    """What stands at a place, in one line, without its keyword."""
    return " ".join(span.source.text[span.start : span.end].split()).removeprefix("match ")

"""The page of a device that is computed from others: what all of them support, with the formats that all of them allow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

from potc.language import operators
from potc.language.lattice import Ranked, interchanged, listed, meet_ranked, ranked
from potc.language.program import Capture, Choice, Kind, PatternNode, Program, QType, Rule
from potc.workbench.document import (
    Declared,
    Device,
    Floating,
    Kernel,
    Limit,
    Moved,
    Tensor,
    Words,
    edit,
    file_name,
)
from potc.workbench.patterns import Shape, nodes_of, tensors
from potc.workbench.sentences import accumulator, code, condition, spelled
from potc.workbench.sentences import listed as sentence_list

OUTPUT = -1
NO_SHAPE = Shape((), (), (), ())


@dataclass(frozen=True, slots=True)
class _Port:
    """What one device allows for an input (or OUTPUT) of an operator; ``types`` None: it says nothing of it."""

    role: str
    types: Ranked
    none: bool


def describe_meet(path_or_name: str, program: Program, declared: Declared) -> Device:
    """The facts of a device with parts. An operator is supported if every part has a kernel for it, or lets values through."""
    parts = program.parts
    words = Words(program, {})
    kernels: list[Kernel] = []
    floats: list[Floating] = []
    through: list[Moved] = []
    for op in sorted({op for p in parts for op in (*_kernel_ops(p), *_passed(p))}):
        before = len(kernels) + len(through)
        if all(op in _passed(p) for p in parts):
            through.append(Moved((op,), _together(_where(p, op) for p in parts)))
        kernels.extend(_kernels(program, op, floats))
        lacking = [p for p in parts if not _rules(p, op) and op not in _passed(p)]
        if lacking:
            names = sentence_list(code(p.device) for p in lacking)
            floats.append(_floating(program, op, f"{names} can't run it in integers"))
        elif len(kernels) + len(through) == before and not any(op in f.operators for f in floats):
            floats.append(_floating(program, op, "the devices run it under conditions that exclude one another"))
    words.used |= dict.fromkeys((qtype,) for k in kernels for t in k.tensors for qtype in t.types)
    remarks = [r for p in parts for r in _shared(p)]
    return Device(
        name=program.device,
        file=file_name(path_or_name),
        doc=program.doc,
        opset=program.opset,
        parts=tuple(p.device for p in parts),
        features=(),
        formats=words.formats(),
        kernels=tuple(kernels),
        passes=_grouped(through),
        same_scale=(),
        floats=tuple(sorted(floats, key=lambda f: f.operators)),
        accumulators=tuple(f"{code(p.device)}: {accumulator(a)}" for p in parts for a in p.accumulators),
        graph_input="",
        graph_output="",
        remarks=tuple(remarks),
        edits=tuple(edit(r, declared.edits.get(r.name, "")) for r in program.rewrites),
    )


# ---------------------------------------------------------------------------------------------- one operator


def _floating(program: Program, op: str, why: str) -> Floating:
    return Floating(program.device, (op,), NO_SHAPE, (), (), (why,))


def _kernels(program: Program, op: str, floats: list[Floating]) -> Iterator[Kernel]:
    """The meets of one operator: kernels with the same constant inputs meet. None where a part has neither a kernel nor
    lets values through, whatever the node's attributes."""
    parts = program.parts
    through = [p for p in parts if not _rules(p, op) and op in _passed(p) and not _where(p, op)]
    running = [p for p in parts if _rules(p, op)]
    if not running or len(through) + len(running) < len(parts):
        return
    forms = [{_constants(r, op, p) for r in _rules(p, op)} for p in running]
    common = set.intersection(*forms)
    for form in sorted(common, key=sorted) if common else [None]:
        chosen = {p.device: [r for r in _rules(p, op) if form in (None, _constants(r, op, p))] for p in running}
        made = _kernel(program, op, chosen, floats)
        if made is not None:
            yield made


def _constants(rule: Rule, op: str, program: Program) -> frozenset[int]:
    """Inputs that must be constant; biases are constant anyway."""
    roles = tensors(rule.pattern, program.signatures)
    args = enumerate(_head(rule, op).args)
    return frozenset(
        k for k, a in args if isinstance(a, Capture) and a.kind is Kind.CONST and roles.get(a.name) != "bias"
    )


def _head(rule: Rule, op: str) -> PatternNode:
    return next(w.nodes[0] for w in rule.pattern.ways if len(w.nodes) == 1 and op in w.nodes[0].ops)


def _kernel(program: Program, op: str, chosen: Mapping[str, list[Rule]], floats: list[Floating]) -> Kernel | None:
    """One meet of the rules of each device; told as float where no format is left."""
    merged: dict[int, list[tuple[Program, _Port]]] = {}
    for part in program.parts:
        for port, found in _ports(part, op, chosen.get(part.device, [])).items():
            merged.setdefault(port, []).append((part, found))
    found_tensors: list[Tensor] = []
    for port, asked in sorted(merged.items(), key=lambda item: (item[0] == OUTPUT, item[0])):
        lists = [interchanged(p.types, d.interchange) for d, p in asked if p.types or not p.none]
        both: Ranked = reduce(meet_ranked, lists) if lists else ()
        none = all(p.none for _, p in asked)
        types = listed(both)
        if not types and not none and lists:
            devices = sentence_list(code(d.device) for d, _ in asked)
            floats.append(_floating(program, op, f"{devices} have no format of {code(_port_name(op, port))} in common"))
            return None
        shown = spelled(types, none) if types else "float"
        found_tensors.append(Tensor(_port_name(op, port), asked[0][1].role, shown, types, none))
    moving = [p for p in program.parts if p.device not in chosen]
    notes = tuple(f"{code(p.device)} moves values through: input and output share one scale" for p in moving)
    rules = list(chosen.values())
    return Kernel(
        program.device,
        (op,),
        Shape(((op,),), _fused(rules), (), ()),
        tuple(found_tensors),
        _limits(program, op, chosen),
        notes,
    )


def _rules(program: Program, op: str) -> list[Rule]:
    """Kernels of one operator with its chain."""
    return [r for r in program.rules if op in _heads(r)]


def _kernel_ops(program: Program) -> set[str]:
    return {op for r in program.rules for op in _heads(r)}


def _heads(rule: Rule) -> set[str]:
    """What a kernel's match may begin with; nothing for patterns of several operators, which have pages of their own."""
    ways = rule.pattern.ways
    return set() if rule.is_float else {op for w in ways if len(w.nodes) == 1 for op in w.nodes[0].ops}


def _passed(program: Program) -> set[str]:
    return {op for s in program.passes for op in s.ops}


def _where(program: Program, op: str) -> str:
    stated = [s for s in program.passes if op in s.ops]
    if any(s.where is None for s in stated):
        return ""
    return " or ".join(condition(s.where) for s in stated if s.where is not None)


def _together(conditions: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(c for c in conditions if c))


def _grouped(through: Iterable[Moved]) -> tuple[Moved, ...]:
    groups: dict[str, list[str]] = {}
    for item in through:
        groups.setdefault(item.where, []).extend(item.operators)
    return tuple(Moved(tuple(ops), where) for where, ops in sorted(groups.items()))


def _ports(program: Program, op: str, rules: Iterable[Rule]) -> dict[int, _Port]:
    """Inputs by position and OUTPUT -> what any of the rules allows."""
    found: dict[int, list[tuple[str, tuple[QType, ...], bool]]] = {}
    for rule in rules:
        node = _head(rule, op)
        roles = tensors(rule.pattern, program.signatures)
        captured = {a.name for n in _tail_nodes(rule) for a in n.args if isinstance(a, Capture)}
        places = {a.name: k for k, a in enumerate(node.args) if isinstance(a, Capture)}
        for quant in rule.quants:
            if quant.target in captured and quant.target not in places:
                continue  # read by a fused operator
            port = places.get(quant.target, OUTPUT)
            types, none = _flat(quant.choice)
            role = "bias" if quant.derived else roles.get(quant.target, "output")
            found.setdefault(port, []).append((role, types, none))
    return {
        port: _Port(
            entries[0][0],
            ranked(tuple(dict.fromkeys(t for _, types, _ in entries for t in types))),
            any(none for _, _, none in entries),
        )
        for port, entries in found.items()
    }


def _flat(choice: Choice) -> tuple[tuple[QType, ...], bool]:
    types, none = choice.alternatives.types, choice.alternatives.none
    if choice.otherwise is not None:
        more, other = _flat(choice.otherwise)
        types, none = (*types, *more), none or other
    return types, none


def _tail_nodes(rule: Rule) -> Iterable[PatternNode]:
    return list(nodes_of(rule.pattern))[1:]


def _port_name(op: str, port: int) -> str:
    names = operators.port_names(op)
    if names is None:
        return "output" if port == OUTPUT else f"input {port}"
    ins, outs = names
    return outs[0] if port == OUTPUT else ins[min(port, len(ins) - 1)]


def _fused(rules: Iterable[list[Rule]]) -> tuple[str, ...]:
    """Operators that every part may fuse as the first step of the chain."""
    common: set[str] | None = None
    for mine in rules:
        ops = {o for r in mine for o in _first_optional(r)}
        common = ops if common is None else common & ops
    return (f"{' or '.join(sorted(common))} (optional)",) if common else ()


def _first_optional(rule: Rule) -> set[str]:
    """Operators that may follow directly, and read nothing else."""
    ops: set[str] = set()
    for step in rule.pattern.tail:
        if step.negative:
            return ops
        for sequence in step.alternatives:
            node = sequence[0]
            if (
                len(sequence) == 1
                and isinstance(node, PatternNode)
                and not any(isinstance(a, Capture) for a in node.args)
            ):
                ops |= node.ops
        if step.low > 0:
            return ops
    return ops


def _limits(program: Program, op: str, chosen: Mapping[str, list[Rule]]) -> tuple[Limit, ...]:
    """Each limit with the devices that state it or, of several kernels for the operator, the rules."""
    places: dict[Limit, list[str]] = {}
    words = Words(program, {})
    for device, rules in chosen.items():
        for rule in rules:
            captured = enumerate(_head(rule, op).args)
            ports = {a.name: _port_name(op, k) for k, a in captured if isinstance(a, Capture) and not a.variadic}
            for limit in words.limits(rule):
                renamed = Limit(_with_ports(limit.condition, ports), limit.reason)
                places.setdefault(renamed, []).append(device if len(rules) == 1 else rule.qualified)
    return tuple(Limit(f"{sentence_list(map(code, at))}: {x.condition}", x.reason) for x, at in places.items())


def _with_ports(words: str, ports: Mapping[str, str]) -> str:
    """A rule's own names of inputs become those of the operator, which all devices share."""

    def renamed(quoted: re.Match[str]) -> str:
        return re.sub(r"(?<![.\w])[A-Za-z]\w*", lambda name: ports.get(name.group(), name.group()), quoted.group())

    return re.sub(r"`[^`]*`", renamed, words)


def _shared(program: Program) -> Iterable[str]:
    ops = sorted({op for s in program.same_scale for op in s.ops})
    if ops:
        yield f"All inputs and outputs of {sentence_list(ops)} share one scale, because {code(program.device)} asks for it."

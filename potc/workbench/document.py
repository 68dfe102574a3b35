"""What a rule file says of a device, as facts for a page of supported operators. The pages themselves are written elsewhere.

Texts are plain English in which names of rule files and models stand between backquotes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from potc.diagnostics.diagnostic import Diagnostics
from potc.diagnostics.source import Span
from potc.language import syntax
from potc.language.arithmetic import kind
from potc.language.devices import feature_values, inherit
from potc.language.files import Library, read_library
from potc.language.formats import Formats
from potc.language.lattice import spell
from potc.language.program import (
    Alternatives,
    Choice,
    EmitNode,
    OpStatement,
    Program,
    QType,
    Require,
    Rewrite,
    Rule,
)
from potc.language.resolve import choose_device, load_rules
from potc.language.scope import build_scope
from potc.workbench.patterns import Shape, nodes_of, readable, shape, tensors
from potc.workbench.sentences import accumulator, code, condition, listed, number_format, spelled


@dataclass(frozen=True, slots=True)
class Feature:
    """A variant of the device. ``effects``: what changes at the other value of a yes-or-no feature."""

    name: str
    kind: str
    value: str
    doc: str
    effects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Format:
    """A list of formats, fastest first. ``name``: the rule file's own, "" where it is written out in place."""

    name: str
    spelled: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a kernel. ``role``: input, weight, bias or output. ``types`` are all formats, whatever the conditions."""

    name: str
    role: str
    formats: str
    types: tuple[QType, ...]
    none: bool


@dataclass(frozen=True, slots=True)
class Limit:
    """``condition``: what must be true of a match, in words. ``reason``: the file's own words where it is not, or ""."""

    condition: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """One rule. ``operators``: what a match begins with; of a pattern of several operators: all of them, in order."""

    rule: str
    operators: tuple[str, ...]
    shape: Shape
    tensors: tuple[Tensor, ...]
    limits: tuple[Limit, ...]
    notes: tuple[str, ...]

    def of(self, role: str) -> tuple[Tensor, ...]:
        return tuple(t for t in self.tensors if t.role == role)


@dataclass(frozen=True, slots=True)
class Moved:
    """Operators that values pass through, or that share scales. ``where``: the condition in words, "" for none."""

    operators: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Floating:
    """What stays in float. ``keep``: names of the tensors it is about; empty for whole operators."""

    rule: str
    operators: tuple[str, ...]
    shape: Shape
    keep: tuple[str, ...]
    limits: tuple[Limit, ...]
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """A graph edit before quantization. ``operators``: what it matches, in order."""

    name: str
    operators: tuple[str, ...]
    doc: str


@dataclass(frozen=True, slots=True)
class Device:
    """One device, ready to be printed. ``parts``: names of the devices that it is computed from."""

    name: str
    file: str
    doc: str
    opset: tuple[int, int]
    parts: tuple[str, ...]
    features: tuple[Feature, ...]
    formats: tuple[Format, ...]
    kernels: tuple[Kernel, ...]
    passes: tuple[Moved, ...]
    same_scale: tuple[Moved, ...]
    floats: tuple[Floating, ...]
    accumulators: tuple[str, ...]
    graph_input: str
    graph_output: str
    remarks: tuple[str, ...]
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Declared:
    """What resolving leaves behind: names of number formats, what is said of features and of graph edits."""

    names: Mapping[tuple[QType, ...], str] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)
    edits: Mapping[str, str] = field(default_factory=dict)


def load_devices(path_or_name: str, device: str | None = None) -> tuple[tuple[Program, Declared], ...]:
    """All devices of a file that can be compiled for, or the one asked for. Raises Rejected as ``load_rules`` does."""
    if device is not None:
        wanted = (device,)
    else:
        load_rules(path_or_name, externs=None)  # tells a file without devices
        items = read_library(path_or_name).main.items
        own = (i for i in items if isinstance(i, syntax.Device | syntax.DeviceAlgebra))
        wanted = tuple(d.name for d in own if not (isinstance(d, syntax.Device) and d.abstract))
    return tuple((load_rules(path_or_name, device=name, externs=None), declared(path_or_name, name)) for name in wanted)


def declared(path_or_name: str, device: str) -> Declared:
    """Names that the file gives to number formats, and its features. ``device`` must be one of the file's."""
    problems = Diagnostics()
    library: Library = read_library(path_or_name)
    scope = build_scope(library, problems)
    found = choose_device(library, scope, device)
    edits = {name: rewrite.doc for name, rewrite in scope.rewrites.items()}
    if not isinstance(found, syntax.Device):
        return Declared(edits=edits)
    inherited = inherit(scope, found)
    formats = Formats(scope, inherited.qtypes, feature_values(scope, inherited, {}))
    names: dict[tuple[QType, ...], str] = {}
    for name, definition in inherited.qtypes.items():
        names.setdefault(formats.alternatives(definition.types).types, name)
    features = {name: f.doc or _remark_behind(library, f.span) for name, f in inherited.features.items()}
    return Declared(names, features, edits)


def _remark_behind(library: Library, span: Span) -> str:
    """The remark on the line of a statement, behind it."""
    for file in library.files:
        for comment in file.comments:
            between = span.source.text[span.end : comment.span.start]
            if file.source == span.source and not comment.own_line and comment.span.start >= span.end:
                return "" if "\n" in between else comment.text
    return ""


def describe(path_or_name: str, program: Program, declared: Declared) -> Device:
    """The facts of one device that is not computed from others."""
    words = Words(program, declared.names)
    rules = sorted(program.rules, key=lambda r: (_operators(r), r.name))
    kernels = tuple(words.kernel(r) for r in rules if not r.is_float)
    graph = {
        d: "" if found is None else words.alternatives(found)
        for d, found in (("input", program.graph_input), ("output", program.graph_output))
    }
    return Device(
        name=program.device,
        file=file_name(path_or_name),
        doc=program.doc,
        opset=program.opset,
        parts=(),
        features=tuple(_feature(path_or_name, program, n, declared) for n in sorted(program.features)),
        formats=words.formats(),
        kernels=kernels,
        passes=moved(program.passes),
        same_scale=moved(program.same_scale),
        floats=tuple(words.floating(r) for r in rules if r.is_float),
        accumulators=tuple(map(accumulator, program.accumulators)),
        graph_input=graph["input"],
        graph_output=graph["output"],
        remarks=tuple(_remarks(program)),
        edits=tuple(edit(r, declared.edits.get(r.name, "")) for r in program.rewrites),
    )


def operators(item: Kernel | Floating) -> str:
    """The operators of one node side by side, those of a pattern in their order."""
    return (" → " if len(item.shape.heads) > 1 else ", ").join(item.operators)


def float_sentence(d: Device) -> str:
    """What leads to the list of operators that stay in float."""
    reason = "Because of one of its devices:" if d.parts else "By a statement of the rule file:"
    return f"Every operator that this page does not name.{f' {reason}' if d.floats else ''}"


def file_name(path_or_name: str) -> str:
    """The file without its folder, so that a page does not depend on where the file is."""
    return f"{Path(path_or_name).name.removesuffix('.rules')}.rules"


def _operators(rule: Rule) -> tuple[str, ...]:
    heads = shape(rule).heads
    return heads[0] if len(heads) == 1 else tuple(" or ".join(ops) for ops in heads)


@dataclass(slots=True)
class Words:
    """Renders parts of one program. ``used`` collects the lists of formats that were spoken of, in order."""

    program: Program
    names: Mapping[tuple[QType, ...], str]
    used: dict[tuple[QType, ...], None] = field(default_factory=dict)

    def kernel(self, rule: Rule) -> Kernel:
        """A rule that is a kernel."""
        roles = tensors(rule.pattern, self.program.signatures)
        found: list[Tensor] = []
        for quant in rule.quants:
            role = "bias" if quant.derived else roles.get(quant.target, "output")
            formats = self.choice(quant.choice)
            if quant.derived:
                product = " times ".join(f"the scale of {code(d)}" for d in quant.derived)
                formats += f"; its scale is {product}"
            found.append(Tensor(quant.target, role, formats, _all_types(quant.choice), _may_float(quant.choice)))
        notes = [rule.doc, *rule.notes]
        notes += [f"{listed(map(code, group))} share one scale" for group in rule.unify]
        if rule.accumulators != self.program.accumulators:
            notes += map(accumulator, rule.accumulators)
        if rule.speedup != 1:
            notes.append(f"about {rule.speedup:g} times as fast as float")
        return Kernel(
            rule.qualified, _operators(rule), shape(rule), tuple(found), self.limits(rule), tuple(filter(None, notes))
        )

    def floating(self, rule: Rule) -> Floating:
        """A ``float`` statement."""
        why = tuple(filter(None, (rule.doc, *rule.notes)))
        return Floating(rule.qualified, _operators(rule), shape(rule), rule.keep, self.limits(rule), why)

    def limits(self, rule: Rule) -> tuple[Limit, ...]:
        """Conditions on attributes, then requirements."""
        heads = [n for way in rule.pattern.ways for n in way.nodes]
        found = [Limit(condition(c), "") for n in heads for c in n.conditions]
        found += [Limit(f"{op}: {condition(c)}", "") for n in heads for op, c in n.refined]
        found += map(limit, rule.requires)
        return tuple(Limit(readable(rule.pattern, x.condition), x.reason) for x in dict.fromkeys(found))

    def choice(self, choice: Choice) -> str:
        """``a8``, or ``w8 where wide, else w4``."""
        own = self.alternatives(choice.alternatives)
        if choice.condition is None or choice.otherwise is None:
            return own
        return f"{own} where {condition(choice.condition)}, else {self.choice(choice.otherwise)}"

    def alternatives(self, found: Alternatives) -> str:
        """The list's name, or the list."""
        if not found.types:
            return "float"
        self.used[found.types] = None
        name = self.names.get(found.types)
        if name is None:
            return spelled(found.types, found.none)
        return f"{code(name)} or float" if found.none else code(name)

    def formats(self) -> tuple[Format, ...]:
        """All lists spoken of so far: named ones as the file orders them, then others by spelling."""
        order = list(self.names)
        key = sorted(self.used, key=lambda t: (order.index(t) if t in order else len(order), tuple(map(spell, t))))
        return tuple(
            Format(self.names.get(t, ""), tuple(code(spell(q)) for q in t), tuple(map(number_format, t))) for t in key
        )


def _all_types(choice: Choice) -> tuple[QType, ...]:
    later = () if choice.otherwise is None else _all_types(choice.otherwise)
    return tuple(dict.fromkeys((*choice.alternatives.types, *later)))


def _may_float(choice: Choice) -> bool:
    return choice.alternatives.none or (choice.otherwise is not None and _may_float(choice.otherwise))


def limit(require: Require) -> Limit:
    """A requirement."""
    return Limit(condition(require.condition), require.reason or "")


def moved(statements: Iterable[OpStatement]) -> tuple[Moved, ...]:
    """Statements with the same condition together."""
    groups: dict[str, set[str]] = {}
    for statement in statements:
        where = "" if statement.where is None else condition(statement.where)
        groups.setdefault(where, set()).update(statement.ops)
    return tuple(Moved(tuple(sorted(ops)), where) for where, ops in sorted(groups.items()))


def edit(rewrite: Rewrite, doc: str) -> Edit:
    """A graph edit: what is replaced, and what by."""
    operators = tuple(" or ".join(sorted(n.ops)) for n in nodes_of(rewrite.pattern))
    made = [e.op for e in rewrite.emits if isinstance(e, EmitNode)]
    return Edit(rewrite.name, operators, doc or f"becomes {listed(made) or 'constants'}")


def _remarks(program: Program) -> Iterable[str]:
    if program.interchange:
        names = listed(map(code, sorted(program.interchange)))
        yield f"The loader may shift zero points between {names}: both hold the same values."
    if program.requantize:
        yield "Where two kernels agree on no format for a tensor, the device converts between them."


def _feature(path_or_name: str, program: Program, name: str, declared: Declared) -> Feature:
    value = program.features[name]
    effects: tuple[str, ...] = ()
    if isinstance(value, bool):
        settings = {name: "false" if value else "true"}
        other = load_rules(path_or_name, device=program.device, settings=settings, externs=None)
        if other.accumulators != program.accumulators:
            effects = tuple(map(_lower, map(accumulator, other.accumulators)))
    return Feature(name, kind(value), _value(value), declared.features.get(name, ""), effects)


def _value(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].removesuffix(".")

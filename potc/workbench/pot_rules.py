"""A hardware file of POT or NNCF as a rule file: readable, with the place in the JSON behind every statement.

What operation types are in ONNX is data: ``pot_operators.json`` beside this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from textwrap import wrap
from typing import Any

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Severity
from potc.diagnostics.source import Source, Span
from potc.language import operators
from potc.language.format import format_file
from potc.language.lattice import spell
from potc.language.parse import parse
from potc.language.program import INTEGERS, QType
from potc.workbench.pot_formats import qtypes
from potc.workbench.pot_json import Entry, HardwareFile, Named

OPSETS = (13, 25)


@lru_cache(maxsize=1)
def operation_types() -> Mapping[str, Any]:
    """What operation types are in ONNX."""
    text = resources.files("potc.workbench").joinpath("pot_operators.json").read_text(encoding="utf-8")
    return json.loads(text)


def rules_from(hardware: HardwareFile, name: str) -> tuple[str, tuple[Diagnostic, ...]]:
    """The formatted rule file for a device ``name``, and warnings of what was left out or contradicts itself."""
    writer = _Writer(hardware, name, Diagnostics())
    text = "\n".join(writer.lines())
    return format_file(parse(Source(f"{name}.rules", text))), tuple(writer.problems)


@dataclass(frozen=True, slots=True)
class _Form:
    """One rule to be: entries with equal formats, and how their kernels are matched."""

    kind: str
    suffix: str
    args: str
    require: tuple[tuple[str, str], ...]
    quants: tuple[tuple[str, str], ...]
    unify: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class _Group:
    """The operators of one rule, and the entries that they come from. ``types``: operation types."""

    ops: dict[str, str] = field(default_factory=dict)  # operator -> condition
    types: dict[str, Entry] = field(default_factory=dict)


@dataclass(slots=True)
class _Writer:
    hardware: HardwareFile
    name: str
    problems: Diagnostics
    qtypes: dict[str, tuple[QType, ...]] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The JSON file without its folder."""
        return self.hardware.span.source.path.rpartition("/")[2]

    def warn(self, code: str, message: str, at: Span, help_: str) -> None:
        self.problems.add(Diagnostic(code, message, Severity.WARNING, at=at, help=help_))

    def lines(self) -> Iterator[str]:
        for other in self.hardware.others:
            message = f"`{other}` is not carried over: the order of formats in the rules says what comes first"
            self.warn("not-carried-over", message, self.hardware.span, "order the formats of a rule as you want them")
        entries = [*self._known(self._last(self.hardware.entries))]
        groups = self._groups(entries)
        body = [*self._rules(groups), *self._passes(entries, groups)]
        ports = [*self._graph(entries)]
        yield "potc 1"
        yield "use std"
        yield "use prepare"
        yield f"## Imported from {self.file}. The file says what is quantized, not what the kernels fuse behind it:"
        yield "## operators that no rule names stay in float, and no result is stored unless a reader asks for it."
        yield f"device {self.name} {{"
        yield f"opset ai.onnx {OPSETS[0]} .. {OPSETS[1]}"
        yield ""
        yield from (f"qtype {name} = {' | '.join(map(spell, types))}" for name, types in self.qtypes.items())
        yield from ports
        yield from body
        yield "}"

    # ------------------------------------------------------------------------------------------ entries

    def _last(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Of entries for the same nodes the last one, as the tools that read such files do it; others are told."""
        last: dict[tuple[str, str], Entry] = {}
        seen: dict[str, Entry] = {}
        for entry in entries:
            key = (entry.type, self._condition(entry))
            before = last.pop(key, None)
            if before is not None:
                same = (before.formats, before.unify_all, before.unified) == (
                    entry.formats,
                    entry.unify_all,
                    entry.unified,
                )
                what = "says the same" if same else "contradicts it"
                message = (
                    f"{entry.type} is listed twice: line {entry.span.line} {what}, and replaces line {before.span.line}"
                )
                self.warn("repeated-entry", message, entry.span, "remove one of the entries")
            elif entry.type in seen:
                first = seen[entry.type].span.line
                message = (
                    f"{entry.type} is listed twice, with other attributes in line {first}: tools that key entries by type "
                    f"keep the last one only; here each holds under its own condition"
                )
                self.warn("repeated-entry", message, entry.span, "check which of them the device means")
            last[key] = entry
            seen.setdefault(entry.type, entry)
        yield from last.values()

    def _condition(self, entry: Entry) -> str:
        """What the entry's attributes ask of a node; what ONNX has no words for is told."""
        known = operation_types()["conditions"]
        found: list[str] = []
        for name, value in entry.attributes.items():
            condition = known.get(name, {}).get(entry.type, {}).get(value) if isinstance(value, str) else None
            if condition is not None:
                found.append(condition)
            elif name not in operation_types()["silent"]:
                message = f"attribute `{name}` of {entry.type} is not carried over"
                self.warn("not-carried-over", message, entry.span, "add a condition to the rule if the device needs it")
        return " and ".join(found)

    def _known(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            about = operation_types()["operations"].get(entry.type)
            why = "no operation type of this name is known" if about is None else about.get("none")
            if why is not None:
                message = f"{entry.type} is not carried over: {why}"
                self.warn("not-carried-over", message, entry.span, "write a rule for it if the device needs one")
            else:
                yield entry

    def _operators(self, entry: Entry) -> dict[str, str]:
        """Operators of an entry -> condition on a node, "" for none; those of later opsets only are told."""
        about = operation_types()["operations"][entry.type]
        conditions = [c for c in (about.get("when", ""), self._condition(entry)) if c]
        found: dict[str, str] = {}
        for op in about.get("onnx", ()):
            if operators.exists(op, OPSETS):
                found[op] = " and ".join(conditions)
            else:
                low, high = OPSETS
                message = f"{entry.type} is not carried over: {op} is not in every opset of {low} .. {high}"
                self.warn(
                    "not-carried-over", message, entry.span, "narrow the device's `opset` and write a rule for it"
                )
        return found

    # ------------------------------------------------------------------------------------------ rules

    def _groups(self, entries: Sequence[Entry]) -> dict[_Form, _Group]:
        """Entries whose kernels are matched alike and have equal formats make one rule."""
        groups: dict[_Form, _Group] = {}
        for entry in entries:
            about = operation_types()["operations"][entry.type]
            if not entry.quantized or "graph" in about:
                continue
            ops = self._operators(entry)
            forms = 0
            for form in operation_types()["kinds"][about["kind"]]:
                mine = {op: c for op, c in ops.items() if op in form.get("only", ops)}
                made = self._form(entry, about["kind"], form)
                if not mine or made is None:
                    continue
                forms += 1
                # Operators with conditions of their own have a rule of their own.
                key = made if not any(mine.values()) else _Form(entry.type, *_rest(made))
                group = groups.setdefault(key, _Group())
                group.ops |= mine
                group.types[entry.type] = entry
            if ops and not forms:
                message = f"{entry.type} is not carried over: its formats don't say what a kernel reads"
                self.warn("not-carried-over", message, entry.span, "write a rule for it if the device needs one")
        return groups

    def _form(self, entry: Entry, kind: str, form: Mapping[str, Any]) -> _Form | None:
        """How the rule of an entry would read, or None where it quantizes nothing."""
        quants: list[tuple[str, str]] = []
        for role, targets in (("activations", form["activations"]), ("weights", form["weights"])):
            types = self._list(entry, role, form["axis"]) if role in entry.formats and targets else ""
            if types:
                quants.append((", ".join(targets), types))
            elif role == "weights" and targets:
                return None
        if "outputs" in entry.formats:
            stored = self._list(entry, "outputs", None)
            sums = all(f.bits == 32 for named in entry.formats["outputs"] for f in named.formats)
            read = self._list(entry, "activations", None) if sums and "activations" in entry.formats else ""
            stored = " | ".join(filter(None, (stored, read))) if stored else ""  # a sum that no reader takes as it is
            quants += [("y", stored)] if stored else []
        if not quants:
            return None
        unify: list[tuple[str, ...]] = []
        if entry.unify_all:
            unify.append(tuple(f"{t}..." if f"{t}..." in form["args"] else t for t in form["activations"]))
        for group in entry.unified or ():
            names = [form["ports"][i] if i < len(form["ports"]) else None for i in group]
            unify.append(tuple(n for n in names if n is not None))
        shared = tuple(u for u in unify if len(u) > 1 or "..." in "".join(u))
        require = tuple((r[0], r[1]) for r in form.get("require", ()))
        return _Form(kind, form["suffix"], form["args"], require, tuple(quants), shared)

    def _rules(self, groups: Mapping[_Form, _Group]) -> Iterator[str]:
        names: dict[_Form, str] = {}
        for form, group in groups.items():
            names[form] = self._rule_name(form, group, set(names.values()))
        for form, group in groups.items():
            conditions = {c for c in group.ops.values() if c}
            inner = f"[{conditions.pop()}]" if conditions else ""
            ops = list(group.ops)
            head = (ops[0] if len(ops) == 1 else f"any({', '.join(ops)})") + inner
            result = " as y" if any(target == "y" for target, _ in form.quants) else ""
            yield from self._sources(group.types)
            yield f"rule {names[form]} {{"
            yield f"match {head}{_spoken_of(form, inner)}{result}"
            yield from (f'require {condition} else "{reason}"' for condition, reason in form.require)
            yield "quant " + ", ".join(f"{targets}: {types}" for targets, types in form.quants)
            yield from (f"unify {', '.join(group_)}" for group_ in form.unify)
            yield "}"
        yield from self._prefers(groups, names)

    def _rule_name(self, form: _Form, group: _Group, taken: set[str]) -> str:
        first = next(iter(group.types))
        base = (first if len(group.types) == 1 else form.kind) + form.suffix
        base = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", base).lower()
        return next(n for n in (base, *(f"{base}_{k}" for k in range(2, 1000))) if n not in taken)

    def _prefers(self, groups: Mapping[_Form, _Group], names: Mapping[_Form, str]) -> Iterator[str]:
        """The special case wins over the general one, as the tools that read such files choose."""
        for form, group in groups.items():
            for type_ in group.types:
                over = operation_types()["operations"][type_].get("over", ())
                for other, other_group in groups.items():
                    if other != form and set(over) & set(other_group.types):
                        yield f'prefer {names[form]} over {names[other]} because "{type_} is the special case"'

    def _sources(self, types: Mapping[str, Entry]) -> Iterator[str]:
        """Remarks that say where in the JSON the next statement comes from."""
        listed = ", ".join(f"{name} (line {entry.span.line})" for name, entry in types.items())
        yield ""
        yield from (f"# {line}" for line in wrap(f"{self.file}: {listed}", 110))

    # ------------------------------------------------------------------------------------------ pass, graph

    def _passes(self, entries: Sequence[Entry], kernels: Mapping[_Form, _Group]) -> Iterator[str]:
        """Operations without formats: quantizers move through them, unless another operation makes a kernel of their operator."""
        groups: dict[str, _Group] = {}
        every = {
            op: entry for group in kernels.values() for entry in group.types.values() for op in self._always(entry)
        }
        for entry in entries:
            about = operation_types()["operations"][entry.type]
            if entry.quantized or "graph" in about:
                continue
            if about["kind"] not in operation_types()["passing"]:
                message = (
                    f"{entry.type} is not carried over: without formats values would pass through, and it computes"
                )
                self.warn("not-carried-over", message, entry.span, "give it formats, or leave it out")
            else:
                for op, condition in self._operators(entry).items():
                    if op in every:
                        other = every[op]
                        message = (
                            f"{entry.type} is not carried over: both it and {other.type} (line {other.span.line}) are {op}, "
                            f"which has formats there"
                        )
                        self.warn("not-carried-over", message, entry.span, "give both the same formats, or none")
                        continue
                    group = groups.setdefault(condition, _Group())
                    group.ops[op] = condition
                    group.types[entry.type] = entry
        for condition, group in groups.items():
            yield from self._sources(group.types)
            yield f"pass {', '.join(group.ops)}" + (f" where {condition}" if condition else "")

    def _always(self, entry: Entry) -> tuple[str, ...]:
        """Operators of a quantized entry that are its kernel whatever their attributes say."""
        about = operation_types()["operations"][entry.type]
        conditions = (about.get("when", ""), self._condition(entry))
        return () if any(conditions) else tuple(about.get("onnx", ()))

    def _graph(self, entries: Sequence[Entry]) -> Iterator[str]:
        for entry in entries:
            direction = operation_types()["operations"][entry.type].get("graph")
            role = "outputs" if direction == "input" else "activations"
            if direction is not None and role in entry.formats:
                yield from self._sources({entry.type: entry})
                types = self._list(entry, role, None)
                yield f"graph {direction}: {types}" if types else ""

    # ------------------------------------------------------------------------------------------ formats

    def _list(self, entry: Entry, role: str, axis: int | str | None) -> str:
        """The formats of a role as rule text, names where the file has them; what is listed twice is told.

        ``axis``: that of per-channel weights; None for activations, which get one scale: what a file says of
        more is a wish of its tool, and few kernels take them.
        """
        seen: dict[QType, str] = {}
        words: list[str] = []
        if role != "weights" and any(f.per_channel for named in entry.formats[role] for f in named.formats):
            message = (
                f"one scale per channel for {role} of {entry.type} is not carried over: they get one for the tensor"
            )
            self.warn(
                "not-carried-over",
                message,
                entry.span,
                "write `per_channel(channel)` into the rule if the kernel takes several scales",
            )
        for named in entry.formats[role]:
            every = tuple(dict.fromkeys(t for f in named.formats for t in qtypes(f, role, axis)))
            types = tuple(t for t in every if t.storage in INTEGERS)
            for lost in sorted({t.storage for t in every} - {t.storage for t in types}):
                message = f"{role} of {entry.type} in `{lost}` are not carried over: ONNX does not quantize to it"
                self.warn("not-carried-over", message, entry.span, "give another format if none is left")
            label = named.name or "an object in place"
            new = [t for t in types if t not in seen]
            if len(new) < len(types):
                again = spell(next(t for t in types if t in seen))
                message = f"{role} of {entry.type} list `{again}` again, by {label}"
                self.warn("repeated-format", message, entry.span, "remove the repetition; the first place counts")
            seen |= dict.fromkeys(new, label)
            if new:
                words.append(self._word(named, role, axis, types, tuple(new)))
        return " | ".join(words)

    def _word(
        self, named: Named, role: str, axis: int | str | None, types: tuple[QType, ...], new: tuple[QType, ...]
    ) -> str:
        if not named.name or new != types:
            return " | ".join(map(spell, new))
        base = re.sub(r"\W", "_", named.name)
        base = (
            base
            if re.match(r"[A-Za-z]\w*$", base) and not re.fullmatch(r"[iuf]\d+|bf16|none|f8e\w+", base)
            else f"q_{base}"
        )
        along = f"{base}_axis{axis}" if isinstance(axis, int) else f"{base}_{role}"
        for word in (base, along, *(f"{base}_{role}_{k}" for k in range(2, 1000))):
            if self.qtypes.setdefault(word, types) == types:
                return word
        raise AssertionError


def _spoken_of(form: _Form, conditions: str) -> str:
    """The arguments; names that the rule does not use begin with ``_``."""
    texts = (
        conditions,
        *(t for t, _ in form.quants),
        *(c for c, _ in form.require),
        *(n for u in form.unify for n in u),
    )
    used = set(re.findall(r"\w+", " ".join(texts)))
    args = form.args.strip("()").split(", ")
    return f"({', '.join(a if a[0] == '_' or re.split('[^a-z]', a)[0] in used else f'_{a}' for a in args)})"


def _rest(form: _Form) -> tuple[Any, ...]:
    return form.suffix, form.args, form.require, form.quants, form.unify

"""Hardware files of POT and NNCF: JSON with remarks and trailing commas, read with the place of every entry.

The schema: ``target_device``; ``config.quantization``: named number formats, any of whose values may be a list (all
combinations are meant, the first ones first); ``operations``: a list of operation types with ``attributes`` and
``quantization``: formats for ``activations``, ``weights`` and ``outputs``, as names, objects or lists of these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from potc.diagnostics.diagnostic import Rejected, reject
from potc.diagnostics.source import Source, Span

ROLES = ("activations", "weights", "outputs")
MODES = {"symmetric": True, "asymmetric": False}
GRANULARITIES = {"pertensor": False, "perchannel": True}
# Strings are kept, remarks become blanks; the order of the alternatives matters: a remark may look like a string and back.
_REMARK = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.S)
_COMMA = re.compile(r'"(?:[^"\\\n]|\\.)*"|,(?=\s*[}\]])', re.S)


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """One combination. ``levels``: the lowest and the highest code where the file gives them; ``narrow`` None: not said."""

    bits: int
    symmetric: bool
    per_channel: bool
    levels: tuple[int, int] | None
    narrow: bool | None
    shared_zero_point: bool


@dataclass(frozen=True, slots=True)
class Named:
    """A list of formats. ``name``: the file's own, "" for an object in place."""

    name: str
    formats: tuple[NumberFormat, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of ``operations``. ``unified``: groups of input numbers that share scales, None where the file lists none."""

    type: str
    attributes: Mapping[str, Any]
    unified: tuple[tuple[int, ...], ...] | None
    unify_all: bool
    formats: Mapping[str, tuple[Named, ...]]
    quantized: bool
    span: Span


@dataclass(frozen=True, slots=True)
class HardwareFile:
    """A whole file. ``others``: top-level settings that are neither formats nor operations."""

    device: str
    aliases: Mapping[str, tuple[NumberFormat, ...]]
    entries: tuple[Entry, ...]
    others: tuple[str, ...]
    span: Span


def read_hardware(source: Source) -> HardwareFile:
    """The file's content. Raises Rejected(invalid-hardware-file) with the place of what is no such file."""
    text = _plain(source.text)
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        at = min(error.pos, max(0, len(text) - 1)) if isinstance(error, json.JSONDecodeError) else 0
        why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise _invalid(f"this is no JSON: {why}", Span(source, at, at + 1)) from None
    whole = Span(source, 0, min(1, len(text)))
    if not isinstance(document, dict) or not isinstance(document.get("operations"), list):
        raise _invalid("a hardware file is an object with a list `operations`", whole)
    config = document.get("config")
    named = config.get("quantization", {}) if isinstance(config, dict) else {}
    if not isinstance(named, dict):
        raise _invalid("`config.quantization` is an object of named formats", whole)
    reader = _Reader(whole, {})
    for name, value in named.items():
        reader.aliases[name] = reader.combinations(value, name)
    places = _places(text, source)
    if len(places) != len(document["operations"]):
        raise _invalid("`operations` is given twice", whole)
    entries = tuple(reader.entry(value, span) for value, span in zip(document["operations"], places, strict=True))
    others = tuple(k for k in document if k not in ("target_device", "config", "operations"))
    return HardwareFile(str(document.get("target_device") or ""), reader.aliases, entries, others, whole)


def _invalid(message: str, at: Span) -> Rejected:
    help_ = "give a hardware file of POT or NNCF; what it looks like is in docs/reference/cli.md"
    return reject("invalid-hardware-file", message, at=at, help=help_)


def _plain(text: str) -> str:
    """The same text without remarks and without commas before closing brackets: every place stays where it is."""

    def blank(found: re.Match[str]) -> str:
        word = found.group()
        return word if word.startswith('"') else re.sub(r"[^\n]", " ", word)

    return _COMMA.sub(blank, _REMARK.sub(blank, text))


def _places(text: str, source: Source) -> list[Span]:
    """Where the objects of the top-level list ``operations`` are. ``text`` is valid JSON with that list in an object."""
    decoder = json.JSONDecoder()
    space = re.compile(r"[\s:,]*")
    found: list[Span] = []

    def skip(at: int) -> int:
        matched = space.match(text, at)
        return matched.end() if matched else at

    at = skip(text.index("{") + 1)
    while text[at] != "}":
        key, at = decoder.raw_decode(text, at)
        at = skip(at)
        if key != "operations":
            at = skip(decoder.raw_decode(text, at)[1])
            continue
        at = skip(at + 1)
        while text[at] != "]":
            end = decoder.raw_decode(text, at)[1]
            line_end = text.find("\n", at, end)
            found.append(Span(source, at, end if line_end < 0 else line_end))
            at = skip(end)
        at = skip(at + 1)
    return found


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads values and says where one is wrong. ``whole``: the place of the file."""

    whole: Span
    aliases: dict[str, tuple[NumberFormat, ...]]

    def entry(self, value: Any, span: Span) -> Entry:
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise _invalid("an operation is an object with a `type`", span)
        attributes: Any = value.get("attributes") or {}
        quantization: Any = value.get("quantization") or {}
        if not isinstance(attributes, dict) or not isinstance(quantization, dict):
            raise _invalid(f"`attributes` and `quantization` of {value['type']} are objects", span)
        unknown = sorted(set(quantization) - set(ROLES))
        if unknown:
            raise _invalid(f"`quantization` of {value['type']} has no `{unknown[0]}`; it has {', '.join(ROLES)}", span)
        stated = {**{k: v for k, v in value.items() if k in ("unified_scales", "scales")}, **attributes}
        unified: Any = stated.get("unified_scales")
        groups: list[list[int]] | None = unified if _is_groups(unified) else None
        if groups is None and unified not in (None, "all"):
            raise _invalid('`unified_scales` is "all" or a list of lists of input numbers', span)
        formats = {role: tuple(self._named(quantization[role], span)) for role in ROLES if role in quantization}
        return Entry(
            type=value["type"],
            attributes={k: v for k, v in attributes.items() if k not in ("unified_scales", "scales")},
            unified=None if groups is None else tuple(tuple(group) for group in groups),
            unify_all=unified == "all" or stated.get("scales") == "unified",
            formats=formats,
            quantized=bool(formats),
            span=span,
        )

    def _named(self, value: Any, span: Span) -> Iterator[Named]:
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield Named("", self.combinations(item, "the object in place", span))
            elif isinstance(item, str) and item in self.aliases:
                yield Named(item, self.aliases[item])
            else:
                raise _invalid(f"there is no format `{item}` in `config.quantization`", span)

    def combinations(self, value: Any, name: str, span: Span | None = None) -> tuple[NumberFormat, ...]:
        """All combinations of an object whose values may be lists."""
        at = span or self.whole
        if not isinstance(value, dict):
            raise _invalid(f"format `{name}` is no object", at)
        for key in ("bits", "mode", "granularity"):
            if key not in value:
                raise _invalid(f"format `{name}` has no `{key}`", at)
        choices = [v if isinstance(v, list) else [v] for v in value.values()]
        keys = list(value)
        return tuple(self._one(dict(zip(keys, c, strict=True)), name, at) for c in product(*choices))

    def _one(self, value: Mapping[str, Any], name: str, at: Span) -> NumberFormat:
        bits, mode, granularity = value["bits"], value["mode"], value["granularity"]
        if not isinstance(bits, int) or isinstance(bits, bool) or bits not in (2, 4, 8, 16, 32):
            raise _invalid(f"format `{name}` has {bits} bits; there are 2, 4, 8, 16 and 32", at)
        if mode not in MODES or granularity not in GRANULARITIES:
            wrong, known = (mode, MODES) if mode not in MODES else (granularity, GRANULARITIES)
            raise _invalid(f"format `{name}` has `{wrong}` where {' or '.join(known)} stands", at)
        levels = (value.get("level_low"), value.get("level_high"))
        given: tuple[int, int] | None = None
        if levels != (None, None):
            low, high = levels
            if not (isinstance(low, int) and isinstance(high, int) and low < high):
                raise _invalid(f"format `{name}` needs whole numbers `level_low` < `level_high`", at)
            given = (low, high)
        return NumberFormat(
            bits=bits,
            symmetric=MODES[mode],
            per_channel=GRANULARITIES[granularity],
            levels=given,
            narrow=value.get("narrow_range"),
            shared_zero_point=value.get("unified_zeropoint") is True,
        )


def _is_groups(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(group, Sequence) and not isinstance(group, str) and all(isinstance(i, int) for i in group)
        for group in value
    )

"""Common slips at the place where parsing stopped, and the sentence that each deserves. Every entry has a test."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from potc.diagnostics.source import Source, Span


@dataclass(frozen=True, slots=True)
class Slip:
    """What to say instead of "found ..., expected ..."; ``at`` None: where parsing stopped."""

    message: str
    help: str
    at: Span | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where parsing stopped: text before and after, the terminals that could have followed."""

    source: Source
    offset: int
    allowed: frozenset[str]
    before: str
    after: str

    def allows(self, *terminals: str) -> bool:
        return any(t in self.allowed for t in terminals)


Entry = Callable[[Place], Slip | None]


def explain(source: Source, offset: int, allowed: set[str], keywords: Mapping[str, str]) -> Slip | None:
    """The first entry of the table that fits, or None."""
    named = {value: key for key, value in keywords.items()}
    before = source.text[:offset].rstrip()
    place = Place(source, offset, frozenset(named.get(t, t) for t in allowed), before, source.text[offset:])
    for entry in TABLE:
        slip = entry(place)
        if slip is not None:
            return slip
    return None


_BLOCK = re.compile(
    r"(?:(?:abstract\s+)?device|rule|float|override|rewrite|pattern|test|feature|qtype|opset|accum|pass|prefer|remove|ops|use|op)\b"
)


def _unclosed(place: Place) -> Slip | None:
    """A statement of an outer level, or the end of the file, inside of braces."""
    if not place.allows("}"):
        return None
    if place.after and not _BLOCK.match(place.after):
        return None
    opener = _open_brace(place)
    if opener is None:
        return None
    head = place.source.text[place.source.text.rfind("\n", 0, opener) + 1 : opener].strip()
    what = "the file ends" if not place.after else f"`{place.after.split()[0]}` begins"
    return Slip(f"{what} before `{head} {{` is closed", "add the missing `}`", Span(place.source, opener, opener + 1))


_TOKENS = re.compile(r'#[^\n]*|"(?:[^"\\\n]|\\[^\n])*"|[{}]')


def _open_brace(place: Place) -> int | None:
    stack: list[int] = []
    for match in _TOKENS.finditer(place.source.text, 0, place.offset):
        if match[0] == "{":
            stack.append(match.start())
        elif match[0] == "}" and stack:
            stack.pop()
    return stack[-1] if stack else None


def _extra_brace(place: Place) -> Slip | None:
    if not place.after.startswith("}") or place.allows("}") or _open_brace(place) is not None:
        return None
    return Slip("this `}` closes nothing", "remove it, or look for a `{` that was lost above")


def _single_equals(place: Place) -> Slip | None:
    if not re.match(r"=(?!=)", place.after) or not place.allows("CMP"):
        return None
    return Slip("`=` gives a name, `==` compares", "write `==`")


def _double_equals(place: Place) -> Slip | None:
    second = place.after.startswith("=") and place.source.text[: place.offset].endswith("=")
    if not second and not (place.after.startswith("==") and place.allows("=")):
        return None
    return Slip("`==` compares, `=` gives a name", "write `=`")


def _hyphen(place: Place) -> Slip | None:
    """``per-tensor``: hyphens are minus signs, names have underscores."""
    text = place.source.text
    start = place.offset
    while start > 0 and (text[start - 1].isalnum() or text[start - 1] in "_-"):
        start -= 1
    word = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:-[A-Za-z_][A-Za-z0-9_]*)+").match(text, start)
    if word is None or word.end() <= place.offset:
        return None
    at = Span(place.source, start, word.end())
    return Slip(f"`{word[0]}` is spelled with a hyphen", f"write `{word[0].replace('-', '_')}`", at)


def _missing_comma(place: Place) -> Slip | None:
    if not place.allows(",") or not re.match(r'[A-Za-z0-9_"-]', place.after) or place.allows("NAME"):
        return None
    depth = sum({"(": 1, "[": 1, ")": -1, "]": -1}.get(c, 0) for c in place.before[-400:])
    listing = re.search(r"\b(?:quant|pass|ops|same_scale|unify)\b[^{}]*$", place.before[-400:])
    inside_list = listing is not None and re.match(r"[A-Za-z_][A-Za-z0-9_]*\s*(?:[:,}]|\.\.\.|[A-Z])", place.after)
    if depth <= 0 and not inside_list:
        return None
    word = re.match(r'[A-Za-z0-9_]+|"[^"\n]*"|.', place.after)
    return Slip(f"a comma is missing before `{word[0] if word else ''}`", "separate the parts of a list by `,`")


def _missing_match(place: Place) -> Slip | None:
    if (
        not place.allows("match")
        or not place.allows("require")
        or not re.match(r"[A-Z][A-Za-z0-9_]*\s*[\[(]|any\s*\(", place.after)
    ):
        return None
    return Slip("a pattern must begin with `match`", "write `match` before it")


def _c_operators(place: Place) -> Slip | None:
    for sign, word in (("&&", "and"), ("||", "or"), ("!", "not")):
        if place.after.startswith(sign) and not place.after.startswith("!="):
            return Slip(f"`{sign}` is written `{word}` here", f"write `{word}`")
    return None


def _semicolon(place: Place) -> Slip | None:
    return Slip("statements need no `;`", "remove it") if place.after.startswith(";") else None


def _single_quotes(place: Place) -> Slip | None:
    if not place.after.startswith("'"):
        return None
    return Slip("text is put in double quotes", "write \"...\" instead of '...'")


def _open_text(place: Place) -> Slip | None:
    if not re.match(r'"(?:[^"\\\n]|\\[^\n])*(?:\n|$)', place.after):
        return None
    return Slip("this text has no closing quote on its line", 'add `"` at its end')


def _slashes(place: Place) -> Slip | None:
    if not place.after.startswith(("//", "/*")):
        return None
    return Slip("remarks begin with `#`", "write `#` instead of `//`")


def _stray_doc(place: Place) -> Slip | None:
    line = place.before.rfind("\n") + 1
    stray = place.before[line:].lstrip().startswith("##")
    if not stray and not place.after.startswith("##"):
        return None
    at = Span(place.source, line, len(place.before)) if stray else None
    return Slip("`##` documents a declaration, and none follows here", "write `#` for a remark", at)


def _fat_arrow(place: Place) -> Slip | None:
    if not place.after.startswith("=>") and not (place.before.endswith("-") and place.after.startswith(">")):
        return None
    return Slip("steps of a chain are joined by `->` or `~>`", "write `->`")


def _word_elsewhere(place: Place) -> Slip | None:
    """A statement of a rule at device level, or the other way round."""
    word = re.match(r"(match|require|quant|unify|keep|emit)\b", place.after)
    if word is None or not place.allows("rule", "rewrite") or place.allows(word[1]):
        return None
    home = "rewrite" if word[1] == "emit" else "rule"
    return Slip(f"`{word[1]}` belongs inside a {home}", f"put it into the braces of a `{home}`")


def _int_type(place: Place) -> Slip | None:
    word = re.match(r"(u?)int(\d+)\b|float(\d+)\b", place.after) or re.search(
        r"\b(?:(u?)int(\d+)|float(\d+))$", place.before
    )
    if word is None:
        return None
    right = f"f{word[3]}" if word[3] else f"{'u' if word[1] else 'i'}{word[2]}"
    return Slip(f"`{word[0]}` is spelled `{right}`", f"write `{right}`")


def _opset_domain(place: Place) -> Slip | None:
    """``opset 13 .. 25``: opsets are counted by domain."""
    if not re.match(r"\d", place.after) or not re.search(r"\bopset$", place.before):
        return None
    return Slip("an opset has a domain", "write `opset ai.onnx LOW .. HIGH` for the operators of ONNX itself")


def _range_dots(place: Place) -> Slip | None:
    third = place.source.text[: place.offset].endswith("..") and place.after.startswith(".")
    if third or (place.allows("..") and re.match(r"(?:\.{3}|-|to\b|,)", place.after)):
        return Slip("a range is written with two dots", "write `low .. high`")
    return None


TABLE: tuple[Entry, ...] = (
    _open_text,
    _single_quotes,
    _semicolon,
    _slashes,
    _stray_doc,
    _unclosed,
    _extra_brace,
    _single_equals,
    _double_equals,
    _fat_arrow,
    _hyphen,
    _c_operators,
    _int_type,
    _opset_domain,
    _range_dots,
    _word_elsewhere,
    _missing_match,
    _missing_comma,
)

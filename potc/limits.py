"""How large things of the user may be: what claims more is a mistake or an attack, and is refused before it is read.

``limits()`` are those in force: of one run of the command line, or of one call of a function. They are a value that is handed
down as context (``contextvars``), since what meets a limit is far from who states it; workers get them with their tasks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
FILE = 2**31 - 1  # bytes of one protobuf message
LARGEST = 2**63 - 1
CALLS = 8  # of functions that a walk over a tree makes for each level of it, at most


@dataclass(frozen=True, slots=True)
class Limit:
    """``name``: as ``--limit`` takes it; in bytes where it ends so, else a count. ``what``: what it is of. ``code``: the diagnostic
    that tells it, "" if none does, and ``then`` says what happens instead. ``most``: it can't be raised further, for the reason
    ``because``."""

    name: str
    value: int
    what: str
    code: str
    then: str
    most: int
    because: str

    @property
    def shown(self) -> str:
        return shown(self.name, self.value)


def _limit(
    value: int,
    what: str,
    code: str = "too-large",
    then: str = "",
    most: int = LARGEST,
    because: str = "no number is larger",
) -> int:
    return field(default=value, metadata={"what": what, "code": code, "then": then, "most": most, "because": because})


@dataclass(frozen=True, slots=True)
class Limits:
    """All of them. A field is called like the limit, with ``_`` for ``-``."""

    model_bytes: int = _limit(
        FILE,
        "a model without the large initializers of its main graph, counted before it is read",
        most=FILE,
        because="one protobuf message holds no more",
    )
    sample_bytes: int = _limit(2 << 30, "one sample of one input")
    arrays: int = _limit(1_000, "arrays in one `.npz` file")
    picture_pixels: int = _limit(100_000_000, "pixels of a picture")
    samples: int = _limit(10_000_000, "pictures in a folder; samples that a loader yields")
    held_bytes: int = _limit(8 << 30, "samples that a loader yields, held in memory since it can't be asked by index")
    download_bytes: int = _limit(64 << 30, "a file that is downloaded")
    # parsed, it takes about ten times as much memory
    table_bytes: int = _limit(512 << 20, "JSON, CSV and TXT files of samples, saved ranges, recipes")
    journal_line_bytes: int = _limit(
        1 << 30, "a line of a journal", "", "it is dropped with what follows, and computed again"
    )
    rule_characters: int = _limit(1_000_000, "characters of a rule file", "syntax-error")
    rule_nesting: int = _limit(
        200, "nesting in a rule file", "syntax-error", most=1_000, because="walks over it would run out of stack"
    )
    rule_files_deep: int = _limit(
        100, "files that use one another, deep", "import-cycle", most=200, because="reading them would run out of stack"
    )
    rewrite_rounds: int = _limit(64, "rounds of rewrites", "endless-rewrite")
    folded_growth_bytes: int = _limit(
        64 << 20, "a constant that is folded, more than what it is made from", "", "the node stays"
    )
    folded_total_bytes: int = _limit(256 << 20, "the same for all constants of a model", "", "the nodes stay")
    response_file_bytes: int = _limit(16 << 20, "a response file")
    response_files_deep: int = _limit(
        10,
        "response files that name one another, deep",
        "usage",
        most=200,
        because="reading them would run out of stack",
    )


_IN_FORCE: ContextVar[Limits] = ContextVar("limits", default=Limits())  # noqa: B039, it is frozen


def limits() -> Limits:
    """Those in force."""
    return _IN_FORCE.get()


@contextmanager
def limited(to: Limits) -> Generator[Limits]:
    """Within it ``limits()`` are these, in this thread; and Python's stack is deep enough for walks over what they allow."""
    token, before = _IN_FORCE.set(to), sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, CALLS * to.rule_nesting))
    try:
        yield to
    finally:
        sys.setrecursionlimit(before)
        _IN_FORCE.reset(token)


def listed(of: Limits | None = None) -> tuple[Limit, ...]:
    """All limits with their values, those in force if not given."""
    values = limits() if of is None else of
    return tuple(Limit(f.name.replace("_", "-"), getattr(values, f.name), **f.metadata) for f in fields(Limits))


def changed() -> dict[str, int]:
    """What differs from the usual ones, by name: what a result was made with."""
    return {ours.name: ours.value for ours, usual in zip(listed(), listed(Limits()), strict=True) if ours != usual}


def stated(words: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Limits:
    """Those in force, but for what is stated: ``{"sample-bytes": "4GiB"}``. Raises ValueError for what is none."""
    known = {limit.name: limit for limit in listed()}
    found: dict[str, int] = {}
    for name, value in dict(words).items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            help_ = f"did you mean `{near[0]}`?" if near else "`potc explain limits` lists them"
            raise ValueError(f"no limit is called `{name}`; {help_}")
        number = _value(name, value)
        if number > known[name].most:
            raise ValueError(f"{name} can't be above {shown(name, known[name].most)}: {known[name].because}")
        found[name.replace("-", "_")] = number
    return replace(limits(), **found)


def _value(name: str, value: Any) -> int:
    try:
        number = number_of(value, UNITS if name.endswith("-bytes") else {"": 1})
    except ValueError:
        wanted = "a size, as 4GiB or 1e9" if name.endswith("-bytes") else "a number, as 500 or 1e6"
        raise ValueError(f"{name} is {value!r}, wanted {wanted}") from None
    if not number > 0:
        raise ValueError(f"{name} is {value!r}, and nothing would be allowed")
    return number


def number_of(text: str | int, units: Mapping[str, int]) -> int:
    """``4GiB``, ``3.5GB``, ``1e6``, ``1_000`` or an integer, rounded down. Raises ValueError."""
    parts = re.fullmatch(r"([\d_]*\d(?:\.\d+)?(?:e\d{1,2})?)\s*([a-z]*)", str(text).strip().lower(), re.ASCII)
    if isinstance(text, bool) or parts is None or parts[2] not in units:
        raise ValueError(f"{text!r} is no number of these")
    return int(Decimal(parts[1]) * units[parts[2]])


def shown(name: str, value: int) -> str:
    """With the largest unit that says it exactly, else with its digits in groups."""
    if name.endswith("-bytes"):
        for unit in ("GiB", "MiB", "KiB"):
            if value % UNITS[unit.lower()] == 0:
                return f"{value // UNITS[unit.lower()]} {unit}"
        return f"{value:,} bytes"
    return f"{value:,}"


def raising(name: str, needed: int | None = None) -> str:
    """How to allow more: ``--limit NAME=VALUE`` with what is ``needed``, twice of what is allowed where nobody knows. "" where it
    can't be raised so far."""
    limit = next(each for each in listed() if each.name == name)
    enough = min(2 * limit.value, limit.most) if needed is None else needed
    if not limit.value < enough <= limit.most:
        return ""
    value = shown(name, enough).replace(" ", "") if name.endswith("-bytes") and enough % 1024 == 0 else str(enough)
    return f"if it is sound, allow more: --limit {name}={value}"


def with_raising(help_: str, name: str, needed: int | None = None) -> str | None:
    """``help_`` of a diagnostic, and how to allow more."""
    return "; ".join(filter(None, (help_, raising(name, needed)))) or None

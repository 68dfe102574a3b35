"""Smaller rule files out of a rule file: by its tree, written again by the formatter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from potc.diagnostics.source import Source, Span
from potc.language import syntax as s
from potc.language.format import format_file
from potc.language.parse import parse
from potc.shipped import shipped_rules

# Lists of which parts may go; those that may be empty.
LISTS = {"items", "expects", "requires", "assigns", "types", "terms", "include", "exclude", "conditions", "operands",
         "modifiers", "parents"}  # fmt: skip
EMPTY = {"items", "expects", "requires", "exclude", "conditions", "modifiers", "parents"}


def joined(used: Sequence[str]) -> Callable[[s.File], s.File]:
    """Makes a file of all items of the ``used`` files, in front of its own: it then uses only what is shipped."""

    def make(file: s.File) -> s.File:
        items = [item for other in (*map(tree_of, used), file) for item in other.items]
        uses = [item for item in items if isinstance(item, s.Use) and is_shipped(item)]
        unique = [use for i, use in enumerate(uses) if use not in uses[:i]]
        return replace(file, items=(*unique, *(i for i in items if not isinstance(i, s.Use))), comments=())

    return make


def is_shipped(use: s.Use) -> bool:
    """Comes it with potc? Everybody has that file."""
    return not use.is_path and use.target in shipped_rules()


def tree_of(text: str) -> s.File:
    """Raises Rejected (``syntax-error``)."""
    return parse(Source("reduced.rules", text))


def text_of(file: s.File) -> str:
    """In the layout of ``potc fmt``."""
    return format_file(file)


def depths(file: s.File) -> int:
    """How many levels of parts there are."""
    count = 0
    while any(True for _ in parts(file, count)):
        count += 1
    return count


def parts(node: Any, depth: int) -> Iterator[Any]:
    """All that may be left out at a depth: 0 for the items of the file, 1 for the parts of these, and so on."""
    for name, value in _children(node):
        for part in value:
            if depth > 0:
                yield from parts(part, depth - int(name in LISTS))
            elif name in LISTS:
                yield part
            else:
                yield from parts(part, depth)


def without(node: Any, dropped: set[int]) -> Any:
    """The tree without the parts of these identities. None where something would be empty that may not."""
    changed: dict[str, Any] = {}
    for name, value in _children(node):
        kept = [without(part, dropped) for part in value if id(part) not in dropped]
        if any(k is None for k in kept) or (len(kept) < len(value) and not kept and name not in EMPTY):
            return None
        if name == "operands" and len(kept) == 1:
            return kept[0]
        if any(a is not b for a, b in zip(kept, value, strict=False)) or len(kept) < len(value):
            changed[name] = tuple(kept) if isinstance(getattr(node, name), tuple) else kept[0]
    return replace(node, **changed) if changed else node


def plain(file: s.File) -> s.File:
    """Without remarks and documentation."""
    return replace(_undocumented(file), comments=())


def _undocumented(node: Any) -> Any:
    changed: dict[str, Any] = {"doc": ""} if getattr(node, "doc", "") else {}
    for name, value in _children(node):
        made = [_undocumented(part) for part in value]
        if any(a is not b for a, b in zip(made, value, strict=True)):
            changed[name] = tuple(made) if isinstance(getattr(node, name), tuple) else made[0]
    return replace(node, **changed) if changed else node


def _children(node: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Fields that hold nodes, as tuples."""
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, tuple) and value and is_dataclass(value[0]) and field.name != "comments":
            yield field.name, value
        elif is_dataclass(value) and not isinstance(value, Span | Source | type):
            yield field.name, (value,)

"""Pictures of a folder, of a list, or of a CSV file, with what is known of each."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potc.data.fitted import Stored
from potc.data.pictures import SUFFIXES, read_mask, read_picture
from potc.data.tables import read_table
from potc.diagnostics.diagnostic import reject
from potc.limits import limits, with_raising


@dataclass(frozen=True, slots=True)
class Pictures:
    """A Source. ``annotations``: one for each path, or None; with ``masks`` they are paths of pictures of class numbers.
    ``lists``: the files that say which pictures there are, and what is known of them."""

    paths: Sequence[str]
    annotations: Sequence[Any] | None
    gray: bool
    lists: tuple[str, ...]
    masks: bool = False
    pictures: bool = True

    def __len__(self) -> int:
        return len(self.paths)

    def files(self, chosen: Sequence[int]) -> tuple[str, ...]:
        masks = [self.annotations[i] for i in chosen] if self.masks and self.annotations else []
        return (*self.lists, *(self.paths[i] for i in chosen), *masks)

    def item(self, index: int) -> Stored:
        path = self.paths[index]
        known = None if self.annotations is None else self.annotations[index]
        if self.masks and known is not None:
            return Stored({"": read_picture(path, self.gray)}, read_mask(known), path, mask=True)
        return Stored({"": read_picture(path, self.gray)}, known, path)


def folder(path: str, labels: str | None, gray: bool) -> Pictures:
    """All pictures below a folder, sorted by their paths, bytewise.

    Where they lie in sub-folders, the sub-folder is the class: its number, if all names are numbers, else its place among the
    sorted names. ``labels``: a text file with the names of classes, one a line, whose order counts; or a CSV file with columns
    ``path`` and ``label`` (or ``mask``), whose pictures are used. Raises Rejected.
    """
    if labels is not None and labels.endswith(".csv"):
        return listed(labels, "label", gray, path)
    found = _below(path)
    if not found:
        shown = ", ".join(SUFFIXES)
        raise reject("no-samples", f"the folder {path} holds no pictures", help=f"pictures are called *{shown}")
    names = sorted({f.split("/")[0] for f in found if "/" in f})
    paths = [str(Path(path, f)) for f in found]
    if labels is None and (not names or any("/" not in f for f in found)):
        return Pictures(paths, None, gray, ())
    numbers = _class_numbers(path, names, labels)
    lists = () if labels is None else (labels,)
    return Pictures(paths, [numbers[f.split("/")[0]] for f in found], gray, lists)


def listed(path: str, label: str, gray: bool, root: str | None = None) -> Pictures:
    """The pictures of a CSV file with a column ``path``, or of a text file with a path a line, relative to ``root`` or to the
    file's folder, below which they must lie. The column ``label`` (whose name is ``label``) holds numbers or texts, the column
    ``mask`` paths."""
    base = root if root is not None else str(Path(path).parent)
    if not path.endswith(".csv"):
        lines = _text(path).splitlines()
        return Pictures([beneath(base, n, path) for n in lines if n.strip()], None, gray, (path,))
    header, rows = read_csv(path)
    if "path" not in header:
        raise reject("invalid-data", f"{path} has no column `path`; it has {', '.join(header)}")
    place = header.index("path")
    paths = [beneath(base, row[place], path) for row in rows]
    if "mask" in header:
        masks = [beneath(base, row[header.index("mask")], path) for row in rows]
        return Pictures(paths, masks, gray, (path,), masks=True)
    values = [number(row[header.index(label)]) for row in rows] if label in header else None
    return Pictures(paths, values, gray, (path,))


def read_csv(path: str) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Header and rows, all as long as the header. Raises Rejected(invalid-data)."""
    try:
        rows = list(csv.reader(_text(path).splitlines(), strict=True))
    except csv.Error as error:
        raise reject("invalid-data", f"{path} can't be read as CSV: {error}") from error
    if not rows:
        raise reject("no-samples", f"{path} is empty", help="the first line names the columns")
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise reject("invalid-data", f"{path}, line {line}: {len(row)} fields, the header has {len(rows[0])}")
    return rows[0], rows[1:]


def number(text: str) -> int | float | str:
    """An integer or a float where the text is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def beneath(base: str, name: str, where: str) -> str:
    """A path that a data file names. Raises Rejected(invalid-data) where it leads out of its folder."""
    if "\0" in name:
        raise reject("invalid-data", f"{where} names a file {name!r}", help="no path holds a null character")
    root = os.path.realpath(base)
    full = os.path.realpath(os.path.join(root, name))
    if os.path.commonpath([root, full]) != root:
        raise reject("invalid-data", f"{where} names {name}, which is not below {base}")
    return os.path.join(base, name)


def _text(path: str) -> str:
    try:
        return read_table(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise reject("invalid-data", f"{path} is no UTF-8 text: {error}") from error


def _below(path: str) -> list[str]:
    """Pictures below a folder, relative to it."""
    found: list[str] = []
    for at, folders, files in os.walk(path):
        folders.sort()
        relative = os.path.relpath(at, path)
        found += [
            name if relative == "." else f"{relative}/{name}" for name in files if name.lower().endswith(SUFFIXES)
        ]
        if len(found) > limits().samples:
            message = f"the folder {path} holds more than {limits().samples:,} pictures"
            raise reject("too-large", message, help=with_raising("", "samples"))
    return sorted(found, key=os.fsencode)


def _class_numbers(path: str, names: Sequence[str], labels: str | None) -> Mapping[str, int]:
    if labels is None:
        if all(name.isdecimal() for name in names):
            return {name: int(name) for name in names}
        return {name: i for i, name in enumerate(names)}
    listed_names = [line.strip() for line in _text(labels).splitlines()]
    unknown = [name for name in names if name not in listed_names]
    if unknown:
        raise reject(
            "invalid-data",
            f"the folder {path}/{unknown[0]} is no class of {labels}",
            help="list the names of the folders, one a line",
        )
    return {name: listed_names.index(name) for name in names}

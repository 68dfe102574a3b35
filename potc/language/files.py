"""Which files a rule file is made of: itself, and what it uses, each read once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Rejected, reject
from potc.diagnostics.source import Source, Span
from potc.language import syntax
from potc.language.operators import suggest
from potc.language.parse import parse
from potc.limits import limits, with_raising
from potc.shipped import shipped_rules


@dataclass(frozen=True, slots=True)
class Library:
    """All files in import order (used files before their users, the main file last).

    ``taken``: for each file's path the names that some ``use`` lists, None: everything. ``sources``: where the files are:
    the path as given, for shipped files the one where they are installed (messages call those by their bare names).
    """

    main: syntax.File
    files: tuple[syntax.File, ...]
    taken: Mapping[str, frozenset[str] | None]
    sources: tuple[str, ...]


def read_library(path_or_name: str) -> Library:
    """Reads a rule file and all that it uses.

    Raises Rejected: ``missing-file`` (exit code 2), ``import-cycle``, ``syntax-error``, ``unknown-name``.
    """
    shown, real = _find(path_or_name)
    walk = _Walk()
    main = walk.visit(shown, real, (), None)
    walk.problems.stop()
    assert main is not None
    return Library(main, tuple(walk.files.values()), walk.taken, tuple(walk.places[key] for key in walk.files))


def main_source(path_or_name: str) -> Source:
    """The text of a rule file, without what it uses. Raises Rejected as ``read_library``, but for its mistakes."""
    return read_source(*_find(path_or_name))


def _find(path_or_name: str) -> tuple[str, Path]:
    """What a file is called, and where it is. A file on disk comes before a shipped one."""
    path = Path(path_or_name)
    try:
        if path.is_file():
            return path_or_name, path
    except (OSError, ValueError):
        pass
    shipped = _shipped(path_or_name)
    if shipped is not None:
        return shipped.name, shipped
    if path_or_name and os.path.isdir(path_or_name):
        raise reject("missing-file", f"`{path_or_name}` is a folder, not a rule file", exit_code=2)
    known = tuple(shipped_rules())
    near = suggest(path_or_name.lower(), known)
    help_ = f"did you mean `{near}`?" if near else f"give the path of a file, or one of: {', '.join(known)}"
    raise reject("missing-file", f"there is no rule file `{path_or_name}`", help=help_, exit_code=2)


def _shipped(name: str) -> Path | None:
    if "/" in name or "\\" in name:
        return None
    return shipped_rules().get(name.lower().removesuffix(".rules"))


def read_source(shown: str, real: Path, at: Span | None = None) -> Source:
    """The text of a file. Raises Rejected(missing-file) for what can't be read, (syntax-error) for what is no text."""
    try:
        size, most = real.stat().st_size, limits().rule_characters
        if size > 4 * most:  # no character takes more bytes
            message = f"`{shown}` is too large for a rule file: {size:,} bytes, where {most:,} characters are allowed"
            raise reject("syntax-error", message, at=at, help=with_raising("", "rule-characters", size))
        content = real.read_bytes()
    except OSError as error:
        raise reject("missing-file", f"`{shown}` can't be read: {error.strerror}", at=at, exit_code=2) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise reject("syntax-error", f"line {line} of `{shown}` is not UTF-8 text", at=at) from None
    return Source(shown, text.replace("\r\n", "\n"))


@dataclass(slots=True)
class _Walk:
    """Depth first over ``use``. ``files`` and ``places`` are by resolved path; a place is how the file was reached."""

    files: dict[Path, syntax.File] = field(default_factory=dict)
    places: dict[Path, str] = field(default_factory=dict)
    taken: dict[str, frozenset[str] | None] = field(default_factory=dict)
    problems: Diagnostics = field(default_factory=Diagnostics)

    def visit(self, shown: str, real: Path, users: tuple[Path, ...], use: syntax.Use | None) -> syntax.File | None:
        key = real.resolve()
        at = None if use is None else use.span
        if key in users:
            chain = " uses ".join(f"`{p.name}`" for p in (*users[users.index(key) :], key))
            self.problems.add(
                Diagnostic(
                    "import-cycle",
                    f"files use one another in a circle: {chain}",
                    at=at,
                    help="move what both need into a third file",
                )
            )
            return None
        file = self.files.get(key)
        if file is None:
            if len(users) >= limits().rule_files_deep:
                message = f"files use one another more than {limits().rule_files_deep} deep"
                raise reject("import-cycle", message, at=at, help=with_raising("", "rule-files-deep"))
            try:
                file = parse(read_source(shown, real, at))
            except Rejected as rejected:
                if rejected.exit_code != 1:
                    raise
                for diagnostic in rejected.diagnostics:
                    self.problems.add(diagnostic)
                return None
            for other in (i for i in file.items if isinstance(i, syntax.Use)):
                self._use(other, shown, real, (*users, key))
            self.files[key] = file
            self.places[key] = str(real)
        self._take(file, use)
        return file

    def _use(self, use: syntax.Use, shown: str, real: Path, users: tuple[Path, ...]) -> None:
        name = use.target if use.is_path else f"{use.target}.rules"
        if os.path.isabs(name):
            message = f"`use` takes a path relative to the file it stands in, and `{name}` is absolute"
            help_ = "name the file from where this one is"
            raise reject("missing-file", message, at=use.span, help=help_, exit_code=2)
        sibling = real.parent / name
        if sibling.is_file():
            self.visit(os.path.join(os.path.dirname(shown), name), sibling, users, use)
            return
        shipped = _shipped(use.target)
        if shipped is None:
            near = suggest(use.target, tuple(shipped_rules()))
            raise reject(
                "missing-file",
                f"there is no rule file `{name}` beside `{shown}` or among the shipped ones",
                at=use.span,
                help=f"did you mean `use {near}`?"
                if near
                else "check the path; it is relative to the file that uses it",
                exit_code=2,
            )
        self.visit(shipped.name, shipped, users, use)

    def _take(self, file: syntax.File, use: syntax.Use | None) -> None:
        path = file.source.path
        wanted = frozenset(use.names) if use is not None and use.names else None
        if wanted is not None:
            known = tuple(n for n in (getattr(i, "name", None) for i in file.items) if isinstance(n, str))
            for name in sorted(wanted - set(known)):
                near = suggest(name, known)
                help_ = f"did you mean `{near}`?" if near else f"`{path}` defines: {', '.join(known) or 'nothing'}"
                self.problems.add(
                    Diagnostic(
                        "unknown-name",
                        f"`{path}` defines no `{name}`",
                        at=None if use is None else use.span,
                        help=help_,
                    )
                )
        before = self.taken.get(path, frozenset())
        self.taken[path] = None if wanted is None or before is None else before | wanted

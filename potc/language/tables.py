"""The parser's tables: built by lark from the grammar once, then read from the user's cache folder.

Building them costs ten times what reading costs, more than everything else that `potc check` does. The folder is only
a shortcut: where it is missing, unwritable, damaged or of another version, the tables are built, and nothing is said.
Two files: lark's own form, which only mistakes need, and plain tables, for which lark is not even imported.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potc.shipped import shipped_folder

if TYPE_CHECKING:
    from lark import Lark

_DIGEST = 32  # bytes of sha256 in front of the tables: what was damaged is built again
_FORM = 1  # of the plain tables
_OPTIONS: dict[str, Any] = {
    "parser": "lalr",
    "lexer": "contextual",
    "propagate_positions": True,
    "maybe_placeholders": True,
}


def grammar_text() -> str:
    """The grammar as lark reads it: what is nested in itself is written out, to the depth that its comment names."""
    inner = r"\{(?:[^{}\"]|\"[^\"\n]*\")*+\}"
    for _ in range(7):
        inner = rf"\{{(?:[^{{}}\"]|\"[^\"\n]*\"|{inner})*+\}}"
    return (shipped_folder("grammar") / "potc.lark").read_text(encoding="utf-8").replace("BRACES", inner)


def load_parser(grammar: str) -> Lark:
    """The parser of a grammar. Never fails because of the cache, and never reads what another version has written."""
    from lark import Lark, __version__
    from lark.grammar import Rule
    from lark.lexer import TerminalDef

    path = _place(f"{__version__} {grammar}", "tables")
    stored = _read(path)
    if stored is not None:
        with suppress(Exception):  # whatever is in there, the grammar itself is at hand
            return Lark.load(stored)
    parser: Any = Lark(grammar, **_OPTIONS)
    with suppress(Exception):
        data, memo = parser.memo_serialize([Rule, TerminalDef])
        _write(path, {"data": data, "memo": memo})
    return parser


def load_tables(grammar: str) -> dict[str, Any]:
    """The same as plain data, see ``plain.tables_of``, whichever version of lark made them. Never fails because of the cache."""
    path = _place(grammar, f"plain{_FORM}")
    stored = _read(path)
    if stored is None:
        from potc.language.plain import tables_of  # imports lark

        stored = tables_of(load_parser(grammar))
        with suppress(Exception):
            _write(path, stored)
    return stored


def cache_folder() -> Path | None:
    """``potc`` in the folder that the system has for such things, which need not exist yet; None where there is none."""
    places = {
        "win32": os.environ.get("LOCALAPPDATA"),
        "darwin": os.path.expanduser("~/Library/Caches"),
    }
    place = os.environ.get("XDG_CACHE_HOME") or places.get(sys.platform) or os.path.expanduser("~/.cache")
    return Path(place) / "potc" if os.path.isabs(place) else None


def _place(made_from: str, form: str) -> Path | None:
    """A file for each grammar and each version of Python."""
    folder = cache_folder()
    version = f"{sys.implementation.cache_tag} {marshal.version}"
    name = hashlib.sha256(f"{version} {made_from}".encode()).hexdigest()[:32]
    return None if folder is None else folder / f"grammar-{name}.{form}"


def _read(path: Path | None) -> Any:
    """Plain data, or None. ``marshal`` holds data only: reading it runs no code."""
    if path is None:
        return None
    try:
        content = path.read_bytes()
        digest, tables = content[:_DIGEST], content[_DIGEST:]
        return marshal.loads(tables) if hashlib.sha256(tables).digest() == digest else None
    except (OSError, ValueError, EOFError, TypeError):
        return None


def _write(path: Path | None, data: Any) -> None:
    """In one step, so that two runs at the same time never see half a file."""
    import tempfile  # only where the tables are built

    if path is None:
        return
    tables = marshal.dumps(data)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(hashlib.sha256(tables).digest() + tables)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise

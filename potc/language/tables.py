"""The parser's tables: built from the grammar once, then read from the user's cache folder.

Building them costs ten times what reading costs, more than everything else that `potc check` does. The folder is only
a shortcut: where it is missing, unwritable, damaged or of another version, the tables are built, and nothing is said.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from lark import Lark, __version__
from lark.grammar import Rule
from lark.lexer import TerminalDef

_DIGEST = 32  # bytes of sha256 in front of the tables: what was damaged is built again
_OPTIONS: dict[str, Any] = {
    "parser": "lalr",
    "lexer": "contextual",
    "propagate_positions": True,
    "maybe_placeholders": True,
}


def load_parser(grammar: str) -> Lark:
    """The parser of a grammar. Never fails because of the cache, and never reads what another version has written."""
    folder = cache_folder()
    if folder is None:
        return Lark(grammar, **_OPTIONS)
    version = f"{__version__} {sys.implementation.cache_tag} {marshal.version}"
    path = folder / f"grammar-{hashlib.sha256(f'{version}{grammar}'.encode()).hexdigest()[:32]}.tables"
    stored = _read(path)
    if stored is not None:
        with suppress(Exception):  # whatever is in there, the grammar itself is at hand
            return Lark.load(stored)
    parser: Any = Lark(grammar, **_OPTIONS)
    with suppress(Exception):
        data, memo = parser.memo_serialize([Rule, TerminalDef])
        _write(path, marshal.dumps({"data": data, "memo": memo}))
    return parser


def cache_folder() -> Path | None:
    """``potc`` in the folder that the system has for such things, which need not exist yet; None where there is none."""
    places = {
        "win32": os.environ.get("LOCALAPPDATA"),
        "darwin": os.path.expanduser("~/Library/Caches"),
    }
    place = os.environ.get("XDG_CACHE_HOME") or places.get(sys.platform) or os.path.expanduser("~/.cache")
    return Path(place) / "potc" if os.path.isabs(place) else None


def _read(path: Path) -> Any:
    """Plain data, or None. ``marshal`` holds data only: reading it runs no code."""
    try:
        content = path.read_bytes()
        digest, tables = content[:_DIGEST], content[_DIGEST:]
        return marshal.loads(tables) if hashlib.sha256(tables).digest() == digest else None
    except (OSError, ValueError, EOFError, TypeError):
        return None


def _write(path: Path, tables: bytes) -> None:
    """In one step, so that two runs at the same time never see half a file."""
    import tempfile  # only where the tables are built

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

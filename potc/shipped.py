"""Where the files that come with potc are: inside the installed package, or at the top of a checkout."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path


def shipped_folder(kind: str) -> Path:
    """The folder of shipped ``rules``, ``grammar`` or ``diagnostics`` files. Raises FileNotFoundError if the installation
    is broken."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_shipped" / kind, package.parent / kind, package.parent / "docs" / kind):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"potc's own {kind} files are missing")


@lru_cache(maxsize=1)
def shipped_rules() -> dict[str, Path]:
    """Shipped rule files by lower-case name without ending: ``{"cpu": .../cpu.rules}``."""
    return {path.stem.lower(): path for path in sorted(shipped_folder("rules").glob("*.rules"))}


def diagnostic_page(code: str) -> str | None:
    """The page that explains a diagnostic, as Markdown; None if there is none."""
    try:
        page = shipped_folder("diagnostics") / f"{code}.md"
        return page.read_text(encoding="utf-8")
    except OSError:
        return None

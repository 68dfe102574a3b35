"""The stored tables are a shortcut only: nothing that is or isn't in the cache folder changes what is said of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from potc.diagnostics.diagnostic import Rejected
from potc.diagnostics.render_text import render
from potc.diagnostics.source import Source
from potc.language import parse, recovery, tables
from potc.language.tables import cache_folder
from potc.shipped import shipped_rules

BAD = (
    "potc 1\ndevice d {\n  opset ai.onnx 13 ... 25\n  rule r { match Relu(x) as y quant x y: u8 }\n  pass MaxPool;\n}\n"
)


def forget() -> None:
    parse.machine.cache_clear()
    parse._parsed.cache_clear()
    recovery.grammar.cache_clear()


def said(text: str) -> list[str]:
    forget()
    try:
        parse.parse(Source("a.rules", text))
    except Rejected as rejected:
        return [render(d) for d in rejected.diagnostics]
    return []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "potc"


def test_built_and_stored_tables_say_the_same(cache: Path) -> None:
    built = said(BAD)
    before = {stored: stored.stat().st_mtime_ns for stored in cache.iterdir()}
    assert said(BAD) == built
    assert len(built) == 3
    assert len(before) == 2
    assert {stored: stored.stat().st_mtime_ns for stored in cache.iterdir()} == before
    for path in shipped_rules().values():
        assert said(path.read_text()) == []


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"y" * 40, None])
def test_damaged_tables_are_built_again(cache: Path, damage: bytes | None) -> None:
    built = said(BAD)
    for stored in tuple(cache.iterdir()):
        whole = stored.read_bytes()
        stored.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
        assert said(BAD) == built
        assert len(stored.read_bytes()) > len(whole) / 2
        assert said(BAD) == built


def test_another_grammar_has_tables_of_its_own(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said(BAD)
    folder = tmp_path / "grammar"
    folder.mkdir()
    text = (tables.shipped_folder("grammar") / "potc.lark").read_text()
    (folder / "potc.lark").write_text(text.replace('"speedup"', '"gain"'))
    monkeypatch.setattr(tables, "shipped_folder", lambda kind: folder)
    assert said("device d { rule r { match Relu(x) as y gain 2 } }") == []
    assert len(list(cache.iterdir())) == 4
    forget()


def test_a_folder_that_can_not_be_used_is_not_spoken_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for place in (str(tmp_path / "file" / "below"), str(tmp_path / "file")):
        monkeypatch.setenv("XDG_CACHE_HOME", place)
        assert len(said(BAD)) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() is None
    assert len(said(BAD)) == 3
    assert capfd.readouterr() == ("", "")
    forget()

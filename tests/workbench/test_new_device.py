"""The start file is right for any name that a device may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potc.diagnostics.diagnostic import Rejected
from potc.diagnostics.source import Source
from potc.language import syntax
from potc.language.format import format_file
from potc.language.parse import parse
from potc.workbench.new_device import PLACEHOLDER, start_file


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,20}", fullmatch=True).filter(lambda n: n not in ("std", "prepare")))
def test_any_name_gives_a_formatted_file_with_that_device(name: str) -> None:
    text = start_file(name)
    file = parse(Source("x.rules", text))
    assert format_file(file) == text
    assert [i.name for i in file.items if isinstance(i, syntax.Device)] == [name]
    tests = [i for i in file.items if isinstance(i, syntax.Test)]
    assert [t.devices for t in tests] == [(name,), (name,)]
    assert PLACEHOLDER in name or PLACEHOLDER not in text


@given(
    st.text(max_size=8).filter(lambda n: not (n[:1].isascii() and n.isidentifier() and n.isascii() and n[:1] != "_"))
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(Rejected) as told:
        start_file(name)
    assert told.value.exit_code == 2
    assert told.value.diagnostics[0].help

"""Hardware files of POT and NNCF become rule files that are right, formatted, and compile.

``tests/cases/import/NAME.json`` is imported and must give ``NAME.rules`` and ``NAME.warnings``, which POTC_BLESS=1 rewrites.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potc.cli.main import main
from potc.compiler import Job, compile_model
from potc.diagnostics.diagnostic import Rejected
from potc.diagnostics.source import Source
from potc.language import operators
from potc.language.format import format_file
from potc.language.parse import parse
from potc.language.resolve import load_rules
from potc.workbench.pot_json import GRANULARITIES, MODES, ROLES, read_hardware
from potc.workbench.pot_rules import OPSETS, operation_types, rules_from

ROOT = Path(__file__).parents[2]
CASES = sorted((ROOT / "tests" / "cases" / "import").glob("*.json"))


def imported(path: Path) -> tuple[str, list[str]]:
    text, warnings = rules_from(read_hardware(Source(path.name, path.read_text())), path.stem)
    return text, [f"{w.at.line if w.at else 0}: {w.code}: {w.message}" for w in warnings]


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_rules_and_warnings(path: Path) -> None:
    text, warnings = imported(path)
    told = "".join(f"{w}\n" for w in warnings)
    if os.environ.get("POTC_BLESS"):
        path.with_suffix(".rules").write_text(text)
        path.with_suffix(".warnings").write_text(told)
    assert text == path.with_suffix(".rules").read_text()
    assert told == path.with_suffix(".warnings").read_text()


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_result_is_checked_formatted_and_compiles(path: Path, tmp_path: Path) -> None:
    rules = tmp_path / f"{path.stem}.rules"
    rules.write_text(imported(path)[0])
    assert main(["check", str(rules)]) == 0
    assert format_file(parse(Source(str(rules), rules.read_text()))) == rules.read_text()
    sample = ROOT / "samples" / "digits"
    made = compile_model(Job(str(sample / "model.onnx"), str(rules), data=str(sample / "calib.npz"), samples=20))
    assert made.verification.ok
    assert len(made.plan.kernels) >= 6


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_every_entry_is_a_rule_or_a_warning(path: Path) -> None:
    """Nothing is lost in silence."""
    text, warnings = imported(path)
    for entry in read_hardware(Source(path.name, path.read_text())).entries:
        place = f"{entry.type} (line {entry.span.line})"
        said = any(w.startswith(f"{entry.span.line}: ") or f"line {entry.span.line}" in w for w in warnings)
        assert said or place in " ".join(text.replace("\n  # ", " ").split()), place


def test_operation_types_name_operators_of_onnx() -> None:
    types = operation_types()
    for name, about in types["operations"].items():
        assert len({"onnx", "none", "graph"} & about.keys()) == 1, name
        for op in about.get("onnx", ()):
            assert operators.exists(op), op
            assert about["kind"] in types["kinds"]
        assert set(about.get("over", ())) <= types["operations"].keys()


# ---------------------------------------------------------------------------------------------- any file

formats = st.fixed_dictionaries(
    {
        "bits": st.sampled_from([2, 4, 8, 16, 32]) | st.lists(st.sampled_from([4, 8]), min_size=1, max_size=2),
        "mode": st.sampled_from(sorted(MODES)) | st.just(["symmetric", "asymmetric"]),
        "granularity": st.sampled_from(sorted(GRANULARITIES)) | st.just(["pertensor", "perchannel"]),
    },
    optional={"narrow_range": st.booleans(), "unified_zeropoint": st.booleans()},
)
ALIASES = ["a", "u8", "none", "8 bit", "rule", "q8_a"]
listed = st.sampled_from(ALIASES) | st.lists(st.sampled_from(ALIASES) | formats, min_size=1, max_size=3)
operation = st.fixed_dictionaries(
    {"type": st.sampled_from([*operation_types()["operations"], "Wavelet"])},
    optional={
        "quantization": st.dictionaries(st.sampled_from(ROLES), listed, min_size=1),
        "attributes": st.fixed_dictionaries(
            {},
            optional={
                "unified_scales": st.just("all") | st.just([[0, 1], [4, 5]]),
                "scales": st.just("unified"),
                "mode": st.sampled_from(["linear", "nearest", "wild"]),
            },
        ),
    },
)
documents = st.fixed_dictionaries(
    {
        "target_device": st.just("X"),
        "config": st.fixed_dictionaries(
            {"quantization": st.fixed_dictionaries(dict.fromkeys(ALIASES, formats))}
        ),
        "operations": st.lists(operation, max_size=8, unique_by=lambda o: o["type"]),
    }
)  # fmt: skip


@settings(max_examples=60)
@given(documents)
def test_any_file_gives_rules_that_are_right_and_formatted(tmp_path_factory: Any, document: dict[str, Any]) -> None:
    text, _ = rules_from(read_hardware(Source("x.json", json.dumps(document, indent=1))), "x")
    path = tmp_path_factory.mktemp("any") / "x.rules"
    path.write_text(text)
    assert format_file(parse(Source(str(path), text))) == text
    program = load_rules(str(path))
    assert program.opset == OPSETS
    assert not program.warnings, [w.message for w in program.warnings]


@given(st.sampled_from(CASES), st.data())
def test_a_damaged_file_is_rejected_or_read(path: Path, data: st.DataObject) -> None:
    text = path.read_text()
    start = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 60))
    damaged = text[:start] + data.draw(st.text('{}[]",:/*ab1-\n', max_size=6)) + text[start + length :]
    try:
        rules, _ = rules_from(read_hardware(Source("x.json", damaged)), "x")
    except Rejected as rejected:
        (diagnostic,) = rejected.diagnostics
        assert diagnostic.code == "invalid-hardware-file"
        assert diagnostic.at is not None and diagnostic.at.line >= 1
    else:
        assert parse(Source("x.rules", rules)).version == 1


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "no JSON"),
        ("[]", 1, "an object with a list `operations`"),
        ('{"operations": [\n {"type": "Add", "quantization": {"activations": "q8"}}]}', 2, "no format `q8`"),
        ('{"operations": [\n {"kind": "Add"}]}', 2, "an object with a `type`"),
        ('{"operations": [\n\n {"type": "Add", "quantization": {"inputs": []}}]}', 3, "has no `inputs`"),
        ('{"config": {"quantization": {"a": {"bits": 7, "mode": "symmetric", "granularity": "pertensor"}}}, "operations": []}',
         1, "has 7 bits"),
        ('{"config": {"quantization": {"a": {"bits": 8, "mode": "sym", "granularity": "pertensor"}}}, "operations": []}',
         1, "`sym` where symmetric or asymmetric stands"),
        ('{"config": {"quantization": {"a": {"bits": 8, "mode": "symmetric"}}}, "operations": []}', 1, "no `granularity`"),
        ('{"operations": [\n {"type": "Add", "attributes": {"unified_scales": [0, 1]}}]}', 2, "list of lists"),
        ('{"operations": [{"type": "Add"}], "operations": [{"type": "Add"}]}', 1, "given twice"),
    ],
)  # fmt: skip
def test_what_is_no_hardware_file_is_told_with_its_place(text: str, line: int, message: str) -> None:
    with pytest.raises(Rejected) as told:
        read_hardware(Source("x.json", text))
    (diagnostic,) = told.value.diagnostics
    assert message in diagnostic.message
    assert diagnostic.at is not None and diagnostic.at.line == line


def test_remarks_in_strings_are_no_remarks() -> None:
    text = '{"target_device": "a//b /* c */,}", /* , */ "operations": [ // ]\n {"type": "Reshape",}, ]}'
    hardware = read_hardware(Source("x.json", text))
    assert hardware.device == "a//b /* c */,}"
    assert [e.type for e in hardware.entries] == ["Reshape"]


@pytest.mark.parametrize("order", [("Crop", "Slice"), ("Slice", "Crop")], ids="-".join)
def test_what_makes_a_kernel_of_an_operator_keeps_another_from_passing_it(
    order: tuple[str, str], tmp_path: Path
) -> None:
    """Both operations are Slice in ONNX; only one of them has formats."""
    eight = {"bits": 8, "mode": "symmetric", "granularity": "pertensor"}
    kinds = {"Slice": {"type": "Slice", "quantization": {"activations": "q"}}, "Crop": {"type": "Crop"}}
    document = {
        "target_device": "X",
        "config": {"quantization": {"q": eight}},
        "operations": [kinds[name] for name in order],
    }
    text, warnings = rules_from(read_hardware(Source("x.json", json.dumps(document))), "x")
    (told,) = [w.message for w in warnings]
    assert told.startswith("Crop is not carried over: both it and Slice (line 1) are Slice")
    path = tmp_path / "x.rules"
    path.write_text(text)
    (rule,) = load_rules(str(path)).rules
    assert rule.name == "slice"

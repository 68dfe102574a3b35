"""Resolving: files, inheritance, features, patterns by name, the digest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from potc.diagnostics.diagnostic import Rejected
from potc.language.check import check_file
from potc.language.program import Capture, EmitNode, EmitValue, Granularity, Program, Result
from potc.language.resolve import load_rules
from potc.language.text import text
from potc.shipped import shipped_rules

HEAD = "potc 1\nuse std\n"


def load(folder: Path, rules: str, **options: object) -> Program:
    path = folder / "device.rules"
    path.write_text(rules)
    return load_rules(str(path), **options)  # type: ignore[arg-type]


def codes(rejected: pytest.ExceptionInfo[Rejected]) -> list[str]:
    return [d.code for d in rejected.value.diagnostics]


def test_shipped_device() -> None:
    program = load_rules("cpu")
    assert program.sources == tuple(str(shipped_rules()[name]) for name in ("std", "prepare", "cpu"))
    assert {rule.span.source.path for rule in program.rules} == {"cpu.rules"}
    assert program == load_rules("CPU") == load_rules("cpu.rules")
    conv = next(r for r in program.rules if r.name == "conv")
    (derived,) = [q for q in conv.quants if q.derived]
    assert (derived.target, derived.derived) == ("b", ("x", "w"))
    first, second, *_ = conv.quants[0].choice.alternatives.types
    assert (first.low, first.high, first.symmetric) == (0, 255, True)
    assert (second.zero_point, second.low, second.high) == (128, 0, 255)
    assert conv.quants[1].choice.alternatives.types[0].granularity is Granularity.PER_CHANNEL
    fold = next(r for r in program.rewrites if r.name == "fold_batchnorm")
    assert [type(e) for e in fold.emits] == [EmitValue, EmitValue, EmitValue, EmitNode]


def test_features_from_the_command_line() -> None:
    plain, fast = load_rules("cpu"), load_rules("cpu", settings={"vnni": "true"})
    assert [a.storage for a in plain.accumulators] == ["i16", "i32"]
    assert [a.storage for a in fast.accumulators] == ["i32"]
    assert plain.digest != fast.digest
    with pytest.raises(Rejected) as wrong:
        load_rules("cpu", settings={"vnni": "maybe", "vnii": "true"})
    assert codes(wrong) == ["wrong-setting", "unknown-name"]


def test_digest_knows_no_comments_places_or_paths(tmp_path: Path) -> None:
    body = "device d {\n  opset ai.onnx 13 .. 25\n  pass MaxPool\n}\n"
    first = load(tmp_path, HEAD + body)
    second = load(tmp_path, HEAD + "# remark\n\n## doc\n" + body.replace("pass", "\n\npass"))
    third = load(tmp_path, HEAD + body.replace("MaxPool", "Reshape"))
    assert first.digest == second.digest != third.digest


def test_digest_is_the_same_in_every_process() -> None:
    script = "from potc.language.resolve import load_rules; print(load_rules('cpu').digest)"
    root = Path(__file__).parents[2]
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
            cwd=root,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {load_rules("cpu").digest + "\n"}


def test_inheritance(tmp_path: Path) -> None:
    rules = (
        HEAD
        + """
device d {
  opset ai.onnx 13 .. 25
  feature fast: bool = false
  qtype a = u8 asym
  rule r { match Relu(x) as y quant x, y: a }
  rule q { match Tanh(x) as y quant x, y: a }
  prefer r over q
}
device e extends d {
  set fast = true
  qtype a = i8 sym
  override rule r { match Relu(x) as y quant x, y: a | none }
  remove rule q
}
device f = d with (fast = true)
"""
    )
    child = load(tmp_path, rules, device="e")
    assert child.features == {"fast": True}
    assert [r.qualified for r in child.rules] == ["e.r"]
    assert child.rules[0].quants[0].choice.alternatives.types[0].storage == "i8"
    assert load(tmp_path, rules).device == "d"
    assert load(tmp_path, rules, device="f").features == {"fast": True}


def test_patterns_by_name_are_written_out(tmp_path: Path) -> None:
    rules = (
        HEAD
        + """
pattern Gelu(x, half: const) match {
  a = Div(x, 1.41421 within 1e-3)
  e = Erf(a)
  b = Add(e, const k)
  c = Mul(x, b)
  y = Mul(c, half)
}
require k.size == 1 else "k"
device d {
  opset ai.onnx 13 .. 25
  rule r {
    match Gelu(t, h) -> Relu? as y
    quant t, y: u8 asym, h: i8 sym
  }
}
"""
    )
    (rule,) = load(tmp_path, rules).rules
    nodes = rule.pattern.nodes
    assert [sorted(n.ops)[0] for n in nodes] == ["Div", "Erf", "Add", "Mul", "Mul"]
    assert isinstance(nodes[0].args[0], Capture) and nodes[0].args[0].name == "t"
    assert isinstance(nodes[1].args[0], Result) and nodes[1].args[0].node == 0
    captured = nodes[2].args[1]
    assert isinstance(captured, Capture) and captured.name.startswith("_")
    assert [text(r.condition) for r in rule.requires] == [f"{captured.name}.size == 1"]
    assert len(rule.pattern.tail) == 1


def test_predicates_are_written_out(tmp_path: Path) -> None:
    rules = (
        HEAD
        + """
pred small(t, n) = t.size <= n
pred both(a, b) = small(a, 8) and small(b, 9)
device d {
  opset ai.onnx 13 .. 25
  rule r { match Add(a, b) as y require both(b, a) quant a, b, y: u8 asym }
}
"""
    )
    (rule,) = load(tmp_path, rules).rules
    assert text(rule.requires[0].condition) == "b.size <= 8 and a.size <= 9"


def test_exploding_definitions_are_refused(tmp_path: Path) -> None:
    doubling = "".join(f"pred p{k}(t) = p{k - 1}(t) and p{k - 1}(t)\n" for k in range(1, 40))
    patterns = "".join(f"pattern P{k}(x) match {{\n a = P{k - 1}(x)\n y = P{k - 1}(a)\n}}\n" for k in range(1, 40))
    device = "device d {\n opset ai.onnx 13 .. 25\n"
    with pytest.raises(Rejected) as first:
        load(
            tmp_path,
            f"{HEAD}pred p0(t) = t.rank == 1\n{doubling}{device} rule r {{ match Relu(x) as y require p39(x) quant x, y: u8 asym }}\n}}",
        )
    assert codes(first) == ["recursive-definition"]
    with pytest.raises(Rejected) as second:
        load(tmp_path, f"{HEAD}pattern P0(x) match Relu(x)\n{patterns}{device} float f {{ match P39(x) }}\n}}")
    assert set(codes(second)) <= {"impossible-pattern", "recursive-definition"}


def test_files_that_use_one_another(tmp_path: Path) -> None:
    (tmp_path / "other.rules").write_text('use "device.rules"\n')
    with pytest.raises(Rejected) as circle:
        load(tmp_path, 'use "other.rules"\ndevice d { opset ai.onnx 13 .. 25 }\n')
    assert codes(circle) == ["import-cycle"]


def test_names_are_taken_one_by_one(tmp_path: Path) -> None:
    device = "device d { opset ai.onnx 13 .. 25 }\n"
    program = load(tmp_path, "use prepare: drop_identity\n" + device)
    assert [r.name for r in program.rewrites] == ["drop_identity"]
    with pytest.raises(Rejected) as typo:
        load(tmp_path, "use prepare: drop_identiti\n" + device)
    assert codes(typo) == ["unknown-name"]
    assert "drop_identity" in (typo.value.diagnostics[0].help or "")


def test_missing_files_and_devices(tmp_path: Path) -> None:
    for name in ("no.rules", "cpx", "\0", str(tmp_path)):
        with pytest.raises(Rejected) as missing:
            load_rules(name)
        assert codes(missing) == ["missing-file"]
        assert missing.value.exit_code == 2
    with pytest.raises(Rejected) as none:
        load(tmp_path, HEAD)
    assert codes(none) == ["missing-device"]
    assert check_file(str(tmp_path / "device.rules")).diagnostics == ()
    with pytest.raises(Rejected) as unknown:
        load_rules("cpu", device="gpu")
    assert codes(unknown) == ["unknown-name"]


def test_a_rule_file_opens_no_absolute_path(tmp_path: Path) -> None:
    other = tmp_path / "other.rules"
    other.write_text("potc 1\n")
    with pytest.raises(Rejected) as refused:
        load(tmp_path, f'{HEAD}use "{other}"\n')
    assert codes(refused) == ["missing-file"]
    assert "absolute" in refused.value.diagnostics[0].message


def test_no_text_file(tmp_path: Path) -> None:
    path = tmp_path / "x.rules"
    path.write_bytes(b"potc 1\n\xff\xfe")
    with pytest.raises(Rejected) as wrong:
        load_rules(str(path))
    assert codes(wrong) == ["syntax-error"]


def test_everything_can_be_checked() -> None:
    """The file with every construct is no sensible device, but it is told so without a crash."""
    with pytest.raises(Rejected):
        check_file(str(Path(__file__).parent / "everything.rules"))


def test_checking_rules_starts_without_numpy() -> None:
    script = "import sys; from potc.cli.main import main; main(['check', '-q', *sys.argv[1:]]); print(sorted({'numpy', 'google.protobuf', 'onnx'} & sys.modules.keys()))"
    found = subprocess.run(
        [sys.executable, "-c", script, *shipped_rules()],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert found.stdout == "[]\n"

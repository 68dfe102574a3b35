"""Conformance kits: every shipped device has cases, they are legal and computed twice, and boards with defects fail them."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, numpy_helper

from potc.cli.main import main
from potc.execute.session import open_session
from potc.graph.model import Model
from potc.language.program import Program
from potc.language.resolve import load_rules
from potc.legal.judge import judge
from potc.workbench.exact import Arithmetic, Exact, Grid, near_tie, round_to_codes
from potc.workbench.scenes import Stage
from potc.workbench.suite import Kit, make_kit
from potc.workbench.suite_cases import Case, cases_of_rule
from potc.workbench.suite_runner import Outcome, Refused, Run, check

ROOT = Path(__file__).parents[2]
DEVICES = sorted(p.stem for p in (ROOT / "rules").glob("*.rules") if "\ndevice " in p.read_text())


@lru_cache(maxsize=8)
def kit_of(rules: str, device: str | None, rule: str) -> Kit:
    return make_kit(load_rules(rules, device=device), 0, rule)


def written(kit: Kit, folder: Path) -> Path:
    for name, data in kit.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def failed(outcomes: Sequence[Outcome]) -> list[str]:
    return [o.name for o in outcomes if o.status == "FAIL"]


# ---------------------------------------------------------------------------------------------- boards


def exact_board(arithmetic: Callable[[onnx.ModelProto], Arithmetic] = lambda model: Arithmetic()) -> Run:
    loaded: dict[Path, Exact] = {}

    def run(path: Path, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if path not in loaded:
            model = onnx.load(path)
            loaded[path] = Exact(model, arithmetic(model))
        values = loaded[path].run(inputs).values
        return {name: values[name].astype(np.float32) for name in loaded[path].outputs}

    return run


def onnxruntime_board(path: Path, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Float32 between the quantizers, nothing optimized: another program than the one that made the kit."""
    session = open_session(path.read_bytes(), optimize=False, threads=1)
    names = [o.name for o in session.get_outputs()]
    return {name: np.asarray(result) for name, result in zip(names, session.run(names, dict(inputs)), strict=True)}


def rounds_away(model: onnx.ModelProto) -> Arithmetic:
    def quantize(values: np.ndarray, grid: Grid) -> np.ndarray:
        real = values / grid.scale
        low, high = grid.limits
        return np.clip(np.sign(real) * np.floor(np.abs(real) + 0.5) + grid.zero_point, low, high).astype(np.int64)

    return Arithmetic(quantize=quantize)


def clips_biases(model: onnx.ModelProto) -> Arithmetic:
    def dequantize(codes: np.ndarray, grid: Grid) -> np.ndarray:
        held = np.clip(codes, -(1 << 15), (1 << 15) - 1) if grid.storage == "i32" else codes
        return (held - grid.zero_point) * grid.scale

    return Arithmetic(dequantize=dequantize)


def pads_with_code_zero(model: onnx.ModelProto) -> Arithmetic:
    grids = dequantized(model)

    def operator(node: NodeProto, evaluate: Callable[..., Any], inputs: Sequence[np.ndarray | None]) -> Sequence[Any]:
        if node.op_type != "Conv" or node.input[0] not in grids:
            return evaluate(inputs)
        scale, zero = grids[node.input[0]]
        x, w, *rest = inputs
        assert x is not None and w is not None
        padding = -float(zero) * float(scale)  # what the code 0 stands for
        summed = w.reshape(w.shape[0], -1).sum(1).reshape(1, -1, *[1] * (w.ndim - 2))
        return [evaluate([x - padding, w, *rest])[0] + padding * summed]

    return Arithmetic(operator=operator)


def saturates_pairs(model: onnx.ModelProto) -> Arithmetic:
    """Adds two products at a time into 16 bits, as x86 before VNNI does."""
    grids = dequantized(model)

    def operator(node: NodeProto, evaluate: Callable[..., Any], inputs: Sequence[np.ndarray | None]) -> Sequence[Any]:
        if node.op_type != "MatMul" or node.input[1] not in grids:
            return evaluate(inputs)
        (sx, zx), (sw, _) = grids[node.input[0]], grids[node.input[1]]
        x, w = inputs
        assert x is not None and w is not None
        if w.ndim != 2:
            return evaluate(inputs)  # beyond what the kernel takes
        codes = np.rint(x / sx) + zx
        weights = np.rint(w / sw)
        length = codes.shape[-1]
        total = np.zeros((*codes.shape[:-1], w.shape[-1]))
        for k in range(0, length, 2):
            total += np.clip(codes[..., k : k + 2] @ weights[k : k + 2], -(1 << 15), (1 << 15) - 1)
        return [(total - zx * weights.sum(0)) * sx * sw]

    return Arithmetic(operator=operator)


def dequantized(model: onnx.ModelProto) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scale and zero point of each tensor that is dequantized."""
    stored = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    return {n.output[0]: (stored[n.input[1]], stored[n.input[2]]) for n in nodes}


# ---------------------------------------------------------------------------------------------- devices


def assert_right(case: Case, program: Program) -> None:
    """Legal exactly where it says so, and the same codes as onnxruntime gives, except near ties."""
    verdicts = judge(Model("", case.compiled.proto, ()), program)
    assert case.legal == all(not v.violations for v in verdicts), case.about
    if case.runs:
        assert case.legal
    else:
        own = Stage(program, 0).scene(case.compiled.scene.sketch())
        assert own is not None and not own.takes(case.rule), case.about
    expected = case.expected
    session = open_session(case.compiled.serialized, optimize=False, threads=1)
    ends = {s.tensor: s for s in expected.stored if s.end}
    for k in range(len(expected.samples)):
        feed = {name: array[k] for name, array in expected.inputs.items()}
        for name, found in zip(expected.outputs, session.run(list(expected.outputs), feed), strict=True):
            if name not in ends:
                continue
            grid, axis, values = ends[name].grid, ends[name].axis, np.asarray(found, np.float64)
            shape = [] if axis is None else [-1 if a == axis else 1 for a in range(values.ndim)]
            codes = np.rint(values / grid.scale.reshape(shape)) + grid.zero_point.reshape(shape)
            apart = np.abs(codes - expected.codes[name][k])
            allowed = expected.near_tie[name][k] | (k in expected.undecided)
            assert (apart <= allowed).all(), f"{case.rule}, {case.about}, {expected.samples[k]}"


@pytest.mark.parametrize("device", DEVICES)
def test_cases_of_each_device_are_legal_and_computed_twice(device: str) -> None:
    program = load_rules(device)
    stage = Stage(program, 0)
    rules = [(part, r) for part in program.members for r in part.rules if not (r.is_float or r.keep)]
    made = 0
    for part, rule in (rules[len(rules) // 3], rules[-len(rules) // 3]):
        for found in itertools.islice(cases_of_rule(stage, part, rule), 5):
            if isinstance(found, Case):
                assert_right(found, program)
                made += 1
    assert made or program.parts


def test_a_meet_has_cases_from_each_part() -> None:
    program = load_rules("any")
    stage = Stage(program, 0)
    for part in program.members:
        rule = next(r for r in part.rules if r.name == "matmul_two_activations")
        case = next(f for f in cases_of_rule(stage, part, rule) if isinstance(f, Case))
        assert_right(case, program)
        assert {k.rule for k in case.compiled.plan.kernels} == {
            " & ".join(f"{p.device}.matmul_two_activations" for p in program.members)
        }


def test_every_rule_of_cpu_has_a_case() -> None:
    program = load_rules("cpu")
    stage = Stage(program, 0)
    for rule in program.rules:
        found = next((f for f in cases_of_rule(stage, program, rule) if isinstance(f, Case)), None)
        assert found is not None and found.runs, rule.name


def test_both_sides_of_each_limit_are_tried() -> None:
    kit = kit_of("cpu", None, "depthwise")
    about = {c.about: c for c in kit.cases}
    inside = about["require `w.rank in 3 .. 5` at its boundary: `w.rank` is 5"]
    beyond = about["require `w.rank in 3 .. 5` one step beyond: `w.rank` is 6"]
    assert (inside.runs, inside.legal, beyond.runs, beyond.legal) == (True, True, False, False)
    for case, rank in ((inside, 5), (beyond, 6)):
        weight = case.compiled.scene.bindings["w"][0]
        shapes = {t.name: len(t.dims) for t in case.compiled.scene.model.proto.graph.initializer}
        assert shapes[weight] == rank
    assert {"variant", "format", "attribute", "limit", "beyond", "sums", "ties"} == {c.kind for c in kit.cases}


def test_groups_of_channels_begin_and_end_where_the_rule_says(tmp_path: Path) -> None:
    rules = tmp_path / "groups.rules"
    rules.write_text(
        "potc 1\nuse std\ndevice groups {\n  opset ai.onnx 13 .. 25\n  rule gemm {\n"
        "    match MatMul(x: value, w: const) as y\n"
        "    require w.rank == 2 and w.shape[out] % 16 == 0\n"
        "    require w.shape[in] <= 32\n"
        "    quant x, y: i8 sym per_tensor, w: i8 sym per_channel(out)\n  }\n}\n"
    )
    kit = make_kit(load_rules(str(rules)), 0, None)
    sizes = {
        (c.kind, d)
        for c in kit.cases
        if "w.shape" in c.about
        for d in next(t for t in c.compiled.scene.model.proto.graph.initializer if t.name == "w").dims
    }
    assert {("limit", 16), ("beyond", 17), ("limit", 32), ("beyond", 33)} <= sizes


def test_activations_with_a_scale_for_each_channel(tmp_path: Path) -> None:
    rules = tmp_path / "core.rules"
    rules.write_text(
        "potc 1\nuse std\ndevice core {\n  opset ai.onnx 13 .. 25\n"
        "  rule depthwise { match Conv[group == x.shape[1]](x: value, w: const) as y\n"
        "    quant x, y: u8 asym per_channel(channel), w: i8 sym per_channel(out) }\n}\n"
    )
    program = load_rules(str(rules))
    kit = make_kit(program, 0, None)
    case = kit.cases[0]
    assert_right(case, program)
    assert {s.axis for s in case.expected.stored} == {1}
    assert all(s.grid.scale.size > 1 for s in case.expected.stored)
    codes = case.expected.codes["x"]
    ends = [codes[case.expected.samples.index(f"{which} codes")] for which in ("smallest", "largest")]
    assert [(e.min(), e.max()) for e in ends] == [(0, 0), (255, 255)]
    assert not failed(check(written(kit, tmp_path / "kit"), exact_board()))


# ---------------------------------------------------------------------------------------------- boards on kits


def test_right_boards_pass(tmp_path: Path) -> None:
    folder = written(kit_of("cpu", None, "conv"), tmp_path)
    for run in (exact_board(), onnxruntime_board):
        outcomes = check(folder, run)
        assert not failed(outcomes)
        assert len(outcomes) > 10


@pytest.mark.parametrize(
    ("defect", "kind"),
    [(rounds_away, "ties"), (clips_biases, "sums"), (pads_with_code_zero, "attribute")],
    ids=lambda d: d if isinstance(d, str) else d.__name__,
)
def test_defects_are_caught(defect: Callable[[onnx.ModelProto], Arithmetic], kind: str, tmp_path: Path) -> None:
    folder = written(kit_of("cpu", None, "conv"), tmp_path)
    found = failed(check(folder, exact_board(defect)))
    assert any(f"-{kind}-" in name for name in found), found
    passed = {o.name for o in check(folder, exact_board(defect)) if o.status == "pass"}
    assert passed  # a defect shows where it matters, not everywhere


def test_saturating_pairs_fail_where_the_device_has_none(tmp_path: Path) -> None:
    """The same board passes the kit of the device that says what it does: its weights can't saturate."""
    honest = written(kit_of("cpu", None, "matmul"), tmp_path / "honest")
    assert not failed(check(honest, exact_board(saturates_pairs)))
    boasting = written(kit_of("cpu", "cpu_vnni", "matmul"), tmp_path / "boasting")
    found = failed(check(boasting, exact_board(saturates_pairs)))
    assert any("-sums-" in name for name in found), found
    assert not failed(check(boasting, exact_board()))


def test_refusing_is_right_beyond_limits_only(tmp_path: Path) -> None:
    def refuses(path: Path, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        raise Refused("no")

    outcomes = check(written(kit_of("cpu", None, "conv"), tmp_path), refuses)
    assert all((o.status == "refused") == ("-beyond-" in o.name) for o in outcomes)
    assert "refused" in {o.status for o in outcomes}


def test_codes_are_accepted_as_well_as_floats(tmp_path: Path) -> None:
    kit = kit_of("cpu", None, "conv")
    folder = written(kit, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    stored = {o["name"]: o["stored"] for case in manifest["cases"] for o in case["outputs"] if o["stored"]}
    assert stored

    def codes(path: Path, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        model = onnx.load(path)
        values = Exact(model).run(inputs).values
        made = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
        return {o.name: values[made.get(o.name, o.name)] for o in model.graph.output}

    assert not failed(check(folder, codes))


# ---------------------------------------------------------------------------------------------- the command


def assert_complete(folder: Path, program: Program) -> None:
    """The manifest and the files of a kit say the same."""
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["device"], manifest["rules_sha256"]) == (program.device, program.digest)
    assert manifest["potc_suite"] == 1
    for case in manifest["cases"]:
        inputs, expected = (np.load(folder / case["files"][part]) for part in ("inputs", "expected"))
        assert [i["name"] for i in case["inputs"]] == inputs.files
        for output in case["outputs"]:
            assert expected[output["array"]].shape == (len(case["samples"]), *output["shape"])
            assert output["stored"] is None or expected[output["stored"]["codes"]].shape[1:] == tuple(output["shape"])
        onnx.checker.check_model(onnx.load(folder / case["files"]["model"]))
    assert all(entry.keys() == {"rule", "place", "about", "reason"} for entry in manifest["not_covered"])


def test_a_whole_device(tmp_path: Path) -> None:
    program = load_rules("xint8")
    kit = make_kit(program, 0, None)
    folder = written(kit, tmp_path)
    assert_complete(folder, program)
    told = kit.covered | {m.rule for m in kit.missing}
    assert {r.qualified for r in program.rules} <= told
    assert {f"xint8.pass {op}" for s in program.passes for op in s.ops} <= told
    outcomes = check(folder, exact_board())
    assert len(outcomes) == len(kit.cases)
    assert not failed(outcomes)
    assert failed(check(folder, exact_board(rounds_away), "sum-ties"))


def test_the_command_writes_a_kit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "kit"
    assert main(["suite", "xint8", "--rule", "prelu", "-o", str(folder), "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == json.loads((folder / "manifest.json").read_text())
    assert {case["rule"] for case in answer["cases"]} == {"xint8.prelu"}
    assert_complete(folder, load_rules("xint8"))
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert main(["suite", "xint8", "--rule", "prelu", "-o", str(folder), "-q"]) == 0
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    script = subprocess.run([sys.executable, str(folder / "run.py")], capture_output=True, text=True, check=False)
    assert script.returncode == 1
    assert "write here how your board" in script.stderr


def test_equal_arguments_give_equal_bytes_and_other_seeds_others() -> None:
    program = load_rules("cpu")
    first, again, other = (make_kit(program, seed, "leaky_relu").files for seed in (3, 3, 4))
    assert first == again
    assert other.keys() == first.keys()
    assert any(other[name] != first[name] for name in first if name.endswith("model.onnx"))


def test_what_can_not_be_drawn_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "far.rules"
    rules.write_text(
        "potc 1\nuse std\ndevice far {\n  opset ai.onnx 13 .. 25\n"
        "  rule square { match Relu(x) as y  require x.size >= 1000000  quant x, y: i8 sym per_tensor }\n}\n"
    )
    assert main(["suite", str(rules), "-o", str(tmp_path / "kit")]) == 0
    assert "have no case" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "kit" / "manifest.json").read_text())
    assert manifest["cases"] == []
    assert manifest["not_covered"][0]["place"] == "far.rules:5"


def test_folders_of_others_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "note.txt").write_text("mine")
    assert main(["suite", "cpu", "--rule", "leaky_relu", "-o", str(tmp_path)]) == 2
    assert "holds something that is no kit" in capsys.readouterr().err
    assert main(["suite", "cpu", "--rule", "leaky_rely", "-o", str(tmp_path / "kit")]) == 2
    assert "did you mean `leaky_relu`?" in capsys.readouterr().err
    assert not (tmp_path / "kit").exists()


def test_a_case_that_moves_codes_has_the_same_codes_on_both_sides() -> None:
    kit = kit_of("cpu", None, "pass")
    assert len(kit.cases) > 10
    for case in kit.cases:
        scene = case.compiled.scene
        before, behind = (scene.bindings[name][0] for name in ("x", "y"))
        codes = {s.source.removesuffix("/float"): case.expected.codes[s.tensor] for s in case.expected.stored}
        for sample in range(len(case.expected.samples)):
            assert np.isin(codes[behind][sample], codes[before][sample]).all(), case.about


def test_near_ties_are_where_a_little_changes_the_code() -> None:
    grid = Grid(np.array(0.5), np.array(10), "u8")
    far, near = 0.25 + grid.tie_distance, 0.25 + grid.tie_distance / 8
    values = np.array([0.25, near, far, 1000.25, -1000.25])
    assert near_tie(values, grid).tolist() == [True, True, False, False, False]
    assert round_to_codes(np.array([0.25, 0.75, -0.25, 1e9]), grid).tolist() == [10, 12, 10, 255]
    assert replace(grid, storage="i16").tie_distance == 2.0**-5

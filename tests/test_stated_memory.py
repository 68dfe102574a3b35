"""``--memory``: the same plan, ranges and output to the byte as without, group by group; and what does not fit is named."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import tracemalloc
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import potc
from potc.cli.main import main
from potc.cli.memory import bytes_of
from potc.compiler import PROCESS, Compilation, Job, compile_model
from potc.evaluate.borders import same_behind_borders
from potc.evaluate.least_memory import BY_CHANNEL, BY_TENSOR
from potc.graph.groups import Room, Wishes, cut
from potc.graph.whole import whole_bytes
from potc.language.program import Granularity, QType
from potc.quantize.calibrate_in_turns import ACTIVATION, WEIGHT
from potc.quantize.params import Params, dequantize, solve_params
from potc.quantize.plan import ConstantQuantizer, Lanes, Plan
from potc.quantize.plan_file import plan_to_json
from potc.quantize.ranges import Ranges
from potc.quantize.tuning import BiasSettings, RangeSettings, Tuning

ROOT = Path(__file__).parents[1]
DIGITS, PICTURES = ROOT / "samples/digits/model.onnx", ROOT / "samples/digits/calib.npz"
MIB = 1 << 20
FAST = Tuning(bias=BiasSettings("fast"))


@pytest.fixture(scope="module")
def large() -> ModuleType:
    spec = importlib.util.spec_from_file_location("large_model", ROOT / "benchmarks" / "large_model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["large_model"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def transformer(large: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Three layers of width 128, 2.4 MB, with the weights beside the model; and samples."""
    folder = tmp_path_factory.mktemp("transformer")
    model = large.build(folder, 3, 128, 128, 16)
    return str(model), str(large.samples(folder / "ids.npz", 6, 128, 16))


def numbers(done: Compilation) -> tuple[str, str, str]:
    output = b"".join(whole_bytes(done.output).blocks())
    return hashlib.sha256(output).hexdigest(), done.ranges.to_json(), plan_to_json(done.plan)


def groups_of(done: Compilation, memory: int) -> int:
    kernels = tuple(k.nodes for k in done.plan.kernels)
    wishes = Wishes(watched=frozenset(done.plan.observed), together=kernels)
    return len(cut(done.prepared.proto, Room(memory - PROCESS, WEIGHT, ACTIVATION), wishes))


@pytest.mark.parametrize("estimator", ["max", "mse", "quantile"])
def test_ranges_plan_and_output_are_equal(transformer: tuple[str, str], estimator: str) -> None:
    model, data = transformer
    tuning = Tuning(ranges=RangeSettings(estimator=estimator), bias=BiasSettings("fast"))
    whole = compile_model(Job(model, "cpu", data, tuning=tuning))
    for memory in (PROCESS + 2 * MIB, PROCESS + 3 * MIB, PROCESS + 1000 * MIB):
        parted = compile_model(Job(model, "cpu", data, tuning=tuning, memory=memory))
        assert numbers(parted) == numbers(whole)
        assert parted.prepared.aside is not None and parted.verification.ok
        assert parted.verification.sqnr == pytest.approx(whole.verification.sqnr, abs=0.5)
        assert parted.share == whole.share
    assert groups_of(whole, PROCESS + 2 * MIB) > 2
    assert groups_of(whole, PROCESS + 1000 * MIB) == 1


@pytest.mark.parametrize("rules", ["vpu", "weight_only", "tflite_int8"])
def test_other_devices(rules: str, transformer: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potc.evaluate.least_memory.BY_TENSOR", 0)  # else there is room for all layers at once
    model, data = transformer
    whole = compile_model(Job(model, rules, data, tuning=FAST))
    parted = compile_model(Job(model, rules, data, tuning=FAST, memory=PROCESS + 2 * MIB))
    assert numbers(parted) == numbers(whole)
    assert parted.verification.sqnr == pytest.approx(whole.verification.sqnr, abs=0.5)


def test_convolutions_with_weights_in_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potc.evaluate.least_memory.BY_CHANNEL", 0)  # else there is room for all layers at once
    whole = compile_model(Job(str(DIGITS), "cpu", str(PICTURES), tuning=FAST, samples=20))
    memory = PROCESS + 740_000
    parted = compile_model(Job(str(DIGITS), "cpu", str(PICTURES), tuning=FAST, samples=20, memory=memory))
    assert groups_of(whole, memory) > 1
    assert numbers(parted) == numbers(whole)
    assert (parted.share, parted.verification.ok) == (whole.share, True)


@pytest.mark.parametrize(
    ("rules", "tuning"),
    [
        ("cpu", FAST),
        ("weight_only", FAST),
        ("tflite_int8", FAST),
        ("cpu", Tuning(ranges=RangeSettings(estimator="mse"))),
    ],
)
def test_what_does_not_fit_is_named_with_the_least_memory_that_does(
    rules: str, tuning: Tuning, transformer: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = transformer
    monkeypatch.setattr("potc.graph.groups.STEP", 1000)  # the models of tests are small
    monkeypatch.setattr("potc.evaluate.least_memory.MIB", 1000)
    told: list[str] = []
    for memory in (PROCESS + 1000, PROCESS - 5):
        with pytest.raises(potc.Rejected) as caught:
            compile_model(Job(model, rules, data, tuning=tuning, memory=memory))
        (diagnostic,) = caught.value.diagnostics
        assert (diagnostic.code, diagnostic.node is not None) == ("memory-too-small", True)
        told.append(diagnostic.help or "")
    least = re.search(r"state --memory (\d+)MiB, which is the least", told[0])
    assert least is not None and told[0] == told[1]
    memory = int(least[1]) * 1000
    assert compile_model(Job(model, rules, data, tuning=tuning, memory=memory)).verification.ok
    with pytest.raises(potc.Rejected):
        compile_model(Job(model, rules, data, tuning=tuning, memory=memory - 1001))


@pytest.mark.parametrize(("axis", "granularity"), [(1, Granularity.PER_CHANNEL), (None, Granularity.PER_TENSOR)])
@pytest.mark.parametrize("estimator", ["max", "mse", "quantile"])
def test_solving_a_weight_takes_no_more_than_it_counts(
    axis: int | None, granularity: Granularity, estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in pieces it gives the same as at once."""
    values = np.random.default_rng(0).standard_normal((600, 900)).astype(np.float32)
    kind = QType("i8", -127, 127, True, granularity)
    lanes = (Lanes("i16", 2, (0,)), Lanes("i32", 1, (0,)))
    constant = ConstantQuantizer("w", "n", 1, (kind,), axis, "weight", (), lanes, ())
    tuning = Tuning(ranges=RangeSettings(weight_estimator=estimator))

    def solved() -> Params:
        return solve_params(Plan("d", (), (), (constant,), (), ()), Ranges({}), {"w": values.copy()}, tuning)

    whole = solved()
    monkeypatch.setattr("potc.quantize.narrow.PIECE", 10_000)
    monkeypatch.setattr("potc.quantize.narrow.PART", 10_000)
    tracemalloc.start()
    parted = solved()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (BY_CHANNEL if axis is not None else BY_TENSOR) * values.nbytes
    np.testing.assert_array_equal(parted.codes[0], whole.codes[0])
    np.testing.assert_array_equal(parted.constants[0].scale, whole.constants[0].scale)
    assert parted.narrowing[0].at_risk == whole.narrowing[0].at_risk > 0
    assert parted.constant_reasons == whole.constant_reasons
    np.testing.assert_array_equal(
        dequantize(whole.codes[0], whole.constants[0]), whole.constants[0].scale * whole.codes[0]
    )


@pytest.mark.parametrize("rules", ["cpu", "vpu"])
def test_codes_for_inputs_and_outputs(rules: str) -> None:
    words = {"rules": rules, "data": str(PICTURES), "samples": 8, "io": {"input": "u8"}}
    whole = potc.compile(str(DIGITS), bias_correction="fast", **words)  # type: ignore[arg-type]
    parted = potc.compile(str(DIGITS), bias_correction="fast", memory=PROCESS + 3 * MIB, **words)  # type: ignore[arg-type]
    assert parted.model == whole.model
    (check,) = (c for c in parted.compilation.verification.checks if c.name == "borders")
    assert check.ok and "the same results on 8 samples" in check.detail and parted.compilation.borders


def test_codes_that_differ_are_told_in_turns_too(transformer: tuple[str, str]) -> None:
    model, data = transformer
    done = compile_model(Job(model, "cpu", data, tuning=FAST, memory=PROCESS + 3 * MIB))
    other = compile_model(Job(model, "cpu", data, tuning=Tuning(bias=BiasSettings("none")), memory=PROCESS + 3 * MIB))
    samples = [(i, feed) for i, feed in enumerate(done.samples.feeds())][:2]
    same = same_behind_borders(done.compiled, done.compiled, (), (), samples, 3 * MIB)
    different = same_behind_borders(done.compiled, other.compiled, (), (), samples, 3 * MIB)
    assert (same.ok, different.ok, different.detail) == (True, False, "`logits` differs in sample 0")


def test_the_command_writes_a_model_that_loads(
    transformer: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = transformer
    out = tmp_path / "out.onnx"
    words = ["compile", model, "--rules", "cpu", "--data", data, "--bias-correction", "fast"]
    stated = [*words, "--memory", "300MiB", "-o"]
    assert main([*stated, str(out), "-v"]) == 0
    assert "layers are not accounted for" in "".join(capsys.readouterr())
    assert main([*words, "-o", str(tmp_path / "whole.onnx"), "-q"]) == 0
    assert out.read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert main([*stated, str(tmp_path / "apart.onnx"), "--external-data", "-q"]) == 0
    ids = np.load(data)["ids"][0]
    a, b = (
        ort.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"]).run(None, {"ids": ids})[0]
        for name in ("out.onnx", "apart.onnx")
    )
    np.testing.assert_array_equal(a, b)
    assert any(t.data_location for t in onnx.load(tmp_path / "apart.onnx", load_external_data=False).graph.initializer)


def test_python(transformer: tuple[str, str], tmp_path: Path) -> None:
    model, data = transformer
    done = potc.compile(model, rules="cpu", data=data, memory="300MiB")
    assert any("--bias-correction fast" in w for w in done.report.warnings)
    assert done.model == potc.compile(model, rules="cpu", data=data, bias_correction="fast").model
    assert done.report.bytes_after == len(done.model)
    done.save(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == done.model
    done.save(tmp_path / "apart.onnx", external_data=True)
    assert len(list(tmp_path.glob("apart.*.data"))) == 1
    with pytest.raises(ValueError, match="memory does not go with equalize"):
        potc.compile(model, rules="cpu", data=data, memory="300MiB", equalize="align")


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("1.5 GB", 1_500_000_000), ("512MiB", 512 << 20), (7, 7), ("100kb", 100_000), ("1e9", 10**9)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "lots", "4 G", "-1", "1e999"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        bytes_of(text)


def test_words_that_contradict(transformer: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    model, data = transformer
    command = ["compile", model, "--rules", "cpu", "--data", data, "--memory", "4GiB"]
    page = (ROOT / "docs/explain/scale.md").read_text()
    target = ["--max-drop", "0.1", "--eval-data", data, "--metric", "sqnr"]
    for words in (["--rounding", "gptq"], ["--equalize", "align"], ["--preset", "auto"], target):
        assert main([*command, *words]) == 2
        told = capsys.readouterr().err
        reason = re.search(r"--memory does not go with [^:]+: (.*)", told)
        assert (
            reason is not None
            and f"| `{' '.join(words[:2]) if words[0] in ('--rounding', '--preset') else words[0]}` | {reason[1]} |"
            in page
        )
    assert main([*command[:-1], "4 apples"]) == 2

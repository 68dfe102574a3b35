"""When channels of 16-bit weights are scaled without a word of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from potc.cli.main import main

RANDOM = np.random.default_rng(11)
SIZES = 2.0 ** np.linspace(0, 9, 8)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1, 16] x) => (float[1, 4] y) <float[16, 8] v, float[8, 4] w> {
        a = MatMul (x, v)   b = Relu (a)   y = MatMul (b, w) }"""
    model = parser.parse_model(text)
    values = {"v": RANDOM.standard_normal((16, 8)) * SIZES, "w": RANDOM.standard_normal((8, 4)) / SIZES[:, None]}
    model.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in values.items())
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "s.npz", x=RANDOM.standard_normal((20, 1, 16)).astype(np.float32))
    return tmp_path


def run(folder: Path, *words: str) -> dict[str, object]:
    common = ["compile", str(folder / "m.onnx"), "--rules", "gna", "-o", str(folder / "o.onnx"), "-q"]
    assert main([*common, "--report", str(folder / "r.json"), *words]) == 0
    return json.loads((folder / "r.json").read_text())


CASES = [
    (("--preset", "accuracy"), True),
    (("--preset", "performance"), False),  # these weights have 8 bits then, and a scale for each row
    (("--preset", "fast"), False),
    (("--preset", "accuracy", "--equalize", "none"), False),
    (("--preset", "accuracy", "--save-ranges", "{}/ranges.json"), False),
    (("--preset", "accuracy", "--save-ranges", "{}/ranges.json", "--equalize", "auto"), True),
]


@pytest.mark.parametrize(("words", "scaled"), CASES)
def test_channels_are_scaled(words: tuple[str, ...], scaled: bool, inputs: Path) -> None:
    found = run(inputs, "--data", str(inputs / "s.npz"), *(w.format(inputs) for w in words))["equalization"]
    assert (found is not None) is scaled
    if isinstance(found, dict):
        assert found["method"] == "auto"
        assert found["difference"] == 0


def test_saved_ranges_fit_without_samples(inputs: Path) -> None:
    saved, words = str(inputs / "ranges.json"), ("--preset", "accuracy")
    first = run(inputs, *words, "--data", str(inputs / "s.npz"), "--save-ranges", saved)
    second = run(inputs, *words, "--ranges", saved)
    assert first["equalization"] is None
    assert second["equalization"] is None


def test_noise_says_nothing_of_channels(inputs: Path) -> None:
    assert run(inputs, "--preset", "accuracy")["equalization"] is None

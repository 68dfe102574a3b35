"""A journal belongs to one search: whatever could change a result begins another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from planted import RULES, planted

from potc.compiler import Job, Trace, match_model
from potc.data.annotated import Items
from potc.data.dataset import input_specs
from potc.data.preprocessing import read_preprocessing
from potc.data.source import open_annotated
from potc.evaluate.metrics.classification import topk
from potc.evaluate.metrics.foreign import as_metric
from potc.evaluate.metrics.named import metric_named
from potc.limits import limited, stated
from potc.search.identity import identity
from potc.search.target import Target

METRIC = "def right(outputs, known):\n    return outputs['y'].argmax() == known\n"
DECODE = "def first(outputs):\n    return {'y': next(iter(outputs.values()))}\n"
SAMPLES = "import numpy as np\ndef samples():\n    return [(np.float32(v), 1) for v in np.load('kept.npy')]\n"


@pytest.fixture
def of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The identity of a search with some words, over the files as they are."""
    monkeypatch.chdir(tmp_path)
    net = planted(0)
    onnx.save(net.model, "model.onnx")
    Path("d.rules").write_text(RULES)
    np.savez("calib.npz", x=net.calibration[:4])
    np.save("kept.npy", net.inputs[:4])
    Path("metric.py").write_text(METRIC)
    Path("decode.py").write_text(DECODE)
    Path("samples.py").write_text(SAMPLES)

    def made(metric: str = "top1", data: str = "samples.py:samples", recipe: str | None = None, **words: object) -> str:
        matched = match_model(Job("model.onnx", "d.rules", "calib.npz"), Trace())
        opened = open_annotated(data, input_specs(matched.model), preprocess=read_preprocessing(recipe))
        return identity(matched, replace(Target((metric_named(metric),)), **words), opened)  # type: ignore[arg-type]

    return made


def test_equal_inputs_have_one_identity(of: Callable[..., str]) -> None:
    assert of() == of()
    Path("elsewhere").mkdir()
    Path("model.onnx").touch()
    assert of() == of()


def test_limits_count_that_decide_what_is_compiled(of: Callable[..., str]) -> None:
    with limited(stated({"sample-bytes": 1 << 40, "arrays": 50})):
        before = of()
    assert before == of()
    for name in ("folded-growth-bytes", "folded-total-bytes"):
        with limited(stated({name: 1000})):
            assert of() != before


@pytest.mark.parametrize("metric", ["metric.py:right", "top1,decode=decode.py:first"])
def test_code_of_metrics_counts(metric: str, of: Callable[..., str]) -> None:
    before = of(metric)
    file = Path("metric.py" if metric.startswith("metric") else "decode.py")
    file.write_text(file.read_text() + "# another line\n")
    assert of(metric) != before


def test_code_and_what_it_reads_count_where_samples_are_made_by_it(of: Callable[..., str]) -> None:
    before = of()
    np.save("kept.npy", np.load("kept.npy") * 2)
    other = of()
    assert other != before
    Path("samples.py").write_text(SAMPLES.replace(", 1)", ", 2)"))
    assert of() not in (before, other)


@pytest.mark.parametrize(
    "words",
    [
        {"recipe": "scale = 255"},
        {"confidence": 0.9},
        {"max_drop": "0.02"},
        {"raise_precision": False},
        {"tune": True},
        {"metric": "top2"},
    ],
    ids=str,
)
def test_words_count(words: dict[str, object], of: Callable[..., str]) -> None:
    assert of(**words) != of()


def test_labels_of_objects_and_functions_of_scripts_count(of: Callable[..., str], tmp_path: Path) -> None:
    matched = match_model(Job("model.onnx", "d.rules", "calib.npz"), Trace())
    specs = input_specs(matched.model)
    rows = [{"x": row} for row in np.load("kept.npy")]
    found = {
        identity(matched, Target((topk(1),)), Items(specs, rows, labels)) for labels in ([0, 1, 2, 3], [0, 1, 2, 4])
    }
    assert len(found) == 2
    scripts: set[str] = set()
    for number in range(2):
        file = tmp_path / "script.py"
        file.write_text(f"def score(outputs, known):\n    return {number}\n")
        names: dict[str, object] = {}
        exec(compile(file.read_text(), str(file), "exec"), names)
        metric = as_metric("score", names["score"])
        scripts.add(identity(matched, Target((metric,)), Items(specs, rows, [0] * 4)))
    assert len(scripts) == 2

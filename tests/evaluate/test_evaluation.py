"""A model is scored sample by sample: records stand in order, subsets have values, failures name the sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx.parser
import pytest

from potc.data.annotated import Items
from potc.data.dataset import InputSpec
from potc.diagnostics.diagnostic import Rejected
from potc.evaluate.evaluation import evaluate, evaluate_all, labelled_by
from potc.evaluate.metrics.classification import topk
from potc.evaluate.metrics.metric import Metric, mean, output_of

TEXT = '<ir_version: 9, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y, float[N,3] z) {{ y = {0} (x) z = Neg (x) }}'
SPECS = [InputSpec("x", np.dtype(np.float32), (None, 3))]
ROWS = np.array([[3, 1, 2], [0, 5, 1], [9, 8, 7], [1, 1, 0]], np.float32)


def model(operator: str = "Identity") -> bytes:
    return onnx.parser.parse_model(TEXT.format(operator)).SerializeToString()


def data(annotations: Sequence[Any] | None = (0, 2, 0, 1)) -> Items:
    return Items(SPECS, [{"x": row} for row in ROWS], annotations)


def test_records_stand_in_the_order_of_the_samples_and_their_mean_is_the_value() -> None:
    found = evaluate(model(), data(), topk(1))
    assert found.records == (1.0, 0.0, 1.0, 0.0)  # equal scores: the first one wins
    assert found.value == 0.5
    assert found.indices == (0, 1, 2, 3)


def test_top_two_and_another_output() -> None:
    first, second = evaluate_all(model(), data(), [topk(2), topk(1, output="z")])
    assert first.records == (1.0, 1.0, 1.0, 1.0)
    assert second.records == (0.0, 0.0, 0.0, 0.0)


def test_a_subset_has_the_records_of_its_samples() -> None:
    whole, part = evaluate(model(), data(), topk()), evaluate(model(), data(), topk(), indices=[1, 2])
    assert part.records == whole.records[1:3]
    assert part.value == topk().reduce(whole.records[1:3])


def test_annotations_may_be_what_another_model_answers() -> None:
    compared = labelled_by(model("Neg"), data(None))
    same = Metric("same", lambda out, other: float((output_of(out, "y") == other["y"]).all()), mean, reference=True)
    assert evaluate(model("Neg"), compared, same).value == 1
    assert evaluate(model(), compared, same).value == 0


def test_progress_counts_to_the_number_of_samples() -> None:
    seen: list[tuple[int, int]] = []
    evaluate(model(), data(), topk(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def fail(records: Sequence[Any]) -> float:
    raise ArithmeticError("no")


WRONG = [
    ("no-annotation", model(), data(None), topk(), "sample 0 has none"),
    ("metric-failed", model(), data(["cat", 0, 0, 0]), topk(), "sample 0: ValueError"),
    ("metric-failed", model(), data(), topk(output="w"), "the model has y, z"),
    (
        "metric-failed",
        model(),
        data(),
        Metric("mine", lambda out, known: 0, fail),
        "failed on 4 records: ArithmeticError: no",
    ),
    ("no-samples", model(), Items(SPECS, [], []), topk(), "`top1`"),
    ("unrunnable-model", b"nonsense", data(), topk(), "can't load"),
]


@pytest.mark.parametrize(
    ("code", "runs", "samples", "metric", "part"), WRONG, ids=[f"{i}-{w[0]}" for i, w in enumerate(WRONG)]
)
def test_what_fails_is_told(code: str, runs: bytes, samples: Items, metric: Metric, part: str) -> None:
    with pytest.raises(Rejected) as caught:
        evaluate(runs, samples, metric)
    (told,) = caught.value.diagnostics
    assert told.code == code
    assert part in told.message

"""Metrics agree with the libraries that people compare with; the figures are theirs, for the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potc.data.objects import Objects
from potc.diagnostics.diagnostic import Rejected
from potc.evaluate.metrics.classification import auc, f1, topk
from potc.evaluate.metrics.detection import mean_average_precision
from potc.evaluate.metrics.foreign import as_metric
from potc.evaluate.metrics.metric import Metric
from potc.evaluate.metrics.named import METRICS, metric_named
from potc.evaluate.metrics.numbers import agreement, cosine, rmse, sqnr
from potc.evaluate.metrics.segmentation import miou
from potc.evaluate.metrics.text import edits, error_rate, read_vocabulary

DRAWN = np.random.default_rng(5)
SCORES = DRAWN.normal(size=(60, 4))
LABELS = DRAWN.integers(0, 4, 60)
ROUNDED = SCORES.round(1)  # with ties
ABOVE = (LABELS > 1).astype(int)
MAPS = DRAWN.normal(size=(3, 4, 5, 5))
CLASSES = DRAWN.integers(0, 4, (3, 5, 5))
CLASSES[CLASSES == 3] = 0


def value(metric: Metric, outputs: Any, annotations: Any) -> float:
    """Each sample has a batch axis of 1."""
    return metric.reduce(
        [metric.score({"y": np.asarray(o)[None]}, a) for o, a in zip(outputs, annotations, strict=True)]
    )


# scikit-learn 1.9.1: top_k_accuracy_score, f1_score, roc_auc_score, jaccard_score (macro)
SCIKIT_LEARN: list[tuple[str, Metric, Any, Any, float]] = [
    ("top1", topk(1), SCORES, LABELS, 0.23333333333333334),
    ("top2", topk(2), SCORES, LABELS, 0.4666666666666667),
    ("top3", topk(3), SCORES, LABELS, 0.7),
    ("f1 macro", f1(), ROUNDED, LABELS, 0.21761786600496275),
    ("f1 micro", f1("micro"), ROUNDED, LABELS, 0.23333333333333334),
    ("f1 binary", f1("binary"), ROUNDED[:, :1], ABOVE, 0.35555555555555557),
    ("auc", auc(), ROUNDED[:, :1], ABOVE, 0.5695847362514029),
    ("auc of two scores", auc(), ROUNDED[:, :2], ABOVE, 0.5544332210998877),
    ("miou", miou(), MAPS, CLASSES, 0.14338235294117646),
    ("miou, one class ignored", miou(ignore=0), MAPS, CLASSES, 0.12000000000000001),
    ("miou of classes", miou(classes=4), MAPS.argmax(1), CLASSES, 0.14338235294117646),
]


@pytest.mark.parametrize(
    ("metric", "outputs", "annotations", "expected"), [s[1:] for s in SCIKIT_LEARN], ids=[s[0] for s in SCIKIT_LEARN]
)
def test_as_scikit_learn_has_it(metric: Metric, outputs: Any, annotations: Any, expected: float) -> None:
    assert value(metric, outputs, annotations) == pytest.approx(expected, abs=1e-12)


def test_a_sample_may_hold_many_labels() -> None:
    rows = ROUNDED[:, :1].reshape(4, 15, 1)
    assert value(auc(), rows, ABOVE.reshape(4, 15)) == pytest.approx(0.5695847362514029, abs=1e-12)
    assert value(f1("binary"), rows, ABOVE.reshape(4, 15)) == pytest.approx(0.35555555555555557, abs=1e-12)


# ---------------------------------------------------------------------------------------------- detection


BOXES = [
    Objects([(10, 10, 50, 60), (30, 40, 90, 80)], [1, 2], [False, False], (100, 100)),
    Objects([(5, 5, 25, 25)], [1], [False], (100, 50)),
]
FOUND = [
    (np.array([[10, 10, 50, 60], [32, 44, 90, 80], [60, 60, 70, 70]]), np.array([0.9, 0.8, 0.3]), np.array([1, 2, 1])),
    (np.array([[5, 5, 26, 27], [6, 6, 25, 25]]), np.array([0.7, 0.95]), np.array([1, 1])),
]


def detected(metric: Metric, scale: Callable[[np.ndarray, Objects], np.ndarray] = lambda b, o: b) -> float:
    records = [
        metric.score({"b": scale(b, o)[None], "s": s[None], "c": c[None]}, o)
        for (b, s, c), o in zip(FOUND, BOXES, strict=True)
    ]
    return metric.reduce(records)


def test_average_precision_worked_out_by_hand() -> None:
    """IoU: 1 and 0.87 for the first picture; 0.90 for its best box in the second, whose other box has 0.87 and comes second."""
    # Class 1, by score: 0.95 right up to 0.90, 0.9 right, 0.7 is a second box (right from then on), 0.3 wrong. Class 2: right up to 0.85.
    assert detected(mean_average_precision(iou=0.5)) == 1
    assert detected(mean_average_precision(iou=0.89)) == pytest.approx(0.5)  # class 2 is missed
    class_1 = [1.0] * 9 + [
        (51 * 1 / 2 + 0) / 101
    ]  # at 0.95: a wrong one first, then one of two found: half of the recalls
    class_2 = [1.0] * 8 + [0.0] * 2
    assert detected(mean_average_precision()) == pytest.approx((sum(class_1) / 10 + sum(class_2) / 10) / 2)


def test_corner_and_size_or_shares_say_the_same() -> None:
    expected = detected(mean_average_precision())
    assert (
        detected(mean_average_precision(form="xywh"), lambda b, o: np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]))
        == expected
    )
    assert detected(
        mean_average_precision(shares=True), lambda b, o: b / np.array([*o.size, *o.size])
    ) == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------- text, numbers


TEXTS = [("this is the prediction", "this is the reference"), ("there is an other sample", "there is another one")]


def test_error_rates_count_edits_of_all_texts() -> None:
    found = [np.array(a, object) for a, _ in TEXTS]
    wanted = [b for _, b in TEXTS]
    assert value(error_rate("word"), found, wanted) == 0.5  # torchmetrics, WordErrorRate: the example of its page
    assert value(error_rate("char"), found, wanted) == pytest.approx(0.3415, abs=5e-5)  # CharErrorRate, the same


def test_best_path_of_scores() -> None:
    steps = np.eye(4)[[0, 1, 1, 0, 1, 2, 2, 3]]  # blank is 0: 1 1 2 3
    assert value(error_rate("char", blank=0), [steps], [[1, 1, 2, 3]]) == 0
    assert value(error_rate("char", blank=0, vocabulary=("-", "a", "b", " ")), [steps], ["aab c"]) == pytest.approx(
        1 / 5
    )


def test_a_vocabulary_has_a_symbol_a_line(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("_\na\n\nb\n")
    assert read_vocabulary(str(tmp_path / "v.txt")) == ("_", "a", " ", "b")


WORDS = st.lists(st.integers(0, 2), max_size=6)


@given(WORDS, WORDS, WORDS)
def test_edits_are_a_distance(a: list[int], b: list[int], c: list[int]) -> None:
    assert edits(a, b) == edits(b, a)
    assert (edits(a, b) == 0) == (a == b)
    assert edits(a, c) <= edits(a, b) + edits(b, c)
    assert abs(len(a) - len(b)) <= edits(a, b) <= max(len(a), len(b))


def test_numbers() -> None:
    found, wanted = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 0.0]])
    assert value(rmse(), found, wanted) == 2.5
    assert value(rmse(reference=True), found, [{"y": w} for w in wanted]) == 2.5
    assert value(cosine(), found, [{"y": np.array([4.0, 3.0])}, {"y": np.zeros(2)}]) == pytest.approx((0.96 + 1) / 2)
    assert value(sqnr(), [np.array([1.0, 1.1])], [{"y": np.array([[1.0, 1.0]])}]) == pytest.approx(23.0103, abs=1e-4)
    assert value(sqnr(), [np.ones(2)], [{"y": np.ones((1, 2))}]) == 300
    assert value(agreement(), found, [{"y": np.array([[1.0, 2.0]])}, {"y": np.array([[0.0, 1.0]])}]) == 0.5


# ---------------------------------------------------------------------------------------------- metrics of others


class Updated:
    """As torchmetrics has them."""

    higher_is_better = False

    def reset(self) -> None:
        self.errors: list[float] = []

    def update(self, preds: np.ndarray, target: np.ndarray) -> None:
        assert preds.shape[:1] == target.shape == (1,)
        self.errors += [float(preds[0].argmax() != target[0])]

    def compute(self) -> float:
        return sum(self.errors) / len(self.errors)


class OfPot:
    """As POT's documentation has them."""

    def __init__(self) -> None:
        self.matches: list[float] = []

    @property
    def avg_value(self) -> dict[str, float]:
        return {"accuracy": float(np.mean(self.matches))}

    def update(self, output: list[np.ndarray], target: list[int]) -> None:
        self.matches += [float(o.argmax() == t) for o, t in zip(output[0], target, strict=True)]

    def reset(self) -> None:
        self.matches = []

    def get_attributes(self) -> dict[str, Any]:
        return {"accuracy": {"direction": "higher-worse", "type": "accuracy"}}


def right(outputs: Any, label: int) -> bool:
    return next(iter(outputs.values())).argmax() == label


@pytest.mark.parametrize(
    ("thing", "expected", "higher"),
    [
        (Updated, 46 / 60, False),
        (Updated(), 46 / 60, False),
        (OfPot(), 14 / 60, False),
        (right, 14 / 60, True),
        (lambda: topk(1), 14 / 60, True),
        (topk(1), 14 / 60, True),
    ],
)
def test_metrics_of_others(thing: Any, expected: float, higher: bool) -> None:
    metric = as_metric("mine", thing)
    for _ in range(2):  # state of the first time is gone
        assert value(metric, SCORES, LABELS) == pytest.approx(expected)
    assert metric.higher_is_better == higher


def test_what_is_no_metric_is_told() -> None:
    with pytest.raises(TypeError, match="int is no metric"):
        as_metric("mine", 3)


# ---------------------------------------------------------------------------------------------- by name


def test_each_has_a_name() -> None:
    names = {name: metric_named(name).name for name in METRICS}
    assert names == {**{n: n for n in METRICS}, "topk": "top1"}
    assert metric_named("top5").name == "top5"
    assert metric_named("topk, k=3").name == "top3"
    assert value(metric_named("miou,ignore=0"), MAPS, CLASSES) == pytest.approx(0.12)
    assert value(metric_named("f1,average=micro"), ROUNDED, LABELS) == pytest.approx(14 / 60)


def test_metrics_and_decoders_of_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def right(outputs, label):\n    return outputs['y'].argmax() == label\n"
        "def flipped(outputs):\n    return {'y': -outputs['y']}\n"
        "def shifted(by):\n    return lambda outputs, label: right(outputs, label + by)\n"
    )
    assert value(metric_named(f"{file}:right"), SCORES, LABELS) == pytest.approx(14 / 60)
    assert value(metric_named(f"top1,decode={file}:flipped"), -SCORES, LABELS) == pytest.approx(14 / 60)
    assert value(metric_named(f"{file}:shifted,by=0"), SCORES, LABELS) == pytest.approx(14 / 60)


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("tpo1", "invalid-metric", "no metric `tpo1`"),
        ("top0", "invalid-metric", "k is 0"),
        ("topk,n=1", "invalid-metric", "no setting `n`"),
        ("topk,k", "invalid-metric", "not KEY=VALUE"),
        ("f1,average=weighted", "invalid-metric", "average is 'weighted'"),
        ("nowhere.py:f", "missing-file", "nowhere.py"),
        ("wer,vocabulary=nowhere.txt", "missing-file", "nowhere.txt"),
    ],
)
def test_names_that_are_none(text: str, code: str, part: str) -> None:
    with pytest.raises(Rejected) as caught:
        metric_named(text)
    assert caught.value.diagnostics[0].code == code
    assert part in caught.value.diagnostics[0].message

"""Errors exchanged among samples: a steadier estimate of what is lost, and no more biased than the samples' own answers."""

from __future__ import annotations

import numpy as np
import pytest

from potc.evaluate.exchange import expected_records, scores_in
from potc.evaluate.metrics.classification import topk
from potc.evaluate.metrics.metric import Metric, mean
from potc.evaluate.metrics.numbers import agreement

CLASSES = 20


def drawn(count: int, seed: int, clipped: float) -> tuple[list, list, list[int]]:
    """Scores of a classifier that is right for about four of five; errors are noise, and clip the highest score."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    scores = rng.normal(0, 1, (count, CLASSES)).astype(np.float32)
    scores[np.arange(count), labels] += rng.gamma(4, 1, count).astype(np.float32)
    best = scores.max(1, keepdims=True)
    errors = rng.normal(0, 0.2, scores.shape) - clipped * (scores == best) * np.abs(rng.normal(1, 0.3, best.shape))
    rows = [[{"y": row[None]} for row in values.astype(np.float32)] for values in (scores, scores + errors)]
    return rows[0], rows[1], labels.tolist()


def rate(outputs: list, labels: list[int]) -> float:
    return float(np.mean([o["y"].argmax() == y for o, y in zip(outputs, labels, strict=True)]))


def losses(count: int, seed: int, clipped: float) -> tuple[float, float]:
    """By the samples' own answers, and with errors exchanged."""
    before, after, labels = drawn(count, seed, clipped)
    records = expected_records(topk(1), before, after, labels)
    assert records is not None
    was = rate(before, labels)
    return was - rate(after, labels), was - float(np.mean(records))


@pytest.mark.parametrize("clipped", [0.0, 0.2])
def test_it_is_steadier_and_as_right(clipped: float) -> None:
    before, after, labels = drawn(20_000, 1, clipped)
    true = rate(before, labels) - rate(after, labels)
    direct, exchanged = np.array([losses(200, seed, clipped) for seed in range(2, 42)]).T
    assert abs(exchanged.mean() - true) < 0.008
    assert np.sqrt(((exchanged - true) ** 2).mean()) < 0.8 * np.sqrt(((direct - true) ** 2).mean())


def test_without_errors_nothing_is_lost() -> None:
    before, _, labels = drawn(50, 0, 0.0)
    metric = topk(1)
    wanted = np.mean([metric.score(o, y) for o, y in zip(before, labels, strict=True)])
    assert mean(expected_records(metric, before, before, labels) or []) == pytest.approx(wanted)
    assert set(expected_records(agreement(), before, before, before) or [0]) == {1.0}


def test_each_sample_meets_others_and_never_itself() -> None:
    met: list[float] = []
    spy = Metric("spy", lambda outputs, known: met.append(float(outputs["y"].sum() - known)) or 0.0, mean)
    before = [{"y": np.zeros((1, 2), np.float32)} for _ in range(6)]
    after = [{"y": np.full((1, 2), 2.0**i, np.float32)} for i in range(6)]
    expected_records(spy, before, after, [0.0] * 6)
    assert sorted(met) == sorted([2.0 ** (i + 1) for i in range(6)] * 5)


def test_what_are_no_scores_of_classes_has_no_estimate() -> None:
    row = np.zeros((1, 4), np.float32)
    assert scores_in({"y": row}) is not None
    for outputs in (
        {"y": row, "z": row},
        {"y": row[:, :1]},
        {"y": np.zeros((3, 4), np.float32)},
        {"y": row.astype(np.int64)},
        {"y": np.full((1, 4), np.nan, np.float32)},
        {"y": np.float32(1)},
    ):
        assert scores_in({k: np.asarray(v) for k, v in outputs.items()}) is None
    assert expected_records(topk(1), [{"y": row}], [{"y": row}], [0]) is None
    other = {"y": np.zeros((1, 5), np.float32)}
    assert expected_records(topk(1), [{"y": row}, other], [{"y": row}, other], [0, 0]) is None

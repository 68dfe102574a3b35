"""Scores of compiled models: SQNR as everywhere else, and how far the distributions are apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from onnx import parser

from potc.evaluate.judge import HIGHEST_DB, LOWEST_DB, Judge, divergence
from potc.evaluate.measures import sqnr_db
from potc.graph.model import Model

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


class Samples:
    files: tuple[str, ...] = ()
    generated = True
    chosen: Sequence[int] = range(6)

    def __len__(self) -> int:
        return 6

    def feeds(self) -> Iterator[dict[str, np.ndarray]]:
        for index in range(6):
            yield {"x": np.random.default_rng(index).normal(size=(2, 4)).astype(np.float32)}


def model(body: str) -> bytes:
    graph = (
        f"{HEAD} g (float[N, 4] x) => (float[N, 4] y, int64[N] i) {{ {body} i = ArgMax<axis = 1, keepdims = 0>(y) }}"
    )
    return parser.parse_model(graph).SerializeToString()


def judge(simulate: bool = False) -> Judge:
    proto = parser.parse_model(
        f"{HEAD} g (float[N, 4] x) => (float[N, 4] y, int64[N] i) {{ y = Neg(x) i = ArgMax<axis = 1, keepdims = 0>(y) }}"
    )
    return Judge(Model("m.onnx", proto, ("m.onnx",)), Samples(), simulate)


@pytest.mark.parametrize("simulate", [False, True])
def test_equal_outputs(simulate: bool) -> None:
    score = judge(simulate).score(model("y = Neg(x)"))
    assert score.mean_db == HIGHEST_DB
    assert score.divergence == 0


def test_the_ratio_is_that_of_all_samples() -> None:
    score = judge().score(model("t = Constant<value = float {1.25}>() n = Neg(x) y = Mul(n, t)"))
    x = np.concatenate([feed["x"] for feed in Samples().feeds()])
    assert score.sqnr_db == {"y": pytest.approx(sqnr_db(-x, -1.25 * x))}
    assert score.mean_db == pytest.approx(score.sqnr_db["y"])
    assert score.divergence > 0


def test_what_is_not_finite_is_the_worst() -> None:
    score = judge().score(model("t = Constant<value = float {0}>() y = Div(x, t)"))
    assert score.mean_db == LOWEST_DB


def test_divergence_is_that_of_the_softmax() -> None:
    a, b = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.75, 0.25], [0.9, 0.1]])
    expected = (0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)) / 2
    assert divergence(a, b) == pytest.approx(expected)
    assert divergence(a + 3, b - 5) == pytest.approx(expected)  # a softmax does not see a shift


def test_a_distribution_counts_as_it_is() -> None:
    a, b = np.array([[0.5, 0.5, 0]]), np.array([[0.75, 0.25, 0]])
    assert divergence(a, b) == pytest.approx(0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25))
    assert divergence(a, np.array([[1.0, 0, 0]])) > 1  # finite where the other has no chance at all

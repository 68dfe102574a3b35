"""How close a compiled model comes to the float model on samples that did not calibrate it: no labels, one number to rank by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from potc.data.dataset import Dataset
from potc.evaluate.measures import Sqnr
from potc.execute.session import open_session, run_each
from potc.graph.model import Model

HIGHEST_DB = 100.0  # equal outputs have infinitely many
LOWEST_DB = -100.0


@dataclass(frozen=True, slots=True)
class Score:
    """``sqnr_db``: by float output, over all samples. ``mean_db``: their mean, each within -100 to 100; what settings are
    ranked by. ``divergence``: mean Kullback-Leibler divergence, in nats, of the distributions that the last axis of each output
    stands for (its softmax, unless it is a distribution already); 0 where no output has more than one element there."""

    sqnr_db: Mapping[str, float]
    mean_db: float
    divergence: float


class Judge:
    """The float model's results, computed once, and what comes near them. Memory holds the outputs of all samples."""

    def __init__(self, model: Model, samples: Dataset, simulate: bool) -> None:
        """``simulate``: float arithmetic between the quantizers, for devices whose sums do not saturate as this host's do.
        Raises SessionError, and what onnxruntime raises, if the float model does not run."""
        self._outputs = [o.name for o in model.proto.graph.output]
        self._samples = samples
        self._simulate = simulate
        session = open_session(model.proto.SerializeToString(), optimize=True, threads=1)
        self._expected = list(run_each(session, self._outputs, samples.feeds()))

    def score(self, compiled: bytes) -> Score:
        """Raises SessionError, and what onnxruntime raises, if the compiled model does not run."""
        session = open_session(compiled, optimize=not self._simulate, threads=1)
        ratios: dict[str, Sqnr] = {}
        divergences: list[float] = []
        results = run_each(session, self._outputs, self._samples.feeds())
        for wanted, found in zip(self._expected, results, strict=True):
            for name, a, b in _floats(self._outputs, wanted, found):
                ratios.setdefault(name, Sqnr()).add(a, b)
                if a.ndim and a.shape[-1] > 1:
                    divergences.append(divergence(a, b))
        told = {name: ratio.db for name, ratio in ratios.items() if ratio.signal > 0 or math.isinf(ratio.noise)}
        within = [min(max(db, LOWEST_DB), HIGHEST_DB) for db in told.values()]
        mean = sum(within) / len(within) if within else HIGHEST_DB
        return Score(told, mean, sum(divergences) / len(divergences) if divergences else 0.0)


def _floats(
    names: Sequence[str], wanted: Sequence[Any], found: Sequence[Any]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    pairs = zip(names, wanted, found, strict=True)
    return [(n, a, np.asarray(b)) for n, a, b in pairs if isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.size]


def divergence(a: np.ndarray, b: np.ndarray) -> float:
    """Mean of KL(a || b) over all rows of the last axis, in nats. Rows that are not finite do not count."""
    p, q = _distributions(a), _distributions(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(p > 0, p * (np.log(p) - np.log(np.maximum(q, 1e-12))), 0.0).sum(-1)
    finite = each[np.isfinite(each)]
    return float(finite.mean()) if finite.size else 0.0


def _distributions(values: np.ndarray) -> np.ndarray:
    """Rows that are non-negative and add up to 1 as they are, else their softmax."""
    rows = values.astype(np.float64)
    if (rows >= 0).all() and np.allclose(rows.sum(-1), 1, atol=1e-3):
        return rows
    with np.errstate(invalid="ignore"):
        powers = np.exp(rows - rows.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

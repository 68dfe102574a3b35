"""SQNR: its definition, its edges, and that it can be accumulated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from potc.evaluate.measures import Sqnr, sqnr_db

CASES = {
    "equal": ([1, 2], [1, 2], math.inf),
    "zero signal, equal": ([0, 0], [0, 0], math.inf),
    "zero signal": ([0, 0], [0, 1], -math.inf),
    "a result of zeros": ([1, 2], [0, 0], 0),
    "a tenth off": ([10.0, 10.0], [9.0, 11.0], 20),
    "a masked logit in both": ([-math.inf, 10.0], [-math.inf, 9.0], 20),
    "infinite in one only": ([math.inf, 1.0], [3e38, 1.0], -math.inf),
    "NaN in both": ([math.nan, 1.0], [math.nan, 1.0], math.inf),
    "NaN in one only": ([1.0, 1.0], [math.nan, 1.0], -math.inf),
    "nothing": ([], [], math.inf),
}


@pytest.mark.parametrize(("reference", "other", "db"), CASES.values(), ids=CASES)
def test_edges(reference: list[float], other: list[float], db: float) -> None:
    assert sqnr_db(np.array(reference, np.float32), np.array(other, np.float32)) == pytest.approx(db)


@given(hnp.arrays(np.float32, 6, elements=st.floats(-100, 100, width=32)), st.integers(0, 6))
def test_parts_add_up(values: np.ndarray, cut: int) -> None:
    other = np.rint(values)
    ratio = Sqnr()
    ratio.add(values[:cut], other[:cut])
    ratio.add(values[cut:], other[cut:])
    assert ratio.db == pytest.approx(sqnr_db(values, other))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes"):
        sqnr_db(np.zeros(2), np.zeros((2, 1)))

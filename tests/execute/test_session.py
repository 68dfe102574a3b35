"""Sessions: one kind of error, whatever onnxruntime raises."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx.parser
import pytest

from potc.execute.session import WORKERS, SessionError, open_session, run_each, run_once

HEAD = '<ir_version: 9, opset_import: ["" : 17]>\n'


def text(body: str) -> bytes:
    return onnx.parser.parse_model(HEAD + body).SerializeToString()


@pytest.mark.parametrize("data", [b"", b"no model", text("g (float[4] x) => (float[4] y) { y = Relu (nowhere) }")])
def test_what_does_not_load(data: bytes) -> None:
    with pytest.raises(SessionError):
        open_session(data, optimize=False)


def test_a_model_without_inputs_runs_once() -> None:
    (result,) = run_once(text("g () => (float[2] y) <float[2] a = {1, 2}> { y = Neg (a) }"), ["y"])
    np.testing.assert_array_equal(result, [-1, -2])


def test_a_run_that_fails_is_a_session_error() -> None:
    with pytest.raises(SessionError):
        run_once(text("g () => (float[1] y) <float[2] a = {1, 2}, int64[1] i = {7}> { y = Gather (a, i) }"), ["y"])


def test_samples_run_at_once_come_back_in_order() -> None:
    session = open_session(text("g (float[N] x) => (float[N] y) { y = Neg (x) }"), optimize=True, threads=1)
    taken: list[int] = []

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        for index in range(50):
            taken.append(index)
            yield {"x": np.full(1 + 997 * (index % 7), index, np.float32)}

    for index, (y,) in enumerate(run_each(session, ["y"], feeds())):
        assert (y == -index).all()
        assert len(y) == 1 + 997 * (index % 7)
        assert len(taken) <= index + WORKERS + 1  # samples are read as they are needed, not all at once


def test_a_sample_that_fails_fails_in_its_place() -> None:
    session = open_session(text("g (float[2] x) => (float[2] y) { y = Neg (x) }"), optimize=True, threads=1)
    results = run_each(session, ["y"], [{"x": np.zeros(2 + (i == 3), np.float32)} for i in range(8)])
    for _ in range(3):
        next(results)
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        next(results)

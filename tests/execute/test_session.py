"""Sessions: one kind of error, whatever onnxruntime raises."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from potc.execute.session import SessionError, open_session, run_once

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

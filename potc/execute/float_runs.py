"""Runs of the float model: what onnxruntime refuses there is told as the fault of the model or of a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from potc.diagnostics.diagnostic import Rejected, reject
from potc.execute.session import InferenceSession, SessionError, first_line, open_session


def open_float(serialized: bytes) -> InferenceSession:
    """An optimized session of one thread. Raises Rejected (``unrunnable-model``)."""
    try:
        return open_session(serialized, optimize=True, threads=1)
    except SessionError as error:
        raise unloadable(error) from error


def unloadable(error: SessionError, model: str = "the float model") -> Rejected:
    """The rejection of a model that onnxruntime does not load."""
    foreign = "is not a registered function/op" in str(error)
    help_ = "give the library that holds this operator: --ort-library FILE" if foreign else None
    return reject("unrunnable-model", f"onnxruntime can't load {model}: {error}", help=help_)


def next_results(results: Iterator[Sequence[Any]], index: int) -> Sequence[Any]:
    """The outputs for sample ``index``, the next of ``run_each``. Raises Rejected: that of a sample that can't be read, or
    ``sample-failed`` for one that onnxruntime does not run."""
    try:
        return next(results)
    except (Rejected, MemoryError):
        raise
    except Exception as error:  # onnxruntime's errors have no common base; nothing of ours runs in there
        message = f"onnxruntime can't run the float model on sample {index}: {first_line(error)}"
        raise reject("sample-failed", message, help="check the names, shapes and types of the samples") from error

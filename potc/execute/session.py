"""onnxruntime sessions with every knob pinned. The only module that starts them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime import InferenceSession

from potc.execute.aside import array_of, inside, is_plain, may_lack_numbers, set_aside

APART = 1024  # bytes of a weight that is not written into an optimized graph
WORKERS = min(4, os.cpu_count() or 1)  # samples under way at once: each holds its own activations


# Arrays that a session reads where they are, for as long as it lives.
_lent: WeakKeyDictionary[InferenceSession, list[np.ndarray]] = WeakKeyDictionary()
_libraries: tuple[str, ...] = ()  # of this process: whoever opens a session of a model needs them all alike


def use_libraries(files: Sequence[str]) -> None:
    """Every session of this process from now on knows the operators of these shared libraries, and only these. They are code
    that runs: give what the user named, nothing that a model or a rule file says."""
    global _libraries
    _libraries = tuple(os.path.abspath(file) for file in files)


def used_libraries() -> tuple[str, ...]:
    return _libraries


class SessionError(Exception):
    """onnxruntime does not take the model; the message is its own, first line only."""


def open_session(
    model: bytes,
    *,
    optimize: bool,
    threads: int = 0,
    optimized_path: str | None = None,
    quantizers: bool = True,
    arena: bool = False,
) -> InferenceSession:
    """A session on the CPU. The model comes as bytes, so no path of a user ever reaches onnxruntime; numbers that were set
    aside are read and come as arrays.

    ``optimize``: all graph optimizations, or none at all. ``threads`` 0: onnxruntime's own choice; the number can change
    the last bit of a sum. ``optimized_path``: where to write the optimized graph; its larger weights go to a file "weights"
    beside it, so that nobody needs to hold them. ``quantizers`` False: optimizations leave
    them where they are, and what lies between them computes in float. ``arena``: buffers stay with a session of few samples, which
    is quicker and needs more memory. Raises SessionError.
    """
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # The arena keeps freed buffers, and the pattern plans all of a run's buffers as one: without them the peak is what the
    # model needs at any moment, at the same speed.
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_deterministic_compute", "1")
    if not quantizers:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if optimized_path is not None:
        options.optimized_model_filepath = optimized_path
        for key, value in (("file_name", "weights"), ("min_size_in_bytes", str(APART))):
            options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    try:
        for library in _libraries:
            options.register_custom_ops_library(library)
        lent: list[np.ndarray] = []
        if may_lack_numbers(model):
            model = _lend(model, options, lent)
        session = InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise SessionError(first_line(error)) from error
    if lent:
        _lent[session] = lent
    return session


def _lend(model: bytes, options: ort.SessionOptions, lent: list[np.ndarray]) -> bytes:
    """Gives the options all numbers that the model set aside, and ``lent`` what must live as long as the session. Types that numpy
    does not have are put back into the model."""
    proto = onnx.ModelProto.FromString(model)
    names: list[str] = []
    for tensor in set_aside(proto):
        if is_plain(tensor.data_type):
            names.append(tensor.name)
            lent.append(array_of(tensor))
        else:
            tensor.CopyFrom(inside(tensor))
    if names:
        options.add_external_initializers(names, [ort.OrtValue.ortvalue_from_numpy(array) for array in lent])
    return proto.SerializeToString()


def run_each(
    session: InferenceSession,
    outputs: Sequence[str],
    feeds: Iterable[Mapping[str, np.ndarray]],
    workers: int = WORKERS,
) -> Iterator[Sequence[Any]]:
    """The results of each feed, in order; ``workers`` samples run at once, one of them in the caller's own thread.

    Give a session of one thread: then a sample's results do not depend on how many workers the machine has, and no thread
    waits for another inside an operator. Memory is that of ``workers`` samples: a thread that kept reading ahead would cost
    another. Raises what onnxruntime raises, in the place of that sample's results.
    """
    names = list(outputs)
    left = iter(feeds)
    for feed in islice(left, 1):  # alone: onnxruntime has crashed where the first two runs were at once
        yield session.run(names, dict(feed))
    with ThreadPoolExecutor(max(1, workers - 1)) as pool:
        while together := list(islice(left, workers)):
            others = [pool.submit(session.run, names, dict(feed)) for feed in together[1:]]
            yield session.run(names, dict(together[0]))
            for other in others:
                yield other.result()


def run_once(model: bytes, outputs: Sequence[str]) -> list[np.ndarray]:
    """Results of a model without inputs, as it is written: no optimizations, one thread. Raises SessionError."""
    session = open_session(model, optimize=False, threads=1)
    try:
        return [np.asarray(result) for result in session.run(list(outputs), {})]
    except Exception as error:  # see above
        raise SessionError(first_line(error)) from error


def first_line(error: Exception) -> str:
    """The first line that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

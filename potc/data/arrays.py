"""Samples of .npz and .npy files with annotations or preprocessing, by index; memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from potc.data.fitted import Stored
from potc.data.npz import StoredArray, check_array, next_sample, read_headers, sample_stream
from potc.diagnostics.diagnostic import reject


class StoredArrays:
    """A Source. Reads forward, and starts again where an earlier sample is asked for: ascending order is fast."""

    pictures = False

    def __init__(self, path: str, arrays: Mapping[str, StoredArray], annotations: Sequence[str]) -> None:
        self._path = path
        self._arrays = arrays
        self._annotations = tuple(annotations)
        self._next = 0
        self._stack = ExitStack()
        self._streams: dict[str, Iterator[np.ndarray]] = {}

    def __len__(self) -> int:
        return min(a.shape[0] for a in self._arrays.values())

    def files(self, chosen: Sequence[int]) -> tuple[str, ...]:
        return (self._path,)

    def item(self, index: int) -> Stored:
        """Raises Rejected where the file is damaged."""
        if index < self._next or not self._streams:
            self._stack.close()
            self._streams = {n: sample_stream(self._path, a, self._stack) for n, a in self._arrays.items()}
            self._next = 0
        rows: dict[str, np.ndarray] = {}
        while self._next <= index:
            rows = {name: next_sample(self._path, stream, self._next) for name, stream in self._streams.items()}
            self._next += 1
        known = {name: _plain(rows.pop(name)) for name in self._annotations}
        annotation = next(iter(known.values())) if len(known) == 1 else known or None
        return Stored(rows, annotation, f"sample {index} of {self._path}")


def _plain(row: np.ndarray) -> Any:
    """A number or a text, not an array without axes."""
    return row.item() if row.ndim == 0 else row


def open_arrays(path: str, feeding: Sequence[str], labels: str | None) -> StoredArrays:
    """``feeding``: the arrays that feed inputs. ``labels``: the array that annotates; None: all that feed nothing.

    Several of them annotate as a mapping by name. Raises Rejected: see ``read_headers``; wrong-data-names where there is no such
    array; wrong-data-shape for different numbers of samples.
    """
    arrays = read_headers(path, feeding)
    for name in (*feeding, *(() if labels is None else (labels,))):
        if name not in arrays:
            message = f"{path} has no array `{name}`; it has {', '.join(list(arrays)[:12]) or 'none'}"
            help_ = "name the array that feeds an input: --preprocess \"array = 'NAME'\"; the one that annotates: --labels NAME"
            raise reject("wrong-data-names", message, help=help_)
    known = [n for n in arrays if n not in feeding] if labels is None else [labels]
    used = {n: arrays[n] for n in (*feeding, *known)}
    for name, array in used.items():
        check_array(path, name, array)
    counts = {name: array.shape[0] if array.shape else 0 for name, array in used.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise reject("wrong-data-shape", f"the arrays in {path} hold different numbers of samples ({listed})")
    return StoredArrays(path, used, known)

"""Annotated samples: what a model is fed, and what is known of it, by index.

A data set that scores a model has ``len(data)`` and ``data.sample(i)``, which gives ``Sample(inputs, annotation)``; asking in
ascending order is never slow. Every annotated data set is also a ``Dataset``, so it calibrates as well. ``Items`` makes one of
any Python object with ``len()`` and ``[i]``; ``labelled_by`` replaces annotations by what a (float) model answers::

    data = Items(specs, [{"x": array}, ...], [3, ...])
    data.sample(0).annotation  # 3
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from potc.data.dataset import Dataset, InputSpec, check_dtype, check_names, convert, sample_shape


@dataclass(frozen=True, slots=True)
class Sample:
    """``inputs``: by name, as the model takes them, batch axis included. ``annotation``: whatever the metric understands; None
    where nothing is known."""

    inputs: Mapping[str, np.ndarray]
    annotation: Any = None


class AnnotatedDataset(Dataset, Protocol):
    """A Dataset whose samples are found by index (0 to ``len`` - 1, in the order of ``feeds``)."""

    def sample(self, index: int) -> Sample: ...


class Items:
    """Samples in memory: mappings from input name to array without a batch axis (or with it), and an annotation for each."""

    files: tuple[str, ...] = ()
    generated = False

    def __init__(
        self,
        specs: Sequence[InputSpec],
        inputs: Sequence[Mapping[str, np.ndarray]],
        annotations: Sequence[Any] | None = None,
    ) -> None:
        """Raises ValueError where the two sequences have different lengths."""
        if annotations is not None and len(annotations) != len(inputs):
            raise ValueError(f"{len(inputs)} samples and {len(annotations)} annotations")
        self._specs = tuple(specs)
        self._inputs = inputs
        self._annotations = annotations

    @property
    def chosen(self) -> Sequence[int]:
        return range(len(self))

    def __len__(self) -> int:
        return len(self._inputs)

    def sample(self, index: int) -> Sample:
        """Raises Rejected for arrays that do not fit the model."""
        known = None if self._annotations is None else self._annotations[index]
        return Sample(fit(f"sample {index}", self._specs, index, self._inputs[index]), known)

    def feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        return (self.sample(i).inputs for i in range(len(self)))


def fit(
    where: str, specs: Sequence[InputSpec], index: int, arrays: Mapping[str, np.ndarray]
) -> Mapping[str, np.ndarray]:
    """One feed in the shapes and element types that the model takes. Raises Rejected as the checks of ``dataset`` do."""
    check_names(where, list(arrays), specs)
    for spec in specs:
        check_dtype(where, spec, arrays[spec.name].dtype)
    return {
        s.name: convert(where, s, index, arrays[s.name].reshape(sample_shape(where, s, arrays[s.name].shape)))
        for s in specs
    }


@dataclass(frozen=True, slots=True)
class Reannotated:
    """The samples of another data set with annotations of their own, one for each."""

    dataset: AnnotatedDataset
    annotations: Sequence[Any]

    @property
    def files(self) -> tuple[str, ...]:
        return self.dataset.files

    @property
    def generated(self) -> bool:
        return self.dataset.generated

    @property
    def chosen(self) -> Sequence[int]:
        return self.dataset.chosen

    def __len__(self) -> int:
        return len(self.annotations)

    def sample(self, index: int) -> Sample:
        return Sample(self.dataset.sample(index).inputs, self.annotations[index])

    def feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        return self.dataset.feeds()

"""Generated samples that fit a model's inputs: for trying out, never for a model that is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from potc.data.dataset import InputSpec
from potc.diagnostics.diagnostic import reject

BATCH = 1
SIZE = 32  # for a symbolic dimension that is not the first: large enough for a few strided layers


@dataclass(frozen=True)
class GeneratedSamples:
    """A Dataset of seeded noise: standard normal floats, integers 0 or 1, both truth values."""

    specs: tuple[InputSpec, ...]
    count: int
    seed: int
    files: tuple[str, ...] = ()
    generated: bool = True

    @property
    def chosen(self) -> Sequence[int]:
        return range(self.count)

    def __len__(self) -> int:
        return self.count

    def feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        for index in range(self.count):
            generator = np.random.default_rng((self.seed, index))
            yield {spec.name: _values(spec, generator) for spec in self.specs}


def synthetic(specs: Sequence[InputSpec], count: int, seed: int) -> GeneratedSamples:
    """``count`` samples; symbolic dimensions are 1 in front and ``SIZE`` elsewhere. The same for the same seed, anywhere.

    Raises Rejected for inputs without a declared shape and for texts.
    """
    for spec in specs:
        if spec.shape is None or spec.dtype.kind not in "fiubV":
            raise reject(
                "no-samples", f"samples for {spec} can't be generated", node=spec.name, help="give samples with --data"
            )
    if count < 1:
        raise reject("no-samples", "at least one sample is needed")
    return GeneratedSamples(tuple(specs), count, seed)


def _values(spec: InputSpec, generator: np.random.Generator) -> np.ndarray:
    shape = tuple((BATCH if axis == 0 else SIZE) if d is None else d for axis, d in enumerate(spec.shape or ()))
    if spec.dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if spec.dtype.kind in "iu":
        return generator.integers(0, 2, shape).astype(spec.dtype)
    return generator.standard_normal(shape, np.float32).astype(spec.dtype)

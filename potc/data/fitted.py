"""Stored samples made into what a model takes: preprocessing is applied, and what comes out is checked against the inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from potc.data.annotated import Sample, fit
from potc.data.dataset import InputSpec, choose
from potc.data.preprocessing import Preprocessing, Recipe
from potc.diagnostics.diagnostic import Rejected, reject


@dataclass(frozen=True, slots=True)
class Stored:
    """One sample as it is stored. ``arrays``: by name; one that is called "" feeds the model's only input. ``annotation``: its
    numbers belong to the stored picture. ``mask``: the annotation is an array in the shape of the picture. ``where``: for messages.
    """

    arrays: Mapping[str, np.ndarray]
    annotation: Any
    where: str
    mask: bool = False


class Source(Protocol):
    """Samples as they are stored, by index; ``pictures``: they are bytes that say nothing without a recipe."""

    def files(self, chosen: Sequence[int]) -> tuple[str, ...]:
        """All files that are read for these samples."""
        ...

    @property
    def pictures(self) -> bool: ...

    def __len__(self) -> int: ...

    def item(self, index: int) -> Stored: ...


@dataclass(frozen=True)
class Fitted:
    """An AnnotatedDataset over a source. ``chosen``: which of its samples, ascending. ``local``: what was read are files of the
    user, not copies of what lies elsewhere."""

    source: Source
    specs: tuple[InputSpec, ...]
    preprocessing: Preprocessing
    chosen: Sequence[int]
    local: bool = True
    generated: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        return self.source.files(self.chosen) if self.local else ()

    def __len__(self) -> int:
        return len(self.chosen)

    def sample(self, index: int) -> Sample:
        """Raises Rejected, with the place, where a sample is damaged or does not fit the model."""
        stored = self.source.item(self.chosen[index])
        arrays: dict[str, np.ndarray] = {}
        for spec in self.specs:
            recipe = self.preprocessing.of(spec.name)
            arrays[spec.name] = _made(stored, spec, recipe, self._array(stored, spec, recipe))
        inputs = fit(stored.where, self.specs, self.chosen[index], arrays)
        if not stored.mask:
            return Sample(inputs, stored.annotation)
        recipe = self.preprocessing.of(self.specs[0].name)
        return Sample(inputs, _attempt(stored, lambda: recipe.frame(np.asarray(stored.annotation), exact=True)))

    def feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        return (self.sample(i).inputs for i in range(len(self)))

    def _array(self, stored: Stored, spec: InputSpec, recipe: Recipe) -> np.ndarray:
        name = recipe.array or spec.name
        if name in stored.arrays:
            return stored.arrays[name]
        if "" in stored.arrays and len(self.specs) == 1 and recipe.array is None:
            return stored.arrays[""]
        message = f"{stored.where} has no array `{name}`; it has {', '.join(stored.arrays)}; the model takes {spec}"
        raise reject("wrong-data-names", message, help="name the array that feeds it: --preprocess \"array = 'NAME'\"")


def fitted(
    source: Source,
    specs: Sequence[InputSpec],
    preprocessing: Preprocessing,
    limit: int | None,
    seed: int | None,
    local: bool = True,
) -> Fitted:
    """At most ``limit`` samples, spread evenly or drawn by ``seed``. The first one is looked at already.

    Raises Rejected: no-samples; invalid-preprocessing for recipes of inputs that the model has not, and for pictures that feed
    floats without a recipe; and what ``sample`` raises.
    """
    for name in preprocessing.inputs:
        if name not in [s.name for s in specs]:
            message = (
                f"the preprocessing speaks of an input `{name}`; the model's inputs are {', '.join(map(str, specs))}"
            )
            raise reject("invalid-preprocessing", message)
    if source.pictures:
        for spec in specs:
            if spec.dtype.kind == "f" and not preprocessing.of(spec.name).converts:
                message = f"pictures are bytes, the model takes {spec}, and nothing says what is to be done to them"
                help_ = "say it: --preprocess \"resize = 256, crop = 224, mean = 127.5, scale = 127.5, layout = 'chw'\""
                raise reject("invalid-preprocessing", message, help=help_)
    if not len(source):
        raise reject("no-samples", f"{', '.join(source.files([])[:1]) or 'the source'} holds no samples")
    dataset = Fitted(source, tuple(specs), preprocessing, choose(len(source), limit, seed), local)
    dataset.sample(0)
    return dataset


def _made(stored: Stored, spec: InputSpec, recipe: Recipe, array: np.ndarray) -> np.ndarray:
    made = _attempt(stored, lambda: recipe.apply(array))
    if made.dtype.kind in "iu" and spec.dtype.kind == "f" and recipe.converts and recipe.dtype is None:
        return made.astype(spec.dtype)
    return made


def _attempt(stored: Stored, action: Any) -> np.ndarray:
    try:
        return action()
    except Rejected:
        raise
    except ValueError as error:
        message = f"the preprocessing can't be applied to {stored.where}: {error}"
        raise reject("invalid-preprocessing", message) from error

"""Dataset: samples in order, one at a time, already in the shape that the model takes."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from onnx import helper

from potc.diagnostics.diagnostic import reject
from potc.graph.model import Model


def choose(count: int, limit: int | None, seed: int | None = None) -> Sequence[int]:
    """At most ``limit`` of ``count`` indices, ascending: evenly spread, or, with a seed, drawn at random, the same everywhere."""
    used = count if limit is None else min(limit, count)
    if seed is None:
        return [i * count // used for i in range(used)]
    drawn = sorted(range(count), key=lambda i: hashlib.sha256(f"{seed} {i}".encode()).digest())
    return sorted(drawn[:used])


def digest_of(chosen: Sequence[int]) -> str:
    """SHA-256 of the chosen indices, in decimal, separated by spaces."""
    return hashlib.sha256(" ".join(map(str, chosen)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One model input: its element type, and its dimensions (None where symbolic; the whole shape None where not declared)."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        dims = "any shape" if self.shape is None else "x".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name} ({self.dtype} {dims})"


class Dataset(Protocol):
    """Calibration samples. ``files``: what was read; ``generated``: True where no real data was given; ``chosen``: which of
    the samples that are there are used, ascending indices.
    """

    @property
    def files(self) -> tuple[str, ...]: ...

    @property
    def generated(self) -> bool: ...

    @property
    def chosen(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        """One mapping from input name to array per sample, always in the same order."""
        ...


def input_specs(model: Model) -> tuple[InputSpec, ...]:
    """What a caller must feed. Raises Rejected for inputs that are no tensors."""
    specs: list[InputSpec] = []
    for value in model.inputs:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            raise reject("unsupported-input", f"the input `{value.name}` is no tensor", node=value.name)
        shape = (
            tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
            if kind.HasField("shape")
            else None
        )
        specs.append(InputSpec(value.name, np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape))
    return tuple(specs)


def check_names(where: str, found: Sequence[str], specs: Sequence[InputSpec]) -> None:
    """Raises Rejected(wrong-data-names) unless the arrays are named like the model's inputs."""
    wanted = [s.name for s in specs]
    missing = [n for n in wanted if n not in found]
    extra = [n for n in found if n not in wanted]
    if not missing and not extra:
        return
    hints = [
        f"did you mean `{close[0]}` for `{n}`?"
        for n in extra
        if (close := difflib.get_close_matches(n, missing, 1, 0.5))
    ]
    message = f"{where} holds {_listed(found)}; the model's inputs are {', '.join(map(str, specs))}"
    raise reject("wrong-data-names", message, help=" ".join(hints) or "name each array like the input it feeds")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) or "nothing"


def sample_shape(where: str, spec: InputSpec, stored: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which one stored sample (without the samples' axis) is fed.

    A batch axis of 1 is added where the model's input has one axis more than the sample; equal ranks are fed as they are.
    Raises Rejected(wrong-data-shape) naming the axis that differs.
    """
    if spec.shape is None:
        return stored
    shape = (1, *stored) if len(spec.shape) == len(stored) + 1 else stored
    if len(shape) != len(spec.shape):
        message = f"samples of `{spec.name}` in {where} have {len(stored)} axes {stored}; the model takes {spec}"
        raise reject(
            "wrong-data-shape",
            message,
            node=spec.name,
            help="the first axis counts samples, the rest is what the model takes",
        )
    for axis, (found, wanted) in enumerate(zip(shape, spec.shape, strict=True)):
        if wanted is not None and found != wanted:
            added = " with the batch axis added" if len(shape) > len(stored) else ""
            sizes = "x".join(map(str, shape))
            message = f"samples of `{spec.name}` in {where} are {sizes}{added}: axis {axis} is {found}, the model takes {wanted}"
            raise reject(
                "wrong-data-shape", message, node=spec.name, help=f"the model takes {spec}{_turned(shape, spec.shape)}"
            )
    return shape


def _turned(found: tuple[int, ...], wanted: Sequence[int | None]) -> str:
    """What to do where pictures would fit with their channels at the other end."""
    if len(found) != 4:
        return ""
    batch, *rest = found
    for layout, shape in (("chw", (batch, rest[2], *rest[:2])), ("hwc", (batch, *rest[1:], rest[0]))):
        if all(w is None or f == w for f, w in zip(shape, wanted, strict=True)):
            stored = "hwc" if layout == "chw" else "chw"
            return f"; as {stored} pictures they would fit: --preprocess \"stored = '{stored}', layout = '{layout}'\""
    return ""


def check_dtype(where: str, spec: InputSpec, stored: np.dtype[np.generic]) -> None:
    """Raises Rejected(wrong-data-type) unless values convert without a change of kind (floats to floats, integers to integers)."""
    if (
        stored == spec.dtype
        or (stored.kind == spec.dtype.kind and stored.kind in "fiu")
        or (stored.kind in "iu" and spec.dtype.kind in "iu")
    ):
        return
    if stored.kind == "V" and stored.type is not np.void and spec.dtype.kind == "f":
        return  # bfloat16 of ml_dtypes, which numpy can't tell from raw bytes once it is in a file
    message = f"`{spec.name}` in {where} holds {stored}; the model takes {spec.dtype}"
    raise reject(
        "wrong-data-type",
        message,
        node=spec.name,
        help="store the samples as the model takes them, after preprocessing, or say with --preprocess what is to be done to them",
    )


def convert(where: str, spec: InputSpec, index: int, sample: np.ndarray) -> np.ndarray:
    """One sample in the model's element type. Raises Rejected for NaN, infinity, and integers that do not fit."""
    if sample.dtype.kind == "f" and not np.isfinite(sample).all():
        what = "NaN" if np.isnan(sample).any() else "infinity"
        message = f"sample {index} of `{spec.name}` in {where} holds {what}"
        raise reject("non-finite-data", message, node=spec.name, help="repair or leave out that sample")
    if sample.dtype == spec.dtype:
        return sample
    with np.errstate(over="ignore"):
        converted = sample.astype(spec.dtype)
    if sample.dtype.kind == "f" and not np.isfinite(converted).all():
        message = f"sample {index} of `{spec.name}` in {where} holds numbers beyond {spec.dtype}"
        raise reject("non-finite-data", message, node=spec.name, help="repair or leave out that sample")
    if sample.dtype.kind in "iu" and not np.array_equal(converted, sample):
        message = f"sample {index} of `{spec.name}` in {where} holds integers that {spec.dtype} can't hold"
        raise reject("wrong-data-type", message, node=spec.name)
    return converted

"""Rewrites against graphs that are drawn from their left sides: both sides are run, and must agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from potc.diagnostics.diagnostic import Diagnostic, Rejected
from potc.execute.session import SessionError, open_session
from potc.graph.model import Model
from potc.graph.prepare import infer_shapes
from potc.language.program import Literal, Program, Rewrite
from potc.language.variants import nodes_of
from potc.match.rewrite import apply_once
from potc.sketch.draw import draw, excluded
from potc.sketch.model import inside, onnx_text
from potc.sketch.oracle import bystander_of, random_inputs
from potc.sketch.variants import variants

STYLES = ("normal", "positive", "negative")  # of constants and inputs
EPSILON = 1e-6  # by which storing a number as float32 may move it, as a part of it
TOLERANCE = 2e-4  # of the largest value: float32 sums in another order, and constants that are rounded once more


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A graph on which a rewrite changes what is computed.

    ``before`` and ``after`` are ONNX text; ``difference`` the largest one between two elements, infinite where shapes or
    types differ or the result can't run; ``largest`` the largest element before; ``shapes`` those of the inputs by name.
    """

    rewrite: Rewrite
    before: str
    after: str
    difference: float
    largest: float
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    message: str

    @property
    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "wrong-rewrite",
            f"`{self.rewrite.name}` changes what is computed: {self.message}",
            at=self.rewrite.span,
            label="both sides of this were run",
            help="compare the two graphs, and correct `emit` or exclude the case by `require`",
        )


@dataclass(frozen=True, slots=True)
class Validation:
    """``compared``: pairs of results that were looked at, 0 where no graph could be drawn."""

    compared: int
    counterexample: Counterexample | None


def validate_rewrite(program: Program, rewrite: Rewrite, count: int, seed: int) -> Counterexample | None:
    """Draws ``count`` left sides of all variants, applies the rewrite once to each, and runs both on random numbers.

    None if all results agree within what reordering float32 sums explains. Equal seeds give equal answers.
    """
    return validation(program, rewrite, count, seed).counterexample


def validation(program: Program, rewrite: Rewrite, count: int, seed: int) -> Validation:
    """The same, and how much was compared: a rewrite that was never applied is not validated."""
    listed = [v for v in variants(rewrite.pattern) if not excluded(program, rewrite, v)]
    compared = 0
    for n in range(count if listed else 0):
        sketch = draw(program, rewrite, seed + n // len(listed), listed[n % len(listed)])
        if sketch is None:
            continue
        for model, style in _valued(sketch.model, rewrite, seed + n):
            before = infer_shapes(Model("", model, ()))
            try:
                after = apply_once(before, program, rewrite, sketch.nodes)
                if after is None:  # an input of the model can't be its output
                    before = infer_shapes(Model("", inside(model, bystander_of(program)), ()))
                    after = apply_once(before, program, rewrite, sketch.nodes)
            except Rejected as rejected:
                found = _without_result(rewrite, before, rejected, style, seed + n)
                if found is not None:
                    return Validation(compared, found)
                continue
            if after is None:
                continue
            found = _compare(rewrite, before, after, style, seed + n)
            compared += 1
            if found is not None:
                return Validation(compared, found)
    return Validation(compared, None)


# ---------------------------------------------------------------------------------------------- numbers


def _valued(model: onnx.ModelProto, rewrite: Rewrite, seed: int) -> Iterator[tuple[onnx.ModelProto, str]]:
    """The model as it was drawn, and with random constants of each sign where it is still valid and matched."""
    literals = [arg for node in nodes_of(rewrite.pattern) for arg in node.args if isinstance(arg, Literal)]
    for style in STYLES:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        generator = np.random.default_rng((seed, STYLES.index(style)))
        for tensor in changed.graph.initializer:
            array = numpy_helper.to_array(tensor)
            flat = array.reshape(-1)
            if array.dtype.kind != "f" or (flat.size > 1 and bool((flat == flat[0]).all())):
                continue  # numbers that conditions look at stay
            if flat.size == 1 and (float(flat[0]).is_integer() or _is_stated(float(flat[0]), literals)):
                continue
            numbers = generator.normal(size=array.shape)
            numbers = (
                np.abs(numbers) + 0.05 if style == "positive" else -np.abs(numbers) if style == "negative" else numbers
            )
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(numbers).astype(array.dtype), tensor.name))
        yield changed, style


def _is_stated(number: float, literals: list[Literal]) -> bool:
    """True for a number that the pattern itself asks for: with another one it does not match."""
    return any(abs(number - a.value) <= max(a.tolerance, EPSILON) * abs(a.value) for a in literals)


def _run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray] | str:
    """All outputs, or why there are none."""
    try:
        session = open_session(model.SerializeToString(), optimize=False, threads=1)
        return [np.asarray(r) for r in session.run(None, feed)]
    except SessionError as error:
        return str(error)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        return str(error).splitlines()[0]


def _compare(rewrite: Rewrite, before: Model, after: Model, style: str, seed: int) -> Counterexample | None:
    feed = random_inputs(before.proto, seed, style)
    old = _run(before.proto, feed)
    if isinstance(old, str):
        return None  # this runtime has no kernel for the drawn types, or these numbers are none that the model takes
    new = _run(after.proto, feed)

    def wrong(difference: float, largest: float, words: str) -> Counterexample:
        shapes = tuple((name, tuple(array.shape)) for name, array in feed.items())
        texts = onnx_text(before.proto), onnx_text(after.proto)
        return Counterexample(rewrite, *texts, difference, largest, shapes, words)

    if isinstance(new, str):
        return wrong(float("inf"), 0.0, f"what it makes can't be run: {new}")
    for a, b, output in zip(old, new, before.proto.graph.output, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            words = f"`{output.name}` is {_kind(a)} before and {_kind(b)} after"
            return wrong(float("inf"), 0.0, words)
        x, y = a.astype(np.float64), b.astype(np.float64)
        sound = np.isfinite(x)
        if not sound.any():
            continue
        largest = float(np.abs(x[sound]).max())
        with np.errstate(invalid="ignore"):
            apart = np.where(np.isfinite(y[sound]), np.abs(x[sound] - y[sound]), np.inf)
        difference = float(apart.max())
        if difference > TOLERANCE * _scale(a.dtype) * max(largest, 1e-6):
            words = f"`{output.name}` differs by up to {difference:.3g}, its largest value is {largest:.3g}"
            return wrong(difference, largest, words)
    return None


def _scale(dtype: np.dtype) -> float:
    """Half precision is as much coarser than float32."""
    return 100.0 if dtype == np.float16 else 1.0


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype.name}[{','.join(map(str, array.shape))}]"


def _without_result(
    rewrite: Rewrite, before: Model, rejected: Rejected, style: str, seed: int
) -> Counterexample | None:
    """A right side that can't be computed is wrong where the left side has a result."""
    feed = random_inputs(before.proto, seed, style)
    old = _run(before.proto, feed)
    if isinstance(old, str) or not all(np.isfinite(a).all() for a in old if a.dtype.kind == "f"):
        return None
    shapes = tuple((name, tuple(array.shape)) for name, array in feed.items())
    words = rejected.diagnostics[0].message
    return Counterexample(rewrite, onnx_text(before.proto), "", float("inf"), 0.0, shapes, words)

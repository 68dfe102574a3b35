"""What Python functions of users see of a match, and what becomes of their answers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from potc.language.expression import ExpressionError


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as plain values. ``dtype``: as rule files spell it ("f32"), None if unknown; ``shape``: None if unknown,
    with None for symbolic dimensions; ``value``: the numbers of a constant, read-only, None for a computed tensor."""

    dtype: str | None
    shape: tuple[int | None, ...] | None
    value: np.ndarray | None


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that nobody can write through."""
    view = array.view()
    view.flags.writeable = False
    return view


def ask(name: str, function: Callable[..., object], args: tuple[object, ...]) -> bool:
    """The answer of a function. Raises ExpressionError for an exception, and for an answer that is not True or False."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            answer = function(*args)
    except (Exception, SystemExit) as error:
        raise ExpressionError(f"`{name}` failed: {type(error).__name__}: {error}", None) from error
    if not isinstance(answer, bool | np.bool_):
        raise ExpressionError(f"`{name}` answered {type(answer).__name__}, wanted True or False", None)
    return bool(answer)

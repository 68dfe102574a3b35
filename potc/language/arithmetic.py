"""Total arithmetic on numbers, tuples and numpy arrays, element by element; the built-in functions of expressions.

Everything here raises ``Failed`` and nothing else. numpy is imported only once an array has come in from outside.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

MAX_ELEMENTS = 1 << 24


class Failed(Exception):
    """There is no value, and why; the evaluator adds the place."""


SCALARS = frozenset({int, float, bool, str})


def is_array(value: object) -> bool:
    return type(value).__module__ == "numpy" and hasattr(value, "dtype")


def _elementwise(function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    if is_array(left) or is_array(right):
        import numpy as np

        with np.errstate(all="ignore"):
            try:
                return function(np.asarray(left), np.asarray(right))
            except (ValueError, TypeError) as error:
                raise Failed(str(error)) from None
    if isinstance(left, tuple) and isinstance(right, tuple):
        if len(left) != len(right):
            raise Failed(f"one side has {len(left)} elements, the other {len(right)}")
        return tuple(_elementwise(function, a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, tuple):
        return tuple(_elementwise(function, a, right) for a in left)
    if isinstance(right, tuple):
        return tuple(_elementwise(function, left, b) for b in right)
    try:
        return function(left, right)
    except TypeError:
        raise Failed(f"{kind(left)} and {kind(right)} don't go together") from None
    except OverflowError:
        raise Failed("the result is too large") from None


def kind(value: object) -> str:
    """What a value is, for people."""
    if value is None:
        return "something absent"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, tuple):
        return "a list"
    return "an array" if is_array(value) else "a name that is no number"


def _numeric(value: Any) -> None:
    if isinstance(value, str) or value is None:
        raise Failed(f"{kind(value)} is no number")


def _arithmetic(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(left: Any, right: Any) -> Any:
        _numeric(left)
        _numeric(right)
        return _elementwise(function, left, right)

    return apply


def _nonzero(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    inner = _arithmetic(function)

    def apply(left: Any, right: Any) -> Any:
        _numeric(right)
        if _any(_elementwise(operator.eq, right, 0)):
            raise Failed("division by zero")
        return inner(left, right)

    return apply


BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": _arithmetic(operator.add),
    "-": _arithmetic(operator.sub),
    "*": _arithmetic(operator.mul),
    "/": _nonzero(operator.truediv),
    "%": _nonzero(operator.mod),
}
_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
ORDERS: Mapping[str, Callable[[Any, Any], Any]] = {"==": operator.eq, "!=": operator.ne, **_ORDER}


def compare(op: str, left: Any, right: Any) -> Any:
    """Two lists are equal as a whole; everything else compares element by element. Nothing absent equals anything."""
    if op in _ORDER:
        return _elementwise(_ORDER[op], left, right)
    if left is None or right is None or (isinstance(left, tuple) and isinstance(right, tuple)):
        return (left is right if left is None or right is None else left == right) == (op == "==")
    return _elementwise(ORDERS[op], left, right)


def negate(value: Any) -> Any:
    _numeric(value)
    return _elementwise(lambda a, _: -a, value, 0)


def truth(value: Any) -> bool:
    """True or false. Raises Failed for what has several answers or none."""
    if isinstance(value, bool):
        return value
    if is_array(value):
        if value.size != 1:
            raise Failed(f"this compares {value.size} elements one by one: put it into all(...) or any(...)")
        return bool(value.reshape(())[()])
    if isinstance(value, tuple):
        raise Failed("this is a list of answers: put it into all(...) or any(...)")
    if isinstance(value, int | float):
        return bool(value)
    raise Failed(f"{kind(value)} is neither true nor false")


# ---------------------------------------------------------------------------------------------- functions


def _items(value: Any) -> Any:
    """The elements of a list or array; a number is a list of one."""
    if is_array(value):
        return value.reshape(-1)
    return value if isinstance(value, tuple) else (value,)


def _any(value: Any) -> bool:
    return bool(value.any()) if is_array(value) else any(_items(value))


def _all(value: Any) -> bool:
    return bool(value.all()) if is_array(value) else all(_items(value))


def _sum(value: Any) -> Any:
    _numeric(value)
    return value.sum() if is_array(value) else sum(_items(value))


def _extreme(which: Callable[[Any], Any]) -> Callable[..., Any]:
    def apply(*values: Any) -> Any:
        found = [item for value in values for item in _items(value)]
        if not found:
            raise Failed("an empty list has neither a smallest nor a largest element")
        return which(found)

    return apply


def _len(value: Any) -> int:
    if (is_array(value) and value.ndim == 0) or (not is_array(value) and not isinstance(value, tuple | str)):
        raise Failed(f"{kind(value)} has no length")
    return len(value)


def _each(scalar: Callable[[float], Any], array: str) -> Callable[[Any], Any]:
    """A function of one number, applied to every element. ``array``: numpy's name of it."""

    def apply(value: Any) -> Any:
        _numeric(value)
        if is_array(value):
            import numpy as np

            with np.errstate(all="ignore"):
                result = getattr(np, array)(value)
            if not np.all(np.isfinite(result)) and np.all(np.isfinite(value)):
                raise Failed(f"{array} has no value for some element")
            return result
        if isinstance(value, tuple):
            return tuple(apply(v) for v in value)
        try:
            return scalar(value)
        except (ValueError, OverflowError):
            raise Failed(f"{array}({value:g}) has no value") from None
        except TypeError:
            raise Failed(f"{array} wants a number, not {kind(value)}") from None

    return apply


def _whole(value: Any, what: str) -> int:
    if is_array(value) and value.size == 1:
        value = value.reshape(())[()].item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Failed(f"{what} must be a whole number")
    return value


def whole(value: Any, what: str) -> int:
    """A whole number out of an int, an integral float or an array of one. Raises Failed."""
    return _whole(value, what)


def _reshape(value: Any, *dimensions: Any) -> Any:
    import numpy as np

    sizes = [_whole(d, "a dimension") for d in dimensions]
    try:
        return np.asarray(value).reshape(sizes)
    except (ValueError, TypeError) as error:
        raise Failed(str(error)) from None


def _transpose(value: Any) -> Any:
    import numpy as np

    return np.asarray(value).T


def _zeros(count: Any) -> tuple[int, ...]:
    number = _whole(count, "the number of zeros")
    if not 0 <= number <= MAX_ELEMENTS:
        raise Failed(f"zeros({number}) is out of bounds")
    return (0,) * number


def _slice(value: Any, start: Any, stop: Any) -> Any:
    size = _len(value)
    low, high = _whole(start, "a start"), _whole(stop, "a stop")
    if not 0 <= low <= high <= size:
        raise Failed(f"[{low}, {high}) is outside of a list of {size}")
    return value[low:high]


def _concat(*values: Any) -> Any:
    if any(is_array(v) for v in values):
        import numpy as np

        return np.concatenate([np.atleast_1d(np.asarray(v)) for v in values])
    return tuple(item for value in values for item in _items(value))


FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int, int | None]] = {  # name -> function, fewest and most arguments
    "abs": (_each(abs, "abs"), 1, 1),
    "min": (_extreme(min), 1, None),
    "max": (_extreme(max), 1, None),
    "sum": (_sum, 1, 1),
    "all": (_all, 1, 1),
    "any": (_any, 1, 1),
    "len": (_len, 1, 1),
    "sqrt": (_each(math.sqrt, "sqrt"), 1, 1),
    "exp": (_each(math.exp, "exp"), 1, 1),
    "log": (_each(math.log, "log"), 1, 1),
    "floor": (_each(math.floor, "floor"), 1, 1),
    "ceil": (_each(math.ceil, "ceil"), 1, 1),
    "round": (_each(round, "round"), 1, 1),
    "reshape": (_reshape, 2, None),
    "zeros": (_zeros, 1, 1),
    "slice": (_slice, 3, 3),
    "concat": (_concat, 1, None),
    "transpose": (_transpose, 1, 1),
}


def call(name: str, args: tuple[Any, ...]) -> Any:
    """Applies a built-in function. Raises Failed, also for a wrong number of arguments."""
    function, fewest, most = FUNCTIONS[name]
    if len(args) < fewest or (most is not None and len(args) > most):
        raise Failed(
            f"{name} takes {fewest if most == fewest else f'at least {fewest}'} argument(s), found {len(args)}"
        )
    try:
        return function(*args)
    except (TypeError, ValueError, OverflowError, MemoryError) as error:
        raise Failed(f"{name}: {error}") from None


def element(value: Any, index: Any) -> Any:
    """One element of a list or array, counted from the end where negative."""
    size = _len(value)
    number = _whole(index, "an index")
    if not -size <= number < size:
        raise Failed(f"[{number}] is outside of a list of {size}")
    return value[number]

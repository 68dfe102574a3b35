"""``limit=``: what ``--limit`` says, of one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from potc.limits import limited, stated

P = ParamSpec("P")
R = TypeVar("R")
Limiting = Mapping[str, str | int]


def within_limits(function: Callable[P, R]) -> Callable[P, R]:
    """Runs it within what its keyword ``limit`` states: ``{"sample-bytes": "4GiB"}``. Raises ValueError for what is no limit."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        limit = cast(Mapping[str, Any] | None, kwargs.get("limit"))
        with limited(stated(limit or {})):
            return function(*args, **kwargs)

    return run

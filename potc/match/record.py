"""Frozen dataclasses for things of which a large model has millions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Like ``dataclass(frozen=True, slots=True)``, but frozen for the type checker alone.

    ``frozen=True`` sets every field through a call, which makes creating an instance three to five times as slow, and most
    of planning is creating them.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)

"""What the words of ``--preset`` stand for: which types are taken, or how much is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

TYPES = ("performance", "mixed", "accuracy")
EFFORTS = ("fast", "auto")
PRESETS = (*TYPES, *EFFORTS)
CHECKED_FAST = 1  # samples that ``fast`` compares with the float model


def types_of(preset: str) -> str:
    """Which of the allowed types are taken: those of ``mixed`` for presets that say how much is done."""
    return "mixed" if preset in EFFORTS else preset


def bias_of(words: Mapping[str, Any]) -> str:
    """The bias correction: ``fast`` makes none unless one is asked for."""
    source = click.get_current_context().get_parameter_source("bias_correction")
    if words["preset"] == "fast" and source is click.core.ParameterSource.DEFAULT:
        return "none"
    return words["bias_correction"]


def equalize_of(words: Mapping[str, Any]) -> str:
    """The equalization: unless one is asked for, ``fast`` makes none, and nor does what saves ranges, which are then those of the
    model as it is."""
    source = click.get_current_context().get_parameter_source("equalize")
    if source is click.core.ParameterSource.DEFAULT and (words["preset"] == "fast" or words.get("save_ranges")):
        return "none"
    return words["equalize"]


def effort(preset: str) -> dict[str, Any]:
    """What a job is told of a preset that says how much is done."""
    if preset not in EFFORTS:
        return {}
    return {"preset": preset, "checked": CHECKED_FAST} if preset == "fast" else {"preset": preset}


def check_preset(words: Mapping[str, Any]) -> None:
    """Raises click.UsageError for what ``auto`` can't take."""
    if words["preset"] == "auto" and words["ranges"] is not None:
        raise click.UsageError("--preset auto measures ranges itself: leave out --ranges, or name another preset")

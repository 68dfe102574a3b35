"""``--memory``: sizes as people write them, and what does not go with a stated memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potc.limits import UNITS, number_of

if TYPE_CHECKING:
    from potc.compiler import Job


def bytes_of(size: str | int) -> int:
    """``4GiB``, ``3.5GB``, ``512MiB`` or a number of bytes. Raises ValueError."""
    try:
        return number_of(size, UNITS)
    except ValueError as error:
        raise ValueError(f"{size!r} is no size, as 4GiB or 512MiB are") from error


def contradiction(job: Job, searches: bool) -> str:
    """Which word of the job can't be done layer by layer, though its memory is stated, and why; "" if none is such."""
    if job.memory is None:
        return ""
    whole = {
        "a target for a metric: each candidate is a whole model, run on all evaluation samples": searches,
        "the preset auto: it compares whole models": job.preset == "auto",
        "equalize: scales of channels are searched over the weights of the whole model": job.tuning.equalize.method
        not in ("none", "auto"),
        "rounding gptq: second moments are taken in runs of the whole model": job.tuning.rounding.method == "gptq",
    }
    found = next((word for word, asked in whole.items() if asked), "")
    return found and f"memory does not go with {found}"

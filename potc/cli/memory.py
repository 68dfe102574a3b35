"""``--memory``: sizes as people write them, and what does not go with a stated memory."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from potc.compiler import Job

UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def bytes_of(size: str | int) -> int:
    """``4GiB``, ``3.5GB``, ``512MiB`` or a number of bytes. Raises ValueError."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(size).strip().lower())
    if parts is None or parts[2] not in UNITS:
        raise ValueError(f"{size!r} is no size, as 4GiB or 512MiB are")
    return int(float(parts[1]) * UNITS[parts[2]])


def contradiction(job: Job, searches: bool) -> str:
    """Which word of the job runs the whole model at once, though its memory is stated; "" if none does."""
    if job.memory is None:
        return ""
    whole = {
        "a target for a metric": searches,
        "the preset auto": job.preset == "auto",
        "equalize": job.tuning.equalize.method != "none",
        "rounding gptq": job.tuning.rounding.method == "gptq",
        "io": bool(job.io),
    }
    found = next((word for word, asked in whole.items() if asked), "")
    return found and f"memory does not go with {found}, which runs the whole model at once"

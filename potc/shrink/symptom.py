"""What goes wrong when a model is compiled, in words that survive the model becoming smaller."""

from __future__ import annotations

import math
import re
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from potc.compiler import Job, compile_model
from potc.diagnostics.diagnostic import Rejected, Severity

COMPILED, REJECTED, BUG, FAILED, CRASH, HANG, EXIT = (
    "compiled",
    "rejected",
    "bug",
    "verification",
    "crash",
    "hang",
    "exit",
)
KINDS = (BUG, FAILED, CRASH, HANG)  # what may be asked for beside codes of diagnostics


@dataclass(frozen=True, slots=True)
class Observed:
    """What one try did. ``codes``: of the errors it was rejected with; ``detail``: which bug, checks, signal or exit code;
    ``decibels``: SQNR of the worst output of a model that was compiled; ``printed``: what a command of the user printed."""

    kind: str
    detail: str = ""
    codes: tuple[str, ...] = ()
    decibels: float = math.inf
    printed: str = ""

    def __str__(self) -> str:
        if self.kind == COMPILED:
            return f"it compiles, {self.decibels:.1f} dB" if math.isfinite(self.decibels) else "it compiles"
        told = {REJECTED: ", ".join(self.codes), HANG: "it does not end in time", EXIT: f"exit code {self.detail}"}
        return told.get(self.kind, f"{self.kind}: {self.detail}")


@dataclass(frozen=True, slots=True)
class Symptom:
    """What must stay. ``below``: a compiled model whose worst output has less SQNR, in decibels; else ``kind`` and ``word``, the
    code of a diagnostic or the detail of anything else; "" is any. ``says``: a regular expression that matches somewhere in what
    a command printed."""

    kind: str = COMPILED
    word: str = ""
    below: float | None = field(default=None)
    says: str = ""

    def shown_by(self, observed: Observed) -> bool:
        if self.below is not None:
            return observed.kind == COMPILED and observed.decibels < self.below
        if self.kind == REJECTED:
            return self.word in observed.codes
        same = observed.kind == self.kind and self.word in ("", observed.detail)
        return same and (not self.says or re.search(self.says, observed.printed, re.MULTILINE) is not None)

    def __str__(self) -> str:
        if self.below is not None:
            return f"compiles with less than {self.below:g} dB"
        told = f"{self.kind}: {self.word}" if self.word else self.kind
        return f"{told}, printing `{self.says}`" if self.says else told


def symptom_of(observed: Observed) -> Symptom | None:
    """What is to stay where nobody said it; None for a model that compiles well."""
    if observed.kind == COMPILED:
        return None
    return Symptom(REJECTED, observed.codes[0]) if observed.codes else Symptom(observed.kind, observed.detail)


def observe(job: Job) -> Observed:
    """Compiles. What a compiled model fails its verification by counts too; nothing is raised."""
    try:
        done = compile_model(job)
    except Rejected as rejected:
        errors = [d.code for d in rejected.diagnostics if d.severity is Severity.ERROR]
        return Observed(REJECTED, codes=tuple(dict.fromkeys(errors)))
    except Exception as error:  # that is what is looked for
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Observed(BUG, f"{type(error).__name__} in {Path(frame.filename).stem}.{frame.name}")
    if not done.verification.ok:
        names = [c.name for c in done.verification.failed]
        return Observed(FAILED, ", ".join(names), ("dead-output",) if names == ["alive"] else ())
    return Observed(COMPILED, decibels=min(done.verification.sqnr.values(), default=math.inf))

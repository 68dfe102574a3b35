"""Tries: is the symptom still there? Each in a process of its own, each candidate once, and only so many."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from potc.compiler import Job
from potc.data.preprocessing import Preprocessing
from potc.data.source import Annotations
from potc.diagnostics.diagnostic import Rejected, reject
from potc.execute.apart import Died, TooLong, apart, run_command
from potc.language.files import read_library
from potc.shipped import shipped_rules
from potc.shrink.samples import write_samples
from potc.shrink.symptom import CRASH, EXIT, HANG, Observed, Symptom, observe

RULES = "reduced.rules"


@dataclass(frozen=True, slots=True)
class Candidate:
    """``rules``: the text of the rule file; ``samples``: [samples, ...] by input, None where they are generated."""

    model: onnx.ModelProto
    rules: str
    samples: Mapping[str, np.ndarray] | None = None

    @property
    def digest(self) -> bytes:
        parts = [self.model.SerializeToString(deterministic=True), self.rules.encode()]
        parts += [name.encode() + array.tobytes() for name, array in sorted((self.samples or {}).items())]
        return hashlib.sha256(b"\0".join(hashlib.sha256(p).digest() for p in parts)).digest()


@dataclass
class Tries:
    """``folder`` is for everything that is written. ``command``: words in which ``{model}``, ``{rules}`` and ``{data}`` stand for
    files, instead of a compile of ``job``. After ``limit`` tries nothing shows the symptom any more."""

    job: Job
    folder: Path
    command: str | None
    limit: int
    seconds: float
    progress: Callable[[int, int], None] = lambda done, total: None
    symptom: Symptom = field(default_factory=Symptom)
    done: int = 0
    _known: dict[bytes, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._place, self.used = _beside_used(self.job.rules, self.folder / "rules")

    @property
    def exhausted(self) -> bool:
        return self.done >= self.limit

    def shows(self, candidate: Candidate | None) -> bool:
        """None is no model, and shows nothing."""
        if candidate is None:
            return False
        digest = candidate.digest
        if digest not in self._known:
            if self.exhausted:
                return False
            self._known[digest] = self.symptom.shown_by(self.observe(candidate))
        return self._known[digest]

    def observe(self, candidate: Candidate) -> Observed:
        """Raises Rejected where the user's command can't be started."""
        self.done += 1
        self.progress(self.done, self.limit)
        model, data = self.folder / "model.onnx", self.folder / "samples.npz"
        model.write_bytes(candidate.model.SerializeToString(deterministic=True))
        self._place.write_text(candidate.rules, encoding="utf-8")
        if candidate.samples is not None:
            write_samples(data, candidate.samples)
        try:
            if self.command is not None:
                return self._run(self.command, model, data)
            named = None if candidate.samples is None else str(data)
            plain = replace(self.job, preprocess=Preprocessing(), annotations=Annotations(), seed=None)
            return apart(observe, (replace(plain, model=str(model), rules=str(self._place), data=named),), self.seconds)
        except Died as error:
            return Observed(CRASH, str(error))
        except TooLong:
            return Observed(HANG)

    def _run(self, command: str, model: Path, data: Path) -> Observed:
        names = {"{model}": str(model), "{rules}": str(self._place), "{data}": str(data)}
        words = [_filled(word, names) for word in shlex.split(command)]
        try:
            code, printed = run_command(words, self.seconds)
            return Observed(EXIT, str(code), printed=printed)
        except OSError as error:
            message = f"the command of --run can't be started: {error.strerror or error}"
            raise reject("missing-file", message, help="give a program, and its words", exit_code=2) from error


def _filled(word: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        word = word.replace(name, value)
    return word


def _beside_used(rules: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Where candidates of the rule file go, and the texts of the user's files that it uses: these lie around that place as they do
    around the original."""
    shipped = {p.resolve() for p in shipped_rules().values()}
    try:
        *used, main = (Path(p).resolve() for p in read_library(rules).sources)
    except Rejected:  # the first try tells what is wrong; what is used can only be guessed then
        folder.mkdir(parents=True, exist_ok=True)
        for beside in Path(rules).parent.glob("*.rules"):
            shutil.copyfile(beside, folder / beside.name)
        return folder / RULES, ()
    own = [p for p in used if p not in shipped]
    root = Path(os.path.commonpath([p.parent for p in (*own, main)]))
    for path in own:
        copy = folder / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    place = folder / (main.relative_to(root).parent if main not in shipped else "") / RULES
    place.parent.mkdir(parents=True, exist_ok=True)
    return place, tuple(path.read_text(encoding="utf-8-sig") for path in own)

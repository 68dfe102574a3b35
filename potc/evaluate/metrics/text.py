"""Metrics of recognized text and speech: how many words or characters must be edited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from potc.diagnostics.diagnostic import reject
from potc.evaluate.metrics.metric import Metric, Outputs, Record, output_of


def error_rate(
    unit: str, blank: int | None = None, vocabulary: Sequence[str] | None = None, output: str | None = None
) -> Metric:
    """Edits (insertions, deletions, replacements; Levenshtein) of all samples / length of all annotations.

    ``unit`` "word" or "char". The output holds texts, or integers, or scores for each step, the last axis over symbols, of which
    the highest counts. With ``blank`` repetitions are one, and this symbol is left out (best path of connectionist temporal
    classification, Graves et al. 2006). ``vocabulary``: the text of each symbol; without it symbols are compared, one by one.
    """

    def score(outputs: Outputs, annotation: Any) -> Record:
        found = _units(unit, _symbols(output_of(outputs, output), blank), vocabulary)
        wanted = _units(unit, annotation if isinstance(annotation, str) else np.asarray(annotation), vocabulary)
        return edits(found, wanted), len(wanted)

    def reduce(records: Sequence[Record]) -> float:
        length = sum(r[1] for r in records)
        if not length:
            raise ValueError("all annotations are empty")
        return sum(r[0] for r in records) / length

    return Metric("wer" if unit == "word" else "cer", score, reduce, higher_is_better=False)


def read_vocabulary(path: str) -> tuple[str, ...]:
    """One symbol a line; an empty line is a space. Raises Rejected, exit code 2, where the file can't be read."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise reject("missing-file", f"can't read {path}: {error}", exit_code=2) from error
    return tuple(line or " " for line in (lines[:-1] if not lines[-1] else lines))


def edits(found: Sequence[Any], wanted: Sequence[Any]) -> int:
    """The least number of insertions, deletions and replacements that make one sequence the other (Wagner and Fischer 1974)."""
    row = list(range(len(wanted) + 1))
    for i, a in enumerate(found, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(wanted, 1):
            before, row[j] = row[j], min(before + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def _symbols(output: np.ndarray, blank: int | None) -> np.ndarray | str:
    if output.dtype.kind in "OUS":
        return " ".join(t.decode() if isinstance(t, bytes) else str(t) for t in output.reshape(-1).tolist())
    symbols = (output.argmax(-1) if output.dtype.kind == "f" else output).reshape(-1)
    if blank is None or not symbols.size:
        return symbols
    kept = np.concatenate([[True], symbols[1:] != symbols[:-1]]) & (symbols != blank)
    return symbols[kept]


def _units(unit: str, text: np.ndarray | str, vocabulary: Sequence[str] | None) -> Sequence[Any]:
    if not isinstance(text, str):
        numbers: list[int] = text.reshape(-1).tolist()
        if vocabulary is None:
            return numbers
        text = "".join(vocabulary[n] for n in numbers)
    return text.split() if unit == "word" else text

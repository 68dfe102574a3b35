"""Peak memory of a compile against the number of samples: does it stay flat?

    python benchmarks/memory.py MODEL.onnx --data calib.npz [--rules cpu] [--counts 100 2000] [--presets default fast auto]
        [--limit-mb 500] [--markdown table.md]
    python benchmarks/memory.py MODEL.onnx --data calib.npz --evaluations 2 16 --also --max-drop 0 --eval-data labelled.npz

Samples beyond those of ``--data`` are repeated, in a file of their own. ``--evaluations``: by the number of models that a search
for an accuracy target may evaluate, instead. ``--also``: further words of the command, to its end. Each compile is a whole
process. Exit code 1 where the largest peak is more than 10 % above the smallest of its row, or above the limit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "accuracy"))

from costs import Process, measured  # noqa: E402

FLAT = 1.10
TIMEOUT_S = 7200.0


@dataclass(frozen=True, slots=True)
class Row:
    """One way to compile, by what was counted."""

    name: str
    took: dict[int, Process]

    @property
    def growth(self) -> float:
        peaks = [p.peak_mb for p in self.took.values()]
        return max(peaks) / min(peaks)

    def is_met(self, limit_mb: float | None) -> bool:
        fits = limit_mb is None or all(p.peak_mb <= limit_mb for p in self.took.values())
        return fits and self.growth <= FLAT and not any(p.failed for p in self.took.values())


def repeated(data: Path, count: int, folder: Path) -> Path:
    """A file of ``count`` samples, those of ``data`` over and over, written one at a time. One input only."""
    with np.load(data) as file:
        values = file[file.files[0]]
    path = folder / f"{count}.npy"
    out = np.lib.format.open_memmap(path, "w+", values.dtype, (count, *values.shape[1:]))
    for index in range(count):
        out[index] = values[index % len(values)]
    out.flush()
    return path


def command(options: argparse.Namespace, data: Path, out: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "potc", "compile", options.model, "--rules", options.rules, "--data", str(data)]
    return [*words, "-o", str(out), "-q", *more, *options.also]


def by_samples(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    files = {count: repeated(Path(options.data), count, folder) for count in options.counts}
    for preset in options.presets:
        words = () if preset == "default" else ("--preset", preset)
        took = {
            count: measured(command(options, file, folder / "out.onnx", *words), folder / "log", TIMEOUT_S)
            for count, file in files.items()
        }
        yield Row(preset, took)


def by_evaluations(options: argparse.Namespace, folder: Path) -> Row:
    took: dict[int, Process] = {}
    for count in options.evaluations:
        out = folder / f"{count}.onnx"
        words = command(options, Path(options.data), out, "--evaluations", str(count))
        found = measured(words, folder / "log", TIMEOUT_S)
        took[count] = replace(found, failed="" if out.exists() else found.failed)  # a missed target is no failure here
    return Row("search", took)


def table(rows: list[Row], counted: str) -> Iterator[str]:
    counts = list(rows[0].took)
    yield f"| | {' | '.join(f'{n:,} {counted}' for n in counts)} | growth |"
    yield "|---|" + "---|" * (len(counts) + 1)
    for row in rows:
        cells = (p.failed or f"{p.peak_mb:.0f} MB, {p.cpu_s:.1f} CPU s" for p in row.took.values())
        yield f"| {row.name} | {' | '.join(cells)} | {row.growth - 1:+.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--rules", default="cpu")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 2000])
    parser.add_argument("--presets", nargs="+", default=["default", "fast", "auto"])
    parser.add_argument("--evaluations", type=int, nargs="+")
    parser.add_argument("--limit-mb", type=float)
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--also", nargs=argparse.REMAINDER, default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="potc-memory-") as name:
        rows: list[Row] = []
        if options.evaluations:
            rows.append(by_evaluations(options, Path(name)))
        else:
            for row in by_samples(options, Path(name)):
                print(row.name, {n: round(p.peak_mb, 1) for n, p in row.took.items()}, flush=True)
                rows.append(row)
    text = "\n".join(table(rows, "models" if options.evaluations else "samples")) + "\n"
    print(text)
    if options.markdown:
        Path(options.markdown).write_text(text)
    sys.exit(0 if all(row.is_met(options.limit_mb) for row in rows) else 1)


if __name__ == "__main__":
    main()

"""Ranges: what calibration found out, in memory and as a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from potc.data.tables import read_table
from potc.diagnostics.diagnostic import reject
from potc.graph.model import Model
from potc.graph.whole import whole_model
from potc.quantize.channel_means import ChannelMean, merge_means
from potc.quantize.seen import Seen, merge_seen
from potc.quantize.statistic import Statistic, decoded, encoded, merge

VERSION = 4

Key = TypeVar("Key")
Looked = Mapping[int, Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Ranges:
    """A ``Statistic`` for each observed tensor, by name; by name and axis for each whose channels have scales of their own;
    a ``ChannelMean`` for each name that a correction asks for (``Correction.seen``); and what was ``seen`` at the model's ends.

    ``model``: the fingerprint of the prepared model that was run, "" if that was not noted. ``generated``: samples were made up.
    ``runs``: how often each nested graph ran that holds kernels, by ``node/attribute``; each run counts as a sample of what
    is inside. ``looked``: of a few samples, by index, the means by channel of tensors that a correction looks at, by name:
    float32 [C]. Neither saved nor merged: who needs them runs these samples again.
    """

    by_tensor: Mapping[str, Statistic]
    means: Mapping[str, ChannelMean] = field(default_factory=dict[str, ChannelMean])
    by_channel: Mapping[tuple[str, int], Statistic] = field(default_factory=dict[tuple[str, int], Statistic])
    seen: Seen = field(default_factory=Seen)
    model: str = ""
    generated: bool = False
    runs: Mapping[str, int] = field(default_factory=dict[str, int])
    looked: Looked = field(default_factory=dict[int, Mapping[str, np.ndarray]], compare=False)

    def to_json(self) -> str:
        """One JSON document with names sorted, so equal ranges are equal text."""
        channels = [
            {"tensor": tensor, "axis": axis, **self.by_channel[tensor, axis].to_json()}
            for tensor, axis in sorted(self.by_channel)
        ]
        document = {
            "potc": "ranges",
            "version": VERSION,
            "model": self.model,
            "generated": self.generated,
            "seen": self.seen.to_json(),
            "tensors": {name: self.by_tensor[name].to_json() for name in sorted(self.by_tensor)},
            "channels": channels,
            "means": {name: _mean_to_json(self.means[name]) for name in sorted(self.means)},
            "runs": {name: self.runs[name] for name in sorted(self.runs)},
        }
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str, name: str = "this file") -> Ranges:
        """The inverse of ``to_json``. Raises Rejected for another kind of file, another version, or broken content."""
        try:
            value = json.loads(text)
            if not isinstance(value, dict) or value.get("potc") != "ranges":
                raise reject("not-ranges", f"{name} holds no ranges")
            if value.get("version") != VERSION:
                message = f"the ranges in {name} have version {value.get('version')}; this potc reads version {VERSION}"
                raise reject("unknown-version", message, help="calibrate again")
            return Ranges(
                {n: Statistic.from_json(entry) for n, entry in value["tensors"].items()},
                {n: _mean_from_json(entry) for n, entry in value["means"].items()},
                {(str(e["tensor"]), int(e["axis"])): Statistic.from_json(e) for e in value["channels"]},
                Seen.from_json(value["seen"]),
                str(value["model"]),
                value["generated"] is True,
                {str(n): int(count) for n, count in value.get("runs", {}).items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            message = f"{name} holds no readable ranges: {error}"
            raise reject("not-ranges", message, help="calibrate again") from error


def _mean_to_json(mean: ChannelMean) -> dict[str, object]:
    if mean.coarse is None or mean.fine is None:
        return {"samples": 0}
    return {"samples": mean.samples, "coarse": encoded(mean.coarse, "<i8"), "fine": encoded(mean.fine, "<i8")}


def _mean_from_json(value: Mapping[str, object]) -> ChannelMean:
    samples = value["samples"]
    if samples == 0:
        return ChannelMean()
    if not isinstance(samples, int) or samples < 0:
        raise ValueError("not a mean")
    coarse, fine = decoded(value["coarse"], "<i8"), decoded(value["fine"], "<i8")
    if coarse.ndim not in (1, 2) or coarse.shape != fine.shape:
        raise ValueError("not a mean of channels")
    return ChannelMean(samples, coarse, fine)


def merge_ranges(a: Ranges, b: Ranges) -> Ranges:
    """The ranges of the samples of both: associative and commutative to the bit."""
    empty, none = Statistic(), ChannelMean()
    return Ranges(
        {n: merge(a.by_tensor.get(n, empty), b.by_tensor.get(n, empty)) for n in _either(a.by_tensor, b.by_tensor)},
        {n: merge_means(a.means.get(n, none), b.means.get(n, none)) for n in _either(a.means, b.means)},
        {n: merge(a.by_channel.get(n, empty), b.by_channel.get(n, empty)) for n in _either(a.by_channel, b.by_channel)},
        merge_seen(a.seen, b.seen),
        a.model or b.model,
        a.generated or b.generated,
        {n: a.runs.get(n, 0) + b.runs.get(n, 0) for n in _either(a.runs, b.runs)},
    )


def _either(a: Iterable[Key], b: Iterable[Key]) -> Iterable[Key]:
    return dict.fromkeys((*a, *b))


def read_ranges(path: str) -> Ranges:
    """The ranges in a file. Raises Rejected if it can't be read, is too large, or holds something else."""
    try:
        text = read_table(path).decode()
    except UnicodeDecodeError as error:
        raise reject("not-ranges", f"{path} holds no ranges: it is no text", help="calibrate again") from error
    return Ranges.from_json(text, path)


def fingerprint(model: Model) -> str:
    """SHA-256 of a prepared model: its graph and its weights, whatever its file is called."""
    digest = hashlib.sha256()
    for block in whole_model(model.proto).blocks():
        digest.update(block)
    return digest.hexdigest()


def check_fit(ranges: Ranges, wanted: Ranges, name: str) -> None:
    """Raises Rejected(ranges-do-not-fit) where ``ranges``, read from the file ``name``, can't replace a calibration.

    ``wanted``: empty statistics of everything that calibration would have kept, and the model's fingerprint.
    """
    if ranges.model != wanted.model:
        message = f"the ranges in {name} were measured on another model, or on one that other rules prepared"
        raise reject("ranges-do-not-fit", message, help="calibrate again, with --data and --save-ranges")
    lacking = [
        *(f"`{n}`" for n in wanted.by_tensor if n not in ranges.by_tensor),
        *(f"the channels of `{n}`" for n, axis in wanted.by_channel if (n, axis) not in ranges.by_channel),
    ]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        message = f"{name} holds no ranges of {', '.join(lacking[:3])}{more}"
        raise reject("ranges-do-not-fit", message, help="calibrate again, with the same rules and --save-ranges")
    unknown = [name for name in wanted.means if name not in ranges.means]
    if unknown:
        message = f"{name} holds no means of `{unknown[0]}`, which the correction of biases needs"
        help_ = "calibrate again without --bias-correction none and --preset fast, or compile with one of them"
        raise reject("ranges-do-not-fit", message, help=help_)
    for table, wishes in ((ranges.by_tensor, wanted.by_tensor), (ranges.by_channel, wanted.by_channel)):
        for key, wish in wishes.items():
            kept: Statistic = table[key]  # type: ignore[index]
            rows = [r for r in wish.rows if kept.samples and r not in kept.rows]
            if kept.samples and wish.histogram is not None and kept.histogram is None:
                rows.append("histogram")
            if rows:
                message = f"{name} holds no {rows[0]} of `{key}`, which this range estimator needs"
                raise reject(
                    "ranges-do-not-fit", message, help="calibrate again with this --range-estimator and --save-ranges"
                )

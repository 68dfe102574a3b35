"""Calibration in a stated memory: groups of layers in turns, each over all samples.

What a group is told of a tensor is what the whole model would be told: the same numbers by the same kernels. So the ranges are
those of ``calibrate``, to the byte, as long as onnxruntime fuses nothing across a border; borders are chosen for that, see
``potc.graph.groups``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from potc.data.dataset import Dataset
from potc.execute.freed import give_back
from potc.graph.groups import Group, Room, Wishes, cut, group_model, lengths_of
from potc.graph.model import Model
from potc.graph.turns import Borders
from potc.quantize.calibrate import watch
from potc.quantize.needs import needs_of
from potc.quantize.plan import Plan
from potc.quantize.ranges import Ranges, fingerprint, merge_ranges
from potc.quantize.seen import Seen, merge_seen, see
from potc.quantize.tuning import RangeSettings

WEIGHT = 2.2  # what a session holds of each byte of weights: the array, and the copy that its kernels pack
ACTIVATION = 5.0  # samples that are under way at once, of which there are at most four, and what waits to be written


@dataclass(frozen=True, slots=True)
class _Between:
    """The samples of one group, as a Dataset."""

    source: Dataset
    borders: Borders
    number: int

    @property
    def files(self) -> tuple[str, ...]:
        return self.source.files

    @property
    def generated(self) -> bool:
        return self.source.generated

    @property
    def chosen(self) -> Sequence[int]:
        return self.source.chosen

    def __len__(self) -> int:
        return len(self.source)

    def feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        return self.borders.feeds(self.number, len(self.source))


def calibrate_in_turns(
    model: Model,
    plan: Plan,
    dataset: Dataset,
    progress: Callable[[int, int], None],
    settings: RangeSettings,
    memory: int,
) -> Ranges:
    """What ``calibrate`` returns, in ``memory`` bytes beside what the process has. ``progress`` counts samples of groups.

    Raises Rejected as ``calibrate`` does, and for a node that needs more memory.
    """
    if not plan.observed:
        return Ranges({}, model=fingerprint(model), generated=dataset.generated)
    groups = _groups(model, plan, dataset, settings, memory)
    borders = Borders(groups, [i.name for i in model.inputs])
    seen, ends = Seen(), {o.name for o in model.proto.graph.output}
    for feed in dataset.feeds():
        borders.put(feed)
        seen = merge_seen(seen, see(feed, {}))
    found = Ranges({}, model=fingerprint(model), generated=dataset.generated)
    known: set[str] = set()  # tensors that earlier groups told of
    for number, group in enumerate(groups):
        part = Model(model.path, group_model(model.proto, group), model.files, aside=model.aside)
        own = {n for node in part.proto.graph.node for n in node.output} | set(group.inputs)
        own |= {t.name for t in part.proto.graph.initializer}
        borders.enter(number)
        done, total = number * len(dataset), len(groups) * len(dataset)

        def step(index: int, _: int, done: int = done, total: int = total) -> None:
            progress(done + index, total)

        between = _Between(dataset, borders, number)
        told = watch(part, plan, between, step, settings, keep=borders.put, known=known)
        outputs = {n: o for n, o in told.seen.outputs.items() if n in ends}
        seen = merge_seen(seen, Seen({}, outputs))
        found = merge_ranges(found, replace(told, seen=Seen()))
        known |= own
        give_back()
    return replace(found, seen=seen)


def _groups(model: Model, plan: Plan, dataset: Dataset, settings: RangeSettings, memory: int) -> tuple[Group, ...]:
    return cut(model.proto, Room(memory, WEIGHT, ACTIVATION), wishes_of(model, plan, dataset, settings))


def wishes_of(model: Model, plan: Plan, dataset: Dataset, settings: RangeSettings) -> Wishes:
    """Where the groups of a calibration may begin."""
    first = next(iter(dataset.feeds()), {})
    return Wishes(
        watched=frozenset(plan.observed),
        together=tuple(kernel.nodes for kernel in plan.kernels),
        returned=frozenset(needs_of(plan, settings).fetched),
        lengths=lengths_of(model.proto, first),
    )

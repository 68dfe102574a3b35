"""Running a graph group by group, over all samples: what crosses a border waits in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from potc.execute.aside import Scratch, Shelf
from potc.execute.freed import give_back
from potc.execute.session import InferenceSession, run_each
from potc.graph.groups import Group, group_model

Feed = Mapping[str, np.ndarray]


class Borders:
    """Tensors of each sample between the groups that make them and the last one that reads them; then their file is closed."""

    def __init__(self, groups: Sequence[Group], given: Iterable[str]) -> None:
        """``given``: the names of what ``begin`` gets, of which only what groups read is kept."""
        self._groups = groups
        self._last = {name: number for number, group in enumerate(groups) for name in group.inputs}
        self._shelves: dict[str, Shelf] = {}
        self._open([name for name in given if name in self._last])

    def _open(self, names: Iterable[str]) -> None:
        """One file for those that are given up together."""
        files: dict[int, Scratch] = {}
        for name in names:
            number = self._last[name]
            files.setdefault(number, Scratch())
            self._shelves[name] = Shelf(files[number])

    def begin(self, feeds: Iterable[Feed]) -> None:
        """The samples of the whole graph."""
        for feed in feeds:
            self.put(feed)

    def enter(self, number: int) -> None:
        """Makes place for what a group makes, and gives up what only earlier groups read."""
        for name in [n for n in self._shelves if self._last[n] < number]:
            del self._shelves[name]
        self._open(name for name in self._groups[number].outputs if name in self._last)

    def put(self, values: Mapping[str, Any]) -> None:
        """What a sample has; samples come in order."""
        for name, value in values.items():
            if name in self._shelves and (name in self._last):
                self._shelves[name].append(np.asarray(value))

    def feeds(self, number: int, samples: int) -> Iterator[Feed]:
        for index in range(samples):
            yield {name: self._shelves[name][index] for name in self._groups[number].inputs}


def run_in_turns(
    proto: onnx.ModelProto,
    groups: Sequence[Group],
    feeds: Sequence[Feed],
    opened: Callable[[onnx.ModelProto], InferenceSession],
) -> list[dict[str, Any]]:
    """What the graph returns for each sample, by name. ``opened`` makes a session of a group. Raises what that raises, and what
    onnxruntime raises."""
    borders = Borders(groups, [i.name for i in proto.graph.input])
    borders.begin(feeds)
    wanted = {o.name for o in proto.graph.output}
    found: list[dict[str, Any]] = [{} for _ in feeds]
    for number, group in enumerate(groups):
        borders.enter(number)
        session = opened(group_model(proto, group))
        results = run_each(session, group.outputs, borders.feeds(number, len(feeds)), 1)
        for index, values in enumerate(results):
            made = dict(zip(group.outputs, values, strict=True))
            borders.put(made)
            found[index].update((n, v) for n, v in made.items() if n in wanted)
        del session, results
        give_back()
    return found

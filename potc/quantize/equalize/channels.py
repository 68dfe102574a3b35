"""Channels: one number for each set of elements, over all tensors, that must be scaled together.

``Found`` joins numbers (union-find) while the walk goes on; ``Channels`` is what came out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

Index = (
    np.ndarray
)  # int64, of the tensor's rank, each dimension 1 or the tensor's: the channel that each element belongs to


@dataclass(frozen=True, slots=True)
class Touch:
    """A constant that takes a scale: its elements are multiplied by ``scale[index] ** power``.

    ``power`` -1: what is read behind the constant becomes smaller by the scale; +1: it reads what became smaller.
    """

    node: int
    port: int
    tensor: int
    role: str
    power: int
    index: Index


@dataclass(frozen=True, slots=True)
class Limit:
    """What input ``port`` of a node says: values are cut off at ``bound``, from above where it is the ``highest``."""

    node: int
    port: int
    index: Index
    highest: bool
    bound: float


@dataclass(frozen=True, slots=True)
class Channels:
    """What was found in one model. ``maps``: the channels of each tensor; ``fixed``: by channel, True where its scale is 1.

    ``base``, ``power``: a channel's scale is that of its base to a power; most are their own base. Squares have the squares of
    scales."""

    count: int
    maps: Mapping[int, Index]
    touches: tuple[Touch, ...]
    limits: tuple[Limit, ...]
    fixed: np.ndarray
    base: Index
    power: np.ndarray

    def held(self, indices: Iterable[Index]) -> Channels:
        """The same, with these channels fixed, and all whose scales are powers of theirs."""
        fixed = self.fixed.copy()
        for index in indices:
            fixed[self.base[index]] = True
        return replace(self, fixed=fixed[self.base])


@dataclass(slots=True)
class Found:
    """Channels while they are looked for. ``waiting``: tensors that got channels and were not looked at since.

    A channel's scale is that of its parent to a power.
    """

    maps: dict[int, Index] = field(default_factory=dict[int, Index])
    touches: dict[tuple[int, int, int], Touch] = field(default_factory=dict[tuple[int, int, int], Touch])
    limits: dict[tuple[int, int], Limit] = field(default_factory=dict[tuple[int, int], Limit])
    waiting: list[int] = field(default_factory=list[int])
    _parent: list[int] = field(default_factory=list[int])
    _power: list[Fraction] = field(default_factory=list[Fraction])
    _pinned: set[int] = field(default_factory=set[int])
    _named: dict[tuple[int, Fraction], int] = field(default_factory=dict[tuple[int, Fraction], int])

    def fresh(self, shape: tuple[int, ...]) -> Index:
        """New channels, each different from all others."""
        first, count = len(self._parent), int(np.prod(shape))
        self._parent.extend(range(first, first + count))
        self._power.extend([Fraction(1)] * count)
        return np.arange(first, first + count).reshape(shape)

    def powers(self, index: Index, degree: Fraction) -> Index:
        """Channels whose scales are these scales to a power."""
        seen, places = np.unique(index, return_inverse=True)
        new = self.fresh(seen.shape)
        for child, parent in zip(new.tolist(), seen.tolist(), strict=True):
            self._parent[child], self._power[child] = parent, degree
        return new[places].reshape(index.shape)

    def roots(self, index: Index) -> Index:
        """The same channels, each by the one number that stands for all that were joined with it."""
        seen, places = np.unique(index, return_inverse=True)
        return np.array([self._same(c) for c in seen.tolist()], np.int64)[places].reshape(index.shape)

    def _same(self, channel: int) -> int:
        """The one number of all channels that have this one's scale."""
        root, power = self._root(channel)
        return root if power == 1 else self._named.setdefault((root, power), channel)

    def _root(self, channel: int) -> tuple[int, Fraction]:
        """With the power of its scale that this channel's is."""
        parent, power = self._parent, self._power
        while parent[channel] != channel and parent[parent[channel]] != parent[channel]:
            power[channel] *= power[parent[channel]]
            parent[channel] = parent[parent[channel]]
        return parent[channel], power[channel]

    def join(self, a: Index, b: Index) -> None:
        """Makes the channels at equal places one; the arrays are broadcast."""
        if a.shape == b.shape and (a == b).all():
            return
        pairs = np.stack([m.ravel() for m in np.broadcast_arrays(a, b)])
        for x, y in np.unique(pairs, axis=1).T.tolist():
            (low, p), (high, q) = sorted((self._root(x), self._root(y)))
            if low != high:
                self._parent[high], self._power[high] = low, p / q
            elif p != q:
                self._pinned.add(low)

    def joined(self, index: Index, axes: Sequence[int]) -> Index:
        """Makes all channels along some axes one; the result is 1 long there."""
        first = index
        for axis in axes:
            first = first.take([0], axis)
        self.join(index, first)
        return first

    def pin(self, index: Index) -> None:
        """These keep their scale."""
        self._pinned.update(index.ravel().tolist())

    def assign(self, tensor: int, index: Index) -> None:
        """The channels of a tensor; where it has some already, both are the same."""
        known = self.maps.get(tensor)
        if known is not None:
            self.join(known, index)
            return
        self.maps[tensor] = index
        self.waiting.append(tensor)

    def touch(self, touch: Touch) -> None:
        """A constant takes a scale; come upon again, it is of the same channels."""
        known = self.touches.setdefault((touch.node, touch.port, touch.power), touch)
        self.join(known.index, touch.index)

    def result(self) -> Channels:
        """All of it, with channels numbered from 0 in the order of appearance."""
        roots = [self._root(c) for c in range(len(self._parent))]
        numbers = {root: k for k, root in enumerate(dict.fromkeys(roots))}
        table = np.array([numbers[r] for r in roots], np.int64)
        base = np.array([numbers[root, Fraction(1)] for root, _ in numbers], np.int64)
        power = np.array([float(p) for _, p in numbers])
        touches = (
            Touch(t.node, t.port, t.tensor, t.role, t.power, table[t.index]) for _, t in sorted(self.touches.items())
        )
        found = Channels(
            len(numbers),
            {t: table[m] for t, m in sorted(self.maps.items())},
            tuple(touches),
            tuple(Limit(*at, table[e.index], e.highest, e.bound) for at, e in sorted(self.limits.items())),
            np.zeros(len(numbers), bool),
            base,
            power,
        )
        return found.held([table[sorted(self._pinned)]])


def in_groups(channels: Index, shape: Sequence[int], own: int, other: int) -> Index | None:
    """The channels [C] of a weight's elements: ``own`` is the axis of the channels, ``other`` that of the other side's.

    Where there are more channels than the axis is long, the weight has groups: consecutive parts of the other axis belong
    to consecutive parts of the channels. None if the numbers don't fit.
    """
    size = shape[own]
    if size == 0 or channels.size % size:
        return None
    groups = channels.size // size
    if groups > 1 and shape[other] % groups:
        return None
    table = channels.reshape(groups, size)
    dims = [1] * len(shape)
    dims[own] = size
    if groups == 1:
        return table.reshape(dims)
    dims[other] = shape[other]
    by_other = np.repeat(table, shape[other] // groups, axis=0)  # [other, own]
    return (by_other if other < own else by_other.T).reshape(dims)


def narrowed(whole: np.ndarray) -> Index:
    """With every axis along which nothing changes made 1 long."""
    for axis in range(whole.ndim):
        first = whole.take([0], axis)
        if whole.shape[axis] > 1 and (whole == first).all():
            whole = first
    return whole

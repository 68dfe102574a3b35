"""What a kernel returns that adds products in narrow saturating lanes: exact integers, the same on every host.

A kernel with weights is linear in the codes of its activations and in those of its weights, so float32 arithmetic computes
it exactly as long as no sum leaves 2**24: weights of large layers are cut into parts. The sum of one lane group is the same
operator with all other weights zero. Output channels don't mix, so one run gives one group of every channel, and only groups
that could leave the register for the activations at hand are looked at: sum = exact sum + (clamped - exact) of each of them.

Where all output channels read the same activations, the operator is not run for each group: with one weight of a channel 1 and
all others 0 it returns what this weight is multiplied with, at each position. Groups are added from these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from potc.quantize.narrow import grouped, rows_of
from potc.quantize.plan import Lanes

EXACT = 1 << 24  # float32 holds every integer up to here
RUNS = 512  # of one layer on one sample; beyond, a simulation takes longer than anybody waits
TOP = 255  # the largest code of 8 bits, from 0
HELD = 1 << 25  # numbers that are held at once of what weights are multiplied with
ADDED = 1 << 21  # numbers that are added at once

Multiply = Callable[[np.ndarray, np.ndarray], np.ndarray]  # float32 activations and weights -> float32, without a bias


class Unfit(Exception):
    """A layer that can't be simulated; the message says why."""


@dataclass(frozen=True, slots=True)
class Codes:
    """Stored integers and their zero point. ``values``: dtype of the storage, so 8 bits start at -128 or at 0."""

    values: np.ndarray
    zero_point: int

    @property
    def lowest(self) -> int:
        return int(np.iinfo(self.values.dtype).min)

    @property
    def centred(self) -> np.ndarray:
        """Codes minus zero point, float32: what padding fills up with zeros."""
        return self.values.astype(np.float32) - np.float32(self.zero_point)


@dataclass(frozen=True, slots=True)
class Groups:
    """Those of a weight that some activations could make leave the register. ``owner``: int [n], output channel of each, in
    order; ``weights``: float32 [n, lanes]. ``needed``: numbers of positions in one output channel, ``at``: int [n, lanes], where
    among them each weight of a group is."""

    lanes: Lanes
    owner: np.ndarray
    weights: np.ndarray
    needed: np.ndarray
    at: np.ndarray


@dataclass(frozen=True, slots=True)
class Summed:
    """``sums``: int64, in the shape of the output, what the kernel's widest accumulator holds (without a bias).

    ``groups``: number of lane groups that were looked at; ``saturated``: how often one left its register, over all
    positions; ``largest``: the largest distance by which a group did so.
    """

    sums: np.ndarray
    groups: int = 0
    saturated: int = 0
    largest: int = 0


def accumulate(
    multiply: Multiply,
    x: Codes,
    w: Codes,
    out: int,
    channel: int,
    lanes: tuple[Lanes, ...],
    groups: tuple[Groups, ...] = (),
    runs: int = RUNS,
) -> Summed:
    """Sums of (x - zero point) * (w - zero point) as a kernel forms them that adds ``lanes`` of products in a narrow register.

    Activations are multiplied as unsigned codes (signed ones are shifted to start at 0), and padding has the code of zero; the
    zero points' share is taken off after widening. ``out``: axis of the weights' output channels, ``channel``: the same of
    the output. ``groups``: see ``groups_of``, where every output channel reads the same. Accumulators with one lane are wide and
    exact.

    Raises Unfit where ``multiply`` is not a plain sum of products, and where more than ``runs`` groups of one channel could
    saturate and channels do not share what they read.
    """
    if not x.values.size:
        return Summed(multiply(x.centred, w.centred).astype(np.int64))
    sums = _exact(multiply, x.centred, w.centred, out)
    looked_at = saturated = largest = 0
    for number, narrow in enumerate(a for a in lanes if a.lanes > 1):
        _check_whole(x, w, narrow)
        if groups and len(groups[number].needed) * (sums.size // max(sums.shape[channel], 1)) <= HELD:
            found = _clamped(multiply, x, w, out, channel, groups[number])
            sums += found.sums
            looked_at, saturated = looked_at + found.groups, saturated + found.saturated
            largest = max(largest, found.largest)
            continue
        for total in _groups(multiply, x, w, out, channel, narrow, runs):
            excess = np.clip(total, *_register(narrow)) - total
            sums += excess
            looked_at += 1
            saturated += int(np.count_nonzero(excess))
            largest = max(largest, int(np.abs(excess).max(initial=0)))
    return Summed(sums, looked_at, saturated, largest)


def groups_at_risk(codes: np.ndarray, out: int | None, lanes: Lanes, top: int) -> np.ndarray:
    """Bool [O, G], with ``out`` None [1, G]: the groups of each output channel that leave the register for some activation codes
    from 0 to ``top``.
    """
    groups = grouped(rows_of(codes, out, lanes.order), lanes.lanes)
    low, high = _register(lanes)
    # Lane by lane: numpy sums over a short last axis slowly.
    each = [groups[..., lane].astype(np.int32) for lane in range(lanes.lanes)]
    none = np.zeros(groups.shape[:-1], np.int32)
    positive = sum((np.maximum(lane, 0) for lane in each), none)
    negative = sum((np.minimum(lane, 0) for lane in each), none)
    return (positive > high // top) | (negative < -(-low // top))


def _check_whole(x: Codes, w: Codes, lanes: Lanes) -> None:
    top = int(x.values.max()) - x.lowest + abs(x.zero_point - x.lowest)
    if top * int(np.abs(w.values.astype(np.int64)).max(initial=0)) * lanes.lanes >= EXACT:
        raise Unfit(f"a sum of {lanes.lanes} products leaves the integers of float32")


def _register(lanes: Lanes) -> tuple[int, int]:
    bits = int(lanes.storage[1:])
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if lanes.storage[0] == "i" else (0, (1 << bits) - 1)


def _groups(
    multiply: Multiply, x: Codes, w: Codes, out: int, channel: int, lanes: Lanes, runs: int
) -> Iterator[np.ndarray]:
    """Int64 sums in the shape of the output: each time of one group of every channel that has another one at risk."""
    zero = x.zero_point - x.lowest
    top = max(int(x.values.max()) - x.lowest, zero, 1)
    risky = groups_at_risk(w.values, out, lanes, top)
    count = int(risky.sum(1).max(initial=0))
    if count > runs:
        raise Unfit(f"{count} groups of one channel could saturate, more than the {runs} that are simulated")
    places = grouped(rows_of(np.arange(1, w.values.size + 1).reshape(w.values.shape), out, lanes.order), lanes.lanes)
    chosen = np.argsort(~risky, axis=1, kind="stable")
    rows = np.arange(len(risky))
    for run in range(count):
        mine = chosen[:, run]
        place = places[rows, mine][risky[rows, mine]]
        place = place[place > 0] - 1  # a short group was filled with zeros
        masked = np.zeros(w.values.size, np.float32)
        masked[place] = w.values.reshape(-1)[place]
        masked = masked.reshape(w.values.shape)
        total = _whole(multiply(x.centred, masked))
        rest = tuple(a for a in range(masked.ndim) if a != out)
        yield total + _along(zero * masked.sum(axis=rest, dtype=np.float64).astype(np.int64), channel, total.ndim)


def groups_of(w: Codes, out: int, lanes: tuple[Lanes, ...]) -> tuple[Groups, ...]:
    """Of a weight of 8 bits whose output channels all read the same activations; one for each narrow accumulator, for any
    samples."""
    return tuple(_groups_of(w, out, narrow) for narrow in lanes if narrow.lanes > 1)


def _groups_of(w: Codes, out: int, lanes: Lanes) -> Groups:
    owner, group = np.nonzero(groups_at_risk(w.values, out, lanes, TOP))
    weights = grouped(rows_of(w.values, out, lanes.order), lanes.lanes)[owner, group].astype(np.float32)
    one = np.moveaxis(w.values, out, 0)[:1]
    numbers = np.moveaxis(np.arange(one.size).reshape(one.shape), 0, out)
    # A short group was filled with zeros: its weights are 0 there, so any factor will do.
    places = grouped(rows_of(numbers, out, lanes.order), lanes.lanes)[0][group]
    needed, at = np.unique(places, return_inverse=True)
    return Groups(lanes, owner, weights, needed, at.reshape(places.shape))


def _clamped(multiply: Multiply, x: Codes, w: Codes, out: int, channel: int, groups: Groups) -> Summed:
    """What clamping adds to the sums, and how often it does."""
    factors, shape = _factors(multiply, x.centred, w.values.shape, out, channel, groups.needed)
    factors += np.float32(x.zero_point - x.lowest)
    low, high = (np.float32(limit) for limit in _register(groups.lanes))
    highest = factors.max(axis=1, initial=0)[groups.at]
    above, below = (np.maximum(sign * groups.weights, 0) * highest for sign in (1, -1))
    risky = np.flatnonzero((above.sum(1) > high) | (below.sum(1) > -low))
    sums = np.zeros((shape[0], factors.shape[1]), np.int64)
    saturated = largest = 0
    step = max(1, ADDED // max(factors.shape[1], 1))
    for start in range(0, len(risky), step):
        part = risky[start : start + step]
        weights, at = groups.weights[part], groups.at[part]
        total = weights[:, :1] * factors[at[:, 0]]
        for lane in range(1, weights.shape[1]):
            total += weights[:, lane, None] * factors[at[:, lane]]
        excess = np.clip(total, low, high) - total  # integers far below 2**24: exact
        saturated += int(np.count_nonzero(excess))
        largest = max(largest, int(np.abs(excess).max(initial=0)))
        channels, first = np.unique(groups.owner[part], return_index=True)  # owners come in order
        sums[channels] += np.add.reduceat(excess, first, axis=0, dtype=np.float64).astype(np.int64)
    return Summed(np.moveaxis(sums.reshape(shape), 0, channel), len(risky), saturated, largest)


def _factors(
    multiply: Multiply, x: np.ndarray, weights: tuple[int, ...], out: int, channel: int, needed: np.ndarray
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Float32 [n, positions]: what the weights ``needed`` (numbers in one output channel) are multiplied with, and the shape
    of the result with its channels first. One run reveals as many as there are output channels."""
    count = weights[out]
    rest = tuple(size for axis, size in enumerate(weights) if axis != out)
    found: list[np.ndarray] = []
    shape: tuple[int, ...] = ()
    for start in range(0, max(len(needed), 1), count):
        mine = needed[start : start + count]
        ones = np.zeros((count, math.prod(rest)), np.float32)
        ones[np.arange(len(mine)), mine] = 1
        revealed = np.moveaxis(multiply(x, np.moveaxis(ones.reshape(count, *rest), 0, out)), channel, 0)
        shape = revealed.shape
        found.append(revealed.reshape(count, -1)[: len(mine)])
    return np.concatenate(found), shape


def _exact(multiply: Multiply, x: np.ndarray, w: np.ndarray, out: int) -> np.ndarray:
    """Int64 sums of products of integers: as many runs as it takes to keep every sum below 2**24."""
    rows = np.abs(np.moveaxis(w, out, 0).reshape(w.shape[out], -1)).astype(np.int64).max(axis=0, initial=0)
    top = max(int(np.abs(x).max(initial=0)), 1)
    if top * int(rows.max(initial=0)) >= EXACT:
        raise Unfit("a product leaves the integers of float32")
    total = int(rows.sum()) * top
    if total < EXACT:
        return _whole(multiply(x, w))
    part = _parts(rows * top)
    shape = [w.shape[a] for a in range(w.ndim) if a != out]
    place = np.expand_dims(part.reshape(shape), out)
    sums = np.zeros((), np.int64)
    for k in range(int(part.max()) + 1):
        sums = sums + _whole(multiply(x, np.where(place == k, w, np.float32(0))))
    return sums


def _parts(sizes: np.ndarray) -> np.ndarray:
    """A part for each position, in order, so that the sizes of no part add up to 2**24."""
    part = np.zeros(len(sizes), np.int64)
    current = held = 0
    for place, size in enumerate(sizes.tolist()):
        if held + size >= EXACT:
            current, held = current + 1, 0
        part[place] = current
        held += size
    return part


def _whole(values: np.ndarray) -> np.ndarray:
    rounded = np.rint(values)
    if not np.array_equal(rounded, values):
        raise Unfit("the operator does more than to add products")
    return rounded.astype(np.int64)


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)

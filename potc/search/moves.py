"""The path from the fastest plan to the float model: one move after the other, most noise removed per speed lost first.

A move raises the type of a source, or gives up the kernels that must be given up together to be rid of one. What a point of
the path loses is estimated by the noise that is left: the sum of the noise-to-signal ratios of all sources, each measured
alone. (Ratios of independent errors add up: Lin, Talathi and Annapureddy, "Fixed Point Quantization of Deep Convolutional
Networks", 2016, section 3.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from potc.search.sources import NoiseSource

# Giving up a kernel costs this share of one average kernel's time beside its own: its operands are converted at the border.
BORDER = 0.5


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise-to-signal ratio at the model's outputs with one source alone; ``raised``: in its most precise type, None if there
    is no other."""

    plain: float
    raised: float | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """Kernels that are given up (indices), or the source whose type is raised. ``removed``: noise; ``cost``: time lost, as a
    share of the float model's."""

    kernels: frozenset[int]
    raised: str
    removed: float
    cost: float


@dataclass(frozen=True, slots=True)
class Time:
    """Of one kernel, as shares of the float model's time: in float, as planned, and in the most precise types."""

    floating: float
    planned: float
    raised: float


@dataclass(slots=True)
class _State:
    sources: Sequence[NoiseSource]
    noise: Mapping[str, Noise]
    times: Mapping[int, Time]
    given: set[int]
    raised: set[str]

    def left(self, source: NoiseSource) -> float:
        """Noise that the source still makes."""
        if source.cure <= self.given:
            return 0.0
        noise = self.noise[source.key]
        return noise.raised if source.key in self.raised and noise.raised is not None else noise.plain

    def time(self, kernel: int, touching: Mapping[int, Sequence[NoiseSource]]) -> float:
        """Of a kernel that is not given up."""
        is_raised = any(s.key in self.raised for s in touching.get(kernel, ()))
        return self.times[kernel].raised if is_raised else self.times[kernel].planned


def path(
    sources: Sequence[NoiseSource], noise: Mapping[str, Noise], times: Mapping[int, Time], raising: bool
) -> tuple[Move, ...]:
    """All moves, until no source is left. Equal inputs give equal paths; ties go to the earlier source."""
    state = _State(sources, noise, times, set(), set())
    touching: dict[int, list[NoiseSource]] = {}
    for source in sources:
        for kernel in source.cure:
            touching.setdefault(kernel, []).append(source)
    moves: list[Move] = []
    border = BORDER * sum(t.planned for t in times.values()) / max(len(times), 1)
    while True:
        best: tuple[float, Move] | None = None
        for source in sources:
            if source.cure <= state.given:
                continue
            options = [_giving_up(source, state, touching, border)]
            if raising and source.key not in state.raised and noise[source.key].raised is not None:
                options.append(_raising(source, state, touching))
            for move in options:
                worth = move.removed / max(move.cost, 1e-12)
                if best is None or worth > best[0]:
                    best = (worth, move)
        if best is None:
            return tuple(moves)
        move = best[1]
        moves.append(move)
        state.given |= move.kernels
        if move.raised:
            state.raised.add(move.raised)


def _giving_up(
    source: NoiseSource, state: _State, touching: Mapping[int, Sequence[NoiseSource]], border: float
) -> Move:
    added = source.cure - state.given
    after = state.given | added
    cured = {s.key: s for k in added for s in touching[k] if s.cure <= after}
    removed = sum(state.left(s) for _, s in sorted(cured.items()))
    cost = sum(max(state.times[k].floating - state.time(k, touching), 0.0) + border for k in sorted(added))
    return Move(frozenset(added), "", removed, cost)


def _raising(source: NoiseSource, state: _State, touching: Mapping[int, Sequence[NoiseSource]]) -> Move:
    noise = state.noise[source.key]
    removed = max(noise.plain - (noise.raised or 0.0), 0.0)
    users = sorted(source.cure - state.given)
    cost = sum(max(state.times[k].raised - state.time(k, touching), 0.0) for k in users)
    return Move(frozenset(), source.key, removed, cost)


def left_after(sources: Sequence[NoiseSource], noise: Mapping[str, Noise], moves: Sequence[Move]) -> float:
    """Noise that is left once some moves were made, in any order."""
    given = {k for m in moves for k in m.kernels}
    raised = {m.raised for m in moves if m.raised}
    state = _State(sources, noise, {}, given, raised)
    return sum(state.left(s) for s in sources)

"""Kernels that share no node and explain as much as all legal matches together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from potc.legal.demands import Judged
from potc.legal.sites import Site

SEARCH = 2000  # steps of the search in one knot of overlapping kernels; real knots need a handful


def disjoint(legal: Sequence[Judged]) -> Iterator[Judged]:
    """Kernels that share no node and explain as much as all of them together, knot by knot where they overlap."""
    for knot in _knots(legal):
        if len(knot) == 1:
            yield knot[0]
        else:
            yield from _Search(knot).best()


def _knots(legal: Sequence[Judged]) -> list[list[Judged]]:
    """Groups of matches that are connected by shared nodes."""
    group_of: dict[int, list[Judged]] = {}
    for j in legal:
        merged = [j]
        for group in {id(g): g for n in j.candidate.match.nodes if (g := group_of.get(n)) is not None}.values():
            merged += group
        for member in merged:
            group_of.update(dict.fromkeys(member.candidate.match.nodes, merged))
    return list({id(g): g for g in group_of.values()}.values())


@dataclass(slots=True)
class _Search:
    """The best disjoint choice in one knot: site by site, the one with the fewest choices first."""

    knot: list[Judged]
    steps: int = 0
    most: int = -1
    chosen: tuple[Judged, ...] = ()

    def best(self) -> tuple[Judged, ...]:
        self.knot.sort(
            key=lambda j: (-len(j.candidate.match.nodes), j.candidate.match.nodes, j.candidate.rule.qualified)
        )
        self._try((), frozenset(), frozenset(), frozenset(s for j in self.knot for s in j.sites))
        return self.chosen

    def _try(
        self, chosen: tuple[Judged, ...], used: frozenset[int], done: frozenset[Site], open_: frozenset[Site]
    ) -> None:
        self.steps += 1
        if len(done) > self.most:
            self.most, self.chosen = len(done), chosen
        left = open_ - done
        if not left or self.steps > SEARCH or len(done) + len(left) <= self.most:
            return
        site = min(left, key=lambda s: (sum(s in j.sites for j in self.knot), s))
        for j in self.knot:
            if site in j.sites and used.isdisjoint(j.candidate.match.nodes):
                self._try((*chosen, j), used | set(j.candidate.match.nodes), done | j.sites, open_)
        self._try(chosen, used, done, open_ - {site})

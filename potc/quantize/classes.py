"""Scale classes: a union-find over tensor ids."""

from __future__ import annotations

from collections.abc import Iterable


class UnionFind:
    """Disjoint sets of integers. ``groups`` lists members in ascending order, groups by their smallest member."""

    def __init__(self, members: Iterable[int]) -> None:
        self._parent = {m: m for m in members}

    def find(self, member: int) -> int:
        root = member
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[member] != root:
            self._parent[member], member = root, self._parent[member]
        return root

    def join(self, members: Iterable[int]) -> None:
        """Puts all members into one set; the smallest becomes its root, so the result does not depend on the order."""
        roots = sorted({self.find(m) for m in members})
        for root in roots[1:]:
            self._parent[root] = roots[0]

    def groups(self) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for member in sorted(self._parent):
            found.setdefault(self.find(member), []).append(member)
        return [found[root] for root in sorted(found)]

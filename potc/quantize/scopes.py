"""Nodes that the user keeps in float: by name, by operator and attributes, by the region between two nodes.

Rule files say what a device can do; what one model can't afford stands on the command line. A name that nothing has is
an error: a scope that silently holds nothing is a model that silently loses accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from potc.diagnostics.diagnostic import reject
from potc.graph.model import Model
from potc.graph.names import all_nodes
from potc.graph.snapshot import Snapshot
from potc.match.environment import attributes
from potc.match.rewrite import Change


@dataclass(frozen=True, slots=True)
class Scopes:
    """``names``: globs over names of nodes. ``operators``: ``Op`` or ``Op[attribute=value,...]``. ``between``: pairs (A, B) of
    node or tensor names: everything that A leads to and that leads to B, both included."""

    names: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    between: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.names or self.operators or self.between)


def scoped_nodes(
    scopes: Scopes, model: Model, changes: Iterable[Change], snapshots: Mapping[str, Snapshot]
) -> Mapping[str, Mapping[int, str]]:
    """Node of the prepared model -> the scope that holds it, as it was written, for each of its graphs. ``model``: as the user
    knows it.

    A node that preparation folded into another holds that one. Raises Rejected(unknown-node) for names, operators and
    attributes that the model does not have, with a suggestion.
    """
    if not scopes:
        return {}
    names = _Names(model, tuple(changes), snapshots)
    held: dict[_Place, str] = {}
    for glob in scopes.names:
        held |= dict.fromkeys(names.matching(glob), f"--float {glob}")
    for written in scopes.operators:
        held |= dict.fromkeys(_of_operator(written, snapshots), f"--float-op {written}")
    for first, last in scopes.between:
        held |= dict.fromkeys(_between(names, first, last, snapshots), f"--float-between {first} {last}")
    return {key: {n: held[k, n] for k, n in sorted(held) if k == key} for key in snapshots}


_Place = tuple[str, int]  # the key of a graph, and a node in it


class _Names:
    """Names of the user's model, and which nodes of the prepared model stand for them."""

    def __init__(self, model: Model, changes: tuple[Change, ...], snapshots: Mapping[str, Snapshot]) -> None:
        self._snapshots = snapshots
        self._known: dict[str, frozenset[_Place]] = {
            name: frozenset(((key, n),)) for key, s in snapshots.items() for n, name in enumerate(s.names)
        }
        for change in changes:  # later changes see what earlier ones made
            by = frozenset(
                (key, s.producer[s.tensor_ids[change.tensor]])
                for key, s in snapshots.items()
                if change.tensor in s.tensor_ids and s.producer[s.tensor_ids[change.tensor]] >= 0
            )
            for name in change.nodes if by else ():
                self._known[name] = self._known.get(name, frozenset()) | by
        for node in all_nodes(model.proto.graph):
            self._known.setdefault(node.name, frozenset())  # folded away as a whole: nothing is left to hold

    def matching(self, glob: str) -> frozenset[_Place]:
        found = [name for name in self._known if name == glob or fnmatchcase(name, glob)]
        if not found:
            raise _unknown("node", glob, self._known)
        return frozenset[_Place]().union(*(self._known[name] for name in found))

    def end(self, name: str) -> frozenset[_Place]:
        """Nodes behind the name of a node, or of a tensor: its maker, or its readers if it comes from outside."""
        if name in self._known:
            return self._known[name]
        holding = [(key, s) for key, s in self._snapshots.items() if name in s.tensor_ids]
        if not holding:
            tensors = [t for s in self._snapshots.values() for t in s.tensor_ids]
            raise _unknown("node or tensor", name, [*self._known, *tensors])
        makers = frozenset((key, s.producer[s.tensor_ids[name]]) for key, s in holding)
        made = frozenset(place for place in makers if place[1] >= 0)
        return made or frozenset((key, n) for key, s in holding for n, _ in s.consumers[s.tensor_ids[name]])


def _unknown(what: str, name: str, known: Iterable[str]) -> Exception:
    near = get_close_matches(name.replace("*", ""), sorted(known), n=1, cutoff=0.5)
    help_ = (
        f"did you mean `{near[0]}`?"
        if near
        else "names may hold * for any characters; `potc explain MODEL` lists nodes"
    )
    return reject("unknown-node", f"no {what} of the model is called `{name}`", help=help_)


_OPERATOR = re.compile(r"([\w.:]+)(?:\[(.*)\])?")


def _of_operator(written: str, snapshots: Mapping[str, Snapshot]) -> Iterator[_Place]:
    match = _OPERATOR.fullmatch(written.strip())
    if match is None:
        help_ = "write an operator, like Softmax, or with attributes: Conv[group=1]"
        raise reject("unknown-node", f"`{written}` is no operator", help=help_)
    op, conditions = match[1], [c.partition("=") for c in (match[2] or "").split(",") if c.strip()]
    places = [(key, node) for key, s in snapshots.items() for node in s.by_op.get(op, ())]
    if not places:
        there = sorted({o for s in snapshots.values() for o in s.by_op})
        near = get_close_matches(op, there, n=1)
        help_ = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(there)}"
        raise reject("unknown-node", f"the model has no operator `{op}`", help=help_)
    for key, _, _ in conditions:
        known = attributes(snapshots[places[0][0]], places[0][1])
        if key.strip() not in known:
            near = get_close_matches(key.strip(), sorted(known), n=1)
            help_ = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(sorted(known)) or 'none'}"
            raise reject("unknown-node", f"{op} has no attribute `{key.strip()}`", help=help_)
    for graph, node in places:
        given = attributes(snapshots[graph], node)
        if all(_spelled(given.get(key.strip())) == value.strip().replace(" ", "") for key, _, value in conditions):
            yield graph, node


def _spelled(value: Any) -> str:
    """An attribute as people write it: ``3``, ``same_upper``, ``1:1`` for lists (a comma separates conditions)."""
    if isinstance(value, tuple | list):
        return ":".join(_spelled(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _between(names: _Names, first: str, last: str, snapshots: Mapping[str, Snapshot]) -> frozenset[_Place]:
    """Descendants of one end that are ancestors of the other, the ends included; both lie in one graph."""
    starts, ends = names.end(first), names.end(last)
    import networkx as nx  # slow to import, and most compiles name no region

    found: set[_Place] = set()
    for key in {k for k, _ in starts} & {k for k, _ in ends}:
        graph = nx.DiGraph(snapshots[key].graph)
        mine, theirs = ({n for k, n in places if k == key} for places in (starts, ends))
        after = mine.union(*(nx.descendants(graph, n) for n in mine))
        before = theirs.union(*(nx.ancestors(graph, n) for n in theirs))
        found.update((key, n) for n in after & before)
    if not found:
        help_ = "name the earlier one first"
        raise reject("unknown-node", f"nothing lies between `{first}` and `{last}`", help=help_)
    return frozenset(found)

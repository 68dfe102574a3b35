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
from potc.graph.snapshot import Snapshot, operator
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


def scoped_nodes(scopes: Scopes, model: Model, changes: Iterable[Change], snapshot: Snapshot) -> Mapping[int, str]:
    """Node of the prepared model -> the scope that holds it, as it was written. ``model``: as the user knows it.

    A node that preparation folded into another holds that one. Raises Rejected(unknown-node) for names, operators and
    attributes that the model does not have, with a suggestion.
    """
    if not scopes:
        return {}
    names = _Names(model, tuple(changes), snapshot)
    held: dict[int, str] = {}
    for glob in scopes.names:
        held |= dict.fromkeys(names.matching(glob), f"--float {glob}")
    for written in scopes.operators:
        held |= dict.fromkeys(_of_operator(written, snapshot), f"--float-op {written}")
    for first, last in scopes.between:
        held |= dict.fromkeys(_between(names, first, last, snapshot), f"--float-between {first} {last}")
    return dict(sorted(held.items()))


class _Names:
    """Names of the user's model, and which nodes of the prepared model stand for them."""

    def __init__(self, model: Model, changes: tuple[Change, ...], snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._numbers = {name: n for n, name in enumerate(snapshot.names)}
        self._known: dict[str, frozenset[int]] = {name: frozenset((n,)) for name, n in self._numbers.items()}
        for change in changes:  # later changes see what earlier ones made
            maker = snapshot.tensor_ids.get(change.tensor, -1)
            by = snapshot.producer[maker] if maker >= 0 else -1
            for name in change.nodes:
                if by >= 0:
                    self._known[name] = self._known.get(name, frozenset()) | {by}
        for node in model.proto.graph.node:
            self._known.setdefault(node.name, frozenset())  # folded away as a whole: nothing is left to hold

    def matching(self, glob: str) -> frozenset[int]:
        found = [name for name in self._known if name == glob or fnmatchcase(name, glob)]
        if not found:
            raise _unknown("node", glob, self._known)
        return frozenset[int]().union(*(self._known[name] for name in found))

    def end(self, name: str) -> frozenset[int]:
        """Nodes behind the name of a node, or of a tensor (its maker)."""
        if name in self._known:
            return self._known[name]
        tensor = self._snapshot.tensor_ids.get(name)
        if tensor is None:
            raise _unknown("node or tensor", name, [*self._known, *self._snapshot.tensor_ids])
        maker = self._snapshot.producer[tensor]
        if maker >= 0:
            return frozenset((maker,))
        return frozenset(n for n, _ in self._snapshot.consumers[tensor])


def _unknown(what: str, name: str, known: Iterable[str]) -> Exception:
    near = get_close_matches(name.replace("*", ""), sorted(known), n=1, cutoff=0.5)
    help_ = (
        f"did you mean `{near[0]}`?"
        if near
        else "names may hold * for any characters; `potc explain MODEL` lists nodes"
    )
    return reject("unknown-node", f"no {what} of the model is called `{name}`", help=help_)


_OPERATOR = re.compile(r"([\w.:]+)(?:\[(.*)\])?")


def _of_operator(written: str, snapshot: Snapshot) -> Iterator[int]:
    match = _OPERATOR.fullmatch(written.strip())
    if match is None:
        help_ = "write an operator, like Softmax, or with attributes: Conv[group=1]"
        raise reject("unknown-node", f"`{written}` is no operator", help=help_)
    op, conditions = match[1], [c.partition("=") for c in (match[2] or "").split(",") if c.strip()]
    nodes = snapshot.by_op.get(op, ())
    if not nodes:
        near = get_close_matches(op, sorted({operator(p) for p in snapshot.protos}), n=1)
        help_ = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(sorted(snapshot.by_op))}"
        raise reject("unknown-node", f"the model has no operator `{op}`", help=help_)
    for key, _, _ in conditions:
        known = attributes(snapshot, nodes[0])
        if key.strip() not in known:
            near = get_close_matches(key.strip(), sorted(known), n=1)
            help_ = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(sorted(known)) or 'none'}"
            raise reject("unknown-node", f"{op} has no attribute `{key.strip()}`", help=help_)
    for node in nodes:
        given = attributes(snapshot, node)
        if all(_spelled(given.get(key.strip())) == value.strip().replace(" ", "") for key, _, value in conditions):
            yield node


def _spelled(value: Any) -> str:
    """An attribute as people write it: ``3``, ``same_upper``, ``1:1`` for lists (a comma separates conditions)."""
    if isinstance(value, tuple | list):
        return ":".join(_spelled(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _between(names: _Names, first: str, last: str, snapshot: Snapshot) -> frozenset[int]:
    """Descendants of one end that are ancestors of the other, the ends included."""
    starts, ends = names.end(first), names.end(last)
    import networkx as nx  # slow to import, and most compiles name no region

    graph = nx.DiGraph(snapshot.graph)
    after = starts.union(*(nx.descendants(graph, n) for n in starts))
    before = ends.union(*(nx.ancestors(graph, n) for n in ends))
    found = frozenset(after & before)
    if not found:
        help_ = "name the earlier one first"
        raise reject("unknown-node", f"nothing lies between `{first}` and `{last}`", help=help_)
    return found

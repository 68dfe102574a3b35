"""The smallest graph on which two rules match the same nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

import numpy as np

from potc.graph.model import Model
from potc.graph.prepare import infer_shapes
from potc.graph.snapshot import take_snapshot
from potc.language.program import Kind, Program, Rewrite, Rule
from potc.match.environment import Scope
from potc.match.found import Binding, Bound
from potc.sketch.board import Assignment, Board, Check, bound
from potc.sketch.draw import Sketch, checks_of, excluded, node_name, opset_of
from potc.sketch.frame import External, Frame, Impossible, Placed, make_frame
from potc.sketch.model import build_model, name_of
from potc.sketch.oracle import bystander_of, find, is_valid
from potc.sketch.search import Effort, search
from potc.sketch.types import Types
from potc.sketch.variants import Variant, newest, variants

RESTARTS = 4
EFFORT = 6000  # candidates that are judged for one pair of rules at most
PAIRS = 400  # pairs of variants that are looked at


def draw_common(program: Program, a: Rule | Rewrite, b: Rule | Rewrite, seed: int = 0) -> Sketch | None:
    """The smallest graph on which both rules match the same set of nodes, confirmed by the matcher for both.

    Smallest: fewest nodes, then shapes that can't be made smaller one by one. The bindings are those of ``a``. None where
    no graph is found, which is no proof that there is none. Equal seeds give equal bytes.
    """
    effort = Effort(EFFORT)
    for first, second in _pairs(program, a, b):
        for merged in _merged(program, first, second):
            found = _drawn(program, a, b, merged, f"{first.words}", seed, effort)
            if found is not None:
                return found
            if effort.left <= 0:
                return None
    return None


@dataclass(frozen=True, slots=True)
class _Merged:
    """One frame for two patterns, and what each calls its tensors there."""

    frame: Frame
    first: Frame
    second: Frame


def _pairs(program: Program, a: Rule | Rewrite, b: Rule | Rewrite) -> Iterator[tuple[Variant, Variant]]:
    """Variants of both that have the same operators, small ones first."""
    listed = [v for v in variants(a.pattern) if not excluded(program, a, v)]
    others: dict[tuple[str, ...], list[Variant]] = {}
    for v in variants(b.pattern):
        if not excluded(program, b, v):
            others.setdefault(tuple(sorted(v.ops)), []).append(v)
    count = 0
    for v in listed:
        for other in others.get(tuple(sorted(v.ops)), ()):
            count += 1
            if count > PAIRS:
                return
            yield v, other


# ---------------------------------------------------------------------------------------------- one frame for two


def _merged(program: Program, first: Variant, second: Variant) -> Iterator[_Merged]:
    """All ways to lay one pattern on the other, node on node from their results up."""
    bystander = bystander_of(program)
    commutative = frozenset(op for op, s in program.signatures.items() if s.commutative)
    opset = opset_of(program)
    try:
        one, two = make_frame(first, opset, bystander), make_frame(second, opset, bystander)
    except Impossible:
        return
    if len(one.nodes) != len(two.nodes):
        return
    for nodes, swapped in _placements(one, two, commutative):
        frame = _laid(one, two, nodes, swapped)
        if frame is not None:
            yield frame


def _placements(
    one: Frame, two: Frame, commutative: frozenset[str]
) -> Iterator[tuple[Mapping[int, int], frozenset[int]]]:
    """Which node of the second is which of the first, and whose inputs are the other way round there."""
    ones, twos = _makers(one), _makers(two)

    def place(
        waiting: tuple[tuple[int, int], ...], nodes: dict[int, int], swapped: frozenset[int]
    ) -> Iterator[tuple[dict[int, int], frozenset[int]]]:
        if not waiting:
            yield nodes, swapped
            return
        (i, j), rest = waiting[0], waiting[1:]
        if j in nodes or i in nodes.values():
            if nodes.get(j) == i:
                yield from place(rest, nodes, swapped)
            return
        if one.nodes[i].op != two.nodes[j].op:
            return
        mine, theirs = one.nodes[i].inputs, two.nodes[j].inputs
        orders = [theirs]
        if two.nodes[j].op in commutative and len(theirs) == 2:
            orders.append(theirs[::-1])
        for k, order in enumerate(orders):
            more = tuple((ones[x], twos[y]) for x, y in zip(mine, order, strict=False) if x in ones and y in twos)
            yield from place((*rest, *more), {**nodes, j: i}, swapped | {j} if k else swapped)

    last = (ones[one.result], twos[two.result])
    for nodes, swapped in place((last,), {}, frozenset()):
        if len(nodes) == len(two.nodes):
            yield nodes, swapped


def _makers(frame: Frame) -> dict[int, int]:
    return {t: k for k, node in enumerate(frame.nodes) for t in node.outputs}


def _laid(one: Frame, two: Frame, nodes: Mapping[int, int], swapped: frozenset[int]) -> _Merged | None:
    """The frame of the first with the inputs that only the second has, and tensors joined that are one to either."""
    frame = Frame(one.opset, result=one.result, tensors=one.tensors)
    frame.nodes = [Placed(n.op, list(n.inputs), list(n.outputs), n.pattern) for n in one.nodes]
    frame.externals = {t: External(e.kind, e.filled) for t, e in one.externals.items()}
    frame.returned = set(one.returned)
    became: dict[int, int] = {}  # tensor of the second -> tensor of the frame
    joins: list[tuple[int, int]] = []  # tensors of the frame that the second takes for one
    for j, i in nodes.items():
        placed, other = frame.nodes[i], two.nodes[j]
        while len(placed.outputs) < len(other.outputs):
            placed.outputs.append(frame.tensor())
        became.update(zip(other.outputs, placed.outputs, strict=False))
    for j in sorted(nodes):
        placed, other = frame.nodes[nodes[j]], two.nodes[j]
        inputs = other.inputs[::-1] if j in swapped else other.inputs
        if other.pattern is not None and len(inputs) < min(len(placed.inputs), len(other.pattern.args)):
            return None  # another variant of the second has an input there
        for port, t in enumerate(inputs):
            mine = placed.inputs[port] if port < len(placed.inputs) else None
            if t < 0:
                if mine is not None and mine >= 0:
                    return None  # one has an input there, the other needs it left out
                continue
            if mine is not None and mine < 0:
                return None
            if mine is None:
                pattern = one.nodes[nodes[j]].pattern
                if port != len(placed.inputs) or (pattern is not None and port < len(pattern.args)):
                    return None  # another variant of the first has an input there
                mine = became[t] if t in became else frame.external(Kind.ANY)
                placed.inputs.append(mine)
            if t in became and became[t] != mine:
                joins.append((became[t], mine))
            became.setdefault(t, mine)
            if t in two.externals and not _limited(frame, mine, two.externals[t]):
                return None
    return _joined(frame, one, two, became, joins, nodes)


def _limited(frame: Frame, tensor: int, other: External) -> bool:
    """Adds what the second pattern asks of an input. False where both can't have it."""
    mine = frame.externals.get(tensor)
    if mine is None:
        return other.kind is not Kind.CONST and other.filled is None
    kinds = {mine.kind, other.kind} - {Kind.ANY}
    if len(kinds) > 1:
        return False
    mine.kind = next(iter(kinds), Kind.ANY)
    if mine.filled is not None and other.filled is not None and not np.isclose(mine.filled, other.filled):
        return False
    mine.filled = mine.filled if mine.filled is not None else other.filled
    return True


def _joined(
    frame: Frame, one: Frame, two: Frame, became: dict[int, int], joins: list[tuple[int, int]], nodes: Mapping[int, int]
) -> _Merged | None:
    """Tensors that either pattern calls by one name become one."""
    alias: dict[int, int] = {}

    def root(t: int) -> int:
        while t in alias:
            t = alias[t]
        return t

    for x, y in joins:
        a, b = root(x), root(y)
        if a == b:
            continue
        if a not in frame.externals and b not in frame.externals:
            return None
        if b not in frame.externals:
            a, b = b, a
        if not _limited(frame, a, frame.externals[b]):
            return None
        del frame.externals[b]
        alias[b] = a
    for node in frame.nodes:
        node.inputs = [root(t) if t >= 0 else t for t in node.inputs]
    order = _sorted(frame)
    if order is None:
        return None
    place = {k: n for n, k in enumerate(order)}
    frame.nodes = [frame.nodes[k] for k in order]

    def moved(source: Frame, tensors: Mapping[int, int], numbers: Mapping[int, int]) -> Frame:
        found = Frame(frame.opset, frame.nodes, frame.externals, frame.tensors, {}, frame.returned, frame.result)
        for name, binding in source.bindings.items():
            several = tuple(
                Bound(root(tensors.get(x.tensor, x.tensor)), place[numbers.get(x.node, x.node)], x.port)
                for x in bound(binding)
            )
            found.bindings[name] = several if isinstance(binding, tuple) else several[0] if several else None
        return found

    same = {t: t for t in range(one.tensors)}
    first, second = moved(one, same, {}), moved(two, became, nodes)
    patterns = {place[i]: two.nodes[j].pattern for j, i in nodes.items()}
    second.nodes = [Placed(n.op, n.inputs, n.outputs, patterns.get(k)) for k, n in enumerate(frame.nodes)]
    frame.bindings = first.bindings
    return _Merged(frame, first, second)


def _sorted(frame: Frame) -> list[int] | None:
    """Nodes behind those they read from; None for a circle."""
    makers = _makers(frame)
    done: list[int] = []
    waiting = list(range(len(frame.nodes)))
    while waiting:
        ready = [k for k in waiting if all(makers[t] in done for t in frame.nodes[k].inputs if t in makers)]
        if not ready:
            return None
        done.append(ready[0])
        waiting.remove(ready[0])
    return done


# ---------------------------------------------------------------------------------------------- numbers


def _drawn(
    program: Program, a: Rule | Rewrite, b: Rule | Rewrite, merged: _Merged, words: str, seed: int, effort: Effort
) -> Sketch | None:
    bystander = bystander_of(program)
    frame = merged.frame
    for node in frame.nodes:
        schema = newest(node.op)
        if schema is not None and len(node.inputs) > schema.max_input:
            return None
    try:
        types = Types(frame)
    except Impossible:
        return None
    checks: dict[tuple[int, int | None, tuple[tuple[str, Binding], ...]], Check] = {}
    for rule, own in ((a, merged.first), (b, merged.second)):
        for check in checks_of(program, rule, own, None):
            key = (id(check.condition), check.node, tuple(sorted(check.bindings.items(), key=lambda e: e[0])))
            checks.setdefault(key, check)
    parts = [
        next((m for m in program.members if isinstance(r, Rule) and m.device == r.device), program.members[0])
        for r in (a, b)
    ]
    board = Board(frame, tuple(checks.values()), types, Scope.of(parts[0]), seed)
    for round_ in range(RESTARTS):
        try:
            candidate, verdict = search(board, Random(f"{seed} {round_} {words}"), round_ > 1, False, effort)
        except Impossible:
            return None
        if verdict.cost:
            if effort.left <= 0:
                return None
            continue
        if any(all(board.is_constant(candidate, t) for t in n.inputs if t >= 0) for n in frame.nodes):
            continue  # a compile knows the result of such a node beforehand
        candidate = _smaller(board, candidate)
        model = build_model(board, candidate, bystander)
        if not is_valid(model):
            continue
        snapshot = take_snapshot(infer_shapes(Model("", model, ())).proto)
        wanted = {node_name(frame, k) for k in range(len(frame.nodes))}
        match = find(parts[0], a, snapshot, wanted)
        if match is not None and find(parts[1], b, snapshot, wanted) is not None:
            names = dict(enumerate(snapshot.tensors))
            bindings = {name: name_of(binding, names) for name, binding in match.bindings.items()}
            return Sketch(model, tuple(snapshot.names[n] for n in match.nodes), bindings, words)
    return None


def _smaller(board: Board, candidate: Assignment) -> Assignment:
    """Dimensions made smaller one by one, as long as everything holds."""
    for variable in [v for v in candidate if v[0] == "shape"]:
        for axis in range(len(candidate[variable])):
            for size in range(1, candidate[variable][axis]):
                shape = candidate[variable]
                changed = {**candidate, variable: (*shape[:axis], size, *shape[axis + 1 :])}
                if board.judge(changed).cost == 0:
                    candidate = changed
                    break
    for size in (1, 2):  # dimensions that must be equal become smaller together only
        for old in sorted({d for v, s in candidate.items() if v[0] == "shape" for d in s if d > size}):
            changed = {
                v: tuple(size if d == old else d for d in s) if v[0] == "shape" else s for v, s in candidate.items()
            }
            if board.judge(changed).cost == 0:
                candidate = changed
    return candidate

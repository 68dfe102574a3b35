"""Finds numbers for a frame: a local search that repairs one broken thing at a time, with restarts. Seeded, so repeatable."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from potc.language.program import Kind
from potc.sketch.attributes import attribute_values
from potc.sketch.board import Assignment, Board, Check, Variable, Verdict, is_settled
from potc.sketch.frame import Impossible
from potc.sketch.infer import Values
from potc.sketch.propose import Move, Proposer
from potc.sketch.variants import schema_of

DIMENSIONS = (1, 2, 3, 4, 5, 8, 16, 32)
TRIED = 32  # moves that are judged in one step at most
STEPS = 40
ELEMENTS = 1 << 12  # of one input or constant
FOLLOWED = 8  # moves whose consequences are repaired
CHAIN = 6
PATIENCE = 10  # steps without progress


@dataclass(slots=True)
class Effort:
    """How many candidates may still be judged."""

    left: int


def search(board: Board, random: Random, varied: bool, partly: bool, effort: Effort) -> tuple[Assignment, Verdict]:
    """The best candidate of one run: all checks hold in it if its cost is 0.

    ``varied``: shapes, ranks and attributes start at random; otherwise at the plainest. ``partly``: a candidate is of use
    although checks fail that are not hard. Raises Impossible.
    """
    candidate = _start(board, random, varied)
    verdict = board.judge(candidate)
    if any(board.checks[k].hard or not partly for k in verdict.failed if is_settled(board.checks[k].condition)):
        raise Impossible("a condition is false whatever the numbers are")
    best, best_verdict = candidate, verdict
    seen = {frozenset(candidate.items())}
    stuck = 0
    for _ in range(STEPS):
        if verdict.cost == 0:
            return candidate, verdict
        if stuck > PATIENCE or effort.left <= 0:
            break
        stuck += 1
        found: list[tuple[int, Assignment, Verdict]] = []
        for move in itertools.islice(_moves(board, candidate, verdict, random), TRIED):
            if any(variable[0] == "shape" and math.prod(value) > ELEMENTS for variable, value in move):
                continue
            changed = {**candidate, **dict(move)}
            key = frozenset(changed.items())
            if key in seen:
                continue
            seen.add(key)
            judged = board.judge(changed)
            effort.left -= 1
            found.append((judged.weight, changed, judged))
            if judged.weight < verdict.weight:
                break  # moves come in order of promise: the first that helps is taken
        if stuck > 1 and not (found and found[-1][0] < verdict.weight):
            found.extend(_followed(board, candidate, verdict, random, effort))
        if not found:
            break
        least = min(weight for weight, _, _ in found)
        _, candidate, verdict = random.choice([f for f in found if f[0] == least])
        if verdict.cost < best_verdict.cost:
            best, best_verdict = candidate, verdict
            stuck = 0
    return best, best_verdict


def plainer(board: Board, candidate: Assignment, verdict: Verdict) -> Assignment:
    """The candidate without the attributes that it need not have: schemas let values pass that runtimes refuse."""
    for variable in [v for v, value in candidate.items() if v[0] == "attribute" and value is not None]:
        changed = {**candidate, variable: None}
        if not _is_required(board, variable) and board.judge(changed).cost <= verdict.cost:
            candidate = changed
    return candidate


def _is_required(board: Board, variable: Variable) -> bool:
    schema = schema_of(board.frame.nodes[variable[1]].op, board.opset)
    return schema is not None and variable[2] in schema.attributes and schema.attributes[variable[2]].required


# ---------------------------------------------------------------------------------------------- the start


def _start(board: Board, random: Random, varied: bool) -> Assignment:
    candidate: Assignment = {("type", g): name for g, name in board.types.first().items()}
    rank = random.choice((4, 4, 3, 2, 5)) if varied else 4
    activation = tuple(random.choice((1, 2, 3, 4, 5, 6, 8)) for _ in range(rank)) if varied else (1, 4, 6, 6)[:rank]
    weight = tuple(random.choice((1, 2, 3, 4)) for _ in range(rank)) if varied else (4, 4, 3, 3)[:rank]
    for t, external in board.frame.externals.items():
        whole = not _is_float(board, candidate, t)
        if external.kind is Kind.ANY and whole:
            candidate["constant", t] = True
        constant = board.is_constant(candidate, t)
        if external.filled is not None:
            candidate["shape", t] = ()
        elif whole:
            candidate["shape", t] = (1,)
            candidate["values", t] = Values(float(random.choice((0, 1, 2))) if varied else 0.0)
        else:
            candidate["shape", t] = weight if constant else activation
    for k, node in enumerate(board.frame.nodes):
        schema = schema_of(node.op, board.opset)
        for name, attribute in sorted(schema.attributes.items()) if schema is not None else ():
            if attribute.required:
                values = attribute_values(board, candidate, k, name)
                if not values:
                    raise Impossible(f"{node.op}.{name}")
                candidate["attribute", k, name] = random.choice(values) if varied else values[0]
            elif varied and node.pattern is not None and random.random() < 0.3:
                values = attribute_values(board, candidate, k, name)
                if values:
                    candidate["attribute", k, name] = random.choice(values)
    return candidate


# ---------------------------------------------------------------------------------------------- repairs


def _moves(board: Board, candidate: Assignment, verdict: Verdict, random: Random) -> Iterator[Move]:
    """What may repair one of the broken things, most promising first."""
    picked = list(verdict.failed)
    random.shuffle(picked)
    picked.sort(key=lambda k: not board.checks[k].hard)
    sources = [_check_moves(board, candidate, verdict, board.checks[k], random) for k in picked[:3]]
    if verdict.nodes:
        moves = list(_node_moves(board, candidate, verdict, verdict.nodes[0], random))
        random.shuffle(moves)
        hard = any(board.checks[k].hard for k in verdict.failed)
        sources.insert(len(sources) if hard and random.random() < 0.7 else 0, iter(moves))
    most = max(4, TRIED // max(1, len(sources)))
    for source in sources:
        yield from itertools.islice(source, most)


def _followed(
    board: Board, candidate: Assignment, verdict: Verdict, random: Random, effort: Effort
) -> Iterator[tuple[int, Assignment, Verdict]]:
    """Moves for one check with what they break repaired in turn, so that chains of equations can be passed at once."""
    check = board.checks[random.choice(verdict.failed)] if verdict.failed else None
    if check is None:
        return
    proposer = Proposer(board, candidate, check, board.environment(check, verdict.snapshot))
    for move in itertools.islice(proposer.moves(check.condition, check.wanted), FOLLOWED):
        changed, touched = {**candidate, **dict(move)}, {variable for variable, _ in move}
        judged = board.judge(changed)
        for _ in range(CHAIN):
            repair = _repair(board, changed, judged, set(judged.failed) - set(verdict.failed), touched)
            if repair is None:
                break
            changed = {**changed, **dict(repair)}
            touched.update(variable for variable, _ in repair)
            judged = board.judge(changed)
            effort.left -= 1
        yield judged.weight, changed, judged
        if judged.weight < verdict.weight:
            return


def _repair(
    board: Board, candidate: Assignment, verdict: Verdict, broken: set[int], touched: set[Variable]
) -> Move | None:
    """The first move for one of some checks that leaves alone what was changed already."""
    for k in sorted(broken):
        check = board.checks[k]
        proposer = Proposer(board, candidate, check, board.environment(check, verdict.snapshot))
        for move in proposer.moves(check.condition, check.wanted):
            if touched.isdisjoint(variable for variable, _ in move):
                return move
    return None


def _check_moves(board: Board, candidate: Assignment, verdict: Verdict, check: Check, random: Random) -> Iterator[Move]:
    proposer = Proposer(board, candidate, check, board.environment(check, verdict.snapshot))
    solved = proposer.moves(check.condition, check.wanted)
    others = itertools.chain.from_iterable(_blind_moves(board, candidate, proposer, check, random))
    while True:
        some = (*itertools.islice(solved, 3), *itertools.islice(others, 1))
        if not some:
            return
        yield from some


def _blind_moves(
    board: Board, candidate: Assignment, proposer: Proposer, check: Check, random: Random
) -> Iterator[Iterator[Move]]:
    """Other attributes and tensors for what a condition speaks of."""
    for node, name in proposer.attributes(check.condition):
        values = attribute_values(board, candidate, node, name)
        yield iter([((("attribute", node, name), v),) for v in values])
    shapes = [candidate["shape", t] for t in board.frame.externals]
    tensors = proposer.tensors(check.condition)
    random.shuffle(tensors)
    # Nothing but trying tells the whole numbers that a shape, or an axis, is computed from.
    for t in sorted(tensors, key=lambda t: _is_float(board, candidate, t))[:4]:
        yield _tensor_moves(board, candidate, t, shapes, random)


def _node_moves(board: Board, candidate: Assignment, verdict: Verdict, node: int, random: Random) -> Iterator[Move]:
    """What may make a schema accept a node: shapes like its other inputs', other attributes, other ranks."""
    placed = board.frame.nodes[node]
    shapes = [verdict.snapshot.shapes[t] for t in placed.inputs if t >= 0]
    known = [s for s in shapes if s is not None and None not in s]
    for variable, value in list(candidate.items()):
        if variable[0] == "attribute" and variable[1] == node and value is not None:
            if not _is_required(board, variable):
                yield ((variable, None),)
            else:
                yield from (((variable, v),) for v in attribute_values(board, candidate, node, variable[2]))
    waiting = [t for t in placed.inputs if t >= 0]
    sources: dict[int, None] = {}
    while waiting:
        t = waiting.pop(0)
        if t in board.frame.externals:
            sources[t] = None
        else:
            waiting.extend(i for i in board.frame.nodes[board.producer(t)].inputs if i >= 0)
    for t in sources:
        yield from _tensor_moves(board, candidate, t, known, random)


def _is_float(board: Board, candidate: Assignment, t: int) -> bool:
    return candidate["type", board.types.group[t]] in ("f32", "f64", "f16")


def _tensor_moves(board: Board, candidate: Assignment, t: int, like: list[Any], random: Random) -> Iterator[Move]:
    """Other shapes for a tensor, and other numbers where it is a whole-number constant."""
    variable: Variable = ("shape", t)
    shape: tuple[int, ...] = candidate[variable]
    whole = not _is_float(board, candidate, t)
    for other in () if whole else like:
        if tuple(other) != shape:
            yield ((variable, tuple(other)),)
    if whole and board.is_constant(candidate, t):
        ranks = {len(s) for s in like if s}
        for other in like:
            if other:
                yield ((variable, (len(other),)), (("values", t), Values(0.0, tuple(enumerate(map(float, other))))))
        lengths = [(), (1,), *((r,) for r in sorted(ranks)), *((2 * r,) for r in sorted(ranks))]
        for length in lengths:
            for fill in (0, 1, -1, 2):
                yield ((variable, length), (("values", t), Values(float(fill))))
            for place in sorted({0, length[0] - 1}) if length and length[0] > 1 else ():
                yield ((variable, length), (("values", t), Values(1.0, ((place, -1.0),))))
        return
    if len(shape) < 5:
        yield ((variable, (*shape, random.choice(DIMENSIONS[:5]))),)
        yield ((variable, (1, *shape)),)
    if shape:
        yield ((variable, shape[:-1]),)
        yield ((variable, shape[1:]),)
        axis = random.randrange(len(shape))
        for d in random.sample(DIMENSIONS, 3):
            yield ((variable, (*shape[:axis], d, *shape[axis + 1 :])),)

"""Small graphs on which a rule matches, or does not because of one constraint. The front door of this chapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

import onnx

from potc.graph.model import Model
from potc.graph.prepare import infer_shapes
from potc.graph.snapshot import Snapshot, take_snapshot
from potc.language.operators import split
from potc.language.program import Capture, Program, Rewrite, Rule
from potc.language.scope import names_in
from potc.language.syntax import Expr
from potc.language.variants import is_late, nodes_of, steps_of
from potc.match.environment import Scope
from potc.match.found import Binding, Bound, Match
from potc.sketch.board import HARD, Board, Check
from potc.sketch.constraints import Constraint, conjuncts, constraints
from potc.sketch.frame import Frame, Impossible, has_place, make_frame
from potc.sketch.model import OPSET, build_model, name_of, onnx_text
from potc.sketch.oracle import bystander_of, find, is_valid
from potc.sketch.search import Effort, plainer, search
from potc.sketch.types import Types
from potc.sketch.variants import Variant, schema_of, variants

__all__ = ["Constraint", "Sketch", "Variant", "constraints", "draw", "draw_broken", "onnx_text", "variants"]

# One restart after the other: index of the opset (see `_opsets`), further inputs of operators, and whether shapes and
# attributes start at random although the seed is 0.
RESTARTS = (
    (0, "", False),
    (0, "", True),
    (0, "last", False),
    (-1, "", False),
    (-1, "last", False),
    (0, "all", True),
    (-2, "last", True),
    (1, "", True),
    (0, "", True),
)
EFFORT = 2500  # candidates that are judged for one sketch at most
MORE = 300  # and once there is a graph on which another constraint fails as well


@dataclass(frozen=True, slots=True)
class Sketch:
    """A small graph. ``nodes``: names of the nodes that the pattern covers, in the matcher's order.

    ``model`` passes onnx.checker with full shape inference. ``bindings``: captured name -> tensor names (empty: absent).
    ``variant``: which optional steps and alternatives were taken, in words. ``also``: conditions that fail beside the one
    that was to be broken, because others imply it. ``anchor``: name of the node at which the matcher looks for the pattern.
    """

    model: onnx.ModelProto
    nodes: tuple[str, ...]
    bindings: Mapping[str, tuple[str, ...]]
    variant: str
    also: tuple[Expr, ...] = ()
    anchor: str = ""


def draw(program: Program, rule: Rule | Rewrite, seed: int = 0, variant: Variant | None = None) -> Sketch | None:
    """A graph on which a rule matches, None where none is found.

    Seed 0 gives the plainest graph of the simplest variant; others begin at other variants, and at random shapes and
    attributes. Equal seeds give equal bytes. Requirements that ask what is stored are taken to hold where it is.
    """
    listed = variants(rule.pattern) if variant is None else (variant,)
    start = seed % len(listed) if listed else 0
    effort = Effort(EFFORT)
    for chosen in (*listed[start:], *listed[:start]):
        for drawn in _drawings(program, rule, chosen, seed, None, effort):
            if drawn.match is not None:
                return drawn.sketch()
    return None


def excluded(program: Program, rule: Rule | Rewrite, variant: Variant, broken: Constraint | None = None) -> bool:
    """True if a requirement asks for another variant (``absent(b)`` where ``b`` is given, say), so that none can be drawn."""
    try:
        frame = make_frame(variant, opset_of(program), bystander_of(program), broken)
        types = Types(frame)
    except Impossible:
        return False
    board = Board(frame, checks_of(program, rule, frame, broken), types, Scope.of(program), 0)
    return board.is_settled_false()


def draw_broken(program: Program, rule: Rule | Rewrite, constraint: Constraint, seed: int = 0) -> Sketch | None:
    """A graph on which exactly one constraint of a rule does not hold, the others as far as possible.

    The rule does not match these nodes there; a match of fewer nodes may remain where the constraint is that of an optional
    step. A late constraint is broken for the solver: the matcher does not see it. None where no such graph is found.
    """
    places = [v for v in variants(rule.pattern) if has_place(v, constraint)]
    start = seed % len(places) if places else 0
    best: _Drawn | None = None
    effort = Effort(EFFORT)
    turned = (*places[start:], *places[:start])
    for chosen in sorted(turned, key=lambda v: excluded(program, rule, v, constraint)):
        for drawn in _drawings(program, rule, chosen, seed, constraint, effort):
            if (drawn.match is None or constraint.late) and (best is None or drawn.cost < best.cost):
                best = drawn
                if best.cost == 0:
                    return best.sketch()
                effort.left = min(
                    effort.left, MORE
                )  # one constraint may follow from others: then there is no better graph
    return best.sketch() if best is not None else None


# ---------------------------------------------------------------------------------------------- one variant


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A model, the match that was found on exactly the nodes that were meant (None: none), and what is broken beside."""

    model: onnx.ModelProto
    snapshot: Snapshot
    match: Match | None
    frame: Frame
    cost: int
    words: str
    also: tuple[Expr, ...]
    anchor: str

    def sketch(self) -> Sketch:
        snapshot, match = self.snapshot, self.match
        if match is not None:
            nodes = tuple(snapshot.names[n] for n in match.nodes)
            bindings = {n: name_of(b, dict(enumerate(snapshot.tensors))) for n, b in match.bindings.items()}
        else:
            named = {k: self.node_name(k) for k in self.frame.covered}
            nodes = tuple(named.values())
            tensors = _frame_names(self.model, self.frame)
            bindings = {n: name_of(b, tensors) for n, b in self.frame.bindings.items()}
        return Sketch(self.model, nodes, bindings, self.words, self.also, self.anchor)

    def node_name(self, k: int) -> str:
        return node_name(self.frame, k)


def node_name(frame: Frame, k: int) -> str:
    return f"{split(frame.nodes[k].op)[1]}_{k}"


def _frame_names(model: onnx.ModelProto, frame: Frame) -> dict[int, str]:
    by_name = {n.name: n for n in model.graph.node}
    found: dict[int, str] = {}
    for k, placed in enumerate(frame.nodes):
        node = by_name[node_name(frame, k)]
        found.update(zip(placed.inputs, node.input, strict=False))
        found.update(zip(placed.outputs, node.output, strict=False))
    return found


def _drawings(
    program: Program, rule: Rule | Rewrite, variant: Variant, seed: int, broken: Constraint | None, effort: Effort
) -> Iterator[_Drawn]:
    """Candidates for one variant, in every opset that makes a difference. At most one of cost 0 is the last."""
    bystander = bystander_of(program)
    owner = next((m for m in program.members if isinstance(rule, Rule) and m.device == rule.device), program.members[0])
    scope = Scope.of(owner)
    opsets = _opsets(program, rule, variant)
    for round_, (place, more, at_random) in enumerate(RESTARTS):
        if effort.left <= 0:
            return
        opset = opsets[place % len(opsets)]
        try:
            frame = make_frame(variant, opset, bystander, broken, more)
            types = Types(frame)
        except Impossible:
            continue
        checks = checks_of(program, rule, frame, broken)
        board = Board(frame, checks, types, scope, seed)
        random = Random(f"{seed} {round_} {variant.words}")
        try:
            candidate, verdict = search(board, random, seed > 0 or at_random, broken is not None, effort)
        except Impossible:
            continue
        if verdict.cost >= HARD or (broken is None and verdict.cost > 0):
            continue
        model = build_model(board, candidate, bystander)
        if not is_valid(model):
            candidate = plainer(board, candidate, verdict)
            model = build_model(board, candidate, bystander)
            if not is_valid(model):
                continue
        snapshot = take_snapshot(infer_shapes(Model("", model, ())).proto)
        wanted = {node_name(frame, k) for k in frame.covered}
        match = find(owner, rule, snapshot, wanted)
        also = tuple(checks[k].condition for k in verdict.failed)
        anchor = node_name(frame, len(variant.nodes) - 1)
        yield _Drawn(model, snapshot, match, frame, verdict.cost, variant.words, also, anchor)
        if verdict.cost == 0 and (match is None) == (broken is not None):
            return


def opset_of(program: Program) -> int:
    """The opset of graphs that ask for none: what tests of rules have by default, as far as the device knows it."""
    low, high = program.opset
    return min(max(OPSET, low), high, onnx.defs.onnx_opset_version())


def _opsets(program: Program, rule: Rule | Rewrite, variant: Variant) -> tuple[int, ...]:
    """The usual opset, the lowest one in which the rule applies, and those in which an operator of the variant changed last."""
    low, high = program.opset
    if isinstance(rule, Rewrite):
        low = max(low, rule.opset)
    high = min(high, onnx.defs.onnx_opset_version())
    versions = [max(opset_of(program), low), low]
    for op in variant.ops:
        schema = schema_of(op, high)
        if schema is not None and not split(op)[0] and low < schema.since_version <= high:
            versions.append(schema.since_version)
    return tuple(dict.fromkeys(versions))


# ---------------------------------------------------------------------------------------------- checks


def checks_of(program: Program, rule: Rule | Rewrite, frame: Frame, broken: Constraint | None) -> tuple[Check, ...]:
    """Conditions of the pattern, requirements of the rule, and what std.rules says of the operators."""
    found: list[Check] = []
    names = {**dict.fromkeys(_names(rule)), **frame.bindings}
    if rule.pattern.result is not None:
        names[rule.pattern.result] = Bound(frame.result, len(frame.nodes) - 1, -1)
    for k, node in enumerate(frame.nodes):
        found.extend(_relations(program, frame, k))
        for condition in node.pattern.conditions_of(node.op) if node.pattern and node.op in node.pattern.ops else ():
            for part in conjuncts(condition):
                off = broken is not None and broken.condition is part
                found.append(Check(part, k, names, wanted=not off, hard=off))
    for require in rule.requires:
        late = is_late(require)
        for part in conjuncts(require.condition):
            if broken is not None and broken.kind == "operator" and not frame.bindings.keys() >= _spoken(part, names):
                continue  # it speaks of what the replaced operator would have read
            off = broken is not None and broken.condition is part
            found.append(Check(part, None, names, wanted=not off, hard=off, stored=not (off and late)))
    return tuple(found)


def _spoken(condition: Expr, names: Mapping[str, Binding]) -> set[str]:
    """Names of tensors in a condition."""
    return {n.name for n in names_in(condition)} & names.keys()


def _names(rule: Rule | Rewrite) -> Iterator[str]:
    """All names that a pattern can bind: those of optional steps that were not taken are absent, not unknown."""
    for node in nodes_of(rule.pattern):
        yield from (node.name, *node.others) if node.name is not None else ()
        yield from (a.name for a in node.args if isinstance(a, Capture) and a.name != "_")
    yield from (step.name for step in steps_of(rule.pattern) if step.name is not None)


def _relations(program: Program, frame: Frame, k: int) -> Iterator[Check]:
    node = frame.nodes[k]
    signature = program.signatures.get(node.op)
    if signature is None or signature.where is None:
        return
    bindings: dict[str, Binding] = {}
    ins, outs = signature.ports
    for port, name in enumerate(ins):
        tensor = node.inputs[port] if port < len(node.inputs) else -1
        bindings[name] = Bound(tensor, k, port) if tensor >= 0 else None
    schema = schema_of(node.op, frame.opset)
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    if ins and schema is not None and schema.inputs[-1].option == variadic:
        last = len(ins) - 1
        bindings[ins[-1]] = tuple(Bound(t, k, p) for p, t in enumerate(node.inputs) if p >= last and t >= 0)
    if outs:
        bindings[outs[0]] = Bound(node.outputs[0], k, -1)
    for part in conjuncts(signature.where):
        yield Check(part, k, bindings, hard=True, relation=True)

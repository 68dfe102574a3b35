"""Why a compile decides what it decides, asked of a model and rules: prepare and solve again, then say what was found.

No calibration and no samples are needed: everything that is explained here is decided before values are seen. The same
patterns are walked with a Trail, so there is one engine and not two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from potc.compiler import prepare
from potc.diagnostics.diagnostic import Rejected, reject
from potc.graph.model import Model
from potc.graph.names import all_nodes
from potc.graph.snapshot import Snapshot
from potc.graph.widen import read_runnable
from potc.language.program import Program
from potc.language.resolve import load_rules
from potc.match.cover import Candidate, Cover, Finder, Precedence, choose, is_late
from potc.match.environment import Scope
from potc.match.match import Matcher
from potc.match.rewrite import Change
from potc.quantize.parts import snapshots_of, solve_parts, without_ends
from potc.quantize.plan import Insertion, Kernel, Left, Plan

VERSION = 1


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: names or globs of nodes and tensors of the model, and of rules. Nothing: an overview."""

    nodes: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One device (of a meet) on the snapshot: its compiled rules by qualified name, all their matches, and what it would
    take on its own."""

    program: Program
    finder: Finder
    matchers: Mapping[str, Matcher]
    precedence: Precedence
    candidates: tuple[Candidate, ...]
    cover: Cover


@dataclass(frozen=True)
class Examined:
    """Everything that answers are read from, of one graph: the main one, whose ``key`` is "", or a body (``node/attribute``).

    ``model`` is as it was read; ``changes``: what rewrites did to all of it. ``bodies``: of the main graph, those at any depth;
    ``shut``: by name, nodes and tensors in bodies that nothing is planned for, and why.
    """

    key: str
    model: Model
    changes: tuple[Change, ...]
    program: Program
    snapshot: Snapshot
    plan: Plan
    parts: tuple[Part, ...]
    kernel_of: Mapping[str, Kernel]  # by node
    left_of: Mapping[str, Left]  # by node
    node_ids: Mapping[str, int] = field(repr=False)
    bodies: tuple[Examined, ...] = ()
    shut: Mapping[str, Left] = field(default_factory=dict[str, Left])

    @property
    def graphs(self) -> tuple[Examined, ...]:
        """The graph itself, and its bodies."""
        return (self, *self.bodies)

    @property
    def left(self) -> tuple[Left, ...]:
        """What stays in float, in all graphs."""
        return tuple(left for graph in self.graphs for left in graph.plan.left)

    def maker(self, tensor: str) -> str:
        """Name of the node, of any graph, that makes a tensor; "" if none does."""
        for graph in self.graphs:
            number = graph.snapshot.tensor_ids.get(tensor)
            if number is not None and (node := graph.snapshot.producer[number]) >= 0:
                return graph.snapshot.names[node]
        return ""

    def has_node(self, name: str) -> bool:
        return any(name in graph.node_ids for graph in self.graphs)

    def has_tensor(self, name: str) -> bool:
        return any(name in graph.snapshot.tensor_ids for graph in self.graphs)

    def insertion(self, tensor: str, reader: tuple[str, int] | None) -> Insertion | None:
        """The pair through which a reader (node, port) gets a tensor; for None, the one that everybody reads."""
        for insertion in self.plan.insertions:
            if insertion.tensor == tensor and (insertion.consumers is None or reader in insertion.consumers):
                return insertion
        return None


@dataclass(frozen=True, slots=True)
class Reason:
    """What one rule says of a node: the sentence, and the place in its file. ``node``: where its match was tried."""

    rule: str
    place: str
    words: str
    node: str = ""


def examine(
    path: str,
    rules: str,
    device: str | None = None,
    settings: Mapping[str, str] | None = None,
    externs: Sequence[str] = (),
) -> Examined:
    """Reads, prepares and plans. ``externs``: Python files that may run. Raises Rejected as ``compile`` does."""
    program = load_rules(rules, device=device, settings=settings or {}, externs=externs)
    return examine_model(read_runnable(path), program)


def examine_model(model: Model, program: Program) -> Examined:
    """The same for a model and a program that were read before."""
    prepared, changes = prepare(model, program)
    planned = solve_parts(program, prepared, snapshots_of(prepared))
    main, *bodies = (
        _graph(model, changes, without_ends(program) if p.key else program, p.key, p.snapshot, p.plan) for p in planned
    )
    return replace(main, bodies=tuple(bodies), shut=_shut(prepared, [left for p in planned for left in p.plan.left]))


def _shut(prepared: Model, left: Iterable[Left]) -> dict[str, Left]:
    """What is in bodies of which a plan says as a whole that they stay as they are."""
    why = {one.node: one for one in left}
    found: dict[str, Left] = {}
    for node in all_nodes(prepared.proto.graph):
        for attribute in node.attribute:
            told = why.get(f"{node.name}/{attribute.name}")
            if told is not None and attribute.HasField("g"):
                for inner in all_nodes(attribute.g):
                    found |= dict.fromkeys((inner.name, *filter(None, inner.output)), told)
    return found


def _graph(
    model: Model, changes: tuple[Change, ...], program: Program, key: str, snapshot: Snapshot, plan: Plan
) -> Examined:
    parts: list[Part] = []
    for part in program.members:
        finder = Finder(part, snapshot)
        candidates = tuple(finder.candidates())
        cover = choose(part, snapshot, candidates)
        parts.append(Part(part, finder, _matchers(part, snapshot), Precedence(part), candidates, cover))
    return Examined(
        key,
        model,
        changes,
        program,
        snapshot,
        plan,
        tuple(parts),
        {node: kernel for kernel in plan.kernels for node in kernel.nodes},
        {left.node: left for left in plan.left},
        {name: i for i, name in enumerate(snapshot.names)},
    )


def _matchers(program: Program, snapshot: Snapshot) -> dict[str, Matcher]:
    """What is known only after kernels are chosen is left out: the plan tells of it."""
    scope = Scope.of(program)
    matchers: dict[str, Matcher] = {}
    for rule in program.rules:
        early = tuple(r for r in rule.requires if not is_late(r))
        matchers[rule.qualified] = Matcher(rule.pattern, early, snapshot, scope, program.signatures)
    return matchers


def explain(examined: Examined, question: Question) -> tuple[object, ...]:
    """One answer (a dataclass) per node, tensor and rule that was asked for; an Overview if nothing was.

    With nodes and rules, each rule is explained at each node. Raises Rejected for names that nothing has.
    """
    from potc.workbench.explain_nodes import explain_node, overview
    from potc.workbench.explain_rules import explain_rule, rule_names
    from potc.workbench.explain_tensors import explain_tensor
    from potc.workbench.preparation import before_preparation, what_became_of_node, what_became_of_tensor

    answers: list[object] = []
    gone = before_preparation(examined)
    rules = named("rule", _with_device(question.rules, rule_names(examined)), rule_names(examined), "unknown-name")
    graphs = examined.graphs
    present = [name for graph in graphs for name in graph.snapshot.names]
    nodes = named("node", question.nodes, (*present, *gone.nodes), "unknown-node")
    for name in nodes:
        answers += [explain_node(graph, name, rules) for graph in graphs if name in graph.node_ids]
        if not examined.has_node(name):
            answers.append(what_became_of_node(examined, gone, name))
    present = [name for graph in graphs for name in graph.snapshot.tensors]
    for name in named("tensor", question.tensors, (*present, *gone.tensors), "unknown-tensor"):
        # A body that reads a tensor from outside stores it in a way of its own.
        answers += [explain_tensor(graph, name) for graph in graphs if name in graph.snapshot.tensor_ids]
        if not examined.has_tensor(name):
            answers.append(what_became_of_tensor(examined, gone, name))
    if not nodes:
        answers += [explain_rule(examined, rule) for rule in rules]
    return tuple(answers) or (overview(examined),)


def _with_device(words: Iterable[str], known: Sequence[str]) -> Iterator[str]:
    """A rule may be asked for without its device: ``conv`` for ``cpu.conv``."""
    bare = {name.rpartition(".")[2] for name in known}
    yield from (f"*.{word}" if word in bare and word not in known else word for word in words)


def named(kind: str, wanted: Iterable[str], known: Sequence[str], code: str) -> tuple[str, ...]:
    """The known names that are wanted, in the order of ``known``: each wanted one is a name or a glob.

    Raises Rejected(code) for one that fits nothing.
    """
    found: dict[str, None] = {}
    names = dict.fromkeys(known)
    for word in wanted:
        hits = [word] if word in names else [n for n in names if fnmatchcase(n, word)]
        if not hits:
            raise _unknown(kind, word, tuple(names), code)
        found |= dict.fromkeys(hits)
    return tuple(n for n in names if n in found)


def _unknown(kind: str, word: str, known: tuple[str, ...], code: str) -> Rejected:
    near = get_close_matches(word, known, 1, 0.6) or get_close_matches(word.lower(), known, 1, 0.6)
    some = ", ".join(f"`{n}`" for n in known[:5]) or "none"
    help_ = f"did you mean `{near[0]}`?" if near else f"the first {kind}s are {some}; `*` stands for any characters"
    return reject(code, f"there is no {kind} `{word}`", help=help_)


def to_json(answers: Sequence[object]) -> str:
    """One versioned document; each answer says what it is about (``kind``)."""
    listed = [{"kind": type(a).__name__.removesuffix("Answer").lower(), **asdict(a)} for a in answers]  # type: ignore[call-overload]
    document = {"potc": "explain", "version": VERSION, "answers": listed}
    return json.dumps(document, indent=1, ensure_ascii=False)

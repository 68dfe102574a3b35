"""``potc reduce``: model and rules that show a symptom become small ones that show it too. Read this first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from potc.compiler import Job
from potc.diagnostics.diagnostic import Rejected, reject
from potc.graph.model import Model
from potc.graph.names import all_graphs, all_nodes
from potc.graph.read import read_model
from potc.graph.widen import widened
from potc.language.files import main_source
from potc.language.syntax import Use
from potc.shrink import rules as rule_trees
from potc.shrink.carried import fewer_values, first_passes
from potc.shrink.cut import Types, bare, cut, fewer_outputs, simpler, types_of
from potc.shrink.least import least
from potc.shrink.rules import is_shipped
from potc.shrink.samples import Arrays, first_samples, recorded, write_samples
from potc.shrink.sizes import resized, sizes, sliced, smaller, stored
from potc.shrink.symptom import KINDS, REJECTED, Observed, Symptom, symptom_of
from potc.shrink.tries import Candidate, Tries

TRIES = 500
SECONDS = 120.0  # that one try may take
HELD = 32  # samples that are looked at, at most
ROUNDS = 4  # each begins only if the one before made something smaller

Stage = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What must stay: ``expect``, a code or kind; ``below`` decibels; or what ``run``, a command, ends with, and ``says``: a
    regular expression that matches what it prints. Nothing: whatever the first try shows. ``tries``: at most so many; ``seconds``:
    that each may take."""

    expect: str | None = None
    below: float | None = None
    run: str | None = None
    tries: int = TRIES
    seconds: float = SECONDS
    says: str | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """Nodes with those of nested graphs, numbers in stored tensors, lines of the rule file."""

    nodes: int
    numbers: int
    lines: int


@dataclass(frozen=True, slots=True)
class Reduced:
    """``model``: a whole ONNX file; ``rules``: the text of a rule file; ``samples``: [samples, ...] by input, None where they are
    generated; ``symptom``: what stayed; ``uses``: files of the user that the rules still use; ``complete``: the tries sufficed."""

    model: bytes
    rules: str
    samples: Mapping[str, np.ndarray] | None
    symptom: str
    before: Size
    after: Size
    tries: int
    complete: bool
    uses: tuple[str, ...] = ()

    def told(self) -> dict[str, Any]:
        """All but what goes into files."""
        known = asdict(replace(self, samples=None))
        return {"potc": "reduce", **{n: v for n, v in known.items() if n not in ("model", "rules", "samples")}}


def shrink(
    job: Job,
    wanted: Wanted,
    stage: Stage = lambda name: None,
    progress: Progress = lambda done, total: None,
) -> Reduced:
    """Compiles smaller and smaller models by smaller and smaller rules, each in a process of its own, and keeps what still shows
    the symptom. Deterministic, as long as the symptom is. Raises Rejected: ``no-symptom``, and for a model that can't be read.
    """
    with tempfile.TemporaryDirectory(prefix="potc-reduce-") as place:
        folder = Path(place)
        model = read_model(job.model)
        text = main_source(job.rules).text
        start = Candidate(model.proto, text, first_samples(job, widened(model), HELD))
        tries = Tries(job, folder, wanted.run, wanted.tries, wanted.seconds, progress)
        stage("looking for the symptom")
        tries.symptom = _symptom(tries.observe(start), wanted)
        types = dict(types_of(model.proto))
        values = _values(start, types, tries)
        stage("reducing")
        small = start
        for _ in range(ROUNDS):
            before = small.digest
            small = _smaller(small, types, values, tries)
            if small.digest == before or tries.exhausted:
                break
        return Reduced(
            small.model.SerializeToString(deterministic=True),
            small.rules,
            small.samples,
            str(tries.symptom),
            _size(start),
            _size(small),
            tries.done,
            not tries.exhausted,
            _uses(small.rules),
        )


def _symptom(first: Observed, wanted: Wanted) -> Symptom:
    """Raises Rejected (``no-symptom``) where the model does not show what is asked for."""
    if wanted.below is not None:
        asked = Symptom(below=wanted.below)
    elif wanted.expect is not None:
        asked = Symptom(wanted.expect) if wanted.expect in KINDS else Symptom(REJECTED, wanted.expect)
    else:
        asked = symptom_of(first)
        asked = asked if asked is None or wanted.says is None else replace(asked, says=wanted.says)
    if asked is None:
        help_ = "say what is wrong with it: --below DECIBELS, or --run with a command that fails"
        raise reject("no-symptom", f"nothing goes wrong with the model: {first}", help=help_)
    if not asked.shown_by(first):
        message = f"the model does not show the symptom `{asked}`: {first}"
        raise reject("no-symptom", message, help="give the options with which it shows it")
    return asked


def _values(start: Candidate, types: Types, tries: Tries) -> Arrays:
    """What tensors hold, where there are samples: models that begin with them can be fed."""
    if start.samples is None:
        return {}
    model, samples = tries.folder / "whole.onnx", tries.folder / "whole.npz"
    model.write_bytes(start.model.SerializeToString())
    write_samples(samples, start.samples)
    return recorded(model, samples, types, tries.folder, tries.job, tries.seconds)


def _smaller(small: Candidate, types: Types, values: Arrays, tries: Tries) -> Candidate:
    """One round, what saves most first."""
    small = _fewer_samples(small, tries)
    small = _fewer_nodes(small, types, values, tries)
    small = _first_that_shows(small, lambda c: _models(c, first_passes(c.model)), tries)
    small = _first_that_shows(small, lambda c: _models(c, fewer_values(c.model)), tries)
    small = _first_that_shows(small, lambda c: _models(c, simpler(c.model, types_of(c.model))), tries)
    small = _first_that_shows(small, lambda c: _models(c, fewer_outputs(c.model)), tries)
    small = _fewer_rules(small, tries)
    small = _smaller_tensors(small, tries)
    return _first_that_shows(small, lambda c: _models(c, [bare(c.model)]), tries)


def _fewer_samples(small: Candidate, tries: Tries) -> Candidate:
    count = 0 if small.samples is None else len(next(iter(small.samples.values())))
    for fewer in (n for n in (1, 2, 4) if n < count):
        chosen = replace(small, samples={n: a[:fewer] for n, a in (small.samples or {}).items()})
        if tries.shows(chosen):
            return chosen
    return small


def _fewer_nodes(small: Candidate, types: Types, values: Arrays, tries: Tries) -> Candidate:
    known = {**types, **types_of(small.model)}

    def part(kept: list[int]) -> Candidate | None:
        model = cut(small.model, kept, known)
        return None if model is None else _fed(model, small, values)

    chosen = part(least(range(len(small.model.graph.node)), lambda kept: tries.shows(part(kept))))
    return chosen if tries.shows(chosen) and chosen is not None else small


def _fed(model: onnx.ModelProto, before: Candidate, values: Arrays) -> Candidate | None:
    """With the samples of its inputs; None where they are not known."""
    if before.samples is None:
        return replace(before, model=model)
    count = len(next(iter(before.samples.values()), ()))
    samples: dict[str, np.ndarray] = {}
    for name in [i.name for i in Model("", model, ()).inputs]:
        if name in before.samples:
            samples[name] = before.samples[name]
        elif name in values and count <= len(values[name]):
            samples[name] = values[name][:count]
        else:
            return None
    return replace(before, model=model, samples=samples or None)


def _models(small: Candidate, models: Iterable[onnx.ModelProto]) -> Iterable[Candidate | None]:
    """Models that take inputs of the one before."""
    return (_fed(model, small, {}) for model in models)


def _first_that_shows(
    small: Candidate, candidates: Callable[[Candidate], Iterable[Candidate | None]], tries: Tries
) -> Candidate:
    """Takes the first, and begins again with it, until none is left."""
    while True:
        found = next((c for c in candidates(small) if c is not None and tries.shows(c)), None)
        if found is None or found.digest == small.digest:
            return small
        small = found


def _fewer_rules(small: Candidate, tries: Tries) -> Candidate:
    """Items of the file first, then what is in them, down to the single format. A file that is no rule file loses lines."""
    try:
        tree = rule_trees.tree_of(small.rules)
    except Rejected:
        lines = small.rules.splitlines(keepends=True)
        kept = least(lines, lambda some: tries.shows(replace(small, rules="".join(some))))
        return replace(small, rules="".join(kept))
    for simpler_tree in (rule_trees.joined(tries.used), rule_trees.plain):
        text = rule_trees.text_of(simpler_tree(tree))
        if tries.shows(replace(small, rules=text)):
            tree = rule_trees.tree_of(text)
    depth = 0
    while depth < rule_trees.depths(tree):
        parts = list(rule_trees.parts(tree, depth))
        whole_tree = tree

        def left(kept: list[object], whole: object = whole_tree, every: list[object] = parts) -> Candidate | None:
            made = rule_trees.without(whole, {id(p) for p in every} - {id(p) for p in kept})
            return None if made is None else replace(small, rules=rule_trees.text_of(made))

        chosen = left(least(parts, lambda kept: tries.shows(left(kept))))
        if chosen is not None and tries.shows(chosen):
            tree = rule_trees.tree_of(chosen.rules)
        depth += 1
    made = replace(small, rules=rule_trees.text_of(tree))
    return made if tries.shows(made) else small


def _smaller_tensors(small: Candidate, tries: Tries) -> Candidate:
    for old in sizes(small.model, small.samples or {}):
        for new in smaller(old):
            for lists in (False, True):
                samples = {n: sliced(a, old, new, 1) for n, a in (small.samples or {}).items()}
                chosen = Candidate(resized(small.model, old, new, lists), small.rules, samples or None)
                if tries.shows(chosen):
                    return _smaller_tensors(chosen, tries)
    return small


def _uses(text: str) -> tuple[str, ...]:
    """Files that the reduced rules name, and that are not shipped with potc."""
    try:
        uses = [i for i in rule_trees.tree_of(text).items if isinstance(i, Use)]
    except Rejected:
        return ()
    return tuple(use.target if use.is_path else f"{use.target}.rules" for use in uses if not is_shipped(use))


def _size(candidate: Candidate) -> Size:
    graph = candidate.model.graph
    numbers = sum(int(np.prod(t.dims)) for inside in all_graphs(graph) for t in stored(inside))
    return Size(sum(1 for _ in all_nodes(graph)), numbers, len(candidate.rules.splitlines()))

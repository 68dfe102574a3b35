"""What `potc check` says of rules only with models at hand: a graph that two rules both match, rules that match nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from potc.compiler import prepare
from potc.diagnostics.diagnostic import Diagnostic, Severity, reject
from potc.graph.read import read_model
from potc.graph.snapshot import take_snapshot
from potc.language.program import Program, Rule
from potc.match.cover import Finder
from potc.sketch.draw import draw, onnx_text

SEEDS = 3


def find_common(program: Program, a: Rule, b: Rule) -> str | None:
    """The smallest model found on which two rules match the same nodes, as ONNX text; None where none is found."""
    for rule, seed in ((r, s) for s in range(SEEDS) for r in (a, b)):
        sketch = draw(program, rule, seed)
        if sketch is not None:
            snapshot = take_snapshot(sketch.model)
            covered: dict[str, set[frozenset[int]]] = {a.qualified: set(), b.qualified: set()}
            for candidate in Finder(program, snapshot).candidates():
                if candidate.rule.qualified in covered:
                    covered[candidate.rule.qualified].add(frozenset(candidate.match.nodes))
            if covered[a.qualified] & covered[b.qualified]:
                return onnx_text(sketch.model)
    return None


def find_never_fired(programs: Iterable[Program], corpus: tuple[str, ...]) -> Iterator[Diagnostic]:
    """``never-fired`` for each rule of the devices that matches in none of the models.

    ``corpus``: paths of models, or of folders, whose ``.onnx`` files are taken, those of folders below included. Raises
    Rejected where there are none, or one is no model.
    """
    listed = list(programs)
    fired: set[str] = set()
    models = _models(corpus)
    for path in models:
        model = read_model(path)
        for program in listed:
            prepared, _ = prepare(model, program)
            candidates = Finder(program, take_snapshot(prepared.proto)).candidates()
            fired.update(c.rule.qualified for c in candidates)
    count = f"{len(models)} model{'s' if len(models) != 1 else ''}"
    rules = {r.qualified: r for p in listed for r in p.rules}
    for name, rule in sorted(rules.items()):
        if name not in fired:
            message = f"`{rule.name}` matches in none of {count}"
            help_ = "look whether its conditions are too narrow, or give models that have its kernel"
            yield Diagnostic("never-fired", message, Severity.WARNING, at=rule.span, label="never matched", help=help_)


def _models(corpus: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for place in corpus:
        path = Path(place)
        found.extend([place] if not path.is_dir() else map(str, sorted(path.rglob("*.onnx"))))
    if not found:
        places = ", ".join(f"`{p}`" for p in corpus)
        raise reject(
            "missing-file", f"there is no model in {places}", help="give a folder with .onnx files", exit_code=2
        )
    return found

"""``compile_to_target``: a model, rules, samples and a target become the fastest compiled model that keeps the target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from potc.choose import choose
from potc.compiler import Compilation, Job, Matched, Trace, equalized, finish, match_model
from potc.data.annotated import AnnotatedDataset
from potc.diagnostics.diagnostic import reject
from potc.execute.tasks import Executor, InProcess
from potc.graph.model import Model
from potc.quantize.tuning import Tuning
from potc.search.bench import Bench, Memory, Notes
from potc.search.identity import identity
from potc.search.journal import Journal
from potc.search.search import Found, Keep, search
from potc.search.target import Target

OpenData = Callable[[Model], AnnotatedDataset]


def compile_to_target(
    job: Job,
    target: Target,
    data: OpenData,
    trace: Trace | None = None,
    keep: Keep = lambda candidate, compiled: None,
    budget: Callable[[str], None] = lambda words: None,
    executor: Executor | None = None,
    journal: str | None = None,
) -> tuple[Compilation, Found, Matched]:
    """Compiles, and gives up what costs too much accuracy. ``found.met`` says whether the target is kept.

    ``data``: opens the evaluation samples. ``keep``: see ``search``. ``budget``: told before any model is run how much that will
    be at most. ``journal``: a file from which an interrupted search goes on. It stays: who has
    put the result where it belongs removes it (``forget_journal``).
    Returns the compilation, what was found, and the plan that holds all kernels. Raises Rejected as ``compile_model`` does.
    """
    trace = trace or Trace()
    matched = equalized(match_model(job, trace), job.tuning, trace)
    opened = data(matched.model)
    if not len(opened):
        raise reject("no-samples", "there are no evaluation samples")
    notes: Notes = Memory() if journal is None else Journal(journal, identity(matched, target, opened))
    try:
        bench = Bench(matched, target, opened, notes, executor or InProcess(), trace)
        budget(_budget(bench, matched, target, len(opened), notes))
        found = search(bench, trace, keep, lambda: list(_tunings(job, trace)))
        answer = bench.of(found.answer.variant)
        compilation = finish(answer, bench.ranges(answer.plan, found.tuning), found.tuning, trace)
    finally:
        if isinstance(notes, Journal):
            notes.close()
    return compilation, found, matched


def _budget(bench: Bench, matched: Matched, target: Target, samples: int, notes: Notes) -> str:
    """What the search costs at most, in words."""
    sources = bench.sources(matched.plan)
    types = 1 + (target.raise_precision and any(s.raisable for s in sources))
    ranked = min(target.ranking_samples, len(matched.samples))
    runs = (1 + target.evaluations) * samples
    evaluations = f"{target.evaluations} evaluation{'s' if target.evaluations > 1 else ''}"
    words = (
        f"at most {evaluations} and one of the float model, on {samples} samples each: {runs:,} runs; "
        f"ranking at most {types * len(sources):,} sources of noise on {ranked} samples: {types * len(sources) * ranked:,} runs"
    )
    resumed = notes.resumed if isinstance(notes, Journal) else 0
    return f"{words}; {resumed} results are in the journal already" if resumed else words


def _tunings(job: Job, trace: Trace) -> Iterator[Tuning]:
    """Other settings than the job's: the preset ``mixed``, and what ``--preset auto`` finds without labels."""
    given = job.tuning
    mixed = replace(given, ranges=replace(given.ranges, preset="mixed"))
    if given.ranges.preset == "performance":
        yield mixed
    _, choice = choose(job, trace)
    best = choice.tries[choice.best].tuning
    if best not in (given, mixed):
        yield best

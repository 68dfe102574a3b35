"""``potc compile --max-drop``: what a search says while it runs, what it writes, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from potc.cli.target_options import executor_of, target_of
from potc.cli.terminal import Terminal

if TYPE_CHECKING:
    from potc.compiler import Compilation, Job, Trace
    from potc.search.bench import Candidate
    from potc.search.search import Found
    from potc.search.target import Target

TARGET_MISSED = 3
FLOATS_LISTED = 12


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search found, and what is said and written of it. ``journal``: is of no use when all is written."""

    found: Found
    target: Target
    advice: str
    inputs: tuple[str, ...]
    journal: str | None

    @property
    def exit_code(self) -> int:
        return 0 if self.found.met else TARGET_MISSED

    @property
    def document(self) -> dict[str, Any]:
        """For the report."""
        from potc.search.front import search_document

        return {**search_document(self.found, self.target), "rules_to_paste": self.advice}

    def files(self, fronts: tuple[str, ...]) -> dict[str, bytes]:
        """The pictures and documents of the front."""
        from potc.search.front import front_json, front_svg

        return {f: (front_svg if f.endswith(".svg") else front_json)(self.found, self.target).encode() for f in fronts}

    def lines(self, output: str) -> list[str]:
        """For people: what was found, and what can be done if that is not enough."""
        from potc.evaluate.confidence import LEVEL

        found, target, answer = self.found, self.target, self.found.answer
        drops = target.drops(found.before, answer.values)
        lines: list[str] = []
        rows = zip(target.metrics, found.before, answer.values, drops, answer.highest, answer.expected, strict=True)
        for metric, before, after, drop, highest, expected in rows:
            lines.append(f"  {metric.name:<10} {before:.4f} -> {after:.4f}, a drop of {float(drop):.4f}")
            if highest is not None:
                sure = f"{target.confidence or LEVEL:.6g}"
                about = "" if expected is None else f"about {expected:.4f}, "
                lines.append(f"{'':13}{about}at most {highest:.4f} on other samples like these, with confidence {sure}")
        held = sorted(answer.variant.held)
        lines.append(
            f"  searched   {found.evaluations} evaluations; {len(held)} nodes given up, "
            f"{len(answer.variant.raised)} tensors in more precise types; about {answer.speedup:.2f} times as fast as float"
        )
        if held:
            shown = " ".join(f"--float {name}" for name in held[:FLOATS_LISTED])
            lines.append(f"  without a search: {shown}{' ...' if len(held) > FLOATS_LISTED else ''}")
        if found.met:
            return lines
        wanted = ", ".join(f"{float(a):g}" for a in target.allowed(found.before))
        evaluations = f"{found.evaluations} evaluation{'s' if found.evaluations != 1 else ''}"
        lines.append(
            f"target missed: at most {wanted} was to be lost; {evaluations} found nothing better than {output}"
        )
        lines.append("  give more --evaluations, or another preset, range estimator or device")
        if self.advice:
            lines += ["  these lines in the device keep the worst layers in float from the start:", self.advice]
        return lines


def compile_searching(
    job: Job, words: Mapping[str, Any], output: str | None, trace: Trace, terminal: Terminal
) -> tuple[Compilation, Searched]:
    """Searches. ``output``: where the best model so far is kept, None for nowhere. Raises Rejected."""
    from potc.data.annotated import AnnotatedDataset
    from potc.data.dataset import input_specs
    from potc.data.source import Annotations, open_annotated
    from potc.graph.model import Model
    from potc.graph.write import write_atomic
    from potc.search.advice import advice
    from potc.search.compile import compile_to_target

    target = target_of(words)
    files: list[str] = []

    def opened(model: Model) -> AnnotatedDataset:
        known = Annotations(words["eval_labels"], words["eval_images"])
        recipe = words["eval_preprocess"] or words["preprocess"]
        data = open_annotated(words["eval_data"], input_specs(model), preprocess=recipe, annotations=known)
        files.extend(data.files)
        return data

    def keep(candidate: Candidate, compiled: bytes) -> None:
        values = ", ".join(f"{m.name} {v:.4f}" for m, v in zip(target.metrics, candidate.values, strict=True))
        terminal.say(f"  best so far: {values}, about {candidate.speedup:.2f} times as fast as float")
        if output is not None:
            write_atomic(output, compiled)

    journal = words["journal"] or (None if output is None else f"{output}.journal")
    executor = executor_of(words)
    try:
        compilation, found, base = compile_to_target(job, target, opened, trace, keep, terminal.say, executor, journal)
    finally:
        executor.close()
    lines = "" if found.met else advice(found, base.plan, base.prepared.proto)
    return compilation, Searched(found, target, lines, tuple(files), journal)

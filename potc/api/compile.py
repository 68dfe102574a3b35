"""``potc compile`` as a function."""

from __future__ import annotations

import builtins
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from potc.api.limit import Limiting, within_limits
from potc.api.words import Names, Path_, Progress, data_of, io_of, metrics_of, names, preprocessing_of, words
from potc.choose import choose
from potc.cli.memory import bytes_of, contradiction
from potc.cli.presets import effort, types_of
from potc.cli.summary import summary
from potc.compiler import Compilation, Job, Trace, compile_model
from potc.data.annotated import AnnotatedDataset
from potc.data.dataset import input_specs
from potc.data.source import Annotations, open_annotated
from potc.execute.processes import Processes
from potc.execute.tasks import Executor, InProcess
from potc.graph.external import take_apart
from potc.graph.model import Model
from potc.graph.write import one_file, write_all
from potc.quantize.scopes import Scopes
from potc.quantize.tuning import BiasSettings, Border, EqualizeSettings, RangeSettings, RoundingSettings, Tuning
from potc.report import Report, report
from potc.search.compile import OpenData, compile_to_target
from potc.search.front import search_document
from potc.search.journal import forget_journal
from potc.search.search import Found
from potc.search.target import EVALUATIONS, RANKING_SAMPLES, Target


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled model. ``report``: what was done, as ``--report`` writes it;
    ``compilation``: all that it was made from; ``found``: what a search for ``max_drop`` tried, and whether the target is met;
    ``journal``: the notes of that search, which ``save`` removes."""

    report: Report
    compilation: Compilation
    found: Found | None = None
    journal: str | None = None

    @property
    def model(self) -> bytes:
        """The bytes of the ONNX file. Raises Rejected where that would be larger than a file can be."""
        output = self.compilation.output
        return output if self.compilation.prepared.aside is None else b"".join(one_file(output).blocks())

    def save(self, path: Path_, *, external_data: bool = False) -> None:
        """All of the file or nothing; with ``external_data`` larger weights are in a file beside it. Raises Rejected where it can't
        be written."""
        if external_data:
            model, place, weights = take_apart(self.compilation.output, os.fspath(path))
            write_all({place: weights, os.fspath(path): model})
        else:
            write_all({os.fspath(path): one_file(self.compilation.output)})
        if self.journal is not None:
            forget_journal(self.journal)

    def summary(self) -> str:
        """What the command prints."""
        return summary(self.report, "memory", verbose=False)


@within_limits
def compile(
    model: Path_,
    *,
    rules: Path_,
    data: Any = None,
    device: str | None = None,
    set: Mapping[str, Any] | None = None,
    extern: Names = (),
    labels: str | None = None,
    images: Path_ | None = None,
    preprocess: str | Mapping[str, Any] | None = None,
    samples: int | None = None,
    seed: int | None = None,
    preset: str = "mixed",
    range_estimator: str = "max",
    weight_range_estimator: str = "max",
    activation_min: str = "",
    activation_max: str = "",
    weight_min: str = "",
    weight_max: str = "",
    ranges: Path_ | None = None,
    bias_correction: str | None = None,
    rounding: str | None = None,
    equalize: str = "auto",
    equalize_limits: str = "keep",
    ort_library: Names = (),
    float: Names = (),
    float_op: Names = (),
    float_between: Sequence[tuple[str, str]] = (),
    io: str | Mapping[str, str] = "",
    memory: str | int | None = None,
    max_drop: Decimal | str | None = None,
    drop_type: str = "absolute",
    confidence: builtins.float | None = None,
    metric: Any = "top1",
    eval_data: Any = None,
    eval_labels: str | None = None,
    eval_images: Path_ | None = None,
    eval_preprocess: str | Mapping[str, Any] | None = None,
    evaluations: int = EVALUATIONS,
    ranking_samples: int = RANKING_SAMPLES,
    tune: bool = False,
    journal: Path_ | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
    limit: Limiting | None = None,
) -> Compiled:
    """``potc compile``. ``data``: what ``--data`` takes, or any object with ``len()`` and ``[i]``, or a loader of batches; None:
    generated samples, for trying out. ``preprocess``: a recipe as text, file name or mapping. With ``max_drop`` ("0.01") kernels
    are given up until no ``metric`` loses more on ``eval_data``; ``Compiled.found.met`` says whether that was possible. ``limit``:
    how large things may be, by name, as ``--limit`` has them.

    Raises Rejected; ValueError for words that are unknown or contradict each other; RuntimeError where the compiled model fails
    its own verification, which is a bug.
    """
    job = job_of(
        model,
        rules=rules,
        data=data,
        device=device,
        set=set,
        extern=extern,
        labels=labels,
        images=images,
        preprocess=preprocess,
        samples=samples,
        seed=seed,
        preset=preset,
        range_estimator=range_estimator,
        weight_range_estimator=weight_range_estimator,
        activation_min=activation_min,
        activation_max=activation_max,
        weight_min=weight_min,
        weight_max=weight_max,
        ranges=ranges,
        bias_correction=bias_correction,
        rounding=rounding,
        equalize=equalize,
        equalize_limits=equalize_limits,
        ort_library=ort_library,
        float=float,
        float_op=float_op,
        float_between=float_between,
        io=io,
        memory=memory,
    )
    if wrong := contradiction(job, max_drop is not None):
        raise ValueError(wrong)
    trace = Trace(progress=progress) if progress else Trace()
    if max_drop is not None:
        if drop_type not in ("absolute", "relative"):
            raise ValueError(f"drop_type is {drop_type!r}, wanted absolute or relative")
        if eval_data is None or ranges is not None or preset == "auto" or (workers and cluster):
            raise ValueError(
                "max_drop needs eval_data, and neither ranges nor the preset auto, nor workers and cluster at once"
            )
        relative = drop_type == "relative"
        target = Target(
            metrics_of(metric), str(max_drop), relative, evaluations, ranking_samples, tune, confidence=confidence
        )
        recipe = eval_preprocess or preprocess
        where = Annotations(eval_labels, None if eval_images is None else os.fspath(eval_images))

        def opened(read: Model) -> AnnotatedDataset:
            return open_annotated(data_of(eval_data), input_specs(read), None, None, preprocessing_of(recipe), where)

        noted = None if journal is None else os.fspath(journal)
        return _searched(job, target, opened, trace, _executor(workers, cluster), noted)
    compilation, choice = choose(job, trace) if preset == "auto" else (compile_model(job, trace), None)
    return _checked(compilation, report(compilation, None, choice), None)


def job_of(
    model: Path_,
    *,
    rules: Path_,
    data: Any = None,
    device: str | None = None,
    set: Mapping[str, Any] | None = None,
    extern: Names = (),
    labels: str | None = None,
    images: Path_ | None = None,
    preprocess: str | Mapping[str, Any] | None = None,
    samples: int | None = None,
    seed: int | None = None,
    preset: str = "mixed",
    range_estimator: str = "max",
    weight_range_estimator: str = "max",
    activation_min: str = "",
    activation_max: str = "",
    weight_min: str = "",
    weight_max: str = "",
    ranges: Path_ | None = None,
    bias_correction: str | None = None,
    rounding: str | None = None,
    equalize: str = "auto",
    equalize_limits: str = "keep",
    ort_library: Names = (),
    float: Names = (),
    float_op: Names = (),
    float_between: Sequence[tuple[str, str]] = (),
    io: str | Mapping[str, str] = "",
    memory: str | int | None = None,
) -> Job:
    """The words of ``compile`` that say what one compile does."""
    if preset == "auto" and ranges is not None:
        raise ValueError("the preset auto measures ranges itself: leave out ranges")
    borders = [
        Border.parse(text) if text else Border() for text in (activation_min, activation_max, weight_min, weight_max)
    ]
    bias = bias_correction or ("none" if preset == "fast" else BiasSettings().method)
    return Job(
        model=os.fspath(model),
        rules=os.fspath(rules),
        data=data_of(data),
        device=device,
        settings=words(set),
        tuning=Tuning(
            ranges=RangeSettings(types_of(preset), range_estimator, weight_range_estimator, *borders),
            equalize=EqualizeSettings(equalize, equalize_limits),
            rounding=RoundingSettings() if rounding is None else RoundingSettings(rounding),
            bias=BiasSettings(bias),
        ),
        samples=samples,
        seed=seed,
        ranges=None if ranges is None else os.fspath(ranges),
        externs=names(extern),
        scopes=Scopes(names(float), names(float_op), tuple(float_between)),
        preprocess=preprocessing_of(preprocess),
        annotations=Annotations(labels, None if images is None else os.fspath(images)),
        io=io_of(io),
        libraries=names(ort_library),
        memory=None if memory is None else bytes_of(memory),
        **effort(preset),
    )


def _searched(
    job: Job, target: Target, opened: OpenData, trace: Trace, executor: Executor, journal: str | None
) -> Compiled:
    try:
        compilation, found, _ = compile_to_target(job, target, opened, trace, executor=executor, journal=journal)
    finally:
        executor.close()
    told = report(compilation, search=search_document(found, target))
    return replace(_checked(compilation, told, found), journal=journal)


def _executor(workers: int | None, cluster: str | None) -> Executor:
    if cluster:
        from potc.execute.cluster import Cluster  # needs an extra

        return Cluster(cluster)
    return Processes(workers) if workers else InProcess()


def _checked(compilation: Compilation, told: Report, found: Found | None) -> Compiled:
    # How far outputs may be from the float model's is said by the target, where there is one.
    failed = [c for c in compilation.verification.failed if found is None or c.name != "alive"]
    if failed:
        told_of = "; ".join(f"{c.name}: {c.detail}" for c in failed)
        raise RuntimeError(f"the compiled model failed its verification: {told_of}")
    return Compiled(told, compilation, found)

"""The commands as functions: the same words, keywords only, values that don't change as results.

Whatever is at fault with rules, models or samples raises ``potc.Rejected``, whose ``diagnostics`` say what and where; words that
contradict each other raise ValueError. Nothing is printed, and nothing is written unless a result is told to ``save``.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from potc.authoring import Names, Path_, names, words
from potc.choose import choose
from potc.cli.memory import bytes_of, contradiction
from potc.cli.presets import effort, types_of
from potc.cli.summary import summary
from potc.compiler import Compilation, Job, Trace, compile_model
from potc.data.annotated import AnnotatedDataset
from potc.data.dataset import input_specs
from potc.data.preprocessing import Preprocessing, read_preprocessing, recipe_of
from potc.data.source import Annotations, open_annotated
from potc.evaluate.metrics.foreign import as_metric
from potc.evaluate.metrics.metric import Metric
from potc.evaluate.metrics.named import metric_named
from potc.evaluate.scoring import Scores, Words, in_floats, score
from potc.execute.processes import Processes
from potc.execute.session import use_libraries
from potc.execute.tasks import Executor, InProcess
from potc.graph.external import take_apart
from potc.graph.model import Model
from potc.graph.read import read_model
from potc.graph.write import one_file, write_all
from potc.language.check import Checked, check_file
from potc.language.resolve import load_rules
from potc.legal.judge import Verdict, judge
from potc.quantize.scopes import Scopes
from potc.quantize.tuning import BiasSettings, Border, EqualizeSettings, RangeSettings, RoundingSettings, Tuning
from potc.report import Report, report
from potc.search.compile import OpenData, compile_to_target
from potc.search.front import search_document
from potc.search.search import Found
from potc.search.target import EVALUATIONS, RANKING_SAMPLES, Target
from potc.shrink.shrink import SECONDS, TRIES, Reduced, Wanted, shrink
from potc.workbench.bench import Bench, How
from potc.workbench.bench import bench as measure
from potc.workbench.explain_model import Question, examine
from potc.workbench.explain_model import explain as answers_to
from potc.workbench.explain_text import answer_lines
from potc.workbench.proofs import find_common

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled model. ``report``: what was done, as ``--report`` writes it;
    ``compilation``: all that it was made from; ``found``: what a search for ``max_drop`` tried, and whether the target is met."""

    report: Report
    compilation: Compilation
    found: Found | None = None

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

    def summary(self) -> str:
        """What the command prints."""
        return summary(self.report, "memory", verbose=False)


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
    equalize: str = "none",
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
) -> Compiled:
    """``potc compile``. ``data``: what ``--data`` takes, or any object with ``len()`` and ``[i]``, or a loader of batches; None:
    generated samples, for trying out. ``preprocess``: a recipe as text, file name or mapping. With ``max_drop`` ("0.01") kernels
    are given up until no ``metric`` loses more on ``eval_data``; ``Compiled.found.met`` says whether that was possible.

    Raises Rejected; ValueError for words that are unknown or contradict each other; RuntimeError where the compiled model fails
    its own verification, which is a bug.
    """
    job = _job(
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
            _metrics(metric), str(max_drop), relative, evaluations, ranking_samples, tune, confidence=confidence
        )
        recipe = eval_preprocess or preprocess
        where = Annotations(eval_labels, None if eval_images is None else os.fspath(eval_images))

        def opened(read: Model) -> AnnotatedDataset:
            return open_annotated(_data(eval_data), input_specs(read), None, None, _preprocessing(recipe), where)

        noted = None if journal is None else os.fspath(journal)
        return _searched(job, target, opened, trace, _executor(workers, cluster), noted)
    compilation, choice = choose(job, trace) if preset == "auto" else (compile_model(job, trace), None)
    return _checked(compilation, report(compilation, None, choice), None)


def _job(
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
    equalize: str = "none",
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
        data=_data(data),
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
        preprocess=_preprocessing(preprocess),
        annotations=Annotations(labels, None if images is None else os.fspath(images)),
        io=_io(io),
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
    return _checked(compilation, report(compilation, search=search_document(found, target)), found)


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


def evaluate(
    model: Path_ | Compiled,
    other: Path_ | Compiled | None = None,
    *,
    data: Any,
    metric: Any = "sqnr",
    labels: str | None = None,
    images: Path_ | None = None,
    preprocess: str | Mapping[str, Any] | None = None,
    samples: int | None = None,
    seed: int | None = None,
    reference: Path_ | Compiled | None = None,
    ort_library: Names = (),
    simulate: bool = False,
    resamples: int = 1000,
    progress: Progress | None = None,
) -> Scores:
    """``potc evaluate``: one model, or two that are compared. ``metric``: words of the command line, a ``Metric``, a function of
    outputs and annotation, an object of torchmetrics or POT; or a list of these. ``data``: as for ``compile``.

    Raises Rejected; ValueError where two metrics have the same name.
    """
    use_libraries(names(ort_library))
    metrics = _metrics(metric)
    models = [_scored(m) for m in (model, other) if m is not None]
    preprocessing = _preprocessing(preprocess)
    known = Annotations(labels, None if images is None else os.fspath(images))
    dataset = open_annotated(_data(data), input_specs(models[0][1]), samples, seed, preprocessing, known)
    return score(
        models,
        dataset,
        Words(metrics, simulate, resamples),
        reference=None if reference is None else _scored(reference),
        source=data if isinstance(data, str) else "",
        preprocessing=preprocessing.told(),
        progress=progress or (lambda done, total: None),
    )


def check(file: Path_, *, strict: bool = False) -> Checked:
    """``potc check``, of one file: its devices, and warnings. Raises Rejected with all errors."""
    return check_file(os.fspath(file), find_common, strict)


def verify(
    model: Path_ | Compiled,
    *,
    rules: Path_,
    device: str | None = None,
    set: Mapping[str, Any] | None = None,
    extern: Names = (),
    ort_library: Names = (),
) -> tuple[Verdict, ...]:
    """``potc verify``: what a device would not run of a quantized model of any tool; for a meet, a verdict of each part."""
    settings = words(set)
    use_libraries(names(ort_library))
    program = load_rules(os.fspath(rules), device=device, settings=settings, externs=names(extern))
    return judge(_read(model)[1], program)


def reduce(
    model: Path_,
    *,
    rules: Path_,
    expect: str | None = None,
    below: builtins.float | None = None,
    run: str | None = None,
    tries: int = TRIES,
    seconds: builtins.float = SECONDS,
    progress: Progress | None = None,
    **compiling: Any,
) -> Reduced:
    """``potc reduce``: the model and the rules, made smaller while they go on failing. ``compiling``: words of ``compile``, but for
    those of a search. The module that calls this must be importable without calling it, since each try is a process of its own.

    Raises Rejected, ``no-symptom`` among others; TypeError for words that are none.
    """
    if sum(word is not None for word in (expect, below, run)) > 1:
        raise ValueError("give one of expect, below and run")
    if compiling.get("preset") == "auto":
        raise ValueError("the preset auto compiles several times: name the preset that fails")
    job = _job(model, rules=rules, **compiling)
    return shrink(job, Wanted(expect, below, run, tries, seconds), progress=progress or (lambda done, total: None))


def explain(
    model: Path_,
    *,
    rules: Path_,
    device: str | None = None,
    set: Mapping[str, Any] | None = None,
    extern: Names = (),
    node: Names = (),
    tensor: Names = (),
    rule: Names = (),
) -> tuple[Explanation, ...]:
    """``potc explain MODEL``: why it is compiled as it is; no samples are needed."""
    settings = words(set)
    examined = examine(os.fspath(model), os.fspath(rules), device, settings, names(extern))
    found = answers_to(examined, Question(names(node), names(tensor), names(rule)))
    return tuple(Explanation(answer, "\n".join(answer_lines(answer))) for answer in found)


def bench(
    float_model: Path_,
    integer_model: Path_,
    *,
    data: str | None = None,
    runs: int = 100,
    warmup: int = 5,
    threads: int = 1,
    rules: Path_ | None = None,
    device: str | None = None,
    set: Mapping[str, Any] | None = None,
    extern: Names = (),
    ort_library: Names = (),
) -> Bench:
    """``potc bench``: latency of two model files in turns, what runs on integers, sizes; ``rules`` tells why nodes stay in float.

    Raises Rejected; ValueError for fewer than 6 ``runs``.
    """
    if runs < 6:
        raise ValueError(f"runs is {runs}, wanted at least 6")
    use_libraries(names(ort_library))
    left: tuple[Any, ...] = ()
    if rules is not None:
        left = examine(os.fspath(float_model), os.fspath(rules), device, words(set), names(extern)).plan.left
    return measure(os.fspath(float_model), os.fspath(integer_model), How(runs, warmup, threads, data), left)


@dataclass(frozen=True, slots=True)
class Explanation:
    """``answer``: as values; ``text``: as the command prints it."""

    answer: Any
    text: str


def _metrics(thing: Any) -> tuple[Metric, ...]:
    metrics = tuple(_metric(m) for m in (thing if isinstance(thing, list | tuple) else [thing]))
    if len({m.name for m in metrics}) < len(metrics):
        raise ValueError("two metrics have the same name")
    return metrics


def _metric(thing: Any) -> Metric:
    return metric_named(thing) if isinstance(thing, str) else as_metric(getattr(thing, "__name__", "metric"), thing)


def _read(model: Path_ | Compiled) -> tuple[str, Model]:
    if isinstance(model, Compiled):
        import onnx

        return "compiled", Model("compiled", onnx.ModelProto.FromString(model.model), ())
    return os.fspath(model), read_model(os.fspath(model))


def _scored(model: Path_ | Compiled) -> tuple[str, Model]:
    name, read = _read(model)
    return name, in_floats(read)


def _preprocessing(recipe: str | Mapping[str, Any] | None) -> Preprocessing:
    return recipe_of("preprocess", dict(recipe)) if isinstance(recipe, Mapping) else read_preprocessing(recipe)


def _io(stored: str | Mapping[str, str]) -> dict[str, str]:
    """What inputs and outputs hold, by name; "" stands for all others."""
    kinds = dict(stored) if isinstance(stored, Mapping) else {"": stored} if stored else {}
    for kind in kinds.values():
        if kind not in ("u8", "i8", "float"):
            raise ValueError(f"io is {kind!r}, wanted u8, i8 or float")
    return kinds


def _data(data: Any) -> Any:
    return os.fspath(data) if isinstance(data, Path) else data

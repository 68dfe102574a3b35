"""One or two models, scored on the same samples by several metrics: values, how sure they are, and what differs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from potc import __version__
from potc.data.annotated import AnnotatedDataset
from potc.data.dataset import InputSpec, digest_of, input_specs
from potc.diagnostics.diagnostic import reject
from potc.evaluate.confidence import LEVEL, RESAMPLES, Difference, Interval, difference, interval
from potc.evaluate.evaluation import Evaluation, evaluate_all, labelled_by
from potc.evaluate.metrics.metric import Metric
from potc.graph.model import Model
from potc.graph.widen import read_runnable, widened
from potc.quantize.borders import with_float_borders

Stage = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric of one model over ``samples`` samples."""

    metric: str
    value: float
    interval: Interval
    samples: int
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """A model, by the path that named it."""

    model: str
    metrics: tuple[Measured, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """The second model minus the first. ``drop``: by how much it is worse; negative if it is better."""

    metric: str
    difference: Difference
    drop: float


@dataclass(frozen=True, slots=True)
class Scores:
    """``reference``: the model that metrics without labels compare with. ``simulated``: quantizers were computed in float, not on
    onnxruntime's kernels. ``samples_digest``: SHA-256 of the indices of the samples."""

    models: tuple[Scored, ...]
    compared: tuple[Compared, ...]
    reference: str | None
    simulated: bool
    data: str
    samples: int
    samples_digest: str
    preprocessing: Mapping[str, Any]

    def to_json(self) -> str:
        """One JSON object; numbers that are not finite are null."""
        words = {"potc": __version__, "level": LEVEL, **asdict(self)}
        return json.dumps(_finite(words), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Words:
    """What is to be done. ``resamples`` and ``seed``: of the bootstrap."""

    metrics: Sequence[Metric]
    simulated: bool = False
    resamples: int = RESAMPLES
    seed: int = 0


def read_scored(path: str) -> Model:
    """A model that takes and returns floats: where ``compile --io`` left codes, they are made and read by what the model
    tells of them. Raises Rejected."""
    return in_floats(read_runnable(path))


def in_floats(model: Model) -> Model:
    """The same for a model in memory. Raises Rejected (``invalid-model``)."""
    proto = with_float_borders(model.proto)
    return widened(model if proto is model.proto else model.with_proto(proto))


def score(
    models: Sequence[tuple[str, Model]],
    data: AnnotatedDataset,
    words: Words,
    *,
    reference: tuple[str, Model] | None = None,
    source: str = "",
    preprocessing: Mapping[str, Any] | None = None,
    stage: Stage = lambda name: None,
    progress: Progress = lambda done, total: None,
) -> Scores:
    """One model, or two that are compared; ``data`` was opened for the first one's inputs.

    With two models the first is the reference of metrics that need one, and has no value of these itself. Raises Rejected: where
    the models take other inputs, where there is no reference, and as ``evaluate_all``.
    """
    _check_inputs([*models, *([reference] if reference else [])])
    of_reference = [m for m in words.metrics if m.reference]
    compared_with = reference or (models[0] if len(models) > 1 else None)
    if of_reference and compared_with is None:
        message = f"the metric `{of_reference[0].name}` compares with the float model, which is not given"
        raise reject("no-annotation", message, help="name it first, or with --reference")
    labelled = None
    if of_reference and compared_with is not None:
        stage(f"running {compared_with[0]}")
        labelled = labelled_by(compared_with[1].proto.SerializeToString(), data)
    found: list[dict[str, Evaluation]] = []
    for number, (name, model) in enumerate(models):
        stage(f"scoring {name}")
        own = reference is None and len(models) > 1 and number == 0
        found.append(_evaluated(model, data, None if own else labelled, words, progress))
    stage("resampling")
    scored = tuple(Scored(name, _measured(e, words)) for (name, _), e in zip(models, found, strict=True))
    compared = _compared(found[0], found[1], words) if len(found) > 1 else ()
    told = None if not of_reference or compared_with is None else compared_with[0]
    digest = digest_of(data.chosen)
    return Scores(scored, compared, told, words.simulated, source, len(data), digest, preprocessing or {})


def _evaluated(
    model: Model, data: AnnotatedDataset, labelled: AnnotatedDataset | None, words: Words, progress: Progress
) -> dict[str, Evaluation]:
    """By metric. Metrics of a reference are left out where ``labelled`` is None."""
    content = model.proto.SerializeToString()
    by_name: dict[str, Evaluation] = {}
    for samples, reference in ((data, False), (labelled, True)):
        metrics = [m for m in words.metrics if m.reference == reference]
        if samples is not None and metrics:
            done = evaluate_all(content, samples, metrics, optimize=not words.simulated, progress=progress)
            by_name.update((e.metric.name, e) for e in done)
    return {m.name: by_name[m.name] for m in words.metrics if m.name in by_name}


def _measured(evaluations: Mapping[str, Evaluation], words: Words) -> tuple[Measured, ...]:
    return tuple(
        Measured(
            e.metric.name, e.value, interval(e, words.resamples, words.seed), len(e.records), e.metric.higher_is_better
        )
        for e in evaluations.values()
    )


def _compared(first: Mapping[str, Evaluation], second: Mapping[str, Evaluation], words: Words) -> tuple[Compared, ...]:
    found: list[Compared] = []
    for name in first:
        change = difference(first[name], second[name], words.resamples, words.seed)
        found.append(Compared(name, change, -change.value if first[name].metric.higher_is_better else change.value))
    return tuple(found)


def _check_inputs(models: Sequence[tuple[str, Model]]) -> None:
    """The same samples must feed all."""
    name, model = models[0]
    wanted = input_specs(model)
    for other, second in models[1:]:
        specs = input_specs(second)
        if _kinds(specs) != _kinds(wanted):
            message = f"{other} takes {', '.join(map(str, specs))}; {name} takes {', '.join(map(str, wanted))}"
            raise reject("wrong-data-names", message, help="compare models with the same inputs")


def _kinds(specs: Sequence[InputSpec]) -> set[tuple[str, str]]:
    return {(s.name, str(s.dtype)) for s in specs}


def _finite(words: Any) -> Any:
    if isinstance(words, dict):
        return {k: _finite(v) for k, v in words.items()}
    if isinstance(words, list | tuple):
        return [_finite(v) for v in words]
    return None if isinstance(words, float) and not math.isfinite(words) else words

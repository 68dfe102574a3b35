"""The commands that look at models as functions: evaluate, verify, explain, bench, reduce."""

from __future__ import annotations

import builtins
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from potc.api.compile import Compiled, job_of
from potc.api.limit import Limiting, within_limits
from potc.api.words import Names, Path_, Progress, data_of, metrics_of, names, preprocessing_of, words
from potc.data.dataset import input_specs
from potc.data.source import Annotations, open_annotated
from potc.evaluate.scoring import Scores, Words, in_floats, score
from potc.execute.session import use_libraries
from potc.graph.model import Model
from potc.graph.read import read_model
from potc.language.resolve import load_rules
from potc.legal.judge import Verdict, judge
from potc.shrink.shrink import SECONDS, TRIES, Reduced, Wanted, shrink
from potc.workbench.bench import Bench, How
from potc.workbench.bench import bench as measure
from potc.workbench.explain_model import Question, examine
from potc.workbench.explain_model import explain as answers_to
from potc.workbench.explain_text import answer_lines


@within_limits
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
    limit: Limiting | None = None,
) -> Scores:
    """``potc evaluate``: one model, or two that are compared. ``metric``: words of the command line, a ``Metric``, a function of
    outputs and annotation, an object of torchmetrics or POT; or a list of these. ``data``: as for ``compile``.

    Raises Rejected; ValueError where two metrics have the same name.
    """
    use_libraries(names(ort_library))
    metrics = metrics_of(metric)
    models = [_scored(m) for m in (model, other) if m is not None]
    preprocessing = preprocessing_of(preprocess)
    known = Annotations(labels, None if images is None else os.fspath(images))
    dataset = open_annotated(data_of(data), input_specs(models[0][1]), samples, seed, preprocessing, known)
    return score(
        models,
        dataset,
        Words(metrics, simulate, resamples),
        reference=None if reference is None else _scored(reference),
        source=data if isinstance(data, str) else "",
        preprocessing=preprocessing.told(),
        progress=progress or (lambda done, total: None),
    )


@within_limits
def verify(
    model: Path_ | Compiled,
    *,
    rules: Path_,
    device: str | None = None,
    set: Mapping[str, Any] | None = None,
    extern: Names = (),
    ort_library: Names = (),
    limit: Limiting | None = None,
) -> tuple[Verdict, ...]:
    """``potc verify``: what a device would not run of a quantized model of any tool; for a meet, a verdict of each part."""
    settings = words(set)
    use_libraries(names(ort_library))
    program = load_rules(os.fspath(rules), device=device, settings=settings, externs=names(extern))
    return judge(_read(model)[1], program)


@within_limits
def reduce(
    model: Path_,
    *,
    rules: Path_,
    expect: str | None = None,
    below: builtins.float | None = None,
    run: str | None = None,
    says: str | None = None,
    tries: int = TRIES,
    seconds: builtins.float = SECONDS,
    progress: Progress | None = None,
    limit: Limiting | None = None,
    **compiling: Any,
) -> Reduced:
    """``potc reduce``: the model and the rules, made smaller while they go on failing. ``compiling``: words of ``compile``, but for
    those of a search. The module that calls this must be importable without calling it, since each try is a process of its own.

    Raises Rejected, ``no-symptom`` among others; TypeError for words that are none.
    """
    if sum(word is not None for word in (expect, below, run)) > 1:
        raise ValueError("give one of expect, below and run")
    if says is not None and run is None:
        raise ValueError("says is for what the command of run prints")
    if compiling.get("preset") == "auto":
        raise ValueError("the preset auto compiles several times: name the preset that fails")
    job = job_of(model, rules=rules, **compiling)
    return shrink(
        job, Wanted(expect, below, run, tries, seconds, says), progress=progress or (lambda done, total: None)
    )


@within_limits
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
    limit: Limiting | None = None,
) -> tuple[Explanation, ...]:
    """``potc explain MODEL``: why it is compiled as it is; no samples are needed."""
    settings = words(set)
    examined = examine(os.fspath(model), os.fspath(rules), device, settings, names(extern))
    found = answers_to(examined, Question(names(node), names(tensor), names(rule)))
    return tuple(Explanation(answer, "\n".join(answer_lines(answer))) for answer in found)


@within_limits
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
    limit: Limiting | None = None,
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


def _read(model: Path_ | Compiled) -> tuple[str, Model]:
    if isinstance(model, Compiled):
        import onnx

        return "compiled", Model("compiled", onnx.ModelProto.FromString(model.model), ())
    return os.fspath(model), read_model(os.fspath(model))


def _scored(model: Path_ | Compiled) -> tuple[str, Model]:
    name, read = _read(model)
    return name, in_floats(read)

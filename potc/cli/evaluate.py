"""``potc evaluate``: how right a model is on annotated samples, and whether another one is worse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from potc.cli.data_options import DATA, annotation_options
from potc.cli.options import color_option, format_option, library_option, load_libraries
from potc.cli.terminal import Session, Terminal

if TYPE_CHECKING:
    from potc.evaluate.scoring import Compared, Measured, Scores

TARGET_MISSED = 3


@click.command("evaluate")
@click.argument("models", nargs=-1, required=True, metavar="MODEL [OTHER]")
@click.option("--data", metavar="DATA", required=True, help=DATA)
@annotation_options
@click.option("--metric", "metrics", metavar="METRIC", multiple=True, help="top1, miou, map, sqnr, FILE.py:NAME, ...")
@click.option("--samples", type=click.IntRange(min=1), help="Use at most so many samples.")
@click.option("--seed", type=click.IntRange(min=0), help="Draw the samples by this number, not evenly.")
@click.option("--reference", metavar="FLOAT.onnx", help="The model that metrics without labels compare with.")
@library_option
@click.option("--simulate", is_flag=True, help="Compute quantizers in float, not on onnxruntime's integer kernels.")
@click.option(
    "--resamples", type=click.IntRange(min=1), default=1000, show_default=True, help="Draws of the bootstrap."
)
@click.option("--max-drop", type=float, metavar="DROP", help="Exit code 3 if OTHER loses more by the first metric.")
@click.option("--worst", type=float, metavar="VALUE", help="Exit code 3 if the last model's first metric is worse.")
@format_option
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong, and the answer.")
@click.pass_obj
def command(session: Session, models: tuple[str, ...], quiet: bool, form: str, color: str, **words: Any) -> int:
    """Score MODEL, or compare OTHER with it, on the same samples.

    \b
    potc evaluate model.onnx --data test.npz --metric top1
    potc evaluate model.onnx model.int8.onnx --data val/ --preprocess recipe.toml --metric top1 --max-drop 0.01
    """
    session.terminal = terminal = Terminal(-1 if quiet else 0, color, form == "json")
    if len(models) > 2:
        raise click.UsageError("give one model, or two that are compared")
    if words["max_drop"] is not None and len(models) < 2:
        raise click.UsageError("--max-drop compares two models")
    if not words["metrics"] and len(models) < 2 and not words["reference"]:
        raise click.UsageError("give --metric, or a float model to compare with")
    scores = _scored(models, words, terminal)
    terminal.answer(scores.to_json().rstrip("\n") if terminal.as_json else "\n".join(_lines(scores)))
    missed = list(_missed(scores, words["max_drop"], words["worst"]))
    for line in missed:
        terminal.complain(line)
    return TARGET_MISSED if missed else 0


def _scored(models: tuple[str, ...], words: dict[str, Any], terminal: Terminal) -> Scores:
    from potc.cli.progress import watching
    from potc.data.dataset import input_specs
    from potc.data.preprocessing import read_preprocessing
    from potc.data.source import Annotations, open_annotated
    from potc.evaluate.metrics.named import metric_named
    from potc.evaluate.scoring import Words, read_scored, score

    metrics = [metric_named(text) for text in words["metrics"] or ("sqnr",)]
    names = [m.name for m in metrics]
    if len(set(names)) < len(names):
        raise click.UsageError("two metrics have the same name")
    load_libraries(words["libraries"])
    with watching(terminal) as (stage, progress):
        stage("model")
        read = [(path, read_scored(path)) for path in models]
        reference = words["reference"] and (words["reference"], read_scored(words["reference"]))
        preprocessing = read_preprocessing(words["preprocess"])
        known = Annotations(words["labels"], words["images"])
        specs = input_specs(read[0][1])
        data = open_annotated(words["data"], specs, words["samples"], words["seed"], preprocessing, known)
        return score(
            read,
            data,
            Words(metrics, words["simulate"], words["resamples"]),
            reference=reference or None,
            source=words["data"],
            preprocessing=preprocessing.told(),
            stage=stage,
            progress=progress,
        )


def _lines(scores: Scores) -> list[str]:
    how = "quantizers in float" if scores.simulated else "onnxruntime's kernels"
    lines: list[str] = []
    for scored in scores.models:
        lines += [f"{scored.model}: {scores.samples} samples, {how}", *map(_value, scored.metrics)]
    if scores.compared:
        first, second = (Path(m.model).name for m in scores.models)
        lines += [f"{second} minus {first}, on the same samples", *map(_change, scores.compared)]
    return lines


def _value(found: Measured) -> str:
    low, high, method = found.interval.low, found.interval.high, found.interval.method
    return f"  {found.metric:<10} {found.value:>9.4f}   95 %: {low:.4f} to {high:.4f} ({method})"


def _change(found: Compared) -> str:
    change = found.difference
    told = "" if change.better is None else f", {change.better} better, {change.worse} worse"
    between = f"95 %: {change.interval.low:+.4f} to {change.interval.high:+.4f}"
    return f"  {found.metric:<10} {change.value:>+9.4f}   {between}, p = {change.p:.3g} ({change.method}{told})"


def _missed(scores: Scores, max_drop: float | None, worst: float | None) -> list[str]:
    missed: list[str] = []
    if max_drop is not None and scores.compared and scores.compared[0].drop > max_drop:
        first = scores.compared[0]
        missed.append(f"missed: {first.metric} drops by {first.drop:.4f}, at most {max_drop:g} was wanted")
    if worst is not None:
        last = scores.models[-1].metrics[0]
        if last.value < worst if last.higher_is_better else last.value > worst:
            missed.append(f"missed: {last.metric} is {last.value:.4f}, {worst:g} was wanted")
    return missed

"""The options of ``potc compile`` for an accuracy target, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from potc.execute.tasks import Executor
    from potc.search.target import Target

Command = Callable[..., Any]
METRIC = "top1"
NEEDED_FOR_TARGET = (
    "eval_data",
    "eval_labels",
    "eval_images",
    "eval_preprocess",
    "metrics",
    "drop_type",
    "confidence",
    "evaluations",
    "ranking_samples",
    "tune",
    "journal",
    "fronts",
    "workers",
    "cluster",
)


def target_options(command: Command) -> Command:
    """Adds the options, in the order of the help text."""
    added: list[Callable[[Command], Command]] = [
        click.option("--max-drop", metavar="DROP", help="Give up kernels until a metric loses at most so much."),
        click.option("--drop-type", type=click.Choice(["absolute", "relative"]), help="What --max-drop is a share of."),
        click.option(
            "--metric", "metrics", metavar="METRIC", multiple=True, help=f"What may not drop; {METRIC} if not given."
        ),
        click.option("--eval-data", metavar="DATA", help="Samples with labels on which metrics are computed."),
        click.option("--eval-labels", metavar="WHAT", help="As --labels, of --eval-data."),
        click.option("--eval-images", metavar="FOLDER", help="As --images, of --eval-data."),
        click.option("--eval-preprocess", metavar="RECIPE", help="What differs from --preprocess for --eval-data."),
        click.option(
            "--confidence",
            metavar="LEVEL",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            help="Keep the target on other samples too, with this probability.",
        ),
        click.option("--evaluations", type=click.IntRange(min=1), help="Evaluate at most so many models; 8."),
        click.option(
            "--ranking-samples", type=click.IntRange(min=1), help="Calibration samples for ranking layers; 8."
        ),
        click.option("--tune", is_flag=True, help="Try other ranges and biases before giving up kernels."),
        click.option("--journal", metavar="FILE", help="Where finished work is noted; OUT.journal if not given."),
        click.option("--front", "fronts", metavar="FILE", multiple=True, help="Accuracy against speed: .json or .svg."),
        click.option("--workers", type=click.IntRange(min=1), help="Processes that run samples."),
        click.option(
            "--cluster", metavar="ADDRESS", help="A Dask scheduler whose workers run samples: tcp://host:port."
        ),
    ]
    for option in reversed(added):
        command = option(command)
    return command


def check_target(words: Mapping[str, Any]) -> None:
    """Raises click.UsageError for options that say nothing without others, or contradict them."""
    if words["max_drop"] is None:
        for name in NEEDED_FOR_TARGET:
            if words[name]:
                shown = {"metrics": "metric", "fronts": "front"}.get(name, name.replace("_", "-"))
                raise click.UsageError(f"--{shown} needs --max-drop")
        return
    if words["eval_data"] is None:
        raise click.UsageError("--max-drop needs --eval-data: samples on which the metric is computed")
    if words["ranges"] is not None:
        raise click.UsageError("--max-drop measures ranges itself: leave out --ranges")
    if words["preset"] == "auto":
        raise click.UsageError("with --max-drop, --tune tries the settings of --preset auto")
    if words["workers"] and words["cluster"]:
        raise click.UsageError("give --workers or --cluster, not both")
    if any(not f.endswith((".json", ".svg")) for f in words["fronts"]):
        raise click.UsageError("--front writes files that end in .json or .svg")
    try:
        if Fraction(words["max_drop"]) < 0:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise click.BadParameter(f"{words['max_drop']!r} is no number from 0 on", param_hint="--max-drop") from None


def target_of(words: Mapping[str, Any]) -> Target:
    """What the options ask for. Raises Rejected(invalid-metric)."""
    from potc.evaluate.metrics.named import metric_named
    from potc.search.target import EVALUATIONS, RANKING_SAMPLES, Target

    return Target(
        tuple(metric_named(text) for text in words["metrics"] or (METRIC,)),
        words["max_drop"],
        words["drop_type"] == "relative",
        words["evaluations"] or EVALUATIONS,
        words["ranking_samples"] or RANKING_SAMPLES,
        words["tune"],
        confidence=words["confidence"],
    )


def executor_of(words: Mapping[str, Any]) -> Executor:
    """Where samples are run. Raises Rejected(no-cluster)."""
    if words["cluster"]:
        from potc.execute.cluster import Cluster

        return Cluster(words["cluster"])
    if words["workers"]:
        from potc.execute.processes import Processes

        return Processes(words["workers"])
    from potc.execute.tasks import InProcess

    return InProcess()

"""The options of ``potc compile`` that decide how ranges come about, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from potc.cli.presets import PRESETS, types_of

if TYPE_CHECKING:
    from potc.quantize.tuning import Border, RangeSettings

Command = Callable[..., Any]
ESTIMATORS = ["max", "default", "quantile", "percentile", "mse", "entropy", "mean"]
WEIGHT_ESTIMATORS = ["max", "quantile", "mse"]
BORDER = "STATISTIC[,AGGREGATOR][,outlier_prob=P][,clipping_value=V]"
BORDERS = {
    "activation_min": "The lower end of activations, where it differs from the estimator's.",
    "activation_max": "The upper end of activations.",
    "weight_min": "The lower end of weights; without an aggregator.",
    "weight_max": "The upper end of weights.",
}


def range_options(command: Command) -> Command:
    """Adds the options, in the order of the help text."""
    added: list[Callable[[Command], Command]] = [
        click.option("--preset", type=click.Choice(PRESETS), default="mixed", show_default=True),
        click.option("--range-estimator", "estimator", type=click.Choice(ESTIMATORS), default="max", show_default=True),
        click.option(
            "--weight-range-estimator",
            "weight_estimator",
            type=click.Choice(WEIGHT_ESTIMATORS),
            default="max",
            show_default=True,
        ),
        *(
            click.option(f"--{name.replace('_', '-')}", name, metavar=BORDER, help=text)
            for name, text in BORDERS.items()
        ),
        click.option("--samples", type=click.IntRange(min=1), help="Use at most so many samples."),
        click.option("--seed", type=click.IntRange(min=0), help="Draw the samples by this number, not evenly."),
        click.option("--ranges", metavar="FILE", help="Take ranges that were saved instead of calibrating."),
        click.option("--save-ranges", metavar="FILE", help="Write what calibration found, as JSON."),
    ]
    for option in reversed(added):
        command = option(command)
    return command


def range_settings(words: Mapping[str, Any]) -> RangeSettings:
    """The settings that the options' values stand for. Raises click.UsageError."""
    from potc.quantize.tuning import RangeSettings

    borders = {name: _border(name, words[name]) for name in BORDERS}
    try:
        return RangeSettings(types_of(words["preset"]), words["estimator"], words["weight_estimator"], **borders)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _border(name: str, text: str | None) -> Border:
    from potc.quantize.tuning import Border

    try:
        border = Border() if text is None else Border.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=f"--{name.replace('_', '-')}") from error
    if name.startswith("weight") and border.aggregator is not None:
        message = f"a weight is one sample: it has no aggregator like {border.aggregator!r}"
        raise click.BadParameter(message, param_hint=f"--{name.replace('_', '-')}")
    return border

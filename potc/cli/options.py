"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]


def color_option(command: Command) -> Command:
    choice = click.Choice(["auto", "always", "never"])
    return click.option("--color", type=choice, default="auto", help="Colour; NO_COLOR and FORCE_COLOR are honoured.")(
        command
    )


def format_option(command: Command) -> Command:
    choice = click.Choice(["text", "json"])
    text = "json: the answer, diagnostics included, on standard output."
    return click.option("--format", "form", type=choice, default="text", help=text)(command)


def report_format_option(command: Command) -> Command:
    """For commands whose diagnostics code hosts and editors show."""
    choice = click.Choice(["text", "json", "sarif", "github"])
    text = "json: the answer on standard output; sarif: diagnostics as one log; github: as annotations."
    return click.option("--format", "form", type=choice, default="text", help=text)(command)

"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from potc.diagnostics.diagnostic import reject

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


def library_option(command: Command) -> Command:
    """Adds --ort-library, whose files ``known_libraries`` checks."""
    text = "A library of operators for onnxruntime to run."
    return click.option("--ort-library", "libraries", metavar="FILE", multiple=True, help=text)(command)


def known_libraries(files: tuple[str, ...]) -> tuple[str, ...]:
    """Raises Rejected for one that is not there: onnxruntime would blame the model."""
    for file in files:
        if not Path(file).is_file():
            raise reject("missing-file", f"there is no file {file}", exit_code=2)
    return files


def load_libraries(files: tuple[str, ...]) -> None:
    """Every model of this run may use their operators. Raises Rejected for one that is not there."""
    from potc.execute.session import use_libraries  # imports onnxruntime

    use_libraries(known_libraries(files))


def report_format_option(command: Command) -> Command:
    """For commands whose diagnostics code hosts and editors show."""
    choice = click.Choice(["text", "json", "sarif", "github"])
    text = "json: the answer on standard output; sarif: diagnostics as one log; github: as annotations."
    return click.option("--format", "form", type=choice, default="text", help=text)(command)


def device_options(command: Command) -> Command:
    """For commands that load one device: which one, how it is set, and what its file may run."""
    device = "Which device of the rule file; the first one if not given."
    command = click.option(
        "--extern", "externs", metavar="FILE.py", multiple=True, help="Let an `extern pred` run this file."
    )(command)
    command = click.option(
        "--set", "settings", metavar="FEATURE=VALUE", multiple=True, help="Set a feature of the device."
    )(command)
    return click.option("--device", metavar="NAME", help=device)(command)

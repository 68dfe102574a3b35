"""The options that say which samples are meant, and what is done to them; the same in every command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]
DATA = "Samples: .npz, folder of pictures, .csv, COCO .json, FILE.py:NAME, s3://..."


def annotation_options(command: Command) -> Command:
    """Adds --labels, --images and --preprocess."""
    for option in (
        click.option("--preprocess", metavar="RECIPE", help='.toml, .json, or "resize = 256, crop = 224, ...".'),
        click.option("--images", metavar="FOLDER", help="Where the pictures are that a .csv or .json names."),
        click.option("--labels", metavar="WHAT", help="The array, column or file that holds what is known."),
    ):
        command = option(command)
    return command

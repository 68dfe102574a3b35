"""``--limit NAME=VALUE``, which every command has."""

from __future__ import annotations

import click

from potc.limits import limited, stated


def with_limit(command: click.Command) -> click.Command:
    """Gives a command the option; what it states holds until the command ends."""
    if not any(p.name == "limit" for p in command.params):
        text = "Allow more, as sample-bytes=4GiB, or less; `potc explain limits` lists all."
        option = click.Option(
            ["--limit"], metavar="NAME=VALUE", multiple=True, expose_value=False, callback=_limit, help=text
        )
        command.params.append(option)
    return command


def _limit(ctx: click.Context, _: click.Parameter, words: tuple[str, ...]) -> None:
    pairs = [word.partition("=") for word in words]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise click.BadParameter(f"{name + equals + value!r} is not NAME=VALUE")
    try:
        ctx.with_resource(limited(stated((name.strip(), value) for name, _, value in pairs)))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error

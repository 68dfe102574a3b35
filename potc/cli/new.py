"""``potc new``: a file to start from."""

from __future__ import annotations

import os

import click

from potc.cli.options import color_option
from potc.cli.terminal import Session, Terminal


@click.command("new")
@click.argument("kind", type=click.Choice(["device"]))
@click.argument("name")
@click.option(
    "-o", "--output", metavar="FILE", help="Where to write it; NAME.rules in the current folder if not given."
)
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@click.pass_obj
def command(session: Session, kind: str, name: str, output: str | None, color: str, quiet: bool) -> int:
    """Write a commented rule file for a new device NAME; an existing file is never replaced.

    \b
    potc new device npu
    """
    from potc.diagnostics.diagnostic import reject
    from potc.workbench.new_device import start_file

    session.terminal = terminal = Terminal(-1 if quiet else 0, color)
    text = start_file(name)
    path = output if output is not None else f"{name}.rules"
    if os.path.lexists(path):
        message = f"can't write {path}: it exists already"
        raise reject("unwritable-output", message, help="choose another file by -o", exit_code=2)
    from potc.graph.write import write_atomic

    write_atomic(path, text.encode())
    terminal.say(f"wrote {path}: a {kind} to start from; next: potc check {path}, then potc test {path}")
    return 0

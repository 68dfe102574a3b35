"""``potc import``: rule files from other tools' descriptions of devices."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from potc.cli.options import color_option, format_option
from potc.cli.terminal import Session, Terminal


@click.command("import")
@click.argument("kind", type=click.Choice(["pot"]), metavar="pot")
@click.argument("file")
@click.option("--device", metavar="NAME", help="The device's name; FILE's `target_device` if not given.")
@click.option("-o", "--output", metavar="OUT", help="Where to write the rules; standard output if not given.")
@format_option
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@click.pass_obj
def command(
    session: Session, kind: str, file: str, device: str | None, output: str | None, form: str, color: str, quiet: bool
) -> int:
    """Make a rule file from a hardware file (JSON) of POT or NNCF. What can't be carried over is told.

    \b
    potc import pot cpu.json -o cpu.rules
    """
    from potc.language.files import read_source
    from potc.workbench.pot_json import read_hardware
    from potc.workbench.pot_rules import rules_from

    session.terminal = terminal = Terminal(-1 if quiet else 0, color, form == "json")
    if terminal.as_json and output is None:
        raise click.UsageError("--format json and the rules both want standard output; give -o")
    if output is not None and os.path.realpath(output) == os.path.realpath(file):
        raise click.UsageError(f"{output} is an input, and would be overwritten")
    hardware = read_hardware(read_source(file, Path(file)))
    name = device if device is not None else _name(hardware.device, file)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise click.BadParameter(f"{name!r} can't be the name of a device", param_hint="--device")
    text, warnings = rules_from(hardware, name)
    terminal.show(warnings)
    if output is None:
        terminal.answer(text.rstrip("\n"))
        return 0
    from potc.graph.write import write_atomic

    write_atomic(output, text.encode())
    count = f"{len(warnings)} warning{'s' if len(warnings) != 1 else ''}"
    terminal.say(f"wrote {output}: device {name}, {count}; next: potc check {output}")
    return 0


def _name(stated: str, file: str) -> str:
    """The device's name in small letters, else the file's."""
    return re.sub(r"\W+", "_", stated or Path(file).stem, flags=re.ASCII).strip("_").lower() or "imported"

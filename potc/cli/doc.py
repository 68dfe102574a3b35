"""``potc doc``: the page of supported operators, from the rule file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from potc.cli.options import color_option
from potc.cli.terminal import Session, Terminal

if TYPE_CHECKING:
    from potc.workbench.document import Device


@click.command("doc")
@click.argument("rules", nargs=-1, required=True)
@click.option("--device", metavar="NAME", help="Only this device of the rule file; all of them if not given.")
@click.option("--matrix", is_flag=True, help="One table, operators by devices, with limits as footnotes.")
@click.option("-o", "--output", metavar="OUT", help="Write the page to a file instead of standard output.")
@click.option(
    "--format", "form", type=click.Choice(["md", "html"]), help="Markdown or one HTML page [md, or OUT's ending]."
)
@color_option
@click.pass_obj
def command(
    session: Session,
    rules: tuple[str, ...],
    device: str | None,
    matrix: bool,
    output: str | None,
    form: str | None,
    color: str,
) -> int:
    """Write the page of supported operators of the devices of RULES.

    \b
    potc doc npu.rules -o npu.html
    potc doc cpu gpu vpu --matrix
    """
    session.terminal = terminal = Terminal(0, color)
    if device is not None and len(rules) > 1:
        raise click.UsageError("--device chooses from one rule file; several are given")
    if output is not None and os.path.realpath(output) in map(os.path.realpath, rules):
        raise click.UsageError(f"{output} is an input, and would be overwritten")
    html = form == "html" or (form is None and str(output).endswith((".html", ".htm")))
    page = _page(_devices(rules, device), matrix, html, _command(rules, device, matrix))
    if output is None:
        terminal.answer(page.rstrip("\n"))
        return 0
    from potc.graph.write import write_atomic

    write_atomic(output, page.encode())
    return 0


def _devices(rules: tuple[str, ...], device: str | None) -> list[Device]:
    from potc.workbench.document import describe, load_devices
    from potc.workbench.document_meet import describe_meet

    found: list[Device] = []
    for path in rules:
        for program, declared in load_devices(path, device):
            found.append((describe_meet if program.parts else describe)(path, program, declared))
    return found


def _page(devices: list[Device], matrix: bool, html: bool, command: str) -> str:
    from potc.workbench import document_html, document_markdown
    from potc.workbench.matrix import matrix as operators_by_device

    writer = document_html if html else document_markdown
    if matrix:
        return writer.matrix_page(operators_by_device(devices), command)
    return writer.page(devices, command)


def _command(rules: tuple[str, ...], device: str | None, matrix: bool) -> str:
    """What made the page, without folders: the same wherever it is made."""
    from potc.workbench.document import file_name

    words = ["potc doc", *map(file_name, rules)]
    return " ".join((*words, *([f"--device {device}"] if device else ()), *(["--matrix"] if matrix else ())))

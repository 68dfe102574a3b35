"""``potc doc``: the page of supported operators, from the rule file."""

from __future__ import annotations

import os

import click

from potc.cli.options import color_option
from potc.cli.terminal import Session, Terminal


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
    from potc.workbench.document_page import document_page

    session.terminal = terminal = Terminal(0, color)
    if device is not None and len(rules) > 1:
        raise click.UsageError("--device chooses from one rule file; several are given")
    if output is not None and os.path.realpath(output) in map(os.path.realpath, rules):
        raise click.UsageError(f"{output} is an input, and would be overwritten")
    html = form == "html" or (form is None and str(output).endswith((".html", ".htm")))
    page = document_page(rules, device, matrix=matrix, html=html)
    if output is None:
        terminal.answer(page.rstrip("\n"))
        return 0
    from potc.graph.write import write_atomic

    write_atomic(output, page.encode())
    return 0

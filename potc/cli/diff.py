"""``potc diff``: what is different between two models."""

from __future__ import annotations

import click

from potc.cli.options import color_option, format_option
from potc.cli.terminal import Session, Terminal
from potc.diagnostics.diagnostic import Rejected

TROUBLE = 2


@click.command("diff")
@click.argument("a")
@click.argument("b")
@format_option
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say nothing; the exit code tells.")
@click.option("-v", "--verbose", is_flag=True, help="List every difference.")
@click.pass_obj
def command(session: Session, a: str, b: str, form: str, color: str, quiet: bool, verbose: bool) -> int:
    """Compare two models: how their tensors are stored, with which scales, in which kernels.

    Exit code 0 if nothing differs, 1 if something does, 2 if a file can't be read.

    \b
    potc diff yesterday.onnx today.onnx
    potc diff model.onnx model.int8.onnx --format json
    """
    session.terminal = terminal = Terminal(-1 if quiet else int(verbose), color, form == "json")
    from potc.diagnostics.render_text import escaped
    from potc.workbench.diff_models import diff_models
    from potc.workbench.diff_text import diff_lines

    try:
        found = diff_models(a, b)
    except Rejected as rejected:  # 1 means "different"
        raise Rejected(rejected.diagnostics, TROUBLE) from rejected
    if terminal.as_json:
        terminal.answer(found.to_json())
    elif not quiet:
        terminal.answer("\n".join(escaped(line) for line in diff_lines(found, everything=verbose)))
    return int(bool(found.differences))

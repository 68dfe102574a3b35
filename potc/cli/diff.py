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
@click.option("--rules", is_flag=True, help="A and B are rule files: compare what they say about their devices.")
@format_option
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say nothing; the exit code tells.")
@click.option("-v", "--verbose", is_flag=True, help="List every difference.")
@click.pass_obj
def command(session: Session, a: str, b: str, rules: bool, form: str, color: str, quiet: bool, verbose: bool) -> int:
    """Compare two models: how their tensors are stored, with which scales, in which kernels. Or two rule files.

    Exit code 0 if nothing differs, 1 if something does, 2 if a file can't be read.

    \b
    potc diff yesterday.onnx today.onnx
    potc diff model.onnx model.int8.onnx --format json
    potc diff --rules npu.rules npu_next.rules
    """
    session.terminal = terminal = Terminal(-1 if quiet else int(verbose), color, form == "json")
    from potc.diagnostics.render_text import escaped

    try:
        differences, json, lines = (_of_rules if rules else _of_models)(a, b, verbose)
    except Rejected as rejected:  # 1 means "different"
        raise Rejected(rejected.diagnostics, TROUBLE) from rejected
    if terminal.as_json:
        terminal.answer(json)
    elif not quiet:
        terminal.answer("\n".join(map(escaped, lines)))
    return int(differences > 0)


def _of_models(a: str, b: str, verbose: bool) -> tuple[int, str, list[str]]:
    """The number of differences, all of them as JSON, and as lines."""
    from potc.workbench.diff_models import diff_models
    from potc.workbench.diff_text import diff_lines

    found = diff_models(a, b)
    return len(found.differences), found.to_json(), list(diff_lines(found, everything=verbose))


def _of_rules(a: str, b: str, _: bool) -> tuple[int, str, list[str]]:
    from potc.workbench.diff_rules import diff_rules, rule_diff_lines

    found = diff_rules(a, b)
    return len(found.differences), found.to_json(), list(rule_diff_lines(found))

"""``potc verify``: would a device run this quantized model, whoever made it?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from potc.cli.options import color_option, device_options, library_option, load_libraries, report_format_option
from potc.cli.terminal import Session, Terminal
from potc.diagnostics.diagnostic import Rejected


@click.command("verify")
@click.argument("models", nargs=-1, required=True)
@click.option("--rules", metavar="RULES", required=True, help="Rule file, or the name of a shipped one, like cpu.")
@device_options
@library_option
@report_format_option
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@click.pass_obj
def command(session: Session, models: tuple[str, ...], form: str, color: str, quiet: bool, **words: Any) -> int:
    """Check quantized MODELS, of any tool, against the rules of a device.

    Models with QuantizeLinear and DequantizeLinear are read, and those with operators like QLinearConv or QGemm. Exit
    code 1 if one of them is not legal.

    \b
    potc verify model.int8.onnx --rules cpu
    potc verify build/*.onnx --rules npu.rules --format sarif
    """
    session.terminal = terminal = Terminal(-1 if quiet else 0, color, form == "json", form)
    from potc.cli.compile import setting
    from potc.graph.read import read_model
    from potc.language.resolve import load_rules
    from potc.legal.judge import judge

    load_libraries(words["libraries"])
    settings = dict(setting(s) for s in words["settings"])
    program = load_rules(words["rules"], device=words["device"], settings=settings, externs=words["externs"])
    found: list[Any] = []
    exit_code = 0
    for path in models:
        try:
            verdicts = judge(read_model(path), program)
        except Rejected as rejected:
            found.extend(rejected.diagnostics)
            exit_code = max(exit_code, rejected.exit_code)
            continue
        for verdict in verdicts:
            several = f"{path}: " if len(models) > 1 else ""
            part = f"{verdict.device}: " if program.parts else ""
            violations = [replace(v, message=f"{several}{part}{v.message}") for v in verdict.violations]
            found.extend(violations)
            exit_code = max(exit_code, int(bool(violations)))
            if form == "text" and not quiet:
                count = len(violations)
                state = f"{count} violation{'s' if count > 1 else ''}" if count else "legal"
                counted = f"{verdict.kernels} kernels on integers, {verdict.quantizers} stored values"
                terminal.answer(f"{path}: {state} on {verdict.device} ({counted})")
    terminal.show(found)
    return exit_code

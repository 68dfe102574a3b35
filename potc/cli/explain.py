"""``potc explain``: what a diagnostic means, or why nodes, tensors and rules of a model end as they do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import click

from potc.cli.options import color_option, device_options, format_option
from potc.cli.terminal import Session, Terminal


@click.command("explain")
@click.argument("what", metavar="CODE|MODEL|limits")
@click.option("--rules", metavar="RULES", help="Rule file, or the name of a shipped one: explains MODEL.")
@click.option("--target-device", metavar="NAME", help="The same as --rules NAME.rules, for shipped devices.")
@device_options
@click.option("--node", "nodes", metavar="NAME", multiple=True, help="Explain nodes; * stands for any characters.")
@click.option("--tensor", "tensors", metavar="NAME", multiple=True, help="Explain tensors.")
@click.option(
    "--rule", "rules_asked", metavar="NAME", multiple=True, help="Explain a rule, or with --node only its part."
)
@format_option
@color_option
@click.pass_obj
def command(session: Session, what: str, form: str, color: str, **words: Any) -> int:
    """Print what a diagnostic means, or why a model is compiled as it is; no samples are needed.

    \b
    potc explain overlapping-rules
    potc explain limits
    potc explain model.onnx --rules cpu
    potc explain model.onnx --rules cpu --node "/layer3/*" --tensor logits
    potc explain model.onnx --rules cpu --rule cpu.conv
    """
    session.terminal = terminal = Terminal(0, color, form == "json")
    asked = words["externs"] or words["nodes"] or words["tensors"] or words["rules_asked"]
    if words["rules"] is None and words["target_device"] is None:
        if what == "limits" and not asked:
            return _explain_limits(terminal)
        if asked or words["device"] or words["settings"] or what.endswith(".onnx") or os.path.exists(what):
            raise click.UsageError(f"to explain the model {what}, give --rules or --target-device")
        return _explain_code(terminal, what)
    return _explain_model(terminal, what, words)


def _explain_code(terminal: Terminal, code: str) -> int:
    from potc.diagnostics.codes import CODES
    from potc.diagnostics.render_text import escaped
    from potc.shipped import diagnostic_page

    if code not in CODES:
        near = get_close_matches(code, CODES, n=1)
        terminal.complain(
            f"no diagnostic is called `{escaped(code)}`" + (f"; did you mean `{near[0]}`?" if near else "")
        )
        return 2
    page = diagnostic_page(code)
    told = page.rstrip("\n") if page is not None else f"{code}\n\n{CODES[code].meaning}\n{CODES[code].help}"
    if terminal.as_json:
        import json

        found = CODES[code]
        answer = {"kind": "code", "code": code, "meaning": found.meaning, "help": found.help, "page": page}
        told = json.dumps({"potc": "explain", "version": 1, "answers": [answer]}, indent=1, ensure_ascii=False)
    terminal.answer(told)
    return 0


def _explain_limits(terminal: Terminal) -> int:
    """All limits as they are now, in the order of the documentation."""
    from potc.limits import Limits, listed

    if terminal.as_json:
        import json

        rows = [{"name": e.name, "value": e.value, "of": e.what, "diagnostic": e.code or None} for e in listed()]
        answer = {"kind": "limits", "limits": rows}
        terminal.answer(json.dumps({"potc": "explain", "version": 1, "answers": [answer]}, indent=1))
        return 0
    width, digits = (max(map(len, words)) for words in zip(*((e.name, e.shown) for e in listed()), strict=True))
    terminal.answer("how large things may be; --limit NAME=VALUE allows more, or less\n")
    for now, usual in zip(listed(), listed(Limits()), strict=True):
        note = "" if now == usual else f" (usually {usual.shown})"
        terminal.answer(f"{now.name:{width}}  {now.shown:>{digits}}  {now.what}{note}")
    return 0


def _explain_model(terminal: Terminal, model: str, words: Mapping[str, Any]) -> int:
    from potc.cli.compile import chosen_rules, setting
    from potc.diagnostics.render_text import escaped
    from potc.workbench.explain_model import Question, examine, explain, to_json
    from potc.workbench.explain_text import answer_lines

    rules = chosen_rules(words["rules"], words["target_device"])
    settings = dict(setting(s) for s in words["settings"])
    examined = examine(model, rules, words["device"], settings, words["externs"])
    answers = explain(examined, Question(words["nodes"], words["tensors"], words["rules_asked"]))
    if terminal.as_json:
        terminal.answer(to_json(answers))
    else:
        terminal.answer("\n\n".join(_paragraph(map(escaped, answer_lines(a))) for a in answers))
    return 0


def _paragraph(lines: Sequence[str] | Any) -> str:
    return "\n".join(lines)

"""``potc reduce``: a failing model and rule file become small ones that fail alike, for a report of a bug or a closer look."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from potc.cli.compile import chosen_rules, job_of
from potc.cli.compile import command as compile_command
from potc.cli.options import color_option, format_option
from potc.cli.terminal import Session, Terminal

if TYPE_CHECKING:
    from potc.shrink.shrink import Reduced

# Options of ``compile`` that decide what a compile does: with the same ones it fails alike.
COMPILING = (
    "rules", "target_device", "device", "settings", "externs", "libraries", "data", "preprocess", "labels", "images", "samples",
    "seed", "preset", "estimator", "weight_estimator", "activation_min", "activation_max", "weight_min", "weight_max",
    "equalize", "equalize_limits", "rounding", "bias_correction", "names", "operators", "between", "io",
)  # fmt: skip


def _like_compile(command: click.Command) -> click.Command:
    """Adds the same options, in front of the command's own."""
    shared = {p.name: p for p in compile_command.params}
    command.params[1:1] = [shared[name] for name in COMPILING]
    return command


@click.command("reduce")
@click.argument("model")
@click.option(
    "--expect", metavar="WHAT", help="What must stay: a code like no-kernel; bug, verification, crash or hang."
)
@click.option("--below", type=float, metavar="DB", help="What must stay: an output with less SQNR than this.")
@click.option("--run", metavar="COMMAND", help="What must stay: its exit code; {model}, {rules}, {data} are files.")
@click.option("--says", metavar="REGEX", help="With --run: it must also print this, to either stream.")
@click.option("--tries", type=click.IntRange(min=1), default=500, show_default=True, help="Compile at most so often.")
@click.option("--seconds", type=float, default=120.0, show_default=True, help="How long one try may take.")
@click.option("-o", "--output", metavar="OUT", default="reduced.onnx", show_default=True, help="The small model.")
@click.option("--rules-out", metavar="FILE", default="reduced.rules", show_default=True, help="The small rule file.")
@click.option("--data-out", metavar="FILE.npz", default="reduced.npz", show_default=True, help="Samples, if --data.")
@format_option
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@click.pass_obj
def _command(session: Session, quiet: bool, form: str, color: str, **words: Any) -> int:
    """Shrink MODEL and its rules while they go on failing: the same code, the same crash, the same exit code of a command.

    \b
    potc reduce model.onnx --rules npu.rules -o small.onnx --rules-out small.rules
    potc reduce model.onnx --rules npu.rules --data calib.npz --below 10
    potc reduce model.onnx --rules npu.rules --run './board.sh {model} {rules}' --says 'unsupported|overflow'
    """
    session.terminal = terminal = Terminal(-1 if quiet else 0, color, form == "json")
    if sum(words[name] is not None for name in ("expect", "below", "run")) > 1:
        raise click.UsageError("give one of --expect, --below and --run")
    if words["says"] is not None:
        if words["run"] is None:
            raise click.UsageError("--says is for what the command of --run prints")
        try:
            re.compile(words["says"])
        except re.error as error:
            raise click.BadParameter(f"{words['says']!r} is no regular expression: {error}") from error
    if words["preset"] == "auto":
        raise click.UsageError("--preset auto compiles several times: name the preset that fails")
    rules = chosen_rules(words["rules"], words["target_device"])
    _check_outputs(words, rules)
    job = job_of(rules, {**words, "ranges": None})
    from potc.cli.progress import watching
    from potc.graph.write import write_all
    from potc.shrink.shrink import Wanted, shrink

    wanted = Wanted(words["expect"], words["below"], words["run"], words["tries"], words["seconds"], words["says"])
    with watching(terminal) as (stage, progress):
        found = shrink(job, wanted, stage, progress)
    files = {words["rules_out"]: found.rules.encode(), words["output"]: found.model}
    if found.samples is not None:
        held = io.BytesIO()
        np.savez(held, allow_pickle=False, **found.samples)  # pyright: ignore[reportArgumentType]
        files = {words["data_out"]: held.getvalue(), **files}
    write_all(files)
    if terminal.as_json:
        import json

        terminal.answer(json.dumps(found.told()))
    else:
        terminal.say("\n".join(_lines(found, words)))
    return 0


def _check_outputs(words: dict[str, Any], rules: str) -> None:
    """No input is overwritten."""
    outputs = [words["output"], words["rules_out"], words["data_out"]]
    for name in outputs:
        if Path(name).exists() and any(_same(name, i) for i in (words["model"], rules, words["data"]) if i):
            raise click.UsageError(f"{name} is an input, and would be overwritten")
    if len({Path(name).resolve() for name in outputs}) < len(outputs):
        raise click.UsageError("two outputs have the same name")


def _same(a: str, b: str) -> bool:
    return Path(b).exists() and Path(a).samefile(b)


def _lines(found: Reduced, words: dict[str, Any]) -> list[str]:
    before, after = found.before, found.after
    lines = [
        f"{words['model']} -> {words['output']}, {words['rules_out']}"
        + (f", {words['data_out']}" if found.samples is not None else ""),
        f"  symptom    {found.symptom}",
        f"  nodes      {before.nodes} -> {after.nodes}",
        f"  weights    {before.numbers:,} -> {after.numbers:,} numbers",
        f"  rules      {before.lines} -> {after.lines} lines",
        f"  tries      {found.tries}"
        + ("" if found.complete else ", which is the limit: --tries may make them smaller still"),
    ]
    if found.uses:
        lines.append(f"  uses       {', '.join(found.uses)}: keep beside {words['rules_out']}")
    return lines


command = _like_compile(_command)

"""``potc bench``: what an integer model gains over the float model it was made from."""

from __future__ import annotations

from typing import Any

import click

from potc.cli.options import color_option, device_options, format_option, library_option, load_libraries
from potc.cli.terminal import Session, Terminal


@click.command("bench")
@click.argument("float_model", metavar="FLOAT")
@click.argument("integer_model", metavar="INT8")
@click.option("--data", metavar="FILE", help="Samples, as for compile; generated ones if not given.")
@click.option("--runs", type=click.IntRange(6), default=100, help="Counted runs of each model, in turns (100).")
@click.option("--warmup", type=click.IntRange(0), default=5, help="Runs before those, which are not counted (5).")
@click.option("--threads", type=click.IntRange(0), default=1, help="Threads of onnxruntime; 0: its own choice (1).")
@click.option("--rules", metavar="RULES", help="The rules of INT8: tells why nodes stay in float.")
@device_options
@library_option
@format_option
@color_option
@click.option("-v", "--verbose", is_flag=True, help="List all nodes in float.")
@click.pass_obj
def command(
    session: Session, float_model: str, integer_model: str, form: str, color: str, verbose: bool, **words: Any
) -> int:
    """Compare FLOAT and INT8 as onnxruntime runs them here: latency in turns, what runs on integers, sizes.

    \b
    potc bench model.onnx model.int8.onnx
    potc bench model.onnx model.int8.onnx --data calib.npz --runs 500
    potc bench model.onnx model.int8.onnx --rules cpu --format json
    """
    session.terminal = terminal = Terminal(int(verbose), color, form == "json")
    from potc.cli.compile import setting
    from potc.diagnostics.render_text import escaped
    from potc.workbench.bench import How, bench, bench_lines

    if words["rules"] is None and (words["device"] or words["settings"] or words["externs"]):
        raise click.UsageError("--device, --set and --extern say more of --rules")
    load_libraries(words["libraries"])
    left: tuple[Any, ...] = ()
    if words["rules"] is not None:
        from potc.workbench.explain_model import examine

        settings = dict(setting(s) for s in words["settings"])
        left = examine(float_model, words["rules"], words["device"], settings, words["externs"]).left
    how = How(words["runs"], words["warmup"], words["threads"], words["data"])
    found = bench(float_model, integer_model, how, left)
    if terminal.as_json:
        terminal.answer(found.to_json())
    else:
        terminal.answer("\n".join(map(escaped, bench_lines(found, integer_model, verbose))))
    return 0

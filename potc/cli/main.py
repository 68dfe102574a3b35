"""The ``potc`` command: finds the sub-command, imports it then, and turns every way to end into an exit code.

0 done; 1 the rules, model or samples were rejected; 2 usage, missing or unwritable file; 3 compiled, but the accuracy
target was missed; 70 a bug in potc; 130 interrupted.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

import click

from potc import __version__
from potc.cli.arguments import expanded
from potc.cli.collector import uncollected
from potc.cli.configuration import with_isolated
from potc.cli.heap import share_heap
from potc.cli.limit_option import with_limit
from potc.cli.terminal import Session
from potc.diagnostics.diagnostic import Rejected, reject

REJECTED, USAGE, BUG, INTERRUPTED = 1, 2, 70, 130
COLLECTED_EVERY = 20_000  # new containers before cycles are searched for: there are few, and imports alone make 80,000
COMMANDS = {
    "compile": ("potc.cli.compile", "Compile a model to integers by the rules of a device."),
    "evaluate": ("potc.cli.evaluate", "Score a model on annotated samples, or compare two."),
    "check": ("potc.cli.check", "Check rule files; no model is needed."),
    "doc": ("potc.cli.doc", "Write a device's page of supported operators."),
    "new": ("potc.cli.new", "Write a commented rule file for a new device."),
    "bench": ("potc.cli.bench", "Compare the speed of a float model and its integer model."),
    "verify": ("potc.cli.verify", "Check quantized models of any tool against a device."),
    "test": ("potc.cli.test", "Run the tests of rule files."),
    "suite": ("potc.cli.suite", "Write a conformance kit: models, inputs and outputs for a board."),
    "fmt": ("potc.cli.fmt", "Write rule files in their canonical layout."),
    "import": ("potc.cli.import_", "Make a rule file from another tool's description of a device."),
    "explain": ("potc.cli.explain", "Say what a diagnostic means, or why a model is compiled as it is."),
    "reduce": ("potc.cli.reduce", "Shrink a model and a rule file that fail, while they go on failing."),
    "diff": ("potc.cli.diff", "Compare two models: formats, scales, kernels."),
}


class LazyGroup(click.Group):
    """Imports a sub-command when it is asked for, so that ``potc --version`` costs nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        with uncollected():
            command = import_module(COMMANDS[cmd_name][0]).command
        return with_limit(with_isolated(command))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"no command `{name}`" + (f"; did you mean `{near[0]}`?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table above: help must not import every command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def version_line() -> str:
    """What this is and what it stands on, without importing any of it."""
    from importlib import metadata  # slow to import, and seldom asked

    onnx, runtime = metadata.version("onnx"), metadata.version("onnxruntime")
    return f"potc {__version__} (rule language 1, onnx {onnx}, onnxruntime {runtime})"


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        Session().terminal.answer(version_line())
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print versions."
)
def potc() -> None:
    """Compiles ONNX models to integers; what a device can do is written in rule files.

    \b
    potc compile model.onnx --rules cpu --data calib.npz -o model.int8.onnx
    potc check rules/*.rules
    potc explain overlapping-rules
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    session = Session()
    try:
        words = expanded(sys.argv[1:] if argv is None else argv)
        result: Any = potc.main(words, prog_name="potc", standalone_mode=False, obj=session)
    except click.ClickException as error:
        error.show(sys.stderr)
        return USAGE
    except Rejected as rejected:
        _show(session, rejected)
        return rejected.exit_code
    except (click.Abort, KeyboardInterrupt):
        session.terminal.complain("interrupted; nothing was written")
        return INTERRUPTED
    except MemoryError:
        message = "there is not enough memory for this model and these samples"
        _show(session, reject("too-large", message, help="give it more memory, or a smaller model or smaller samples"))
        return REJECTED
    except Exception as error:  # the one place where unforeseen errors end
        _report_bug(session, error)
        return BUG
    return result if isinstance(result, int) else 0


def _show(session: Session, rejected: Rejected) -> None:
    """In the format asked for; as text if standard output takes no JSON."""
    try:
        session.terminal.show(rejected.diagnostics)
    except Rejected as unwritable:
        replace(session.terminal, as_json=False, form="text").show((*rejected.diagnostics, *unwritable.diagnostics))


def _report_bug(session: Session, error: Exception) -> None:
    if session.terminal.verbose:
        traceback.print_exception(error)
    lines = (
        "internal error: this is a bug in potc, not in your model or rules",
        f"  {type(error).__name__}: {error}",
        f"  {version_line()}",
    )
    session.terminal.complain("\n".join(lines))
    if not session.terminal.verbose:
        session.terminal.complain("  run again with -v for the traceback, and report it together with the rule file")


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def run() -> NoReturn:
    """The ``potc`` script: SIGTERM ends a run as Ctrl-C does; closed streams are like /dev/full and /dev/null."""
    signal.signal(signal.SIGTERM, _interrupt)
    gc.set_threshold(COLLECTED_EVERY)
    share_heap()
    sys.stderr = sys.stderr or open(os.devnull, "w")
    sys.stdout = sys.stdout or open(os.devnull)  # opened for reading: what is written fails
    code = main()
    try:
        sys.stdout.flush()
    except OSError:  # told already; Python would tell it again while it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)

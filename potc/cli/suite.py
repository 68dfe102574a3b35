"""``potc suite``: the conformance kit that a silicon team runs on its board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from potc.cli.options import color_option, device_options, format_option
from potc.cli.terminal import Session, Terminal
from potc.diagnostics.diagnostic import reject

if TYPE_CHECKING:
    from potc.workbench.suite import Kit


@click.command("suite")
@click.argument("rules")
@device_options
@click.option("--rule", metavar="NAME", help="Only the cases of one rule, or of `pass`.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Other weights and samples.")
@click.option("-o", "--output", metavar="FOLDER", required=True, help="Where to write the kit.")
@format_option
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@click.option("-v", "--verbose", is_flag=True, help="List what has no case; show the traceback of a bug.")
@click.pass_obj
def command(
    session: Session,
    rules: str,
    device: str | None,
    settings: tuple[str, ...],
    externs: tuple[str, ...],
    rule: str | None,
    seed: int,
    output: str,
    form: str,
    color: str,
    quiet: bool,
    verbose: bool,
) -> int:
    """Write a conformance kit: for every rule and limit a small model, inputs and the outputs of a bit-exact device.

    \b
    potc suite npu.rules -o npu-kit
    potc suite cpu --rule conv -o conv-kit
    """
    session.terminal = terminal = Terminal(-1 if quiet else int(verbose), color, form == "json")
    from potc.cli.compile import setting
    from potc.cli.progress import watching
    from potc.language.resolve import load_rules
    from potc.workbench.suite import make_kit

    program = load_rules(rules, device=device, settings=dict(setting(s) for s in settings), externs=externs)
    check_folder(output)
    with watching(terminal) as (stage, progress):
        stage("drawing cases")
        kit = make_kit(program, seed, rule, progress)
    write_kit(output, kit)
    _tell(kit, output, terminal)
    return 0


def check_folder(output: str) -> None:
    """Raises Rejected(unwritable-output) for a file, and for a folder that holds something other than a kit."""
    folder = Path(output)
    why = ""
    if folder.exists() and not folder.is_dir():
        why = "it is no folder"
    elif folder.is_dir() and any(folder.iterdir()) and not (folder / "manifest.json").is_file():
        why = "the folder holds something that is no kit"
    if why:
        raise reject("unwritable-output", f"can't write {output}: {why}", help="choose a new folder", exit_code=2)


def write_kit(output: str, kit: Kit) -> None:
    """All files or none, the manifest last. Raises Rejected(unwritable-output)."""
    from potc.graph.write import write_all

    paths = {str(Path(output, *name.split("/"))): data for name, data in kit.files.items()}
    try:
        for path in paths:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"can't write {output}: {error.strerror or error}"
        raise reject("unwritable-output", message, help="choose another folder", exit_code=2) from error
    write_all(paths)


def _tell(kit: Kit, output: str, terminal: Terminal) -> None:
    if terminal.as_json:
        terminal.answer(kit.files["manifest.json"].decode().rstrip("\n"))
    beyond = sum(not case.runs for case in kit.cases)
    terminal.say(
        f"wrote {output}: {len(kit.cases)} cases for {len(kit.covered)} statements, {beyond} of them one step beyond a limit"
    )
    if kit.missing:
        terminal.say(
            f"warning: {len(kit.missing)} places have no case; {output}/manifest.json lists them under not_covered"
        )
    if terminal.verbose:
        for missing in kit.missing:
            terminal.say(f"  {missing.rule}: {missing.about}: {missing.reason}")

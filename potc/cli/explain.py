"""``potc explain``: what a diagnostic code means."""

from __future__ import annotations

from difflib import get_close_matches

import click

from potc.cli.terminal import Session


@click.command("explain")
@click.argument("code")
@click.pass_obj
def command(session: Session, code: str) -> int:
    """Print what a diagnostic means and what to do about it, like: potc explain overlapping-rules."""
    from potc.diagnostics.codes import CODES
    from potc.diagnostics.render_text import escaped

    if code not in CODES:
        near = get_close_matches(code, CODES, n=1)
        session.terminal.complain(
            f"no diagnostic is called `{escaped(code)}`" + (f"; did you mean `{near[0]}`?" if near else "")
        )
        return 2
    session.terminal.answer(f"{code}\n\n{CODES[code].meaning}\n{CODES[code].help}")
    return 0

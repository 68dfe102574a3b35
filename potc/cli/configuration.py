"""Options that a project keeps in a file: ``potc.toml``, or ``[tool.potc]`` in ``pyproject.toml``.

One table for each command, keys as the options are called: ``[compile]`` with ``rules = "npu.rules"``. The nearest file
upwards from the current folder is read, that one alone; what is on the command line wins.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from potc.cli.terminal import Session
from potc.diagnostics.diagnostic import Rejected, reject

# What one run writes is for its command line to say.
NOT_CONFIGURED = frozenset({"help", "isolated", "print-inputs", "null", "output", "update"})
READ = (
    "rules",
    "data",
    "ranges",
    "extern",
    "ort-library",
    "corpus",
)  # options that name files: relative to the configuration


def with_isolated(command: click.Command) -> click.Command:
    """Gives a command the option ``--isolated``; without it the configuration is read and becomes its defaults."""
    if not any(p.name == "isolated" for p in command.params):
        text = "Read no potc.toml and no pyproject.toml."
        option = ["--isolated"]
        command.params.append(
            click.Option(option, is_flag=True, is_eager=True, expose_value=False, callback=_configure, help=text)
        )
    return command


def _configure(ctx: click.Context, _: click.Parameter, isolated: bool) -> None:
    if isolated or ctx.resilient_parsing:
        return
    found = find()
    if found is None:
        return
    path, tables = found
    _refuse_unknown(path, tables, ctx)
    table = tables.get(ctx.command.name or "")
    if table is not None:
        ctx.default_map = _defaults(path, table, ctx.command)
    if isinstance(ctx.obj, Session):
        ctx.obj.configuration = str(path)


def find(start: Path | None = None) -> tuple[Path, Mapping[str, Any]] | None:
    """The nearest configuration upwards, its path as seen from the current folder. Raises Rejected for what is no TOML."""
    folder = start or Path.cwd()
    for up in (folder, *folder.parents):
        for name in ("potc.toml", "pyproject.toml"):
            path = up / name
            if not path.is_file():
                continue
            shown = Path(os.path.relpath(path, folder))
            document = _read(shown, path)
            if name == "potc.toml":
                return shown, document
            tool = document.get("tool")
            own = tool.get("potc") if isinstance(tool, dict) else None
            if own is not None:
                if not isinstance(own, dict):
                    raise _wrong(shown, "`tool.potc` is no table")
                return shown, own
    return None


def _read(shown: Path, path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # what tomllib refuses is a ValueError, and so is no text
        raise _wrong(shown, f"can't be read: {error}") from error


def _refuse_unknown(path: Path, tables: Mapping[str, Any], ctx: click.Context) -> None:
    group = ctx.parent.command if ctx.parent is not None else None
    known = group.list_commands(ctx) if isinstance(group, click.Group) else [ctx.command.name or ""]
    for name, table in tables.items():
        if name not in known:
            raise _wrong(path, f"knows no command `{name}`{_suggestion(name, known)}")
        if not isinstance(table, dict):
            raise _wrong(path, f"`{name}` is no table: write [{name}], and options below it")


def _defaults(path: Path, table: Mapping[str, Any], command: click.Command) -> dict[str, Any]:
    options = {o.removeprefix("--"): p for p in command.params for o in p.opts if o.startswith("--")}
    writes = {
        n for n, p in options.items() if n in NOT_CONFIGURED or p.name in ("plan", "report", "save_ranges", "junit")
    }
    writes |= {n for n in options if n.startswith("depfile")}
    allowed = {n: p for n, p in options.items() if n not in writes}
    defaults: dict[str, Any] = {}
    for name, value in table.items():
        if name in writes:
            raise _wrong(path, f"`{command.name}.{name}` belongs on the command line")
        if name not in allowed:
            raise _wrong(path, f"`{command.name}` has no option `{name}`{_suggestion(name, list(allowed))}")
        option = allowed[name]
        assert option.name is not None
        value = _checked(path, f"{command.name}.{name}", option, value)
        defaults[option.name] = _placed(path, value) if name in READ else value
    return defaults


def _checked(path: Path, name: str, option: click.Parameter, value: Any) -> Any:
    """The value as click takes it. Raises Rejected for another TOML type than the option's."""
    if isinstance(option, click.Option) and option.is_flag:
        if not isinstance(value, bool):
            raise _wrong(path, f"`{name}` must be true or false")
        return value
    if option.multiple and option.nargs == 1:
        if not isinstance(value, list) or not all(_plain(v) for v in value):
            raise _wrong(path, f"`{name}` must be a list of texts or numbers")
        return [str(v) for v in value]
    if option.multiple or option.nargs != 1:
        raise _wrong(path, f"`{name}` belongs on the command line")
    if not _plain(value):
        raise _wrong(path, f"`{name}` must be a text or a number")
    return str(value)


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _placed(path: Path, value: Any) -> Any:
    """Files of a configuration lie beside it; a name that is none there is a shipped one, or is reported as it is."""
    if isinstance(value, list):
        return [_placed(path, v) for v in value]
    beside = path.parent / value
    return str(beside) if beside.exists() else value


def _suggestion(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _wrong(path: Path, what: str) -> Rejected:
    return reject("invalid-configuration", f"{path}: {what}", help="correct it, or give --isolated", exit_code=2)

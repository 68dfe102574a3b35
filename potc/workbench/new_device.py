"""The file that a new device starts from: a template beside this module, with the device's name put in."""

from __future__ import annotations

import re
from importlib import resources

from potc.diagnostics.diagnostic import reject
from potc.diagnostics.source import Source
from potc.language import syntax
from potc.language.parse import parse

PLACEHOLDER = "DEVICE"
TEMPLATE = "new_device.rules.txt"


def start_file(name: str) -> str:
    """The text of a commented rule file for a device ``name``. Raises Rejected(usage), exit code 2, for a bad name."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        near = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()
        usable = re.fullmatch(r"[a-z][a-z0-9_]*", near)
        help_ = "begin with a letter; letters, digits and _ may follow" + (f", like `{near}`" if usable else "")
        raise reject("usage", f"`{name}` can't be the name of a device", help=help_, exit_code=2)
    template = resources.files("potc.workbench").joinpath(TEMPLATE).read_text(encoding="utf-8")
    text = template.replace(PLACEHOLDER, name)
    items = parse(Source(f"{name}.rules", text)).items
    if name in {item.target for item in items if isinstance(item, syntax.Use)}:
        message = f"`{name}.rules` would be read in place of the shipped file of that name"
        raise reject("usage", message, help="choose another name", exit_code=2)
    return text

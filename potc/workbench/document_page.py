"""The page of supported operators of some rule files, as ``potc doc`` writes it."""

from __future__ import annotations

from collections.abc import Sequence

from potc.workbench import document_html, document_markdown
from potc.workbench.document import describe, file_name, load_devices
from potc.workbench.document_meet import describe_meet
from potc.workbench.matrix import matrix as operators_by_device


def document_page(rules: Sequence[str], device: str | None, *, matrix: bool, html: bool) -> str:
    """A section for each device, or with ``matrix`` one table of operators by devices. Raises Rejected."""
    devices = [
        (describe_meet if program.parts else describe)(path, program, declared)
        for path in rules
        for program, declared in load_devices(path, device)
    ]
    command = _command(rules, device, matrix)
    writer = document_html if html else document_markdown
    return writer.matrix_page(operators_by_device(devices), command) if matrix else writer.page(devices, command)


def _command(rules: Sequence[str], device: str | None, matrix: bool) -> str:
    """What made the page, without folders: the same wherever it is made."""
    words = ["potc doc", *map(file_name, rules)]
    return " ".join((*words, *([f"--device {device}"] if device else ()), *(["--matrix"] if matrix else ())))

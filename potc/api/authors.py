"""The commands for authors of rule files as functions: check, test, fmt, diff, doc, suite."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, overload

from potc.api.limit import Limiting, within_limits
from potc.api.words import Names, Path_, names, words
from potc.language.check import Checked, check_file
from potc.language.files import read_source
from potc.language.format import format_file
from potc.language.parse import parse
from potc.language.resolve import load_rules
from potc.workbench.diff_models import Diff, diff_models
from potc.workbench.diff_rules import RulesDiff, diff_rules
from potc.workbench.document_page import document_page
from potc.workbench.proofs import find_common
from potc.workbench.run_tests import run_tests
from potc.workbench.suite import Kit, make_kit
from potc.workbench.test_report import FileReport, report_on


@within_limits
def check(file: Path_, *, strict: bool = False, limit: Limiting | None = None) -> Checked:
    """``potc check``, of one file: its devices, and warnings. Raises Rejected with all errors."""
    return check_file(os.fspath(file), find_common, strict)


@within_limits
def test(
    file: Path_,
    *,
    pattern: str = "",
    coverage: bool = False,
    fuzz: int = 0,
    seed: int = 0,
    extern: Names = (),
    limit: Limiting | None = None,
) -> FileReport:
    """``potc test``, of one file: its tests whose title holds ``pattern``, both sides of its rewrites, ``fuzz`` drawn graphs;
    ``FileReport.passed`` says whether all is well. Raises Rejected where the file can't be read."""
    run = run_tests(os.fspath(file), lambda title: pattern.lower() in title.lower(), names(extern))
    return report_on(run, not pattern, coverage, fuzz, seed)


@within_limits
def fmt(file: Path_, *, limit: Limiting | None = None) -> str:
    """``potc fmt``: the canonical layout of a rule file, which is read and not written. Raises Rejected."""
    return format_file(parse(read_source(os.fspath(file), Path(file))))


@overload
def diff(a: Path_, b: Path_, *, rules: Literal[False] = False, limit: Limiting | None = None) -> Diff: ...
@overload
def diff(a: Path_, b: Path_, *, rules: Literal[True], limit: Limiting | None = None) -> RulesDiff: ...
@within_limits
def diff(a: Path_, b: Path_, *, rules: bool = False, limit: Limiting | None = None) -> Diff | RulesDiff:
    """``potc diff``: what is different between two models, or between what two rule files say about their devices;
    ``differences`` is empty if nothing is. Raises Rejected for a file that can't be read."""
    return (diff_rules if rules else diff_models)(os.fspath(a), os.fspath(b))


@within_limits
def doc(
    *rules: Path_,
    device: str | None = None,
    matrix: bool = False,
    format: Literal["md", "html"] = "md",
    limit: Limiting | None = None,
) -> str:
    """``potc doc``: the page of supported operators of all devices of the files, or of one of them. Raises Rejected."""
    return document_page([os.fspath(path) for path in rules], device, matrix=matrix, html=format == "html")


@within_limits
def suite(
    rules: Path_,
    *,
    device: str | None = None,
    set: Mapping[str, Any] | None = None,
    extern: Names = (),
    rule: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    limit: Limiting | None = None,
) -> Kit:
    """``potc suite``: a conformance kit; ``Kit.files`` are paths below its folder and their bytes. Raises Rejected."""
    program = load_rules(os.fspath(rules), device=device, settings=words(set), externs=names(extern))
    return make_kit(program, seed, rule, progress)

"""Documentation that can be wrong is checked: commands, links, options, diagnostics, and words that don't belong."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import onnx.defs
import pytest

from potc.cli.main import COMMANDS, main, potc
from potc.diagnostics.codes import CODES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("samples/**/*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")

# Operators that Python may name, because the ONNX format, not a device, gives them their meaning.
ALLOWED = {
    "QuantizeLinear": "the output format: what lowering writes",
    "DequantizeLinear": "the output format: what lowering writes",
    "Identity": "what a cast from a type to itself is called, so that a rewrite of the rules removes it",
    "Cast": "written by calibration to see values of other float types as float32",
    "ReduceMin": "written by calibration to see a range",
    "ReduceMax": "written by calibration to see a range",
    "ReduceSum": "written by calibration to see what is not a number",
    "GlobalMaxPool": "written by calibration to see a range, channel by channel",
    "GlobalAveragePool": "written by calibration to see what is not a number, channel by channel",
    "ReduceSumSquare": "written by equalization to see the power of each channel",
    "ReduceMean": "written by calibration to see the mean of each channel",
    "Constant": "a constant as a node: read, where a graph is judged by what it stores",
    "MatMul": "written by calibration to see what each tap of a kernel meets",
    "Conv": "the same of pictures, in the layout that they have",
    "Transpose": "the same, axis by axis",
    "Add": "written by accounting: a number that is added to a tensor, to see what it does to the outputs",
    "Shape": "constant folding: the answer is known without the values",
    "Reshape": "constant folding: the shape that it is told, where the shape of its result is known",
    "Gather": "constant folding: the question for one dimension of a Shape",
    "Size": "constant folding: the answer is known without the values",
    "If": "how ONNX runs nested graphs",
    "Loop": "how ONNX runs nested graphs",
    "Scan": "how ONNX runs nested graphs",
}


def commands(page: Path) -> Iterator[list[str]]:
    """The shell lines of blocks without a language, and of those that say so."""
    for language, body in BLOCK.findall(page.read_text()):
        if language in ("", "sh", "console"):
            for line in body.replace("\\\n", " ").splitlines():
                for part in line.removeprefix("$ ").split(" && "):
                    if part.startswith(("potc ", "python ", "pip ", "pytest")):
                        yield shlex.split(part)


def command_of(name: str) -> click.Command:
    command = potc.get_command(click.Context(potc), name)
    assert command is not None
    return command


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(BLOCK.sub("", page.read_text())):
        if "://" not in target:
            assert (page.parent / target).exists(), target
            assert not anchor or anchor[1:] in anchors(page.parent / target), f"{target}{anchor}"


def anchors(page: Path) -> set[str]:
    """What headings are called in links, as code hosts make it of their text."""
    headings = re.findall(r"(?m)^#+ (.*)$", BLOCK.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    known = {name: command_of(name) for name in COMMANDS}
    for words in commands(page):
        if words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), words
        if words[0] == "potc" and words[1] in known:
            options = {o for p in known[words[1]].params for o in p.opts}
            assert {w for w in words[2:] if w.startswith("-") and w != "-"} <= options, words


def test_readme_installs_what_it_uses() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [" ".join(words) for words in commands(ROOT / "README.md")]
    assert any(line.startswith("potc compile samples/digits/model.onnx") for line in lines)
    assert "pytest" in {line.split()[0] for line in lines}
    for line in lines:
        for extra in re.findall(r"\.\[(\w+)\]", line):
            assert extra in extras


RULE_BLOCKS = [
    (page.relative_to(ROOT / "docs"), i, body)
    for page in sorted((ROOT / "docs").rglob("*.md"))
    for i, (language, body) in enumerate(BLOCK.findall(page.read_text()))
    if language == "rules" and page.parent.name != "diagnostics"  # tests/cli/test_code_pages.py: faulty on purpose
]
FILE_NAME = re.compile(r"# (\w+\.py)\n")


@pytest.mark.parametrize(("page", "index", "body"), RULE_BLOCKS, ids=[f"{page}-{i}" for page, i, _ in RULE_BLOCKS])
def test_every_block_of_rules_is_accepted_and_its_tests_pass(
    page: Path, index: int, body: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Python blocks of the page whose first line names a file are given as ``--extern``."""
    path = tmp_path / "device.rules"
    path.write_text(body)
    assert main(["check", "--deny-warnings", str(path)]) == 0, capfd.readouterr().err
    externs: list[str] = []
    for language, code in BLOCK.findall((ROOT / "docs" / page).read_text()):
        if language == "python" and (name := FILE_NAME.match(code)):
            (tmp_path / name[1]).write_text(code)
            externs += ["--extern", str(tmp_path / name[1])]
    if re.search("^(test|rewrite) ", body, re.M):
        assert main(["test", str(path), *externs]) == 0, capfd.readouterr().err


def test_every_option_is_documented() -> None:
    text = (ROOT / "docs" / "reference" / "cli.md").read_text()
    for name in COMMANDS:
        for parameter in command_of(name).params:
            for option in parameter.opts:
                assert not option.startswith("--") or option in text, option


@pytest.mark.parametrize("code", CODES)
def test_every_diagnostic_is_explained(code: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code)
    assert len(CODES[code].meaning.split()) >= 3
    assert len(CODES[code].help.split()) >= 2


def test_every_raised_code_is_known() -> None:
    used = re.compile(r"(?:reject|Diagnostic)\(\s*\"([a-z-]+)\"")
    for path in sorted((ROOT / "potc").rglob("*.py")):
        for code in used.findall(path.read_text()):
            assert code in CODES, f"{path.name}: {code}"


def test_python_names_no_operators_and_no_devices() -> None:
    operators = {s.name for s in onnx.defs.get_all_schemas() if s.domain in ("", "ai.onnx")} - ALLOWED.keys()
    found: set[str] = set()
    # "any" is also a word of the language.
    devices = {p.stem for p in (ROOT / "rules").glob("*.rules")} - {"std", "prepare", "any"}
    for path in sorted((ROOT / "potc").rglob("*.py")):
        tree = ast.parse(path.read_text())
        docs = {id(n.body[0].value) for n in ast.walk(tree) if _has_docstring(n)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                found.add(node.value)
                assert node.value not in operators, f"{path.name}:{node.lineno}: the operator {node.value}"
                assert node.value.lower() not in devices, f"{path.name}:{node.lineno}: the device {node.value}"
    assert found >= ALLOWED.keys()


def _has_docstring(node: ast.AST) -> bool:
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return (
        isinstance(node, holders)
        and bool(node.body)
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
    )

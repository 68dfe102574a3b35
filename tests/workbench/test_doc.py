"""Pages of supported operators: those of the shipped devices are up to date, and what they say is what the rules say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

from potc.cli.main import main
from potc.language import syntax
from potc.language.files import read_library
from potc.language.lattice import interchanged, meet, ranked
from potc.language.program import Choice, Program, QType
from potc.shipped import shipped_rules
from potc.workbench.document import Device, Kernel, describe, load_devices
from potc.workbench.document_markdown import escaped
from potc.workbench.document_meet import describe_meet
from potc.workbench.sentences import condition

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "devices"
NAMES = [
    name
    for name in shipped_rules()
    if any(
        isinstance(i, syntax.Device | syntax.DeviceAlgebra) and not getattr(i, "abstract", False)
        for i in read_library(name).main.items
    )
]
MATRIX = ["potc", "doc", *NAMES, "--matrix"]


def page_of(command: list[str], capfdbinary: pytest.CaptureFixture[bytes]) -> str:
    assert main(command[1:]) == 0
    return capfdbinary.readouterr().out.decode()


def up_to_date(path: Path, text: str, command: list[str]) -> None:
    if os.environ.get("POTC_BLESS"):
        path.write_text(text)
    made_by = f"{' '.join(command)} -o {path.relative_to(ROOT)}"
    assert path.exists(), f"there is no page {path.name}; make it by\n  {made_by}"
    assert path.read_text() == text, f"{path.name} is not what the rules say; make it again by\n  {made_by}"


@pytest.mark.parametrize("name", NAMES)
def test_page_is_up_to_date(name: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    command = ["potc", "doc", name]
    up_to_date(PAGES / f"{name}.md", page_of(command, capfdbinary), command)


def test_matrix_is_up_to_date(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    up_to_date(PAGES / "matrix.md", page_of(MATRIX, capfdbinary), MATRIX)


def test_every_device_has_a_page_that_the_index_names() -> None:
    assert {p.stem for p in PAGES.glob("*.md")} == {*NAMES, "matrix", "index"}
    linked = set(re.findall(r"\]\((\w+)\.md\)", (PAGES / "index.md").read_text()))
    assert linked >= {*NAMES, "matrix"}


# ---------------------------------------------------------------------------------------------- laws


@cache
def devices(name: str) -> tuple[tuple[Program, Device], ...]:
    return tuple((p, (describe_meet if p.parts else describe)(name, p, d)) for p, d in load_devices(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_and_operator_is_on_the_page(name: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    text = page_of(["potc", "doc", name], capfdbinary)
    for program, device in devices(name):
        for rule in program.rules:
            assert f"`{rule.qualified}`" in text
            for require in rule.requires:
                assert require.reason is None or escaped(require.reason) in text
        for statement in (*program.passes, *program.same_scale):
            assert all(re.search(rf"\b{op}\b", text) for op in statement.ops)
        assert device.name == program.device


def test_a_meet_offers_only_what_every_part_allows() -> None:
    meets = [(program, device) for name in NAMES for program, device in devices(name) if program.parts]
    assert any(device.kernels for _, device in meets)
    for program, device in meets:
        for kernel in device.kernels:
            for part in program.parts:
                allowed = allowed_by(part, kernel)
                for tensor in kernel.tensors:
                    for qtype in tensor.types:
                        assert not allowed or any(meet(qtype, other) == qtype for other in allowed), (
                            kernel,
                            part.device,
                        )


def allowed_by(part: Program, kernel: Kernel) -> set[QType]:
    """All formats of all rules of a part for the kernel's operator; empty where values pass through."""
    rules = (r for r in part.rules if not r.is_float and kernel.operators[0] in r.pattern.nodes[0].ops)
    lists = (types for r in rules for q in r.quants for types in branches(q.choice))
    return {t for types in lists for t, _ in interchanged(ranked(types), part.interchange)}


def branches(choice: Choice) -> Iterator[tuple[QType, ...]]:
    yield choice.alternatives.types
    if choice.otherwise is not None:
        yield from branches(choice.otherwise)


def test_the_order_of_a_file_means_nothing(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    head = "potc 1\nuse std\ndevice npu {\n  opset ai.onnx 13 .. 21\n  qtype a = u8 asym per_tensor\n"
    rules = [
        "  rule relu { match Relu(x) as y   quant x, y: a }\n",
        "  rule add { match Add(a: value, b: value) as y   quant a, b, y: a   unify a, b }\n",
        "  float gelu { match Erf(x) }\n",
        "  pass Reshape, MaxPool\n  pass Transpose\n",
    ]
    pages: set[str] = set()
    for order in (rules, rules[::-1], rules[2:] + rules[:2]):
        (tmp_path / "npu.rules").write_text(head + "".join(order) + "}\n")
        pages.add(page_of(["potc", "doc", str(tmp_path / "npu.rules")], capfdbinary))
    assert len(pages) == 1


@pytest.mark.parametrize("form", ["md", "html"])
def test_hashes_of_strings_mean_nothing(form: str) -> None:
    """Sets are printed in an order of their own."""
    command = [sys.executable, "-m", "potc", "doc", "any", "gpu", "--format", form]
    pages = {
        subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(pages) == 1


# ---------------------------------------------------------------------------------------------- HTML

EMPTY = {"meta", "path", "rect"}


class Strict(HTMLParser):
    """Every element is closed by its own end, and nothing is fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.targets: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        given = dict(attrs)
        assert not {"src", "style", "onclick"} & given.keys()
        if "href" in given:
            assert str(given["href"]).startswith("#")
            self.targets.add(str(given["href"])[1:])
        self.ids |= {str(given["id"])} if "id" in given else set()
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in EMPTY

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("command", [*([n] for n in NAMES), [*NAMES], [*NAMES, "--matrix"]], ids=" ".join)
def test_html_is_whole_and_self_contained(command: list[str], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    text = page_of(["potc", "doc", *command, "--format", "html"], capfdbinary)
    page = Strict()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.targets <= page.ids
    assert "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_markup_in_rules_is_text(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (tmp_path / "npu.rules").write_text(
        "potc 1\nuse std\n## <script>alert(1)</script> | a * b [x](y)\ndevice npu {\n  opset ai.onnx 13 .. 21\n"
        '  rule r { match Relu(x) as y   require x.rank == 4 else "a | b & <b>"   quant x, y: u8 asym per_tensor }\n}\n'
    )
    html = page_of(["potc", "doc", str(tmp_path / "npu.rules"), "--format", "html"], capfdbinary)
    assert "&lt;script&gt;" in html and "a | b &amp; &lt;b&gt;" in html
    Strict().feed(html)
    markdown = page_of(["potc", "doc", str(tmp_path / "npu.rules")], capfdbinary)
    assert "\\<script>" in markdown and "a \\| b & \\<b>" in markdown


def test_tables_have_as_many_cells_as_columns(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    text = page_of(["potc", "doc", *NAMES], capfdbinary) + page_of(MATRIX, capfdbinary)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


# ---------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("rule_text", "words"),
    [
        ("x.rank == 4", "the rank of `x` is 4"),
        ("x.rank in 3 .. 5", "the rank of `x` is 3 to 5"),
        ("x.shape[1] % 4 == 0", "the size of axis 1 of `x` is a multiple of 4"),
        ("x.shape[-1] <= 64", "the size of axis -1 of `x` is at most 64"),
        ("x.dtype in {f16, f32}", "the type of `x` is float16 or float32"),
        ("stored(x) and users(x) == 1", "`x` is stored as integers and the number of readers of `x` is 1"),
        ("not absent(x)", "`x` is given"),
        ("absent(x) or (x.rank == 1 and x.size < 5)",
         "`x` is absent or (the rank of `x` is 1 and the number of elements of `x` is below 5)"),
        ("all(x == 0)", "`all(x == 0)`"),
        ("not (x.rank == 4 or x.rank == 5)", "`not (x.rank == 4 or x.rank == 5)`"),
    ],
)  # fmt: skip
def test_conditions_in_words(rule_text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "npu.rules").write_text(
        "potc 1\nuse std\ndevice npu {\n  opset ai.onnx 13 .. 21\n"
        f"  rule r {{ match Relu(x) as y   require {rule_text}   quant x, y: u8 asym per_tensor }}\n}}\n"
    )
    ((program, _),) = load_devices(str(tmp_path / "npu.rules"))
    assert condition(program.rules[0].requires[0].condition) == words

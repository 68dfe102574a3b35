"""Every limit: what exceeds it is told with the words that allow it, and those words do."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import potc
from potc.cli.main import COMMANDS, main
from potc.execute.apart import apart
from potc.execute.processes import Processes
from potc.limits import FILE, LARGEST, Limits, limited, limits, listed, raising, stated
from potc.search.journal import Journal

ROOT = Path(__file__).parents[1]
DEVICE = "potc 1\nuse cpu\n\ndevice mine extends cpu {}\n"


def model(growing: bool = False) -> bytes:
    """Float [1, 3, 4, 5] -> Relu; or with a constant of 60 numbers made of 1 by a node, which is added."""
    shape = [1, 3, 4, 5]
    value = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], shape)
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu")]
    if growing:
        nodes = [helper.make_node("Expand", ["one", "sizes"], ["e"], name="grow")]
        nodes += [helper.make_node("Add", ["x", "e"], ["y"], name="add")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [value, sizes] if growing else [],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


COMPILE = ["compile", "m.onnx", "--rules", "cpu", "-q", "-o", "out.onnx"]
RECIPE = "scale = 255, layout = 'chw'"
PICTURES = [*COMPILE, "--preprocess", RECIPE, "--data", "p"]
MANY = [*COMPILE, "--data", "many.py:many"]


def nothing() -> None:
    """The files that are there suffice."""


def chained() -> None:
    for i in range(6):
        Path(f"f{i}.rules").write_text(DEVICE if i == 5 else f'potc 1\nuse "f{i + 1}.rules"\n')
        Path(f"r{i}").write_text("--help" if i == 5 else f"@r{i + 1}")


def pictures() -> None:
    from PIL import Image

    Path("p").mkdir()
    for i in range(4):
        Image.fromarray(np.full((4, 5, 3), 40 * i, np.uint8)).save(f"p/{i}.png")


def nested() -> None:
    Path("d.rules").write_text("potc 1\n\npred p(x) = " + "(" * 30 + "x == 1" + ")" * 30 + "\n")


def endless() -> None:
    """Relu of Relu is Relu: the later half of what is left goes in a round."""
    rewrite = "rewrite shorter {\n  match Relu(x) -> Relu(prev) as y\n  emit y = Relu(x)\n}"
    Path("d.rules").write_text(f"potc 1\nuse cpu\n\n{rewrite}\n\ndevice mine extends cpu {{}}\n")
    nodes = [helper.make_node("Relu", [f"x{i}" if i else "x"], [f"x{i + 1}"], name=f"n{i}") for i in range(12)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "x12")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:])), "m.onnx")


def generator() -> None:
    Path("many.py").write_text(
        "import numpy as np\ndef many():\n    return ((np.full((3, 4, 5), i, np.float32), 0) for i in range(9))\n"
    )


@dataclass(frozen=True)
class Case:
    """``small``: what is too little for the command; with what its message says it runs, with exit code ``code``."""

    limit: str
    small: int
    words: list[str]
    prepare: Callable[[], None] = nothing
    code: int = 0


CASES = [
    Case("model-bytes", 50, COMPILE),
    Case("sample-bytes", 100, [*COMPILE, "--data", "x.npz"]),
    Case("arrays", 1, ["evaluate", "m.onnx", "--metric", "top1", "--labels", "label", "--data", "s.npz"]),
    Case("picture-pixels", 10, PICTURES, pictures),
    Case("samples", 3, PICTURES, pictures),
    Case("samples", 8, MANY, generator),
    Case("held-bytes", 2000, MANY, generator),
    Case("table-bytes", 30, [*COMPILE, "--ranges", "r.json"]),
    Case("rule-characters", 20, ["check", "d.rules"]),
    Case("rule-characters", 3, ["check", "d.rules"]),
    Case("rule-nesting", 20, ["check", "d.rules"], nested),
    Case("rule-nesting", 20, ["fmt", "--check", "d.rules"], nested, 1),
    Case("rule-files-deep", 4, ["check", "f0.rules"], chained),
    Case("rewrite-rounds", 2, ["compile", "m.onnx", "--rules", "d.rules", "-q", "-o", "out.onnx"], endless),
    Case("response-file-bytes", 3, ["check", "@r5"], chained),
    Case("response-files-deep", 4, ["check", "@r0"], chained),
]
ELSEWHERE = {
    "download-bytes": "test_downloads",
    "journal-line-bytes": "test_lines_of_a_journal",
    "folded-growth-bytes": "test_what_is_folded",
    "folded-total-bytes": "test_what_is_folded",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(model())
    values = np.random.default_rng(0).standard_normal((4, 1, 3, 4, 5)).astype(np.float32)
    np.savez("s.npz", x=values, label=np.arange(4))
    np.savez("x.npz", x=values)
    Path("d.rules").write_text(DEVICE)


def test_every_limit_has_a_case() -> None:
    assert {case.limit for case in CASES} | set(ELSEWHERE) == {limit.name for limit in listed()}
    assert all(name in globals() for name in ELSEWHERE.values())


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.limit}-{c.words[0]}-{c.small}")
def test_what_exceeds_a_limit_says_how_it_is_allowed(case: Case, capfd: pytest.CaptureFixture[str]) -> None:
    case.prepare()
    if "r.json" in case.words:
        assert main([*COMPILE, "--data", "x.npz", "--save-ranges", "r.json"]) == 0
    of = next(limit for limit in listed() if limit.name == case.limit)
    allowed = case.small
    for _ in range(12):  # where nobody knows how much is enough, twice as much is proposed
        capfd.readouterr()
        code = main([*case.words, "--limit", f"{case.limit}={allowed}"])
        told = capfd.readouterr().err
        if allowed == case.small:
            assert code in (1, 2) and code == (2 if of.name.startswith("response") else 1), told
            assert f"error[{of.code}]" in told
        if code == case.code and "error[" not in told:
            break
        found = re.search(rf"--limit {case.limit}=(\w+)", told)
        assert found is not None, told
        assert stated({case.limit: found[1]}) != stated({case.limit: allowed}), "more of it"
        allowed = getattr(stated({case.limit: found[1]}), case.limit.replace("-", "_"))
    else:
        pytest.fail(told)
    assert main(case.words) == case.code  # the usual limits allow it


def test_downloads(capfd: pytest.CaptureFixture[str]) -> None:
    import fsspec

    with fsspec.open("memory://limits.npz", "wb") as file:
        file.write(Path("x.npz").read_bytes())
    words = [*COMPILE, "--data", "memory://limits.npz", "--limit"]
    assert main([*words, "download-bytes=1000"]) == 1
    assert "--limit download-bytes=2000" in capfd.readouterr().err
    assert main([*words, "download-bytes=2KB"]) == 0
    assert main([*words, "download-bytes=1000"]) == 1, "what was fetched once is fetched within the limit"


def test_lines_of_a_journal() -> None:
    journal = Journal("j", "inputs")
    journal.put("a", 1)
    journal.put("b", "x" * 2000)
    journal.close()
    for least, resumed in ((10_000, 2), (1000, 1)):
        with limited(stated({"journal-line-bytes": least})):
            again = Journal("j", "inputs")
        assert again.resumed == resumed
        again.close()


@pytest.mark.parametrize("limit", ["folded-growth-bytes", "folded-total-bytes"])
def test_what_is_folded(limit: str) -> None:
    Path("m.onnx").write_bytes(model(growing=True))
    kept: dict[int, set[str]] = {}
    for allowed in (100, 300):  # the constant has 240 bytes, and is made from 36
        done = potc.compile("m.onnx", rules="cpu", data="x.npz", limit={limit: allowed})
        kept[allowed] = {n.op_type for n in onnx.ModelProto.FromString(done.model).graph.node}
    assert "Expand" in kept[100] and "Expand" not in kept[300]


def test_results_do_not_depend_on_limits_that_are_not_met() -> None:
    usual = potc.compile("m.onnx", rules="cpu", data="x.npz").model
    tight = {limit.name: limit.value - 1 for limit in listed()}
    ample = {limit.name: limit.most for limit in listed()}
    for chosen in (tight, ample):
        assert potc.compile("m.onnx", rules="cpu", data="x.npz", limit=chosen).model == usual


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("sample-byte=1", "did you mean `sample-bytes`?"),
        ("nonsense=1", "`potc explain limits` lists them"),
        ("sample-bytes=4GB/s", "wanted a size, as 4GiB or 1e9"),
        ("arrays=4KiB", "wanted a number, as 500 or 1e6"),
        ("arrays=-3", "wanted a number"),
        ("arrays=0", "nothing would be allowed"),
        ("arrays=0.5", "nothing would be allowed"),
        ("arrays=1e30", "can't be above 9,223,372,036,854,775,807"),
        ("model-bytes=4GiB", "can't be above 2,147,483,647 bytes: one protobuf message holds no more"),
        ("arrays", "is not NAME=VALUE"),
        ("=3", "is not NAME=VALUE"),
    ],
)
def test_words_that_are_no_limit(words: str, told: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "d.rules", "--limit", words]) == 2
    assert told in capfd.readouterr().err


@pytest.mark.parametrize(
    ("value", "number"),
    [("4GiB", 4 << 30), ("1e6", 10**6), ("1.5kb", 1500), ("1_000", 1000), (" 2 MiB ", 2 << 20), (7, 7), ("3.9", 3)],
)
def test_values(value: Any, number: int) -> None:
    assert stated({"sample-bytes": value}).sample_bytes == number


def test_every_command_has_the_option(capfd: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert "--limit NAME=VALUE" in capfd.readouterr().out


def test_limits_hold_for_one_command_or_call() -> None:
    before = limits(), sys.getrecursionlimit()
    assert main(["check", "d.rules", "--limit", "rule-characters=10"]) == 1
    assert main(["check", "d.rules", "--limit", "rule-nesting=900"]) == 0
    with pytest.raises(potc.Rejected):
        potc.check("d.rules", limit={"rule-characters": 10})
    with pytest.raises(ValueError, match="rule-characters"):
        potc.check("d.rules", limit={"rule-character": 10})
    assert (limits(), sys.getrecursionlimit()) == before


def test_what_was_parsed_is_parsed_again_within_other_limits() -> None:
    nested()
    potc.check("d.rules")
    with pytest.raises(potc.Rejected):
        potc.check("d.rules", limit={"rule-nesting": 20})


def test_configuration_and_response_files(capfd: pytest.CaptureFixture[str]) -> None:
    Path("potc.toml").write_text('[check]\nlimit = ["rule-characters=10"]\n')
    assert main(["check", "d.rules"]) == 1
    assert main(["check", "d.rules", "--limit", "arrays=5"]) == 0, "the command line wins"
    Path("words").write_text("--limit rule-characters=11")
    capfd.readouterr()
    assert main(["check", "d.rules", "@words"]) == 1
    assert "at most 11 characters" in capfd.readouterr().err
    Path("potc.toml").write_text('[check]\nlimit = ["rule-character=10"]\n')
    assert main(["check", "d.rules"]) == 2
    assert "did you mean `rule-characters`?" in capfd.readouterr().err


@dataclass(frozen=True)
class Ask:
    """A task that tells the limits where it runs."""

    label: str = "asking"

    def run(self) -> Limits:
        return limits()

    def halves(self) -> tuple[()]:
        return ()


def test_workers_have_the_limits_of_who_asks() -> None:
    workers = Processes(1)
    try:
        with limited(stated({"arrays": 5})) as ours:
            assert list(workers.map([Ask()])) == [(0, ours)]
            assert apart(limits, (), 60) == ours
        assert list(workers.map([Ask()])) == [(0, Limits())]
    finally:
        workers.close()


def test_what_can_not_be_raised_is_not_proposed() -> None:
    assert raising("model-bytes", FILE + 1) == raising("model-bytes") == ""
    with limited(stated({"model-bytes": 1000})):
        assert raising("model-bytes", 1500) == "if it is sound, allow more: --limit model-bytes=1500"
        assert raising("model-bytes", 4 << 30) == ""
    with limited(stated({"arrays": LARGEST})):
        assert raising("arrays") == ""


def test_the_limits_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "limits", "--limit", "arrays=5"]) == 0
    told = capfd.readouterr().out
    assert "  arrays in one `.npz` file (usually 1,000)" in told
    assert all(limit.name in told for limit in listed())
    assert main(["explain", "limits", "--format", "json"]) == 0
    answer = json.loads(capfd.readouterr().out)["answers"][0]
    assert {row["name"]: row["value"] for row in answer["limits"]} == {e.name: e.value for e in listed()}


def test_the_page_on_security_lists_them() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    rows = [
        f"| `{e.name}` | {e.what} | {e.shown} | {f'`{e.code}`' if e.code else f'none: {e.then}'} |" for e in listed()
    ]
    listed_there = [line for line in page.splitlines() if re.match(r"\| `[a-z-]+` \|", line)]
    assert listed_there == rows, "the page should have:\n" + "\n".join(rows)

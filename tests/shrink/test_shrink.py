"""`potc reduce`: what is left still shows the symptom, and is small; each step, and the whole."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import potc
from potc.compiler import Job
from potc.diagnostics.diagnostic import Rejected
from potc.execute.apart import Died, TooLong, apart, run_command
from potc.language.parse import parse
from potc.shipped import shipped_rules
from potc.shrink import rules as trees
from potc.shrink.cut import bare, cut, fewer_outputs, simpler, types_of
from potc.shrink.least import least
from potc.shrink.shrink import Wanted, shrink
from potc.shrink.sizes import resized
from potc.shrink.symptom import Observed, Symptom
from potc.shrink.tries import Candidate, Tries

ROOT = Path(__file__).parents[2]


# ------------------------------------------------------------------------------------------------ fewest parts


@given(st.integers(1, 60), st.data())
def test_exactly_what_is_responsible_is_left(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1), max_size=4))
    calls: list[int] = []

    def shows(kept: list[int]) -> bool:
        calls.append(len(kept))
        return guilty <= set(kept)

    assert least(range(count), shows) == sorted(guilty)
    assert len(calls) <= count * count + 3 * count + 2  # the bound of the algorithm's authors


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(0, 60))
def test_no_single_part_can_be_left_out(parts: list[int], wanted: int) -> None:
    def shows(kept: list[int]) -> bool:
        return sum(kept) >= wanted

    if shows(parts):
        kept = least(parts, shows)
        assert shows(kept)
        assert not any(shows(kept[:i] + kept[i + 1 :]) for i in range(len(kept)))


# ------------------------------------------------------------------------------------------------ models


def chain(*operators: str) -> onnx.ModelProto:
    """A chain from ``x`` to ``y``; a Conv has a weight of its own."""
    nodes, stored, last = [], [], "x"
    draw = np.random.default_rng(0)
    for i, operator in enumerate(operators):
        inputs = [last]
        if operator == "Conv":
            stored.append(numpy_helper.from_array(draw.normal(size=(4, 4, 3, 3)).astype(np.float32) / 6, f"w{i}"))
            inputs.append(f"w{i}")
        last = "y" if i == len(operators) - 1 else f"t{i}"
        pads = {"pads": [1, 1, 1, 1]} if operator == "Conv" else {}
        nodes.append(helper.make_node(operator, inputs, [last], name=f"n{i}", **pads))
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 8, 8]) for n in "xy")
    graph = helper.make_graph(nodes, "chain", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_cut_model_is_valid_and_begins_and_ends_where_it_was_cut() -> None:
    proto = chain("Conv", "Relu", "Conv", "Sigmoid", "Abs")
    types = types_of(proto)
    for kept in ([0], [2], [0, 4], [1, 3], [0, 1, 2, 3, 4]):
        part = cut(proto, kept, types)
        assert part is not None
        onnx.checker.check_model(part, full_check=True)
        assert [n.name for n in part.graph.node] == [f"n{i}" for i in kept]
    part = cut(proto, [0, 2], types)
    assert part is not None
    assert [i.name for i in part.graph.input] == ["x", "t1"]
    assert [o.name for o in part.graph.output] == ["t0", "t2"]
    assert cut(proto, [], types) is None
    assert cut(proto, [2], {}) is None, "the type of its input is not known"


def test_a_node_is_stepped_over_and_a_choice_becomes_a_branch() -> None:
    proto = chain("Conv", "Relu", "Conv")
    (without,) = [m for m in simpler(proto, types_of(proto)) if "Relu" not in [n.op_type for n in m.graph.node]]
    assert list(without.graph.node[1].input) == ["t0", "w2"]
    text = """<ir_version: 9, opset_import: ["": 17]> g (bool c, float[4] x) => (float[4] y) {
        y = If (c) <then_branch = a () => (float[4] p) { q = Relu(x) p = Abs(q) },
                    else_branch = b () => (float[4] r) { r = Neg(x) }>
    }"""
    found = [[n.op_type for n in m.graph.node] for m in simpler(onnx.parser.parse_model(text), {})]
    assert ["Relu", "Abs"] in found
    assert ["Neg"] in found
    for model in simpler(onnx.parser.parse_model(text), {}):
        onnx.checker.check_model(model, full_check=True)


def test_outputs_and_what_nobody_reads_go() -> None:
    proto = chain("Relu", "Abs")
    proto.graph.output.append(helper.make_tensor_value_info("t0", TensorProto.FLOAT, [1, 4, 8, 8]))
    assert [[o.name for o in m.graph.output] for m in fewer_outputs(proto)] == [["y"]]
    proto.doc_string = proto.graph.node[0].doc_string = "why"
    proto.metadata_props.add(key="a", value="b")
    assert b"why" not in bare(proto).SerializeToString()
    assert not bare(proto).metadata_props


def test_a_size_is_cut_down_wherever_it_occurs() -> None:
    small = resized(chain("Conv", "Relu"), 4, 2, False)
    onnx.checker.check_model(small, full_check=True)
    assert list(small.graph.initializer[0].dims) == [2, 2, 3, 3]
    text = """<ir_version: 9, opset_import: ["": 17]> g (float[1,12] x) => (float[a,b] y) <int64[2] s = {1, 12}>
        { y = Reshape(x, s) }"""
    small = resized(onnx.parser.parse_model(text), 12, 3, True)
    assert numpy_helper.to_array(small.graph.initializer[0]).tolist() == [1, 3]


# ------------------------------------------------------------------------------------------------ rules


@pytest.mark.parametrize("name", sorted(shipped_rules()))
def test_whatever_is_left_out_what_stays_is_a_rule_file(name: str) -> None:
    tree = trees.tree_of(shipped_rules()[name].read_text())
    left = 0
    for depth in range(trees.depths(tree)):
        parts = list(trees.parts(tree, depth))
        for part in parts[:: max(1, len(parts) // 5)]:
            made = trees.without(tree, {id(part)})
            if made is not None:
                left += 1
                assert trees.tree_of(trees.text_of(made)).items is not None
    assert left > 5
    tidy = trees.text_of(trees.plain(tree))
    assert "#" not in "".join(line for line in tidy.splitlines() if '"' not in line)


# ------------------------------------------------------------------------------------------------ tries


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    os._exit(5)


def doubled(number: int) -> int:
    print("lost")
    return 2 * number


def test_a_crash_is_an_answer(capfd: pytest.CaptureFixture[str]) -> None:
    assert apart(doubled, (4,), 60) == 8
    assert capfd.readouterr().out == ""
    with pytest.raises(Died, match="SIGSEGV"):
        apart(crash, (), 60)
    with pytest.raises(Died, match="exit code 5"):
        apart(leave, (), 60)
    with pytest.raises(TooLong):
        apart(time.sleep, (60,), 0.5)


def test_a_command_is_run_without_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_command([sys.executable, "-c", "print('a'); raise SystemExit('b')"], 60) == (1, "a\nb\n")
    assert run_command([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)", "$(touch no)"], 60) == (-9, "")
    monkeypatch.setattr("potc.execute.apart.PRINTED", 3)
    assert run_command([sys.executable, "-c", "print('abcdef', end='')"], 60) == (0, "def")
    with pytest.raises(TooLong):
        run_command([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
    with pytest.raises(FileNotFoundError):
        run_command([str(tmp_path / "nothing")], 5)


def test_symptoms() -> None:
    rejected = Observed("rejected", codes=("no-legal-type", "scales-differ"))
    assert Symptom("rejected", "scales-differ").shown_by(rejected)
    assert not Symptom("rejected", "no-kernel").shown_by(rejected)
    assert Symptom("crash").shown_by(Observed("crash", "SIGSEGV"))
    assert not Symptom("crash", "SIGBUS").shown_by(Observed("crash", "SIGSEGV"))
    assert Symptom(below=10.0).shown_by(Observed("compiled", decibels=3.0))
    assert not Symptom(below=10.0).shown_by(rejected)


# ------------------------------------------------------------------------------------------------ the whole

THIRTY = [*["Conv", "Relu", "Abs"] * 5, "Neg", "Sqrt", *["Conv", "Relu", "Abs"] * 4, "Identity"]


@dataclass
class Pretended(Tries):
    """Looks at the operators and the text of the rules, compiles nothing."""

    seen: list[bytes] = field(default_factory=list)

    def observe(self, candidate: Candidate) -> Observed:
        self.done += 1
        self.seen.append(candidate.digest)
        there = {"Neg", "Identity"} <= {n.op_type for n in candidate.model.graph.node}
        return (
            Observed("rejected", codes=("no-kernel",)) if there and "gemm" in candidate.rules else Observed("compiled")
        )


def test_thirty_nodes_become_two_the_same_ones_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(THIRTY) == 30
    path = tmp_path / "thirty.onnx"
    path.write_bytes(chain(*THIRTY).SerializeToString())
    seen: list[list[bytes]] = []

    def pretended(*words: object) -> Tries:
        tries = Pretended(*words)  # type: ignore[arg-type]
        seen.append(tries.seen)
        return tries

    monkeypatch.setattr("potc.shrink.shrink.Tries", pretended)
    first, second = (shrink(Job(str(path), "cpu"), Wanted()) for _ in range(2))
    assert [n.op_type for n in onnx.load_from_string(first.model).graph.node] == ["Neg", "Identity"]
    assert (first.before.nodes, first.after.nodes) == (30, 2)
    assert first.after.lines <= 6, first.rules
    assert "rule gemm" in first.rules
    assert first.complete
    assert (first.model, first.rules, seen[0]) == (second.model, second.rules, seen[1])
    few = shrink(Job(str(path), "cpu"), Wanted(tries=20))
    assert few.tries == 20 and not few.complete
    assert 2 <= few.after.nodes < 30


def test_what_is_left_of_a_real_failure_fails_alike(tmp_path: Path) -> None:
    path = tmp_path / "thirty.onnx"
    path.write_bytes(chain(*THIRTY).SerializeToString())
    samples = np.random.default_rng(1).normal(size=(2, 4, 8, 8)).astype(np.float32)
    (tmp_path / "limits.rules").write_text("potc 1\nabstract device base {\n  qtype a8 = u8\n}\n")
    (tmp_path / "own.rules").write_text(
        """potc 1
use std
use limits
device own extends base { # one
  opset ai.onnx 13 .. 25
  qtype w8 = i8 sym per_channel(out)
  rule conv { match Conv(x, w: const, b: const?) as y  quant x: a8, w: w8, y: a8 }
  rule gemm { match Gemm(x, w: const, b: const?) as y  quant x: a8, w: w8, y: a8 }
}
"""
    )
    found = potc.reduce(path, rules=tmp_path / "own.rules", data=list(samples), tries=150)
    assert found.symptom == "rejected: non-finite-data"
    assert found.after.nodes <= 3
    assert found.after.lines <= 9, found.rules
    assert "gemm" not in found.rules
    assert found.uses == (), "one file is left"
    small, rules, data = (tmp_path / name for name in ("small.onnx", "small.rules", "small.npz"))
    small.write_bytes(found.model)
    rules.write_text(found.rules)
    assert found.samples is not None
    np.savez(data, **found.samples)  # type: ignore[arg-type]
    with pytest.raises(Rejected) as rejected:
        potc.compile(small, rules=rules, data=str(data))
    assert [d.code for d in rejected.value.diagnostics] == ["non-finite-data"]


def test_a_command_of_the_user_says_what_stays(tmp_path: Path) -> None:
    path = tmp_path / "chain.onnx"
    path.write_bytes(chain("Relu", "Abs", "Neg", "Relu").SerializeToString())
    look = tmp_path / "look.py"
    look.write_text("import sys; sys.exit(7 * (b'Neg' in open(sys.argv[1], 'rb').read()))")
    found = potc.reduce(path, rules="cpu", run=f"{sys.executable} {look} {{model}} {{rules}}", tries=60)
    assert found.symptom == "exit: 7"
    assert [n.op_type for n in onnx.load_from_string(found.model).graph.node] == ["Neg"]
    assert found.rules.split() == ["potc", "1"] or found.rules == ""


def test_words_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of expect"):
        potc.reduce("m.onnx", rules="cpu", expect="bug", below=3)
    with pytest.raises(ValueError, match="auto"):
        potc.reduce("m.onnx", rules="cpu", preset="auto")
    with pytest.raises(TypeError, match="presett"):
        potc.reduce("m.onnx", rules="cpu", presett="fast")


def test_a_mistake_in_a_file_that_is_used_stays_that_mistake(tmp_path: Path) -> None:
    path = tmp_path / "chain.onnx"
    path.write_bytes(chain("Relu", "Abs").SerializeToString())
    (tmp_path / "limits.rules").write_text("potc 1\nqtype a8 = u8\n")
    (tmp_path / "own.rules").write_text("potc 1\nuse limits\ndevice a {\n  opset ai.onnx 13 .. 25\n}\n")
    found = potc.reduce(path, rules=tmp_path / "own.rules", tries=40)
    assert found.symptom == "rejected: syntax-error"
    assert found.uses == ("limits.rules",)


def test_a_file_that_is_no_rule_file_loses_lines(tmp_path: Path) -> None:
    path = tmp_path / "chain.onnx"
    path.write_bytes(chain("Relu", "Abs").SerializeToString())
    rules = tmp_path / "bad.rules"
    rules.write_text("potc 1\ndevice a {\n  opset ai.onnx 13 .. 25\n}\nrule {\n")
    found = potc.reduce(path, rules=rules, tries=60)
    assert found.symptom == "rejected: syntax-error"
    assert found.after.lines == 1
    with pytest.raises(Rejected, match="syntax-error"):
        parse(trees.Source("left", found.rules))

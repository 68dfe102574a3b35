"""Cases as data: every Markdown file below cases/plan holds ONNX text, rules and the expected plan.

Each case is also executed: the compiled model passes the checker, runs in onnxruntime, stays close to the float one, has
the same bytes twice, and shuffled nodes give the same plan. ``POTC_BLESS=1 pytest`` rewrites the plan blocks.
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from potc.compiler import Job, compile_model, prepare
from potc.graph.read import read_model
from potc.graph.snapshot import outer_reads
from potc.language.resolve import load_rules
from potc.quantize.parts import plan_of
from potc.quantize.plan_text import plan_lines

CASES = sorted((Path(__file__).parent / "cases" / "plan").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n", re.M | re.S)


def blocks(path: Path) -> dict[str, str]:
    return dict(BLOCK.findall(path.read_text()))


def model_from_text(text: str) -> onnx.ModelProto:
    """A model from ONNX text; tensors that are declared without a value become seeded weights."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]>\n{text}' if "ir_version" not in text else text
    )
    generator = np.random.default_rng(7)
    made = {t.name for t in proto.graph.initializer} | {o for n in proto.graph.node for o in n.output}
    read = {i for n in proto.graph.node for i in (*n.input, *outer_reads(n))}
    weights = [v for v in proto.graph.value_info if v.name not in made and v.name in read]
    for value in weights:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        array = generator.normal(0, 1 / max(1, np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        proto.graph.initializer.append(
            numpy_helper.from_array(np.abs(array) if value.name.startswith("var") else array, value.name)
        )
        proto.graph.value_info.remove(value)
    return proto


def write_case(folder: Path, case: dict[str, str]) -> tuple[str, str]:
    model, rules = folder / "model.onnx", folder / "device.rules"
    onnx.save(model_from_text(case["onnx"]), model)
    if "rules" in case:
        rules.write_text(case["rules"])
        return str(model), str(rules)
    return str(model), "cpu"


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_plan(path: Path, tmp_path: Path) -> None:
    case = blocks(path)
    model, rules = write_case(tmp_path, case)
    program = load_rules(rules)
    prepared, _ = prepare(read_model(model), program)
    plan = plan_of(program, prepared)
    found = "".join(f"{line}\n" for line in plan_lines(plan)).replace(f"{tmp_path}/", "")
    if os.environ.get("POTC_BLESS"):
        text = path.read_text()
        body = f"```plan\n{found}```\n"
        path.write_text(re.sub(r"^```plan\n.*?^```\n", lambda _: body, text, flags=re.M | re.S))
        return
    assert found == case["plan"]


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_shuffled_nodes_give_the_same_plan(path: Path, tmp_path: Path) -> None:
    model, rules = write_case(tmp_path, blocks(path))
    program = load_rules(rules)
    prepared, _ = prepare(read_model(model), program)
    plan = plan_of(program, prepared)
    for seed in range(5):
        shuffled = onnx.ModelProto()
        shuffled.CopyFrom(prepared.proto)
        nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in shuffled.graph.node]
        random.Random(seed).shuffle(nodes)
        del shuffled.graph.node[:]
        shuffled.graph.node.extend(nodes)
        assert plan_of(program, prepared.with_proto(shuffled)) == plan


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_compiles_runs_and_is_close(path: Path, tmp_path: Path) -> None:
    model, rules = write_case(tmp_path, blocks(path))
    first = compile_model(Job(model, rules))
    assert first.verification.ok, first.verification
    assert compile_model(Job(model, rules)).compiled == first.compiled

"""What an operator can't exceed, no range exceeds: from std.rules to scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from potc.compiler import Job, compile_model
from potc.language.resolve import load_rules
from potc.quantize.plan_file import plan_from_json, plan_to_json
from potc.quantize.tuning import Border, RangeSettings, Tuning

X = np.linspace(-6, 6, 12 * 8, dtype=np.float32).reshape(12, 1, 8)  # one end in the first sample, the other in the last
CASES = {
    "y = Sigmoid (x)": (0, 1),
    "y = Tanh (x)": (-1, 1),
    "y = Identity (x)": None,
    "t = Sigmoid (x)   y = Reshape (t, flat)": (0, 1),
    "t = Sigmoid (x)   u = Tanh (x)   y = Concat <axis = 0> (t, u)": (-1, 1),
    "t = Sigmoid (x)   u = Exp (x)   y = Concat <axis = 0> (t, u)": None,
}


def model(nodes: str, folder: Path) -> str:
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[1, 8] x) => (float[N, M] y) <int64[2] flat = {{8, 1}}> {{ {nodes} }}'
    onnx.save(parser.parse_model(text), folder / "m.onnx")
    np.savez(folder / "s.npz", x=X)
    return str(folder / "m.onnx")


PLACES = [
    *(("gna", *case) for case in CASES.items()),
    *(("htp", f"y = {op} (x)", CASES[f"y = {op} (x)"]) for op in ("Sigmoid", "Tanh")),
]


@pytest.mark.parametrize(("device", "nodes", "ends"), PLACES)
def test_ranges_with_room_end_where_the_function_does(
    device: str, nodes: str, ends: tuple[float, float] | None, tmp_path: Path
) -> None:
    settings = {"a16": "true"} if device == "htp" else {}
    room = RangeSettings(
        activation_min=Border("min", "beyond"), activation_max=Border("max", "beyond")
    )  # 8 bits as well
    job = Job(model(nodes, tmp_path), device, str(tmp_path / "s.npz"), settings=settings, tuning=Tuning(ranges=room))
    done = compile_model(job)
    plan = done.plan
    assert plan_from_json(plan_to_json(plan)) == plan
    stored = [q for q in plan.quantizers if "y" in q.tensors]
    assert stored
    for quantizer in stored:
        assert quantizer.within == ends
        params = done.params.activations[quantizer.id]
        reach = float(params.scale) * max(
            params.qtype.high - int(params.zero_point), int(params.zero_point) - params.qtype.low
        )
        if ends is not None:
            assert reach <= max(map(abs, ends)) * 1.001
        elif "Exp" not in nodes:
            assert reach > 9


def test_shipped_ends_hold() -> None:
    """Each operator that std.rules gives ends, on numbers near and far."""
    import onnxruntime

    far = np.array([[-1e30, -40, -5, -1, -1e-3, 0, 1e-3, 1, 5, 40, 1e30]], np.float32)
    ended = {
        op: s.outputs[0].within for op, s in load_rules("cpu").signatures.items() if s.outputs and s.outputs[0].within
    }
    assert len(ended) == 8
    for op, within in ended.items():
        text = f'<ir_version: 8, opset_import: ["": 17]> g (float[1, 11] x) => (float[1, 11] y) {{ y = {op} (x) }}'
        session = onnxruntime.InferenceSession(parser.parse_model(text).SerializeToString())
        (found,) = session.run(None, {"x": far})
        assert within is not None
        assert within[0] <= found.min(), op
        assert found.max() <= within[1] * (1 + 1e-6), op
        assert found.max() - found.min() > 0.9 * (within[1] - within[0]) or op in ("Sin", "Cos"), op

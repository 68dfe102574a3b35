"""The peak memory of a compile does not grow with the number of samples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

FEW, MANY = 12, 300
SIDE = 128  # a sample has 192 kB, so all of them would be 57 MB
SHARE = 0.5  # of what more samples weigh: below it is what threads do at once, which comes out different each time
# The memory of whoever starts a program counts as its own in getrusage, not in what Linux tells of a process.
PROGRAM = """
import resource, sys
from pathlib import Path
from potc.cli.heap import share_heap
from potc.cli.main import main
share_heap()
code = main(sys.argv[1:])
status = Path("/proc/self/status")
told = [l.split()[1] for l in status.read_text().splitlines() if l.startswith("VmHWM")] if status.exists() else []
print("peak:", *(told or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
sys.exit(code)
"""


def network(path: Path) -> Path:
    draw = np.random.default_rng(0).normal
    weights = [
        numpy_helper.from_array(draw(0, 0.3, s).astype(np.float32), n)
        for n, s in (("w", (8, 3, 3, 3)), ("v", (8, 8, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s)
        for n, s in (("x", [1, 3, SIDE, SIDE]), ("y", [1, 8, 1, 1]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def samples(path: Path, count: int) -> Path:
    np.save(path, np.random.default_rng(1).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32))
    return path


def peak(model: Path, data: Path, preset: str) -> int:
    words = ["compile", str(model), "--rules", "cpu", "--data", str(data), "--preset", preset]
    words += ["-q", "-o", str(model.with_name("out.onnx"))]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split("peak:")[1])


@pytest.mark.parametrize("preset", ["fast", "mixed", "auto"])
def test_more_samples_need_no_more_memory(preset: str, tmp_path: Path) -> None:
    model = network(tmp_path / "model.onnx")
    few, many = (peak(model, samples(tmp_path / f"{n}.npy", n), preset) for n in (FEW, MANY))
    assert many - few < SHARE * (MANY - FEW) * 3 * SIDE * SIDE * 4 / 1024

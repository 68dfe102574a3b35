"""A search needs no more memory for many candidates than for a few."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
from planted import RULES
from potc.compiler import Job, Trace, match_model
from potc.data.annotated import Items
from potc.data.dataset import input_specs
from potc.evaluate.metrics.metric import Metric
from potc.execute.tasks import InProcess
from potc.search.bench import Bench, Memory
from potc.search.journal import Journal
from potc.search.target import Target
from potc.search.variant import Variant

LAYERS, WIDTH, SAMPLES = 10, 512, 32
folder, journal = sys.argv[1:]
os.chdir(folder)
rng = np.random.default_rng(0)
names = [f"gemm{i}" for i in range(LAYERS)]
nodes = [helper.make_node("Gemm", [f"t{i}", f"w{i}"], [f"t{i + 1}"], name=n) for i, n in enumerate(names)]
weights = [rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32) for _ in names]
ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, WIDTH]) for n in ("t0", f"t{LAYERS}")]
graph = helper.make_graph(
    nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "model.onnx")
open("d.rules", "w").write(RULES)
inputs = rng.normal(size=(SAMPLES, WIDTH)).astype(np.float32)
np.savez("calib.npz", t0=inputs[:8])
# Records that hold all outputs, as those of an object that was written for another library do.
whole = Metric("whole", lambda outputs, known: np.repeat(outputs[f"t{LAYERS}"], 128), lambda records: 0.0)
matched = match_model(Job("model.onnx", "d.rules", "calib.npz"), Trace())
notes = Journal("journal", "x") if journal == "journal" else Memory()
data = Items(input_specs(matched.model), [{"t0": x} for x in inputs], [0] * SAMPLES)
bench = Bench(matched, Target((whole,)), data, notes, InProcess(), Trace())
before = bench.float_values()
for number in range(LAYERS):
    bench.evaluate(Variant(frozenset(names[number:])), matched.job.tuning, before)
    print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20)
"""


@pytest.mark.parametrize("notes", ["memory", "journal"])
def test_memory_does_not_grow_with_candidates(notes: str, tmp_path: Path) -> None:
    """Each candidate has 10 MB of float weights and 8 MB of records: four are warming up, six more must be free."""
    here = Path(__file__).parent
    path = ":".join([str(here), str(here.parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), notes],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        # What is freed goes back to the system at once, so that the process is as large as what it holds.
        env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"},
    )
    megabytes = [int(line) for line in done.stdout.split()]
    assert len(megabytes) == 10
    assert max(megabytes[4:]) <= max(megabytes[:4]) + 16, megabytes

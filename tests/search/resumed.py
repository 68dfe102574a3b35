"""``python resumed.py FOLDER [WORKERS|ADDRESS]``: one search over a planted network, in a process that can be killed.

Writes ``out.onnx``; the journal is ``out.onnx.journal``. Each result that is computed, and not found in the journal, is counted as
a line of ``computed``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from planted import MAX_DROP, RULES, planted

from potc.compiler import Job
from potc.data.annotated import Items
from potc.data.dataset import input_specs
from potc.evaluate.metrics.classification import topk
from potc.execute.cluster import Cluster
from potc.execute.processes import Processes
from potc.execute.session import open_session
from potc.execute.tasks import Executor, InProcess
from potc.graph.write import write_atomic
from potc.search import bench
from potc.search.compile import compile_to_target
from potc.search.journal import Journal, forget_journal
from potc.search.target import Target

SEED = 12  # of a network with planted layers


def main(folder: Path, workers: str) -> None:
    """Shards of 8 samples, so that there are many moments at which something may be lost."""
    bench.SHARD = 8
    net = planted(SEED)
    if not (folder / "model.onnx").exists():
        (folder / "plain.rules").write_text(RULES)
        np.savez(folder / "calib.npz", x=net.calibration)
        onnx.save(net.model, folder / "model.onnx")
    session = open_session(net.model.SerializeToString(), optimize=False, threads=1)
    labels = [int(np.argmax(session.run(None, {"x": row[None]})[0])) for row in net.inputs]
    job = Job(str(folder / "model.onnx"), str(folder / "plain.rules"), str(folder / "calib.npz"))
    out = str(folder / "out.onnx")
    put = Journal.put

    def counted(self: Journal, key: str, value: object) -> None:
        with (folder / "computed").open("a") as file:
            file.write(f"{key}\n")
        put(self, key, value)

    Journal.put = counted  # type: ignore[method-assign]
    if workers.startswith("tcp:"):
        executor: Executor = Cluster(workers)
    else:
        executor = Processes(int(workers)) if int(workers) else InProcess()
    compilation, found, _ = compile_to_target(
        job,
        Target((topk(1),), MAX_DROP),
        lambda model: Items(input_specs(model), [{"x": row} for row in net.inputs], labels),
        keep=lambda _, compiled: write_atomic(out, compiled) and None,
        executor=executor,
        journal=f"{out}.journal",
    )
    executor.close()
    assert found.met
    write_atomic(out, compilation.compiled)
    forget_journal(f"{out}.journal")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "0")

"""Is exactly what must stay in float given up? Small drawn networks whose ruined layers are known.

python benchmarks/planted.py [--networks 100]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "search"))

from planted import MAX_DROP, RULES, planted

from potc.compiler import Job
from potc.data.annotated import Items
from potc.data.dataset import input_specs
from potc.evaluate.metrics.classification import topk
from potc.execute.session import open_session
from potc.search.compile import compile_to_target
from potc.search.target import Target


def main() -> None:
    """Exit code 1 if fewer than 95 % are found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=100)
    count = parser.parse_args().networks
    exact, evaluations, sizes = 0, Counter[int](), Counter[int]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plain.rules").write_text(RULES)
        for seed in range(count):
            net = planted(seed)
            onnx.save(net.model, folder / "model.onnx")
            np.savez(folder / "calib.npz", x=net.calibration)
            session = open_session(net.model.SerializeToString(), optimize=False, threads=1)
            labels = [int(np.argmax(session.run(None, {"x": row[None]})[0])) for row in net.inputs]
            job = Job(str(folder / "model.onnx"), str(folder / "plain.rules"), str(folder / "calib.npz"))
            rows = [{"x": row} for row in net.inputs]
            target = Target((topk(1),), MAX_DROP)
            _, found, _ = compile_to_target(job, target, lambda m, r=rows, y=labels: Items(input_specs(m), r, y))  # type: ignore[misc]
            right = found.met and found.answer.variant.held == net.must
            exact += right
            evaluations[found.evaluations] += 1
            sizes[sum(name.startswith("gemm") for name in net.must)] += 1
            if not right:
                print(
                    f"network {seed}: {sorted(net.must)} must stay, {sorted(found.answer.variant.held)} were given up"
                )
    print(f"exactly the planted layers: {exact} of {count}")
    print(f"networks by planted layers: {dict(sorted(sizes.items()))}")
    print(f"networks by evaluations: {dict(sorted(evaluations.items()))}")
    sys.exit(exact < 0.95 * count)


if __name__ == "__main__":
    main()

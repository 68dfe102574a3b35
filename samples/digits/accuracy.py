"""How many of 500 handwritten digits does a model read right?

    python samples/digits/accuracy.py MODEL.onnx [--simulate]

``--simulate`` switches onnxruntime's optimizations off: quantize/dequantize pairs then run in float, as written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime as ort

HERE = Path(__file__).parent
BATCH = 50


def main() -> None:
    """Prints one line: the share of digits that the model reads right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument("--simulate", action="store_true")
    arguments = parser.parse_args()
    right, total = score(arguments.model, arguments.simulate)
    print(f"{arguments.model}: {right} of {total} digits right ({100 * right / total:.1f} %)")


def score(model: str, simulate: bool = False) -> tuple[int, int]:
    """Right answers, and how many digits there are."""
    options = ort.SessionOptions()
    if simulate:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with np.load(HERE / "test.npz") as file:
        pictures, labels = file["x"][:, None].astype(np.float32) / 255, file["y"]
    starts = range(0, len(labels), BATCH)
    answers = [session.run(None, {name: pictures[i : i + BATCH]})[0].argmax(axis=1) for i in starts]
    return int((np.concatenate(answers) == labels).sum()), len(labels)


if __name__ == "__main__":
    main()

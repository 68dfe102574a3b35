"""A transformer of 3 GB, compiled within a stated memory: peak memory, time, and whether the result is right.

    python benchmarks/large_model.py --memory 4GiB --folder /tmp/large

The model is made, its weights written as a stream, so nothing is downloaded: float32, weights in external data, random but
the same everywhere. ``--layers`` and ``--width`` make smaller ones. The compile runs as a command of its own in a child
whose address space is limited; the peak is what the kernel says of that child.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

HEAD = 64  # width of an attention head
PAGE = 4096


class Builder:
    """Nodes, and weights that go to the data file as they are named."""

    def __init__(self, data: Path) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._stream = data.open("wb")
        self._location = data.name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def small(self, name: str, values: np.ndarray) -> str:
        self.tensors.append(onnx.numpy_helper.from_array(values, name))
        return name

    def weight(self, name: str, shape: tuple[int, ...], spread: float) -> str:
        """Normal numbers with the standard deviation ``spread``, drawn by the number of the weight."""
        values = np.random.default_rng(len(self.tensors)).standard_normal(shape, np.float32) * np.float32(spread)
        self._stream.write(bytes(-self._stream.tell() % PAGE))
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (
            ("location", self._location),
            ("offset", str(self._stream.tell())),
            ("length", str(values.nbytes)),
        ):
            tensor.external_data.add(key=key, value=value)
        self._stream.write(values.data)
        self.tensors.append(tensor)
        return name

    def close(self) -> None:
        self._stream.close()


def linear(b: Builder, x: str, name: str, inputs: int, outputs: int) -> str:
    product = b.node("MatMul", [x, b.weight(f"{name}.weight", (inputs, outputs), inputs**-0.5)], f"{name}/product")
    bias = b.small(f"{name}.bias", np.linspace(-0.1, 0.1, outputs, dtype=np.float32))
    return b.node("Add", [product, bias], name)


def norm(b: Builder, x: str, name: str, width: int) -> str:
    gain, offset = np.ones(width, np.float32), np.zeros(width, np.float32)
    inputs = [x, b.small(f"{name}.gain", gain), b.small(f"{name}.offset", offset)]
    return b.node("LayerNormalization", inputs, name, axis=-1)


def block(b: Builder, x: str, name: str, width: int) -> str:
    """Attention and a feed-forward part of four times the width, both behind a normalization (pre-norm)."""
    seen = norm(b, x, f"{name}/norm1", width)

    def heads(part: str, perm: list[int]) -> str:
        made = linear(b, seen, f"{name}/{part}", width, width)
        return b.node("Transpose", [b.node("Reshape", [made, "heads"], f"{made}/split")], f"{made}/heads", perm=perm)

    scores = b.node("MatMul", [heads("q", [0, 2, 1, 3]), heads("k", [0, 2, 3, 1])], f"{name}/scores")
    soft = b.node("Softmax", [b.node("Mul", [scores, "scale"], f"{name}/scaled")], f"{name}/softmax", axis=-1)
    mixed = b.node("MatMul", [soft, heads("v", [0, 2, 1, 3])], f"{name}/mixed")
    joined = b.node("Transpose", [mixed], f"{name}/back", perm=[0, 2, 1, 3])
    joined = b.node("Reshape", [joined, "joined"], f"{name}/joined")
    x = b.node("Add", [x, linear(b, joined, f"{name}/out", width, width)], f"{name}/attended")
    hidden = linear(b, norm(b, x, f"{name}/norm2", width), f"{name}/up", width, 4 * width)
    hidden = b.node("Relu", [hidden], f"{name}/relu")
    return b.node("Add", [x, linear(b, hidden, f"{name}/down", 4 * width, width)], f"{name}/end")


def build(folder: Path, layers: int, width: int, words: int, length: int) -> Path:
    """``model.onnx`` and ``model.data`` in the folder. Input: ``ids``, int64 [1, length]; output: ``logits``."""
    b = Builder(folder / "model.data")
    b.small("heads", np.array([0, 0, -1, HEAD], np.int64))
    b.small("joined", np.array([0, 0, width], np.int64))
    b.small("scale", np.array(HEAD**-0.5, np.float32))
    x = b.node("Gather", [b.weight("embedding", (words, width), 1.0), "ids"], "embedded")
    for layer in range(layers):
        x = block(b, x, f"layer{layer}", width)
    linear(b, norm(b, x, "norm", width), "logits", width, words)
    b.close()
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, length])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, length, words])]
    graph = helper.make_graph(b.nodes, "transformer", inputs, outputs, b.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def samples(path: Path, count: int, words: int, length: int) -> Path:
    drawn = np.random.default_rng(7).integers(0, words, (count, 1, length), np.int64)
    np.savez(path, ids=drawn)
    return path


def run(command: list[str], limit: int | None) -> dict[str, float]:
    """Wall and CPU seconds and the peak of resident bytes of one child; it may map ``limit`` bytes of address space."""

    def bounded() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    start, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, preexec_fn=bounded)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.time() - start, "cpu": cpu, "peak": after.ru_maxrss * 1024}


LOADS = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
ids = np.load(sys.argv[2])["ids"][0]
logits = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"]).run(["logits"], {"ids": ids})[0]
np.save(sys.argv[3], logits)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="about 5 GB are written there")
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--limit", type=float, default=6.0, help="GB of address space for the compile; 0: none")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--words", type=int, default=8192)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rules", default="cpu")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    model = build(args.folder, args.layers, args.width, args.words, args.length)
    data = samples(args.folder / "ids.npz", args.samples, args.words, args.length)
    size = model.stat().st_size + model.with_suffix(".data").stat().st_size
    print(f"model: {size / 1e9:.2f} GB, {args.layers} layers of width {args.width}", flush=True)
    output = args.folder / "out" / "model.onnx"
    output.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "potc", "compile", str(model), "--rules", args.rules, "--data", str(data)]
    command += ["--memory", args.memory, "--external-data", "-o", str(output)]
    spent = run(command, int(args.limit * 1e9) or None)
    written = sum(f.stat().st_size for f in output.parent.iterdir())
    print(f"compile: {spent['wall']:.0f} s, {spent['cpu']:.0f} CPU s, peak {spent['peak'] / 1e9:.2f} GB")
    print(f"result: {written / 1e9:.2f} GB")
    for name, path in (("float", model), ("compiled", output)):
        run([sys.executable, "-c", LOADS, str(path), str(data), str(args.folder / f"{name}.npy")], None)
    a, b = (np.load(args.folder / f"{name}.npy").astype(np.float64) for name in ("float", "compiled"))
    noise = float(np.square(a - b).sum())
    print(f"logits in onnxruntime: {10 * np.log10(np.square(a).sum() / noise):.1f} dB, ", end="")
    print(f"same word at {(a.argmax(-1) == b.argmax(-1)).mean() * 100:.1f} % of {a.shape[1]} places")


if __name__ == "__main__":
    main()

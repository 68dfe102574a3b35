"""Weights beside the model: taken apart, put together, and opened without following anything."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from potc.cli.main import main
from potc.diagnostics.diagnostic import Rejected
from potc.graph.external import PAGE, open_beneath, take_apart
from potc.graph.read import read_model
from potc.limits import limited, stated

SAMPLE = Path(__file__).parents[2] / "samples" / "digits" / "model.onnx"


def test_apart_and_together_again(tmp_path: Path) -> None:
    model, place, data = take_apart(SAMPLE.read_bytes(), str(tmp_path / "m.onnx"))
    Path(place).write_bytes(b"".join(data.blocks()))
    (tmp_path / "m.onnx").write_bytes(model)
    assert len(model) < len(SAMPLE.read_bytes()) / 2
    read = read_model(str(tmp_path / "m.onnx"))
    assert read.proto == read_model(str(SAMPLE)).proto
    assert read.files == (str(tmp_path / "m.onnx"), place)
    offsets = [
        int(e.value)
        for t in onnx.ModelProto.FromString(model).graph.initializer
        for e in t.external_data
        if e.key == "offset"
    ]
    assert len(offsets) > 3 and all(offset % PAGE == 0 for offset in offsets)
    assert take_apart(SAMPLE.read_bytes(), str(tmp_path / "m.onnx")) == (model, place, data)


def test_compile_with_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["compile", str(SAMPLE), "--rules", "cpu", "--preset", "fast", "--samples", "1", "-q"]
    assert main([*words, "-o", "inside.onnx"]) == 0
    assert main([*words, "-o", "beside.onnx", "--external-data"]) == 0
    (data,) = Path().glob("beside.*.data")
    feed = {"input": np.random.default_rng(0).random((1, 1, 28, 28), np.float32)}
    results = [ort.InferenceSession(f"{n}.onnx").run(None, feed)[0] for n in ("inside", "beside")]
    assert np.array_equal(*results)
    assert read_model("beside.onnx").proto == read_model("inside.onnx").proto
    before = {p: p.stat().st_mtime_ns for p in (data, Path("beside.onnx"))}
    assert main([*words, "-o", "beside.onnx", "--external-data"]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert main([*words, "-o", "-", "--external-data"]) == 2


@pytest.mark.parametrize(
    "location", ["", "..", "../w", "a/../../w", "/etc/passwd", "link", "folder/w", "hard", "pipe", "none"]
)
def test_nothing_but_ordinary_files_below(location: str, tmp_path: Path) -> None:
    folder, outside = tmp_path / "m", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "w").write_bytes(b"canary")
    (tmp_path / "w").write_bytes(b"canary")
    (folder / "link").symlink_to(outside / "w")
    (folder / "folder").symlink_to(outside)
    (folder / "hard").hardlink_to(outside / "w")
    os.mkfifo(folder / "pipe")
    with pytest.raises(OSError, match=r"\w"):
        open_beneath(folder, location)


def test_files_below_are_opened(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "w").write_bytes(b"weights")
    with open_beneath(tmp_path, "a/b/w") as stream:
        assert stream.read() == b"weights"


def test_shared_bytes_do_not_multiply(tmp_path: Path) -> None:
    """A small model and one file of a megabyte may stand for weights of terabytes."""
    (tmp_path / "w.bin").write_bytes(bytes(1 << 20))
    tensors: list[TensorProto] = []
    for i in range(3000):
        tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[1 << 18])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
        tensors.append(tensor)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1 << 18])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1 << 18])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w0"], ["y"])], "g", [x], [y], tensors)
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(Rejected) as caught:
        read_model(str(tmp_path / "m.onnx"))
    assert caught.value.diagnostics[0].code == "too-large"


def test_a_device_without_end_is_too_large() -> None:
    with limited(stated({"model-bytes": "1MiB"})), pytest.raises(Rejected) as caught:
        read_model("/dev/zero")
    assert caught.value.diagnostics[0].code == "too-large"


def test_small_constants_stay_inside() -> None:
    tensor = numpy_helper.from_array(np.zeros(8, np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])
    model = helper.make_model(helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [tensor]))
    apart, _, data = take_apart(model.SerializeToString(), "m.onnx")
    assert data.size == 0
    assert apart == model.SerializeToString(deterministic=True)

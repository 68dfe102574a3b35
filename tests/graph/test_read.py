"""Reading: what is refused, with which code, and that only Rejected escapes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from potc.diagnostics.diagnostic import Rejected
from potc.graph.read import read_model

TEXT = """<ir_version: 9, opset_import: ["" : 17]>
g (float[1,4] x) => (float[1,4] y) <float[4] w = {1, 2, 3, 4}> { t = Mul (x, w) y = Relu (t) }"""


def model() -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT)


def save(folder: Path, proto: onnx.ModelProto | bytes) -> str:
    path = folder / "model.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return str(path)


def rejected(path: str) -> Rejected:
    with pytest.raises(Rejected) as caught:
        read_model(path)
    return caught.value


def cyclic() -> onnx.ModelProto:
    proto = model()
    proto.graph.node[0].input[0] = "y"
    proto.graph.node[0].name, proto.graph.node[1].name = "first", "second"
    return proto


def with_weights(values: list[float]) -> onnx.ModelProto:
    proto = model()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(values, np.float32), "w"))
    return proto


def with_duplicate_output() -> onnx.ModelProto:
    proto = model()
    proto.graph.node[1].output[0] = "t"
    return proto


def with_dangling_input() -> onnx.ModelProto:
    proto = model()
    proto.graph.node[0].input[1] = "nowhere"
    return proto


def without_nodes() -> onnx.ModelProto:
    proto = model()
    del proto.graph.node[:]
    return proto


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda: b"", "empty-model", "empty file"),
        (lambda: b"not a model at all", "truncated-model", "cut off"),
        (lambda: onnx.ModelProto().SerializeToString() or b"\x08\x09", "empty-model", "no graph"),
        (without_nodes, "empty-model", "no graph"),
        (cyclic, "cyclic-graph", "first"),
        (lambda: with_weights([1, float("nan"), 3, 4]), "non-finite-weights", "`w`"),
        (with_duplicate_output, "invalid-model", "t"),
        (with_dangling_input, "invalid-model", "nowhere"),
    ],
)
def test_refused(tmp_path: Path, make: Callable[[], onnx.ModelProto | bytes], code: str, words: str) -> None:
    error = rejected(save(tmp_path, make()))
    assert error.diagnostics[0].code == code
    assert words in error.diagnostics[0].message
    assert error.exit_code == 1


@pytest.mark.parametrize("path", ["nowhere.onnx", ".", "\0"])
def test_unreadable_paths_exit_2(path: str) -> None:
    assert rejected(path).exit_code == 2


def test_infinity_in_a_mask_is_kept(tmp_path: Path) -> None:
    mask = [0.0, float("inf"), -float("inf"), 1.0]
    assert read_model(save(tmp_path, with_weights(mask))).opset == 17


def test_huge_weights_are_finite(tmp_path: Path) -> None:
    largest = float(np.finfo(np.float32).max)
    assert read_model(save(tmp_path, with_weights([largest, largest, largest, largest]))).opset == 17


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_never_crash(tmp_path: Path, seed: int) -> None:
    data = model().SerializeToString()
    generator = random.Random(seed)
    damaged = [data[:n] for n in range(0, len(data), 7)]
    for _ in range(60):
        flipped = bytearray(data)
        flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        damaged.append(bytes(flipped))
    for case in damaged:
        try:
            read_model(save(tmp_path, case))
        except Rejected as error:
            assert error.diagnostics[0].message


def external(folder: Path, location: str, **entries: str) -> str:
    proto = model()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return save(folder, proto)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    read = read_model(external(tmp_path, "w.bin"))
    assert numpy_helper.to_array(read.proto.graph.initializer[0]).tolist() == [0, 1, 2, 3]
    assert read.files == (str(tmp_path / "model.onnx"), str(tmp_path / "w.bin"))


@pytest.mark.parametrize("kind", ["parent", "absolute", "symlink", "hardlink", "missing", "folder link"])
def test_external_data_outside_is_refused(tmp_path: Path, kind: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\0" * 16)
    location = "w.bin"
    if kind == "parent":
        location = "../secret.bin"
    elif kind == "absolute":
        location = str(secret)
    elif kind == "symlink":
        (inside / "w.bin").symlink_to(secret)
    elif kind == "hardlink":
        os.link(secret, inside / "w.bin")
    elif kind == "folder link":
        (inside / "sub").symlink_to(tmp_path)
        location = "sub/secret.bin"
    error = rejected(external(inside, location))
    assert error.diagnostics[0].code == "external-data-outside"


@pytest.mark.parametrize("entries", [{"length": "1099511627776"}, {"offset": "-4"}, {"length": "many"}])
def test_lying_external_data_is_refused(tmp_path: Path, entries: dict[str, str]) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 16)
    assert rejected(external(tmp_path, "w.bin", **entries)).diagnostics[0].code == "invalid-model"


def test_nodes_get_unique_names_and_keep_their_own(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]>\ng (float[4] x) => (float[4] y) { a = Relu (x) b = Relu (a) c = Relu (b) y = Relu (c) }'
    )
    for node, name in zip(proto.graph.node, ["same", "same", "", "Relu_2"], strict=True):
        node.name = name
    names = [n.name for n in read_model(save(tmp_path, proto)).proto.graph.node]
    assert names[0] == "same" and names[3] == "Relu_2"
    assert len(set(names)) == 4 and all(names)


def test_negative_dimensions_mean_any_size(tmp_path: Path) -> None:
    proto = model()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    (value,) = read_model(save(tmp_path, proto)).inputs
    assert not value.type.tensor_type.shape.dim[0].HasField("dim_value")


def test_a_cycle_through_a_nested_graph_is_named(tmp_path: Path) -> None:
    then = helper.make_graph(
        [helper.make_node("Identity", ["y"], ["o"])], "then", [], [helper.make_empty_tensor_value_info("o")]
    )
    node = helper.make_node("If", ["c"], ["y"], name="loop", then_branch=then, else_branch=then)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", 1, [1])],
    )
    error = rejected(save(tmp_path, helper.make_model(graph)))
    assert error.diagnostics[0].code == "cyclic-graph"
    assert "loop" in error.diagnostics[0].message


@pytest.mark.parametrize("name", [b"first", b"middle", b"weights"])
def test_a_name_that_is_no_text_is_refused(tmp_path: Path, name: bytes) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) <float[4] weights> {middle = Add(x, weights) y = Relu(middle)}'
    model = onnx.parser.parse_model(text)
    model.graph.node[0].name = "first"
    path = tmp_path / "damaged.onnx"
    path.write_bytes(model.SerializeToString().replace(name, b"\xff" * len(name), 1))
    with pytest.raises(Rejected, match="not UTF-8"):
        read_model(str(path))

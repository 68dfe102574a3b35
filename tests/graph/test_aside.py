"""Weights that stay in their files: what is read, what is refused, and that a model is the same to the byte."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from potc.diagnostics.diagnostic import Rejected
from potc.execute.aside import MARK, Scratch, Shelf, array_of, is_aside, set_aside, without_numbers
from potc.execute.session import open_session
from potc.graph import prepare
from potc.graph.external import take_apart
from potc.graph.model import Model
from potc.graph.opset import raise_opset
from potc.graph.prepare import drop_dead, fold_constants, infer_shapes
from potc.graph.read import accept_model, read_model
from potc.graph.whole import whole_bytes, whole_model
from potc.graph.write import one_file, write_all
from potc.quantize.ranges import fingerprint

SAMPLE = Path(__file__).parents[2] / "samples" / "digits" / "model.onnx"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The sample with its weights in a file beside it."""
    path = tmp_path / "m.onnx"
    proto, place, data = take_apart(SAMPLE.read_bytes(), str(path))
    write_all({place: data, str(path): proto})
    return path


def test_large_initializers_stay_in_their_file(model: Path) -> None:
    whole, lean = read_model(str(model)), read_model(str(model), whole=0)
    assert whole.aside is None and lean.aside is not None
    apart = set_aside(lean.proto)
    assert {t.name for t in apart} == {t.name for t in whole.proto.graph.initializer if np.prod(t.dims) > 1024} != set()
    assert lean.proto.ByteSize() < whole.proto.ByteSize() / 4
    stored = {t.name: t for t in whole.proto.graph.initializer}
    for tensor in lean.proto.graph.initializer:
        np.testing.assert_array_equal(array_of(tensor), numpy_helper.to_array(stored[tensor.name]))
    assert lean.files == whole.files


def test_weights_inside_the_model_go_to_a_file() -> None:
    whole, lean = read_model(str(SAMPLE)), read_model(str(SAMPLE), whole=0)
    assert set_aside(lean.proto)
    assert b"".join(whole_model(lean.proto).blocks()) == whole.proto.SerializeToString(deterministic=True)


def test_the_bytes_and_the_fingerprint_are_the_same(model: Path) -> None:
    whole, lean = read_model(str(model)), read_model(str(model), whole=0)
    content = whole_model(lean.proto)
    wanted = whole.proto.SerializeToString(deterministic=True)
    assert b"".join(content.blocks()) == wanted and content.size == len(wanted)
    assert fingerprint(lean) == fingerprint(whole)
    again = whole_bytes(lean.proto.SerializeToString())
    assert b"".join(again.blocks()) == wanted


def test_a_session_gets_the_numbers(model: Path) -> None:
    feed = {"image": np.random.default_rng(0).random((1, 1, 28, 28), np.float32)}
    feed = {read_model(str(model)).inputs[0].name: feed["image"]}
    protos = [read_model(str(model), whole=w).proto for w in (2**31, 0)]
    a, b = (open_session(p.SerializeToString(), optimize=True, threads=1).run(None, feed)[0] for p in protos[:1] * 2)
    lean = read_model(str(model), whole=0)
    c = open_session(lean.proto.SerializeToString(), optimize=True, threads=1).run(None, feed)[0]
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)


def test_the_opset_is_raised_without_numbers(model: Path) -> None:
    whole, lean = (raise_opset(read_model(str(model), w), 21) for w in (2**31, 0))
    assert set_aside(lean.proto) and lean.aside is not None
    assert fingerprint(lean) == fingerprint(whole)
    assert not set_aside(without_numbers(lean.proto))


def _external(folder: Path, length: int, location: str = "w.data") -> Path:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64, 32], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="m")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c]) for n, c in (("x", 64), ("y", 32)))
    proto = helper.make_model(
        helper.make_graph([node], "g", [x], [y], [tensor]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_wrong_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(bytes(64 * 32 * 4))
    with pytest.raises(Rejected, match="8188 bytes of external data; its shape asks for 8192"):
        read_model(str(_external(tmp_path, 64 * 32 * 4 - 4)), whole=0)


def test_nan_is_refused(tmp_path: Path) -> None:
    values = np.zeros((64, 32), np.float32)
    values[3, 3] = np.nan
    (tmp_path / "w.data").write_bytes(values.tobytes())
    with pytest.raises(Rejected) as caught:
        read_model(str(_external(tmp_path, values.nbytes)), whole=0)
    assert caught.value.diagnostics[0].code == "non-finite-weights"


@pytest.mark.parametrize("location", ["../w.data", "link.data", "/etc/passwd", f"{MARK}0", "none.data"])
def test_no_path_leads_out_of_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "w.data").write_bytes(bytes(64 * 32 * 4))
    os.symlink(tmp_path / "w.data", tmp_path / "in" / "link.data")
    with pytest.raises(Rejected) as caught:
        read_model(str(_external(tmp_path / "in", 64 * 32 * 4, location)), whole=0)
    assert caught.value.diagnostics[0].code == "external-data-outside"


def test_a_file_that_becomes_shorter_is_told(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(bytes(64 * 32 * 4))
    model = read_model(str(_external(tmp_path, 64 * 32 * 4)), whole=0)
    os.truncate(tmp_path / "w.data", 100)
    with pytest.raises(Rejected, match="can't be read at byte 100: it has become shorter"):
        array_of(model.proto.graph.initializer[0])


def test_a_file_that_is_exchanged_stays_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(np.ones((64, 32), np.float32).tobytes())
    model = read_model(str(_external(tmp_path, 64 * 32 * 4)), whole=0)
    (tmp_path / "new").write_bytes(bytes(64 * 32 * 4))
    (tmp_path / "new").replace(tmp_path / "w.data")
    assert array_of(model.proto.graph.initializer[0]).all()


def test_numbers_are_gone_with_their_model(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(bytes(64 * 32 * 4))
    proto = read_model(str(_external(tmp_path, 64 * 32 * 4)), whole=0).proto
    with pytest.raises(ValueError, match="the model that held them was given up"):
        array_of(proto.graph.initializer[0])


def test_small_types_are_set_aside_and_come_back() -> None:
    scratch = Scratch()
    codes = np.arange(64 * 64).reshape(64, 64) % 16 - 8
    tensor = helper.make_tensor("c", TensorProto.INT4, [64, 64], codes.ravel().tolist())
    wanted = numpy_helper.to_array(tensor).astype(np.int8)
    scratch.take(tensor)
    assert is_aside(tensor)
    np.testing.assert_array_equal(array_of(tensor).astype(np.int8), wanted)


def test_a_shelf_is_a_list() -> None:
    shelf = Shelf(Scratch())
    arrays = [np.arange(n, dtype=kind) for n, kind in ((3, np.int8), (0, np.float32), (5, np.int64))]
    for array in arrays:
        shelf.append(array)
    shelf[1] = np.float32([[1, 2]])
    assert [a.tolist() for a in shelf] == [[0, 1, 2], [[1, 2]], [0, 1, 2, 3, 4]]
    assert [a.tolist() for a in shelf[1:2]] == [[[1, 2]]]


def test_more_than_a_file_holds_is_refused_before_it_is_written() -> None:
    scratch = Scratch()
    tensor = TensorProto(name="w", data_type=TensorProto.INT8, dims=[2**31])
    scratch.refer(tensor, 0, 2**31)
    proto = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor]))
    with pytest.raises(Rejected, match="one file holds at most 2,147,483,647"):
        one_file(proto.SerializeToString())


def test_folded_weights_are_set_aside_in_several_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transposed weights of a model that sets them aside: computed a few at a time, and set aside again."""
    nodes: list[onnx.NodeProto] = []
    stored: list[TensorProto] = []
    x = "x"
    for i in range(4):
        values = np.random.default_rng(i).random((48, 48), np.float32)
        stored.append(numpy_helper.from_array(values, f"w{i}"))
        nodes.append(helper.make_node("Transpose", [f"w{i}"], [f"t{i}"], name=f"t{i}", perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", [x, f"t{i}"], [f"p{i}"], name=f"p{i}"))
        x = f"p{i}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 48]) for n in ("x", "p3")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()

    def folded(whole: int) -> Model:
        model = accept_model("m", onnx.ModelProto.FromString(data), whole)
        return drop_dead(fold_constants(infer_shapes(model)))

    expected = folded(2**31)
    runs: list[int] = []
    monkeypatch.setattr(prepare, "APART", 2 * 48 * 48 * 4)
    real = prepare.run_once
    monkeypatch.setattr(prepare, "run_once", lambda m, names: runs.append(len(names)) or real(m, names))
    lean = folded(0)
    assert runs == [2, 2]
    assert len(set_aside(lean.proto)) == 4
    assert fingerprint(lean) == fingerprint(expected)

"""Pictures, lists, tables, COCO files and Python objects become samples; hostile ones are refused."""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from potc.data import pictures
from potc.data.annotated import AnnotatedDataset
from potc.data.dataset import InputSpec
from potc.data.indexed import as_source
from potc.data.objects import Objects
from potc.data.pictures import read_picture
from potc.data.source import Annotations, open_annotated
from potc.diagnostics.diagnostic import Rejected
from potc.limits import limited, stated

COLOURS = InputSpec("x", np.dtype(np.float32), (None, 3, 4, 6))
BYTES = InputSpec("x", np.dtype(np.uint8), (1, 4, 6, 3))
RECIPE = "scale = 255, layout = 'chw'"
DRAWN = np.random.default_rng(2).integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)


def save(folder: Path, *names: str) -> None:
    for name, array in zip(names, DRAWN, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / name)


def annotations(data: AnnotatedDataset) -> list[Any]:
    return [data.sample(i).annotation for i in range(len(data))]


def rejected(*arguments: Any, **words: Any) -> tuple[str, str]:
    with pytest.raises(Rejected) as caught:
        open_annotated(*arguments, **words)
    (told,) = caught.value.diagnostics
    return told.code, told.message


def test_a_folder_of_classes(tmp_path: Path) -> None:
    save(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png")
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    data = open_annotated(str(tmp_path), [COLOURS], preprocess=RECIPE)
    assert annotations(data) == [0, 0, 1]
    np.testing.assert_array_equal(
        data.sample(1).inputs["x"], (DRAWN[1].astype(np.float32) / np.float32(255)).transpose(2, 0, 1)[None]
    )
    assert [f["x"].shape for f in data.feeds()] == [(1, 3, 4, 6)] * 3
    (tmp_path / "classes.txt").write_text("cow\ndog\ncat\n")
    known = Annotations(str(tmp_path / "classes.txt"))
    assert annotations(open_annotated(str(tmp_path), [COLOURS], None, None, RECIPE, known)) == [2, 2, 1]


def test_folders_that_are_numbers_are_classes_of_these_numbers(tmp_path: Path) -> None:
    save(tmp_path, "10/1.png", "9/1.png")
    assert annotations(open_annotated(str(tmp_path), [BYTES])) == [10, 9]


def test_a_flat_folder_has_no_annotations_unless_a_table_gives_them(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "b.png", "c.png")
    assert annotations(open_annotated(str(tmp_path), [BYTES])) == [None] * 3
    (tmp_path / "val.csv").write_text("path,label\nc.png,7\na.png,2.5\nb.png,text\n")
    for data, known in (
        (str(tmp_path / "val.csv"), Annotations()),
        (str(tmp_path), Annotations(str(tmp_path / "val.csv"))),
    ):
        found = open_annotated(data, [BYTES], None, None, None, known)
        assert annotations(found) == [7, 2.5, "text"]
        np.testing.assert_array_equal(found.sample(0).inputs["x"][0], DRAWN[2])
    (tmp_path / "list.txt").write_text("b.png\n\na.png\n")
    assert len(open_annotated(str(tmp_path / "list.txt"), [BYTES])) == 2


def test_masks_follow_their_pictures(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    mask = (np.arange(24) % 5).reshape(4, 6).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "m.png")
    (tmp_path / "val.csv").write_text("path,mask\na.png,m.png\n")
    crop = InputSpec("x", np.dtype(np.float32), (1, 3, 2, 2))
    data = open_annotated(str(tmp_path / "val.csv"), [crop], preprocess=f"crop = 2, {RECIPE}")
    np.testing.assert_array_equal(data.sample(0).annotation, mask[1:3, 2:4])


def test_limits_and_seeds_choose_samples(tmp_path: Path) -> None:
    save(tmp_path, *(f"{i}.png" for i in range(5)))
    assert list(open_annotated(str(tmp_path), [BYTES], 2).chosen) == [0, 2]
    drawn = open_annotated(str(tmp_path), [BYTES], 2, 1)
    assert list(drawn.chosen) == list(open_annotated(str(tmp_path), [BYTES], 2, 1).chosen)
    np.testing.assert_array_equal(drawn.sample(1).inputs["x"][0], DRAWN[drawn.chosen[1]])


def test_orientation_and_grey(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(DRAWN[0]).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_picture(str(tmp_path / "a.png")), np.rot90(DRAWN[0], -1))
    assert read_picture(str(tmp_path / "a.png"), gray=True).shape == (6, 4, 1)


def test_coco(tmp_path: Path) -> None:
    save(tmp_path, "images/a.png", "images/b.png")
    described = {
        "images": [
            {"id": 9, "file_name": "b.png", "width": 6, "height": 4},
            {"id": 3, "file_name": "a.png", "width": 6, "height": 4},
        ],
        "annotations": [{"image_id": 9, "category_id": 17, "bbox": [1, 1, 2, 3], "iscrowd": 1}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(described))
    data = open_annotated(
        str(tmp_path / "instances.json"), [BYTES], annotations=Annotations(images=str(tmp_path / "images"))
    )
    assert annotations(data) == [Objects([], [], [], (6, 4)), Objects([(1, 1, 3, 4)], [17], [True], (6, 4))]
    np.testing.assert_array_equal(data.sample(0).inputs["x"][0], DRAWN[0])
    (tmp_path / "instances.json").write_text('{"images": [{"id": 1}], "annotations": []}')
    assert rejected(str(tmp_path / "instances.json"), [BYTES])[0] == "invalid-data"
    (tmp_path / "instances.json").write_text("[" * 100_000)
    assert rejected(str(tmp_path / "instances.json"), [BYTES])[0] == "invalid-data"


def test_rows_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,label,c\n1,2.5,1,3\n4,5,0,6e1\n")
    spec = InputSpec("x", np.dtype(np.float32), (None, 3))
    data = open_annotated(str(tmp_path / "t.csv"), [spec])
    assert annotations(data) == [1, 0]
    np.testing.assert_array_equal(data.sample(1).inputs["x"], [[4, 5, 60]])
    assert annotations(open_annotated(str(tmp_path / "t.csv"), [spec], annotations=Annotations("a"))) == [1, 4]
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,x\n")
    assert rejected(str(tmp_path / "t.csv"), [spec]) == ("invalid-data", f"{tmp_path}/t.csv, line 2: 'x' is no number")
    (tmp_path / "t.csv").write_text("a,b,c\n1,2\n")
    assert "line 2: 2 fields" in rejected(str(tmp_path / "t.csv"), [spec])[1]


def test_annotations_in_arrays(tmp_path: Path) -> None:
    spec = InputSpec("x", np.dtype(np.float32), (None, 3))
    path = str(tmp_path / "t.npz")
    np.savez(path, rows=np.arange(12, dtype=np.uint8).reshape(4, 3), y=np.arange(4), z=np.eye(4))
    recipe = "array = 'rows', mean = 1"
    data = open_annotated(path, [spec], None, None, recipe, Annotations("y"))
    assert annotations(data) == [0, 1, 2, 3]
    np.testing.assert_array_equal(data.sample(3).inputs["x"], [[8, 9, 10]])
    np.testing.assert_array_equal(data.sample(1).inputs["x"], [[2, 3, 4]])  # backwards, too
    both = open_annotated(path, [spec], preprocess=recipe).sample(2).annotation
    assert both["y"] == 2
    assert both["z"].tolist() == [0, 0, 1, 0]
    assert rejected(path, [spec])[0] == "wrong-data-names"


def test_what_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "secret.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "val.csv").write_text("path,label\n../secret.png,1\n")
    assert rejected(str(tmp_path / "in" / "val.csv"), [BYTES])[0] == "invalid-data"
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "in" / "val.csv").write_text("path,label\nlink.png,1\n")
    assert rejected(str(tmp_path / "in" / "val.csv"), [BYTES])[0] == "invalid-data"


def test_a_picture_that_claims_to_be_huge_is_not_decoded(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    chunk = b"IDAT" + zlib.compress(b"\0" * 1000)
    png += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(png)
    assert rejected(str(tmp_path), [BYTES])[0] == "too-large"


def test_damaged_pictures_and_missing_ones(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    assert rejected(str(tmp_path), [BYTES])[0] == "invalid-data"
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")  # Pillow would start another program
    assert rejected(str(tmp_path), [BYTES])[0] == "invalid-data"
    (tmp_path / "list.txt").write_text("none.png\n")
    assert rejected(str(tmp_path / "list.txt"), [BYTES])[0] == "missing-file"


def test_a_table_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n" + "1,2,3\n" * 20)
    with limited(stated({"table-bytes": 100})):
        assert rejected(str(tmp_path / "t.csv"), [BYTES])[0] == "too-large"


def test_pictures_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert rejected(str(tmp_path), [BYTES]) == ("missing-package", "pictures need Pillow")


# ---------------------------------------------------------------------------------------------- Python objects

ROW = InputSpec("x", np.dtype(np.float32), (None, 3))


class Tensor:
    """What potc asks of a tensor of torch."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.detached = False

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        self.detached = True
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        assert self.detached, "it is on a device, and needs gradients"
        return self._array


class Loader:
    """Batches, as torch's loader yields them."""

    batch_size = 2

    def __iter__(self) -> Iterator[list[Tensor]]:
        yield [Tensor(np.ones((2, 3), np.float32)), Tensor(np.array([1, 2]))]
        yield [Tensor(np.zeros((1, 3), np.float32)), Tensor(np.array([3]))]


ONE = np.ones(3, np.float32)
OBJECTS: list[tuple[str, Any, list[Any]]] = [
    ("arrays", [ONE, ONE * 2], [None, None]),
    ("mappings", [{"x": ONE}], [None]),
    ("pairs", [(ONE, 4), ({"x": ONE}, "text")], [4, "text"]),
    ("with metadata", [(ONE, 4, {"shape": 3})], [4]),
    ("of old POT versions", [((0, 7), ONE)], [7]),
    ("tensors", [(Tensor(ONE), 1)], [1]),
    ("batches", Loader(), [1, 2, 3]),
    ("a generator", ((ONE * i, i) for i in range(3)), [0, 1, 2]),
]


@pytest.mark.parametrize(("thing", "expected"), [o[1:] for o in OBJECTS], ids=[o[0] for o in OBJECTS])
def test_python_objects(thing: Any, expected: list[Any]) -> None:
    data = open_annotated(thing, [ROW])
    assert annotations(data) == expected
    assert [f["x"].shape for f in data.feeds()] == [(1, 3)] * len(expected)


@pytest.mark.parametrize(
    ("thing", "code"),
    [
        ([], "no-samples"),
        ([(1, 2, 3, 4)], "invalid-data"),
        ([object()], "invalid-data"),
        (3, "invalid-data"),
        ([np.ones(4, np.float32)], "wrong-data-shape"),
        ([{"y": ONE}], "wrong-data-names"),
        ([np.full(3, np.nan, np.float32)], "non-finite-data"),
    ],
)
def test_python_objects_that_are_none(thing: Any, code: str) -> None:
    assert rejected(thing, [ROW])[0] == code


@pytest.mark.parametrize(("limit", "most"), [("held-bytes", 100), ("samples", 10)])
def test_what_is_held_has_a_limit(limit: str, most: int) -> None:
    with limited(stated({limit: most})), pytest.raises(Rejected, match="too-large"):
        as_source(ONE for _ in range(20))


def test_files_of_the_user(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "ROWS = [(np.ones(3, np.float32), 5)]\n"
        "def rows():\n    print('loading')\n    return ROWS\n"
        "class Rows:\n    def __len__(self): return 1\n    def __getitem__(self, i): return ROWS[i]\n"
    )
    for name in ("ROWS", "rows", "Rows"):
        assert annotations(open_annotated(f"{file}:{name}", [ROW])) == [5]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "loading\n")
    assert rejected(f"{file}:nothing", [ROW])[0] == "python-failed"
    file.write_text("raise ValueError('no')")
    assert rejected(f"{file}:rows", [ROW]) == ("python-failed", f"{file} can't be run: ValueError: no")


def test_what_lies_elsewhere_is_fetched() -> None:
    import fsspec

    content = io.BytesIO()
    np.savez(content, x=np.ones((2, 3), np.float32))
    with fsspec.open("memory://bucket/a.npz", "wb") as file:
        file.write(content.getvalue())
    data = open_annotated("memory://bucket/a.npz", [ROW])
    assert len(data) == 2
    assert data.files == ()  # a copy is no file of the user
    assert rejected("memory://bucket/none.npz", [ROW])[0] == "missing-file"
    assert rejected("nothing://bucket/none.npz", [ROW])[0] == "missing-file"


def test_formats_that_start_programs_are_not_read() -> None:
    assert "EPS" not in pictures.FORMATS


def test_files_are_those_of_the_samples_that_are_used(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "b.png", "c.png", "d.png")
    (tmp_path / "val.csv").write_text("path,mask\na.png,b.png\nc.png,d.png\n")
    assert open_annotated(str(tmp_path), [BYTES], 2).files == (str(tmp_path / "a.png"), str(tmp_path / "c.png"))
    for name in ("b.png", "d.png"):
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / name)
    listed = [str(tmp_path / name) for name in ("val.csv", "a.png", "b.png")]
    assert list(open_annotated(str(tmp_path / "val.csv"), [BYTES], 1).files) == listed

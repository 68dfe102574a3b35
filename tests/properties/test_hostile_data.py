"""Whatever stands in files and words of the user, only Rejected escapes."""

from __future__ import annotations

import json
import string
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potc.data.dataset import InputSpec
from potc.data.preprocessing import read_preprocessing, recipe_of
from potc.data.source import open_annotated
from potc.diagnostics.diagnostic import Rejected
from potc.evaluate.metrics.named import metric_named

SPEC = InputSpec("x", np.dtype(np.float32), (None, 3))
FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)

NUMBERS = st.integers(-5, 300) | st.floats() | st.just(10**400)
SCALARS = (
    st.none() | st.booleans() | NUMBERS | st.text(max_size=6) | st.sampled_from(["chw", "rgb", "bilinear", "float32"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
SETTINGS = st.sampled_from(
    ["array", "color", "resize", "resample", "crop", "mean", "scale", "stored", "layout", "dtype", "inputs", "other"]
)


@given(st.dictionaries(SETTINGS, VALUES, max_size=4))
def test_recipes(words: dict[str, Any]) -> None:
    with suppress(Rejected):
        recipe = recipe_of("here", words).common
        with suppress(ValueError):  # what can't be done to an array is told with the sample
            recipe.apply(np.zeros((4, 5, 3), np.uint8))


@given(st.text(alphabet=string.printable, max_size=30))
def test_words_of_recipes_and_metrics(text: str) -> None:
    for read in (read_preprocessing, metric_named):
        with suppress(Rejected):
            read(text)


KEYS = st.sampled_from(["id", "file_name", "width", "height", "image_id", "bbox", "category_id", "iscrowd"])
ENTRIES = st.lists(st.dictionaries(KEYS, VALUES | st.just(1) | st.just([1, 2, 3, 4]), max_size=6), max_size=3)


@FOLDER
@given(st.fixed_dictionaries({"images": ENTRIES, "annotations": ENTRIES}) | VALUES)
def test_coco_files(tmp_path: Path, words: Any) -> None:
    (tmp_path / "coco.json").write_text(json.dumps(words))
    with pytest.raises(Rejected):  # there is no picture
        open_annotated(str(tmp_path / "coco.json"), [SPEC], preprocess="scale = 2")


@FOLDER
@given(
    st.text(alphabet='path,label\n\r"01.5x-e\0', max_size=40)
    | st.binary(max_size=20).map(lambda b: b.decode("latin-1"))
)
def test_tables_and_lists(tmp_path: Path, text: str) -> None:
    for name in ("t.csv", "t.txt"):
        (tmp_path / name).write_bytes(text.encode())
        with suppress(Rejected):
            open_annotated(str(tmp_path / name), [SPEC], preprocess="scale = 2")


@FOLDER
@given(
    st.binary(max_size=60),
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"P6\n9 9 255\n", b"II*\0", b"RIFF\0\0\0\0WEBP", b""]),
)
def test_pictures(tmp_path: Path, content: bytes, magic: bytes) -> None:
    (tmp_path / "pictures").mkdir(exist_ok=True)
    (tmp_path / "pictures" / "a.png").write_bytes(magic + content)
    with suppress(Rejected):
        open_annotated(str(tmp_path / "pictures"), [SPEC], preprocess="scale = 2")

"""Recipes: what each setting does, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from potc.data.dataset import InputSpec
from potc.data.preprocessing import Preprocessing, read_preprocessing
from potc.data.source import open_annotated
from potc.diagnostics.diagnostic import Rejected

PICTURE = np.random.default_rng(4).integers(0, 256, (6, 8, 3)).astype(np.uint8)


def made(text: str, array: np.ndarray = PICTURE) -> np.ndarray:
    return read_preprocessing(text).common.apply(array)


def test_nothing_declared_is_nothing_done() -> None:
    assert made("") is PICTURE
    assert made("array = 'y'") is PICTURE


def test_each_setting() -> None:
    np.testing.assert_array_equal(made("color = 'bgr'"), PICTURE[..., ::-1])
    np.testing.assert_array_equal(made("crop = 4"), PICTURE[1:5, 2:6])
    np.testing.assert_array_equal(made("crop = [5, 7]"), PICTURE[0:5, 0:7])
    np.testing.assert_array_equal(made("layout = 'chw'"), PICTURE.transpose(2, 0, 1))
    assert made("resize = 3").shape == (3, 4, 3)
    assert made("resize = [9, 5]").shape == (9, 5, 3)
    assert made("dtype = 'int32'").dtype == np.int32
    np.testing.assert_array_equal(made("resize = [3, 4], resample = 'nearest'"), PICTURE[1::2, 1::2])
    pillow = np.asarray(Image.fromarray(PICTURE).resize((4, 3), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(made("resize = [3, 4], resample = 'bicubic'"), pillow)


def test_numbers_are_shifted_then_divided_by_channel() -> None:
    wanted = (PICTURE.astype(np.float32) - np.float32([1, 2, 3])) / np.float32(4)
    np.testing.assert_array_equal(made("mean = [1, 2, 3], scale = 4"), wanted)
    np.testing.assert_array_equal(made("scale = 4, mean = [3, 2, 1], color = 'bgr'"), wanted[..., ::-1])


def test_axes() -> None:
    moved = PICTURE.transpose(2, 0, 1)
    np.testing.assert_array_equal(made("stored = 'chw', crop = 4", moved), PICTURE[1:5, 2:6].transpose(2, 0, 1))
    np.testing.assert_array_equal(made("stored = 'chw', layout = 'hwc'", moved), PICTURE)
    assert made("layout = 'chw'", PICTURE[..., 0]).shape == (1, 6, 8)
    assert made("layout = 'hwc'", PICTURE[..., 0]).shape == (6, 8, 1)
    assert made("layout = 'hw'", PICTURE[..., :1]).shape == (6, 8)


def test_files_say_the_same_as_words(tmp_path: Path) -> None:
    toml, json = tmp_path / "r.toml", tmp_path / "r.json"
    toml.write_text("resize = 256\nmean = [1, 2, 3]\n[inputs.state]\ndtype = 'float32'\n")
    json.write_text('{"resize": 256, "mean": [1, 2, 3], "inputs": {"state": {"dtype": "float32"}}}')
    words = read_preprocessing("resize = 256, mean = [1, 2, 3], inputs = {state = {dtype = 'float32'}}")
    assert read_preprocessing(str(toml)) == read_preprocessing(str(json)) == words
    assert words.told() == {"resize": 256, "mean": [1.0, 2.0, 3.0], "inputs": {"state": {"dtype": "float32"}}}
    assert words.of("state").resize is None
    assert words.of("image").resize == 256
    assert read_preprocessing(None) == Preprocessing()
    assert read_preprocessing(None).told() == {}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("sclae = 2", "no setting `sclae`"),
        ("scale = 0", "`scale` in --preprocess is 0"),
        ("scale = [1, 'a']", "`scale`"),
        ("mean = nan", "`mean`"),
        ("crop = 0", "`crop`"),
        ("crop = [1, 2, 3]", "`crop`"),
        ("resize = 100000", "`resize`"),
        ("layout = 'nchw'", "`layout`"),
        ("dtype = 'float33'", "`dtype`"),
        ("array = 3", "`array`"),
        ("inputs = 3", "`inputs`"),
        ("crop = ", "can't be read"),
        ("missing.toml", "missing.toml"),
    ],
)
def test_what_no_recipe_is(text: str, part: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_preprocessing(text)
    (told,) = caught.value.diagnostics
    assert told.code == ("missing-file" if "toml" in text else "invalid-preprocessing")
    assert part in told.message


@pytest.mark.parametrize(
    ("text", "array", "part"),
    [
        ("crop = 9", PICTURE, "can't be cropped to 9x9"),
        ("color = 'bgr'", PICTURE[..., 0], "no 3 colours"),
        ("mean = [1, 2]", PICTURE, "broadcast"),
        ("resize = 3", PICTURE.astype(np.float32), "takes bytes"),
        ("layout = 'hw'", PICTURE, "3 channels"),
    ],
)
def test_what_can_not_be_done_is_told_with_the_sample(text: str, array: np.ndarray, part: str) -> None:
    spec = InputSpec("x", np.dtype(np.float32), None)
    with pytest.raises(Rejected) as caught:
        open_annotated([array], [spec], preprocess=text)
    (told,) = caught.value.diagnostics
    assert told.code == "invalid-preprocessing"
    assert "data[0]" in told.message
    assert part in told.message


def test_bytes_become_floats_only_where_it_is_said() -> None:
    spec = InputSpec("x", np.dtype(np.float32), (1, 6, 8, 3))
    with pytest.raises(Rejected, match="wrong-data-type"):
        open_annotated([PICTURE], [spec])
    assert open_annotated([PICTURE], [spec], preprocess="color = 'bgr'").sample(0).inputs["x"].dtype == np.float32
    with pytest.raises(Rejected, match="speaks of an input `y`"):
        open_annotated([PICTURE], [spec], preprocess="inputs = {y = {scale = 2}}")

"""Samples: checks that name what was found and what the model takes, and memory that does not grow."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from potc.data.dataset import InputSpec
from potc.data.npz import open_npz
from potc.data.synthetic import synthetic
from potc.diagnostics.diagnostic import Rejected

PICTURE = InputSpec("input", np.dtype(np.float32), (None, 3, 4, 4))
STATE = InputSpec("state", np.dtype(np.float32), (1, 1, 8))
TOKENS = InputSpec("tokens", np.dtype(np.int64), (None, 5))


def write(folder: Path, **arrays: np.ndarray) -> str:
    path = folder / "samples.npz"
    np.savez_compressed(path, **arrays)
    return str(path)


def test_samples_come_in_order_with_a_batch_axis(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 3, 4, 4)).astype(np.float32)
    samples = open_npz(write(tmp_path, input=values), [PICTURE])
    assert len(samples) == 6
    for feed, value in zip(samples.feeds(), values, strict=True):
        np.testing.assert_array_equal(feed["input"], value[None])


def test_a_whole_feed_is_passed_as_it_is(tmp_path: Path) -> None:
    samples = open_npz(write(tmp_path, state=np.zeros((2, 1, 1, 8), np.float32)), [STATE])
    assert next(iter(samples.feeds()))["state"].shape == (1, 1, 8)


def test_a_limit_spreads_over_the_file(tmp_path: Path) -> None:
    tokens = np.arange(50).reshape(10, 5)
    samples = open_npz(write(tmp_path, tokens=tokens), [TOKENS], limit=3)
    assert [feed["tokens"][0, 0] for feed in samples.feeds()] == [0, 15, 30]


def test_plain_npy_feeds_a_model_with_one_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3, 4, 4), np.float64))
    (first, _) = open_npz(str(tmp_path / "x.npy"), [PICTURE]).feeds()
    assert first["input"].dtype == np.float32


BROKEN = [
    ({"inptu": np.zeros((2, 3, 4, 4), np.float32)}, "wrong-data-names", ["inptu", "input (float32 ?x3x4x4)"]),
    ({"input": np.zeros((2, 3, 4, 5), np.float32)}, "wrong-data-shape", ["axis 3 is 5", "takes 4"]),
    ({"input": np.zeros((2, 3), np.float32)}, "wrong-data-shape", ["1 axes"]),
    ({"input": np.zeros((0, 3, 4, 4), np.float32)}, "no-samples", ["no samples"]),
    ({"input": np.zeros((2, 3, 4, 4), np.uint8)}, "wrong-data-type", ["uint8", "float32"]),
    ({"input": np.float32(1)}, "no-samples", ["no samples"]),
]


@pytest.mark.parametrize(("arrays", "code", "words"), BROKEN, ids=lambda v: v if isinstance(v, str) else "")
def test_what_does_not_fit_is_told(tmp_path: Path, arrays: dict[str, np.ndarray], code: str, words: list[str]) -> None:
    with pytest.raises(Rejected) as caught:
        open_npz(write(tmp_path, **arrays), [PICTURE])
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code
    assert all(word in diagnostic.message for word in words)


@pytest.mark.parametrize(
    ("stored", "model", "words"),
    [
        ((4, 5, 3), (None, 3, 4, 5), "stored = 'hwc', layout = 'chw'"),
        ((3, 4, 5), (1, 4, 5, 3), "stored = 'chw', layout = 'hwc'"),
    ],
)
def test_pictures_that_lie_otherwise_are_told_how(
    tmp_path: Path, stored: tuple[int, ...], model: tuple[int | None, ...], words: str
) -> None:
    path = write(tmp_path, input=np.zeros((2, *stored), np.float32))
    with pytest.raises(Rejected) as caught:
        open_npz(path, [InputSpec("input", np.dtype(np.float32), model)])
    assert words in (caught.value.diagnostics[0].help or "")


def test_a_misspelt_name_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        open_npz(write(tmp_path, inptu=np.zeros((2, 3, 4, 4), np.float32)), [PICTURE])
    assert "did you mean `input`" in (caught.value.diagnostics[0].help or "")


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_non_finite_samples_are_named(tmp_path: Path, value: float, word: str) -> None:
    values = np.zeros((5, 3, 4, 4), np.float32)
    values[3, 1, 2, 2] = value
    with pytest.raises(Rejected, match=f"sample 3 of `input` .* holds {word}"):
        list(open_npz(write(tmp_path, input=values), [PICTURE]).feeds())


def test_different_numbers_of_samples(tmp_path: Path) -> None:
    path = write(tmp_path, input=np.zeros((2, 3, 4, 4), np.float32), tokens=np.zeros((3, 5), np.int64))
    with pytest.raises(Rejected, match="different numbers of samples"):
        open_npz(path, [PICTURE, TOKENS])


def test_integers_that_do_not_fit(tmp_path: Path) -> None:
    spec = InputSpec("tokens", np.dtype(np.int8), (None, 5))
    samples = open_npz(write(tmp_path, tokens=np.full((1, 5), 300)), [spec])
    with pytest.raises(Rejected, match="can't hold"):
        list(samples.feeds())


def test_missing_file_exits_2(tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        open_npz(str(tmp_path / "nowhere.npz"), [PICTURE])
    assert caught.value.exit_code == 2


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input=np.array([{}], dtype=object))
    with pytest.raises(Rejected, match="Python objects"):
        open_npz(str(tmp_path / "x.npz"), [PICTURE])


def test_a_header_that_lies_about_its_size(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1, 10**12)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("input.npy", header.getvalue())
    with pytest.raises(Rejected) as caught:
        open_npz(str(tmp_path / "x.npz"), [InputSpec("input", np.dtype(np.float32), (None, None))])
    assert caught.value.diagnostics[0].code == "too-large"


def test_damaged_files_never_crash(tmp_path: Path) -> None:
    path = Path(write(tmp_path, input=np.random.default_rng(0).normal(size=(4, 3, 4, 4)).astype(np.float32)))
    data = path.read_bytes()
    for position in range(0, len(data), 11):
        for damaged in (data[:position], data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :]):
            path.write_bytes(damaged)
            try:
                list(open_npz(str(path), [PICTURE]).feeds())
            except Rejected as error:
                assert error.diagnostics[0].message


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    spec = InputSpec("input", np.dtype(np.float32), (None, 50_000))
    peaks = []
    for count in (20, 400):
        path = write(tmp_path, input=np.random.default_rng(0).normal(size=(count, 50_000)).astype(np.float32))
        tracemalloc.start()
        for _ in open_npz(path, [spec]).feeds():
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= peaks[0] * 1.1


def test_generated_samples_fit_and_repeat() -> None:
    samples = synthetic([PICTURE, TOKENS], 3, seed=0)
    first, again = list(samples.feeds()), list(samples.feeds())
    assert len(first) == 3 and samples.generated
    assert first[0]["input"].shape == (1, 3, 4, 4) and first[0]["tokens"].dtype == np.int64
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["input"], b["input"])


def test_inputs_without_a_shape_need_real_samples() -> None:
    with pytest.raises(Rejected, match="can't be generated"):
        synthetic([InputSpec("x", np.dtype(np.float32), None)], 1, 0)


@pytest.mark.parametrize(
    ("shape", "words"), [((10**9, 4), "claims 1,000,000,000 samples"), ((10**9, 0), "no elements")]
)
def test_a_header_that_lies_about_its_samples(tmp_path: Path, shape: tuple[int, ...], words: str) -> None:
    with (tmp_path / "x.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with pytest.raises(Rejected, match=words):
        open_npz(str(tmp_path / "x.npy"), [InputSpec("x", np.dtype(np.float32), (None, None))])


def test_damaged_lzma_is_refused(tmp_path: Path) -> None:
    stored = io.BytesIO()
    np.save(stored, np.arange(400, dtype=np.float32).reshape(100, 4))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", stored.getvalue())
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[200:260] = bytes(60)
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(Rejected):
        list(open_npz(str(tmp_path / "x.npz"), [InputSpec("x", np.dtype(np.float32), (None, 4))]).feeds())

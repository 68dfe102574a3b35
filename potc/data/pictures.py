"""Pictures as arrays, through Pillow: hostile files are refused before they are decoded."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from potc.diagnostics.diagnostic import reject
from potc.limits import limits, with_raising

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "GIF",
    "PPM",
    "TIFF",
    "WEBP",
)  # of those that Pillow reads, the ones that run no other program


def read_picture(path: str, gray: bool = False) -> np.ndarray:
    """uint8 [height, width, 3], RGB, or [height, width, 1]; turned as its EXIF orientation says. Transparency is dropped.

    Raises Rejected: missing-file, invalid-data, too-large, missing-package.
    """
    image = _opened(path)
    array = np.asarray(image.convert("L" if gray else "RGB"))
    return array[..., None] if gray else array


def read_mask(path: str) -> np.ndarray:
    """[height, width], the stored numbers: of a palette picture their indices. Raises Rejected as ``read_picture``."""
    array = np.asarray(_opened(path))
    if array.ndim != 2:
        raise reject("invalid-data", f"{path} has colours; a mask has one number for each pixel")
    return array


def picture_size(path: str) -> tuple[int, int]:
    """Width and height, without decoding."""
    return _opened(path, decode=False).size


def resized(array: np.ndarray, size: int | tuple[int, int], how: str) -> np.ndarray:
    """[height, width(, channels)] of bytes (or of numbers, for "nearest") in another size: (height, width), or that of the shorter
    side. Reducing averages, as Pillow does. Raises ValueError for arrays that are no picture."""
    if array.ndim not in (2, 3):
        raise ValueError(f"shape {list(array.shape)} is no picture that could be resized")
    height, width = array.shape[:2]
    if isinstance(size, int):
        short = min(height, width)
        size = (max(1, round(height * size / short)), max(1, round(width * size / short)))
    if size == (height, width):
        return array
    if how == "nearest":
        rows, columns = ((np.arange(n) * 2 + 1) * old // (2 * n) for n, old in zip(size, (height, width), strict=True))
        return array[rows][:, columns]
    if array.dtype != np.uint8:
        raise ValueError(f"numbers of {array.dtype} are resized by nearest only; {how} takes bytes")
    image = _pillow()
    planes = [array] if array.ndim == 2 else [array[..., c] for c in range(array.shape[2])]
    filter_ = getattr(image.Resampling, how.upper())
    done = [np.asarray(image.fromarray(np.ascontiguousarray(p)).resize(size[::-1], filter_)) for p in planes]
    return done[0] if array.ndim == 2 else np.stack(done, -1)


def centre(array: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """The middle (height, width) of an array; an odd pixel more is left right and below. Raises ValueError if it is smaller."""
    height, width = (size, size) if isinstance(size, int) else size
    if array.ndim < 2 or array.shape[0] < height or array.shape[1] < width:
        raise ValueError(f"shape {list(array.shape)} can't be cropped to {height}x{width}")
    top, left = (array.shape[0] - height) // 2, (array.shape[1] - width) // 2
    return array[top : top + height, left : left + width]


def _pillow() -> Any:
    try:
        from PIL import Image  # an extra
    except ImportError as error:
        help_ = "install it: pip install 'potc[images]'"
        raise reject("missing-package", "pictures need Pillow", help=help_, exit_code=2) from error
    return Image


@contextmanager
def _unbounded(image: Any) -> Generator[None]:
    """Without Pillow's own limit, which says nothing of ours: sizes are compared before a picture is decoded."""
    before, image.MAX_IMAGE_PIXELS = image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        image.MAX_IMAGE_PIXELS = before


def _opened(path: str, decode: bool = True) -> Any:
    image = _pillow()
    from PIL import ImageOps

    try:
        with warnings.catch_warnings(), _unbounded(image), Path(path).open("rb") as file:
            warnings.simplefilter("ignore")  # of odd metadata
            found = image.open(file, formats=FORMATS)
            width, height = found.size
            if width * height > limits().picture_pixels:
                message = f"{path} has {width:,} x {height:,} pixels; the limit is {limits().picture_pixels:,}"
                raise reject("too-large", message, help=with_raising("", "picture-pixels", width * height))
            if decode:
                found.load()
            return ImageOps.exif_transpose(found) if decode else found
    except FileNotFoundError as error:
        raise reject("missing-file", f"there is no file {path}", exit_code=2) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises for damaged files
        raise reject("invalid-data", f"{path} can't be read as a picture: {error}") from error

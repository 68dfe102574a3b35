"""Preprocessing, declared once: what is done to a stored picture or array before the model takes it, in calibration as in scoring.

The order is fixed: colours, resize, crop, (x - mean) / scale, layout, element type. What is not declared is not done. A recipe is
TOML or JSON, in a file or on the command line: ``resize = 256, crop = 224, mean = 127, scale = 128, layout = "chw"``. Tables
``[inputs.NAME]`` are the recipes of single inputs; what stands above them is the recipe of all others.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from potc.data.pictures import centre, resized
from potc.data.tables import read_table
from potc.diagnostics.diagnostic import reject

COLORS = ("rgb", "bgr", "gray")
LAYOUTS = ("hwc", "chw", "hw")
RESAMPLING = ("nearest", "bilinear", "bicubic", "box", "lanczos")
LARGEST = float(np.finfo(np.float32).max)  # what samples are computed in
Size = int | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Of one input. ``array``: which stored array feeds it, if not the one of its name. ``color``: the order of channels that the
    model takes; stored pictures are RGB. ``resize``: height and width, or the length of the shorter side; ``resample``: how.
    ``crop``: height and width, or one number for both, from the centre. ``mean`` and ``scale``: one number, or one for each
    channel, in units of what is stored. ``stored``: the axes of stored arrays; ``layout``: those that the model takes; without
    it nothing is moved. ``dtype``: the input's own by default.
    """

    array: str | None = None
    color: str = "rgb"
    resize: Size | None = None
    resample: str = "bilinear"
    crop: Size | None = None
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    stored: str = "hwc"
    layout: str | None = None
    dtype: str | None = None

    @property
    def converts(self) -> bool:
        """True if values are known to be meant as the model's numbers: bytes then become floats."""
        return self != Recipe(array=self.array)

    @property
    def moves(self) -> bool:
        """True if boxes in the stored picture are elsewhere in what the model sees, other than by stretching it."""
        return self.crop is not None or isinstance(self.resize, int)

    def apply(self, stored: np.ndarray) -> np.ndarray:
        """What the model takes, without the batch axis. Raises ValueError where the array is none that this could be done to."""
        if not self.converts:
            return stored
        array = np.moveaxis(stored, 0, -1) if self.stored == "chw" and stored.ndim == 3 else stored
        if self.color == "bgr":
            if array.ndim != 3 or array.shape[-1] != 3:
                raise ValueError(f"shape {list(stored.shape)} has no 3 colours that could be turned round")
            array = array[..., ::-1]
        array = self.frame(array)
        if self.mean or self.scale:
            array = array.astype(np.float32)
            array = array - np.asarray(self.mean, np.float32) if self.mean else array
            array = array / np.asarray(self.scale, np.float32) if self.scale else array
        return self._laid_out(array)

    def frame(self, array: np.ndarray, exact: bool = False) -> np.ndarray:
        """Resized and cropped; ``exact``: without new values between old ones, as class numbers need it."""
        if self.resize is not None:
            array = resized(array, self.resize, "nearest" if exact else self.resample)
        return array if self.crop is None else centre(array, self.crop)

    def _laid_out(self, array: np.ndarray) -> np.ndarray:
        if self.layout is not None:
            if array.ndim == 3 and self.layout == "hw":
                if array.shape[-1] != 1:
                    raise ValueError(f"{array.shape[-1]} channels can't be laid out as hw")
                array = array[..., 0]
            elif array.ndim == 2 and self.layout != "hw":
                array = array[..., None]
            if self.layout == "chw":
                array = np.moveaxis(array, -1, 0)
        elif self.stored == "chw" and array.ndim == 3:
            array = np.moveaxis(array, -1, 0)
        return np.ascontiguousarray(array if self.dtype is None else array.astype(self.dtype))


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The recipe of each input: its own, or the common one."""

    common: Recipe = field(default_factory=Recipe)
    inputs: Mapping[str, Recipe] = field(default_factory=dict[str, Recipe])

    def of(self, name: str) -> Recipe:
        return self.inputs.get(name, self.common)

    def told(self) -> dict[str, Any]:
        """For a report: what differs from doing nothing."""
        own = {name: _told(recipe) for name, recipe in sorted(self.inputs.items())}
        return _told(self.common) | ({"inputs": own} if own else {})


def read_preprocessing(text: str | None) -> Preprocessing:
    """A recipe of the command line: a ``.toml`` or ``.json`` file, or TOML pairs separated by commas. None: nothing is done.

    Raises Rejected: invalid-preprocessing; missing-file (exit code 2).
    """
    if text is None:
        return Preprocessing()
    try:
        if text.endswith(".json"):
            return recipe_of(text, json.loads(read_table(text)))
        if text.endswith(".toml"):
            return recipe_of(text, tomllib.loads(read_table(text).decode()))
        return recipe_of("--preprocess", tomllib.loads(f"recipe = {{{text}}}")["recipe"])
    except (ValueError, RecursionError) as error:
        shown = text if text.endswith((".json", ".toml")) else "--preprocess"
        raise _invalid(f"{shown} can't be read: {error}") from error


def recipe_of(where: str, words: Any) -> Preprocessing:
    """From parsed TOML or JSON. Raises Rejected(invalid-preprocessing)."""
    if not isinstance(words, dict):
        raise _invalid(f"{where} is no table of settings")
    common = {k: v for k, v in words.items() if k != "inputs"}
    own = words.get("inputs", {})
    if not (isinstance(own, dict) and all(isinstance(v, dict) for v in own.values())):
        raise _invalid(f"`inputs` in {where} is no table of tables")
    return Preprocessing(_recipe(where, common), {name: _recipe(where, table) for name, table in own.items()})


def _recipe(where: str, words: Mapping[str, Any]) -> Recipe:
    known = [f.name for f in fields(Recipe)]
    for key in words:
        if key not in known:
            raise _invalid(f"{where} has no setting `{key}`", f"settings are {', '.join(known)}")
    values = dict(words)
    for key, choices in (("color", COLORS), ("stored", LAYOUTS), ("layout", LAYOUTS), ("resample", RESAMPLING)):
        if key in values and values[key] not in choices:
            raise _invalid(f"`{key}` in {where} is {values[key]!r}", f"it is one of {', '.join(choices)}")
    for key in ("resize", "crop"):
        if key in values:
            values[key] = _size(where, key, values[key])
    for key in ("mean", "scale"):
        if key in values:
            values[key] = _numbers(where, key, values[key])
    if 0 in values.get("scale", ()):
        raise _invalid(f"`scale` in {where} is 0", "values are divided by it")
    for key, kind in (("array", str), ("dtype", str)):
        if key in values and not isinstance(values[key], kind):
            raise _invalid(f"`{key}` in {where} is {values[key]!r}, wanted a name")
    if "dtype" in values and values["dtype"] not in np.sctypeDict:
        raise _invalid(
            f"`dtype` in {where} is {values['dtype']!r}, which numpy does not know", "float32, uint8, int64, ..."
        )
    return Recipe(**values)


def _size(where: str, key: str, value: Any) -> Size:
    sides = value if isinstance(value, list) else [value]
    if not (len(sides) in (1, 2) and all(type(s) is int and 0 < s <= 1 << 16 for s in sides)):
        raise _invalid(f"`{key}` in {where} is {value!r}", "it is one number of pixels, or [height, width]")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _numbers(where: str, key: str, value: Any) -> tuple[float, ...]:
    numbers = value if isinstance(value, list) else [value]
    if not (numbers and all(type(n) in (int, float) and -LARGEST <= n <= LARGEST for n in numbers)):
        raise _invalid(f"`{key}` in {where} is {value!r}", "it is one number, or one for each channel")
    return tuple(float(n) for n in numbers)


def _told(recipe: Recipe) -> dict[str, Any]:
    plain = asdict(Recipe())
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(recipe).items() if v != plain[k]}


def _invalid(message: str, help: str = "see docs/reference/data.md") -> Exception:
    return reject("invalid-preprocessing", message, help=help)

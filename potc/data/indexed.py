"""Samples of Python objects: lists, data sets of torch and others, POT's loaders, functions of the user. Nothing is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from potc.data.fitted import Stored
from potc.data.python_file import call_python, load_python
from potc.diagnostics.diagnostic import reject
from potc.limits import limits, with_raising


class Indexed:
    """A Source over an object with ``len()`` and ``[i]``. An item is an array, a mapping from input name to array, or a pair
    of that and an annotation; a third part (POT's metadata) is left out. Tensors count as arrays."""

    pictures = False

    def __init__(self, items: Any, name: str = "data", files: tuple[str, ...] = ()) -> None:
        self._files = files
        self._items = items
        self._name = name

    def __len__(self) -> int:
        return len(self._items)

    def files(self, chosen: Sequence[int]) -> tuple[str, ...]:
        return self._files

    def item(self, index: int) -> Stored:
        """Raises Rejected(invalid-data) for an item of another form, and for what the object raises."""
        where = f"{self._name}[{index}]"
        found = call_python(where, self._items.__getitem__, index)
        arrays, annotation = split(where, found)
        return Stored(arrays, annotation, where)


def split(where: str, item: Any) -> tuple[Mapping[str, np.ndarray], Any]:
    """Arrays by input name ("" for one alone), and the annotation. Raises Rejected(invalid-data)."""
    annotation = None
    if isinstance(item, tuple):
        if len(item) not in (2, 3):
            raise reject(
                "invalid-data", f"{where} has {len(item)} parts", help="give an array, or (inputs, annotation)"
            )
        item, annotation = (item[1], item[0][1]) if _is_turned_round(item) else (item[0], item[1])
    if isinstance(item, Mapping):
        return {str(name): as_array(f"{where}[{name!r}]", value) for name, value in item.items()}, plain(annotation)
    return {"": as_array(where, item)}, plain(annotation)


def _is_turned_round(item: Sequence[Any]) -> bool:
    """Loaders of old POT versions return ((id, annotation), data)."""
    first, second = item[0], item[1]
    return isinstance(first, tuple) and len(first) == 2 and (isinstance(second, Mapping) or hasattr(second, "shape"))


def as_array(where: str, value: Any) -> np.ndarray:
    """An array of numbers, from whatever numpy takes; tensors leave device and gradients. Raises Rejected(invalid-data)."""
    try:
        array = np.asarray(_detached(value))
    except Exception as error:  # whatever a foreign object raises
        raise reject("invalid-data", f"{where} is no array: {type(error).__name__}: {error}") from error
    if array.dtype.kind == "O":
        raise reject("invalid-data", f"{where} is {type(value).__name__}, which is no array of numbers")
    return array


def plain(annotation: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    return np.asarray(_detached(annotation)) if hasattr(annotation, "detach") else annotation


def _detached(value: Any) -> Any:
    return value.detach().cpu() if hasattr(value, "detach") else value


def as_source(thing: Any, name: str = "data", files: tuple[str, ...] = ()) -> Indexed:
    """Of an object with ``len()`` and ``[i]``; of a loader of batches (it has ``batch_size`` and can be iterated), whose batches
    are taken apart along their first axis; of anything else that yields samples. The last two are held in memory.

    Raises Rejected: invalid-data, too-large.
    """
    if hasattr(thing, "__len__") and hasattr(thing, "__getitem__"):
        return Indexed(thing, name, files)
    if not isinstance(thing, Iterable):
        raise reject("invalid-data", f"{name} is {type(thing).__name__}", help="give an object with len() and [i]")
    batched = getattr(thing, "batch_size", None) is not None
    held: list[Any] = []
    size = 0
    for index, item in enumerate(thing):
        arrays, annotation = split(f"{name}[{index}]", tuple(item) if batched and isinstance(item, list) else item)
        size += sum(a.nbytes for a in arrays.values())
        if size > limits().held_bytes:
            message = f"{name} yields more than {limits().held_bytes:,} bytes"
            raise reject("too-large", message, help=with_raising("give an object with len() and [i]", "held-bytes"))
        held += _taken_apart(arrays, annotation) if batched else [(arrays, annotation)]
        if len(held) > limits().samples:  # it may never end
            message = f"{name} yields more than {limits().samples:,} samples"
            raise reject("too-large", message, help=with_raising("give an object with len() and [i]", "samples"))
    return Indexed(held, name, files)


def _taken_apart(arrays: Mapping[str, np.ndarray], annotation: Any) -> list[tuple[Mapping[str, np.ndarray], Any]]:
    count = min(len(a) for a in arrays.values())
    return [({n: a[i] for n, a in arrays.items()}, None if annotation is None else annotation[i]) for i in range(count)]


def of_file(text: str) -> Indexed:
    """``FILE.py:NAME``: an object with samples, or a function without arguments that returns it."""
    thing = load_python(text)
    if isinstance(thing, type) or (callable(thing) and not hasattr(thing, "__getitem__")):
        thing = call_python(text, thing)
    return call_python(text, as_source, thing, text.rpartition(":")[2], (text.rpartition(":")[0],))

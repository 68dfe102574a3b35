"""Samples for models that begin in the middle of another: what its tensors held there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from potc.compiler import Job
from potc.data.source import open_samples
from potc.execute.apart import Died, TooLong, apart
from potc.execute.session import SessionError, open_session, use_libraries
from potc.graph.model import Model
from potc.graph.widen import read_runnable
from potc.shrink.cut import Types

Arrays = Mapping[str, np.ndarray]  # [samples, ...] by tensor
AT_ONCE = 64  # tensors that are returned by one run
LARGEST = 2 << 30  # bytes of recorded values; later tensors are left out, and fed with generated samples


def first_samples(job: Job, model: Model, count: int) -> Arrays | None:
    """The first samples that have the shapes of the very first, at most ``count``; None where they are generated anyway.

    Raises Rejected.
    """
    if job.data is None:
        return None
    opened = open_samples(job.data, model, job.samples, job.seed, job.preprocess, job.annotations)
    kept: list[Mapping[str, np.ndarray]] = []
    for feed in islice(opened.feeds(), count):
        if not kept or all(feed[n].shape == a.shape for n, a in kept[0].items()):
            kept.append(feed)
    return {name: np.stack([feed[name] for feed in kept]) for name in kept[0]}


def write_samples(path: Path, samples: Arrays) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **samples)  # pyright: ignore[reportArgumentType]


def recorded(model: Path, samples: Path, types: Types, folder: Path, job: Job, seconds: float) -> Arrays:
    """What the tensors of the main graph hold for each sample, read when it is asked for. Tensors of a model that can't be run are
    not there."""
    names = [n for n, kind in types.items() if kind.tensor_type.elem_type in _NUMBERS]
    found: dict[str, Path] = {}
    room = LARGEST
    for part in range(0, len(names), AT_ONCE):
        file = folder / f"recorded{part}.npz"
        wanted = names[part : part + AT_ONCE]
        try:
            made = apart(_record, (str(model), str(samples), wanted, str(file), job.libraries), seconds)
        except (Died, TooLong):
            made = []
        found |= dict.fromkeys(made, file)
        room -= file.stat().st_size if file.exists() else 0
        if room < 0:
            break
    return _Recorded(found)


_NUMBERS = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13})  # of TensorProto.DataType: what numpy holds and feeds


class _Recorded(Mapping[str, np.ndarray]):
    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> np.ndarray:
        with np.load(self._files[name], allow_pickle=False) as stored:
            return stored[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _usable(value: object) -> bool:
    """A model that begins with NaN or infinity would be rejected for that, whatever the symptom was."""
    return isinstance(value, np.ndarray) and (value.dtype.kind != "f" or bool(np.isfinite(value).all()))


def _record(model: str, samples: str, wanted: list[str], file: str, libraries: tuple[str, ...]) -> list[str]:
    """Runs a model as it is written; the names of what was stored, none where it does not run."""
    use_libraries(libraries)
    proto = read_runnable(model).proto
    inputs = {i.name for i in proto.graph.input}
    with np.load(samples, allow_pickle=False) as stored:
        feeds = dict(stored)
    returned = {o.name for o in proto.graph.output}
    more = onnx.ModelProto()
    made = [name for name in wanted if name not in inputs]
    more.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in made if n not in returned)
    count = len(next(iter(feeds.values())))
    try:
        session = open_session(proto.SerializeToString() + more.SerializeToString(), optimize=False, threads=1)
        runs = [session.run(made, {n: a[i] for n, a in feeds.items()}) for i in range(count)]
    except SessionError:
        return []
    arrays = {
        name: np.stack(values)
        for name, values in zip(made, zip(*runs, strict=True), strict=True)
        if all(_usable(v) and v.shape == values[0].shape for v in values)
    }
    arrays |= {name: feeds[name] for name in wanted if name in feeds}
    write_samples(Path(file), arrays)
    return list(arrays)

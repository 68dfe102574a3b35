"""Where samples come from: a file, folder or function that the user names, an object of Python, or generated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potc.data.annotated import AnnotatedDataset
from potc.data.dataset import Dataset, InputSpec, input_specs
from potc.data.fitted import Source, fitted
from potc.data.npz import open_npz
from potc.data.preprocessing import Preprocessing, read_preprocessing
from potc.data.python_file import is_python
from potc.data.remote import fetched, is_remote
from potc.data.synthetic import synthetic
from potc.diagnostics.diagnostic import reject
from potc.graph.model import Model

GENERATED = 8  # enough to see every tensor move; the result is for trying out whatever their number


@dataclass(frozen=True, slots=True)
class Annotations:
    """``labels``: which array, column or file annotates; ``images``: the folder of the pictures that a file names."""

    labels: str | None = None
    images: str | None = None


def open_samples(
    data: Any,
    model: Model,
    limit: int | None,
    seed: int | None = None,
    preprocess: str | Preprocessing | None = None,
    annotations: Annotations | None = None,
) -> Dataset:
    """The calibration samples: checked against the model's inputs, at most ``limit``, spread over what is there,
    or drawn by ``seed``.

    ``data`` None: generated samples; else see ``open_annotated``. Raises Rejected with what was found and what the model expects.
    """
    specs = input_specs(model)
    if data is None:
        return synthetic(specs, GENERATED if limit is None else limit, seed or 0)
    preprocessing = preprocess if isinstance(preprocess, Preprocessing) else read_preprocessing(preprocess)
    plain = isinstance(data, str) and preprocessing == Preprocessing() and annotations in (None, Annotations())
    if plain and not _is_other(data):
        return open_npz(data, specs, limit, seed)
    return open_annotated(data, specs, limit, seed, preprocessing, annotations)


def open_annotated(
    data: Any,
    specs: Sequence[InputSpec],
    limit: int | None = None,
    seed: int | None = None,
    preprocess: str | Preprocessing | None = None,
    annotations: Annotations | None = None,
) -> AnnotatedDataset:
    """Samples with what is known of them.

    ``data``: a .npz or .npy file; a folder of pictures; a .csv file of numbers, or with a column ``path`` of pictures; a .txt file
    of paths; COCO annotations (.json); ``FILE.py:NAME``; an address of these like ``s3://``; or a Python object, see
    ``potc.data.indexed``. ``preprocess``: see ``potc.data.preprocessing``. Raises Rejected.
    """
    preprocessing = preprocess if isinstance(preprocess, Preprocessing) else read_preprocessing(preprocess)
    source = _source(data, specs, preprocessing, annotations or Annotations())
    return fitted(source, specs, preprocessing, limit, seed, local=not (isinstance(data, str) and is_remote(data)))


def _source(data: Any, specs: Sequence[InputSpec], preprocessing: Preprocessing, known: Annotations) -> Source:
    from potc.data.arrays import open_arrays
    from potc.data.coco import read_coco
    from potc.data.indexed import as_source, of_file
    from potc.data.picture_lists import folder, listed
    from potc.data.table import read_rows

    if not isinstance(data, str):
        return as_source(data)
    if is_python(data):
        return of_file(data)
    path = _local(data)
    gray = bool(specs) and preprocessing.of(specs[0].name).color == "gray"
    if Path(path).is_dir():
        return folder(path, known.labels, gray)
    if path.endswith(".json"):
        return read_coco(path, known.images, gray)
    if path.endswith(".csv") and _lists_pictures(path):
        return listed(path, known.labels or "label", gray, known.images)
    if path.endswith(".txt"):
        return listed(path, "label", gray, known.images)
    if path.endswith(".csv"):
        return read_rows(path, known.labels, integers=specs[0].dtype.kind in "iu")
    return open_arrays(path, [preprocessing.of(s.name).array or s.name for s in specs], known.labels)


def _is_other(data: str) -> bool:
    """True if it is no .npz or .npy file here."""
    return is_remote(data) or is_python(data) or data.endswith((".json", ".csv", ".txt")) or Path(data).is_dir()


def _local(data: str) -> str:
    return fetched(data) if is_remote(data) else data


def _lists_pictures(path: str) -> bool:
    """Is there a column ``path``?"""
    try:
        with Path(path).open(encoding="utf-8-sig", errors="replace") as file:
            return "path" in [name.strip('"') for name in file.readline(1 << 16).strip().split(",")]
    except OSError as error:
        raise reject("missing-file", f"can't read {path}: {error.strerror or error}", exit_code=2) from error

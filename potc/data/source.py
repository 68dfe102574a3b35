"""Where samples come from: a file or folder that the user names, or generated ones."""

from __future__ import annotations

from potc.data.dataset import Dataset, input_specs
from potc.data.npz import open_npz
from potc.data.synthetic import synthetic
from potc.graph.model import Model

GENERATED = 8  # enough to see every tensor move; the result is for trying out whatever their number


def open_samples(path: str | None, model: Model, limit: int | None, seed: int | None = None) -> Dataset:
    """The calibration samples: checked against the model's inputs, at most ``limit``, spread over the file,
    or drawn by ``seed``.

    ``path`` None: generated samples. Raises Rejected with what was found and what the model expects.
    """
    specs = input_specs(model)
    if path is None:
        return synthetic(specs, GENERATED if limit is None else limit, seed or 0)
    return open_npz(path, specs, limit, seed)

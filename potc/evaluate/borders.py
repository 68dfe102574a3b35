"""A model with integer inputs and outputs against the same model with float ones: between them nothing may differ."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from potc.evaluate.verify import Check
from potc.execute.session import first_line, open_session
from potc.graph.widen import cast_borders
from potc.quantize.borders import Border


def same_behind_borders(
    plain: bytes,
    integer: bytes,
    borders: Sequence[Border],
    narrow: Collection[str],
    samples: Iterable[tuple[int, Mapping[str, np.ndarray]]],
) -> Check:
    """Gives ``integer`` the codes of each sample: its outputs, made float again, must be those of ``plain`` to the bit. ``narrow``:
    inputs and outputs that are bfloat16 in ``integer``; numpy has no such type, so casts lie around it, and around ``plain`` too.
    """
    given = {b.tensor: b for b in borders if b.direction == "input"}
    made = {b.tensor: b for b in borders if b.direction == "output"}
    count = 0
    try:
        if narrow:
            plain, integer = (_rounding(m, narrow) for m in (plain, integer))
        first, second = (open_session(m, optimize=False, threads=1) for m in (plain, integer))
        names = [o.name for o in first.get_outputs()]
        for index, feed in samples:
            codes = {n: given[n].codes(v) if n in given else v for n, v in feed.items()}
            for name, a, b in zip(names, first.run(names, dict(feed)), second.run(names, codes), strict=True):
                found = made[name].values(np.asarray(b)) if name in made else b
                if not np.array_equal(np.asarray(a), np.asarray(found), equal_nan=np.asarray(a).dtype.kind == "f"):
                    return Check("borders", False, f"`{name}` differs in sample {index}")
            count += 1
    except Exception as error:  # whatever onnxruntime says is the finding
        return Check("borders", False, first_line(error))
    told = f"{len(borders)} inputs and outputs hold codes, {len(narrow)} bfloat16"
    return Check("borders", True, f"{told}; the same results on {count} samples")


def _rounding(model: bytes, narrow: Collection[str]) -> bytes:
    """A model that takes and returns float32, and rounds these inputs and outputs to bfloat16."""
    proto = cast_borders(onnx.ModelProto.FromString(model), narrow, TensorProto.BFLOAT16)
    return cast_borders(proto, narrow, TensorProto.FLOAT).SerializeToString()

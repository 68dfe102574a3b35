"""A model with integer inputs and outputs against the same model with float ones: between them nothing may differ."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from potc.diagnostics.diagnostic import Rejected
from potc.evaluate.verify import Check
from potc.evaluate.verify_in_turns import INTEGER
from potc.execute.session import InferenceSession, first_line, open_session
from potc.graph.groups import Room, Wishes, cut, lengths_of
from potc.graph.turns import Feed, run_in_turns
from potc.graph.widen import cast_borders
from potc.quantize.borders import Border


def same_behind_borders(
    plain: bytes,
    integer: bytes,
    borders: Sequence[Border],
    narrow: Collection[str],
    samples: Iterable[tuple[int, Mapping[str, np.ndarray]]],
    memory: int | None = None,
) -> Check:
    """Gives ``integer`` the codes of each sample: its outputs, made float again, must be those of ``plain`` to the bit. ``narrow``:
    inputs and outputs that are bfloat16 in ``integer``; numpy has no such type, so casts lie around it, and around ``plain`` too.
    ``memory``: bytes for groups of layers, which run in turns; None: models run as a whole.
    """
    given = {b.tensor: b for b in borders if b.direction == "input"}
    made = {b.tensor: b for b in borders if b.direction == "output"}
    chosen = list(samples)
    feeds = [feed for _, feed in chosen]
    codes = [{n: given[n].codes(v) if n in given else v for n, v in feed.items()} for feed in feeds]
    try:
        if narrow:
            plain, integer = (_rounding(m, narrow) for m in (plain, integer))
        pairs = zip(chosen, _results(plain, feeds, memory), _results(integer, codes, memory), strict=True)
        for (index, _), first, second in pairs:
            for name, a in first.items():
                b = second[name]
                found = made[name].values(np.asarray(b)) if name in made else b
                if not np.array_equal(np.asarray(a), np.asarray(found), equal_nan=np.asarray(a).dtype.kind == "f"):
                    return Check("borders", False, f"`{name}` differs in sample {index}")
    except Rejected:  # a group needs more memory
        raise
    except Exception as error:  # whatever onnxruntime says is the finding
        return Check("borders", False, first_line(error))
    told = f"{len(borders)} inputs and outputs hold codes, {len(narrow)} bfloat16"
    return Check("borders", True, f"{told}; the same results on {len(chosen)} samples")


def _results(model: bytes, feeds: Sequence[Feed], memory: int | None) -> list[dict[str, Any]]:
    """What a model returns for each sample, by name, computed as it is written."""
    if memory is not None:
        proto = onnx.ModelProto.FromString(model)
        wishes = Wishes(lengths=lengths_of(proto, feeds[0]) if feeds else {})
        groups = cut(proto, Room(memory, *INTEGER), wishes)
        return run_in_turns(proto, groups, feeds, lambda part: _opened(part.SerializeToString()))
    session = _opened(model)
    names = [o.name for o in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(feed)), strict=True)) for feed in feeds]


def _opened(model: bytes) -> InferenceSession:
    return open_session(model, optimize=False, threads=1)


def _rounding(model: bytes, narrow: Collection[str]) -> bytes:
    """A model that takes and returns float32, and rounds these inputs and outputs to bfloat16."""
    proto = cast_borders(onnx.ModelProto.FromString(model), narrow, TensorProto.BFLOAT16)
    return cast_borders(proto, narrow, TensorProto.FLOAT).SerializeToString()

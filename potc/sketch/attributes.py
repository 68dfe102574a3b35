"""Values that attributes may have, as far as schemas tell: their types, and the words that their descriptions mark."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import onnx

from potc.sketch.board import Assignment, Board
from potc.sketch.variants import newest, schema_of


def attribute_values(board: Board, candidate: Assignment, node: int, name: str) -> list[Any]:
    """Values that an attribute may have, as far as its type tells; schemas and the runtime refuse what they don't know."""
    placed = board.frame.nodes[node]
    schema = schema_of(placed.op, board.opset)
    if schema is None:
        return []
    first = candidate.get(("shape", placed.inputs[0])) if placed.inputs else None
    spatial = max(1, len(first) - 2) if first else 2
    kind = schema.attributes[name].type
    kinds = onnx.defs.OpSchema.AttrType
    if kind == kinds.INT:
        return [1, 0, 2, -1, 3, 4]
    if kind == kinds.FLOAT:
        return [0.5, 2.0, 0.1, 1.5, 0.01]
    if kind == kinds.STRING:
        return list(words_of(placed.op, name))
    if kind == kinds.INTS:
        lengths = dict.fromkeys((spatial, 2 * spatial, len(first) if first else 4, 1))
        return [(fill,) * n for n in lengths for fill in (1, 2)] + [tuple(reversed(range(len(first) if first else 4)))]
    if kind == kinds.FLOATS:
        return [(fill,) * n for n in (1, spatial) for fill in (1.0, 0.5)]
    return []


@lru_cache(maxsize=1024)
def words_of(op: str, name: str) -> tuple[str, ...]:
    """Words that the description of a text attribute marks as its values, those that are surely meant first."""
    schema = newest(op)
    if schema is None or name not in schema.attributes:
        return ()
    attribute = schema.attributes[name]
    text = attribute.description
    marked = re.findall(r"[`'\"]+([A-Za-z_]{2,})[`'\"]+", text)
    loud = re.findall(r"\b[A-Z][A-Z_]{2,}\b", text)
    listed = re.findall(r"\b[a-z_]{3,}\b", text.partition(" of ")[2])
    default = attribute.default_value.s.decode() if attribute.default_value.name else None
    words = [w for w in dict.fromkeys((*marked, *loud, *listed)) if w not in (default, name)][:12]
    return (*words, *(() if default is None else (default,)))

"""Element types of a frame's tensors: which of them must agree, and which one is taken."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from potc.graph.snapshot import DTYPES
from potc.sketch.frame import Frame, Impossible
from potc.sketch.variants import schema_of

WANTED = ("f32", "i64", "i32", "bool", "u8", "i8", "f64", "f16")  # the first that is allowed is taken
DRAWN = frozenset((*WANTED, "i16", "u16", "u32", "u64"))  # what constants and inputs can be made of
_SPELLED = {
    f"tensor({onnx.helper.tensor_dtype_to_string(code).partition('.')[2].lower()})": name
    for code, name in DTYPES.items()
    if name in DRAWN
}


class Types:
    """``group[t]``: tensors of one group have one type. ``allowed[g]``: types that a group may have, best first."""

    def __init__(self, frame: Frame) -> None:
        self._parent: dict[object, object] = {}
        self._limits: list[tuple[object, tuple[str, ...]]] = []
        for k, node in enumerate(frame.nodes):
            schema = schema_of(node.op, frame.opset)
            if schema is None:
                for t in (*node.inputs, *node.outputs):
                    if t >= 0:
                        self._join(t, (k, ""))
                continue
            constraints = {c.type_param_str: tuple(c.allowed_type_strs) for c in schema.type_constraints}
            self._ports(k, node.inputs, schema.inputs, constraints)
            self._ports(k, node.outputs, schema.outputs, constraints)
        for tensor, external in frame.externals.items():
            if external.filled is not None:
                self._limits.append(
                    (tensor, ("tensor(float)", "tensor(int64)", "tensor(int32)", "tensor(double)", "tensor(float16)"))
                )
        numbers: dict[object, int] = {}
        self.group: dict[int, int] = {}
        for t in range(frame.tensors):
            self.group[t] = numbers.setdefault(self._root(t), len(numbers))
        self.allowed: list[tuple[str, ...]] = [tuple(sorted(DRAWN, key=_rank)) for _ in numbers]
        for key, spelled in self._limits:
            root = self._root(key)
            if root in numbers:
                names = {_SPELLED[s] for s in spelled if s in _SPELLED}
                self.allowed[numbers[root]] = tuple(n for n in self.allowed[numbers[root]] if n in names)
        if any(not a for a in self.allowed):
            raise Impossible("no element type")

    def first(self) -> Mapping[int, str]:
        return {g: names[0] for g, names in enumerate(self.allowed)}

    def _ports(self, node: int, tensors: list[int], params: object, constraints: Mapping[str, tuple[str, ...]]) -> None:
        formal = list(params)  # type: ignore[call-overload]
        for port, tensor in enumerate(tensors):
            if tensor < 0 or not formal:
                continue
            param = formal[min(port, len(formal) - 1)]
            if param.type_str in constraints:
                key = (node, param.type_str) if param.is_homogeneous else (node, param.type_str, port)
                self._join(tensor, key)
                self._limits.append((key, constraints[param.type_str]))
            else:
                self._limits.append((tensor, tuple(param.types)))

    def _root(self, key: object) -> object:
        while (above := self._parent.get(key, key)) != key:
            key = above
        return key

    def _join(self, a: object, b: object) -> None:
        first, second = self._root(a), self._root(b)
        if first != second:
            self._parent[second] = first


def _rank(name: str) -> tuple[int, str]:
    return (WANTED.index(name) if name in WANTED else len(WANTED), name)

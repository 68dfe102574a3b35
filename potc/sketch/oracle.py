"""Who has the last word on a drawn graph: onnx, onnxruntime and the matcher."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx

from potc.execute.session import SessionError, open_session
from potc.graph.snapshot import Snapshot
from potc.language.program import Program, Rewrite, Rule
from potc.language.variants import is_late
from potc.match.environment import Scope
from potc.match.found import Match
from potc.match.match import Matcher
from potc.match.pattern_parts import operators_of


def is_valid(model: onnx.ModelProto) -> bool:
    """True if onnx's checker, strict shape inference and, where it has the kernels, onnxruntime take a model."""
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return False
    if any(node.domain not in ("", "ai.onnx") for node in model.graph.node):
        return True  # a vendor's operator: nobody here can run it
    try:
        session = open_session(model.SerializeToString(), optimize=False, threads=1)
    except SessionError as error:
        return "NOT_IMPLEMENTED" in str(error)
    for whole in (0, 1):
        try:
            session.run(None, random_inputs(model, 0, whole=whole))
        except Exception:  # onnxruntime's exceptions have no common base class
            continue
        return True
    return False


def random_inputs(
    model: onnx.ModelProto, seed: int, style: str = "normal", whole: int | None = None
) -> dict[str, np.ndarray]:
    """One array for each input that is no initializer. ``style``: "normal", "positive" or "negative" numbers; ``whole``:
    what inputs of whole numbers are, 0 or 1 at random by default."""
    generator = np.random.default_rng((seed, 77))
    stored = {t.name for t in model.graph.initializer}
    found: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        if dtype.kind == "f":
            numbers = generator.normal(size=shape)
            numbers = numbers if style == "normal" else np.abs(numbers) if style == "positive" else -np.abs(numbers)
        else:
            numbers = generator.integers(0, 2, shape) if whole is None else np.full(shape, whole)
        found[value.name] = np.asarray(numbers).astype(dtype)
    return found


def find(program: Program, rule: Rule | Rewrite, snapshot: Snapshot, wanted: set[str]) -> Match | None:
    """The match of a rule on exactly these nodes, by the matcher that compiles models. Late requirements are left out."""
    early = tuple(r for r in rule.requires if not is_late(r))
    matcher = Matcher(rule.pattern, early, snapshot, Scope.of(program), program.signatures)
    for op in sorted(matcher.anchor_ops):
        for node in snapshot.by_op.get(op, ()):
            for match in matcher.matches(node):
                if {snapshot.names[n] for n in match.nodes} == wanted:
                    return match
    return None


def bystander_of(program: Program) -> str:
    """An operator of one input that no rule, rewrite or statement of a program speaks of, to read or make tensors with."""
    spoken: set[str] = set()
    for part in program.members:
        patterns = [r.pattern for r in (*part.rules, *part.rewrites)]
        spoken.update(op for p in patterns for op in operators_of(p))
        spoken.update(op for s in (*part.passes, *part.same_scale) for op in s.ops)
    return next(name for name in _unary() if name not in spoken and _keeps_apart(name))  # there are several


@lru_cache(maxsize=64)
def _keeps_apart(op: str) -> bool:
    """True if different numbers, negative ones too, give different results: nothing hides behind such an operator."""
    numbers = np.array([-2, -1, -0.5, 0, 0.5, 1, 2], np.float32)
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, numbers.shape) for n in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node(op, ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)
    try:
        (made,) = open_session(model.SerializeToString(), optimize=False, threads=1).run(None, {"x": numbers})
    except SessionError:
        return False
    found = np.asarray(made)
    return bool(np.isfinite(found).all()) and len(np.unique(found)) == numbers.size


@lru_cache(maxsize=1)
def _unary() -> tuple[str, ...]:
    """Operators of one input and one output of the same type and shape, without attributes, old enough for any device."""
    found: list[str] = []
    for schema in sorted(onnx.defs.get_all_schemas(), key=lambda s: s.name):
        if (
            schema.domain
            or schema.deprecated
            or len(schema.inputs) != 1
            or len(schema.outputs) != 1
            or schema.attributes
        ):
            continue
        first = onnx.defs.get_schema(schema.name, 13, "") if onnx.defs.has(schema.name, 13, "") else None
        if first is None or schema.inputs[0].type_str != schema.outputs[0].type_str:
            continue
        types = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        allowed = types.get(schema.inputs[0].type_str, ())
        if {"tensor(float)", "tensor(float16)", "tensor(double)"} <= set(allowed):
            found.append(schema.name)
    return tuple(sorted(found, key=lambda n: "tensor(int64)" not in _types_of(n)))


def _types_of(op: str) -> frozenset[str]:
    schema = onnx.defs.get_schema(op)
    return frozenset(t for c in schema.type_constraints for t in c.allowed_type_strs)

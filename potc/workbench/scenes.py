"""Small graphs in which a device takes a rule: drawn alone, or between kernels that store what it reads and read what it makes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from potc.diagnostics.diagnostic import Rejected
from potc.graph.model import Model
from potc.graph.prepare import infer_shapes
from potc.graph.snapshot import take_snapshot
from potc.language.program import Capture, Kind, Program, Require, Rule
from potc.language.syntax import Call, Expr, Name
from potc.language.variants import is_late
from potc.quantize.plan import Kernel, Plan
from potc.quantize.solve import solve
from potc.sketch.draw import Sketch, draw
from potc.sketch.model import inside
from potc.sketch.oracle import bystander_of
from potc.sketch.variants import variants
from potc.workbench.boundaries import of_shape

Shape = tuple[int, ...]
Draw = Callable[[tuple[Expr, ...]], Sketch | None]  # a graph on which further conditions hold as well
Accepts = Callable[["Scene"], bool]
READERS = 6  # kernels that are tried behind another one
NEIGHBOURS = 3  # kernels that are tried before another one


@dataclass(frozen=True, slots=True)
class Scene:
    """A float model, what the device makes of it, and the nodes that a case is about. ``bindings``: captured name ->
    tensors."""

    model: Model
    plan: Plan
    nodes: tuple[str, ...]
    bindings: Mapping[str, tuple[str, ...]]
    variant: str

    def kernels_at(self) -> tuple[Kernel, ...]:
        """The kernels that cover some of the nodes."""
        wanted = set(self.nodes)
        return tuple(k for k in self.plan.kernels if not wanted.isdisjoint(k.nodes))

    def takes(self, rule: str) -> bool:
        """True if exactly the nodes are one kernel of a rule, on its own or as a part of a meet."""
        return any(set(k.nodes) == set(self.nodes) and rule in k.rule.split(" & ") for k in self.plan.kernels)

    def sketch(self) -> Sketch:
        """The same as a drawing, to be put elsewhere."""
        return Sketch(self.model.proto, self.nodes, self.bindings, self.variant)

    def stores(self, tensor: str) -> bool:
        return any(i.tensor == tensor for i in self.plan.insertions)


def with_requires(rule: Rule, conditions: Sequence[Expr]) -> Rule:
    """The rule with further requirements."""
    return replace(rule, requires=(*rule.requires, *(Require(c, None, rule.span) for c in conditions)))


def asked_to_be_stored(rule: Rule) -> tuple[str, ...]:
    """Captures whose storage a requirement asks for: a kernel must stand before them."""
    found: dict[str, None] = {}

    def walk(expr: Any) -> None:
        if isinstance(expr, Call) and expr.name == "stored":
            found.update((a.name, None) for a in expr.args if isinstance(a, Name))
        for name in getattr(expr, "__dataclass_fields__", {}):
            value = getattr(expr, name)
            for part in value if isinstance(value, tuple) else (value,):
                if name != "span":
                    walk(part)

    for require in rule.requires:
        walk(require.condition)
    return tuple(found)


@dataclass(slots=True)
class Stage:
    """One device, with the kernels of it that can stand before and behind others; each is drawn once."""

    program: Program
    seed: int
    _before: list[tuple[Program, Rule, Sketch]] | None = None
    _shaped: dict[tuple[str, Shape], Sketch | None] = field(default_factory=dict[tuple[str, Shape], "Sketch | None"])

    def scene(
        self, sketch: Sketch, model: onnx.ModelProto | None = None, program: Program | None = None
    ) -> Scene | None:
        """What the device makes of a sketch, or of a model around it; None where the rules refuse it."""
        prepared = infer_shapes(Model("", model or sketch.model, ()))
        try:
            plan = solve(program or self.program, take_snapshot(prepared.proto))
        except Rejected:
            return None
        return Scene(prepared, plan, sketch.nodes, sketch.bindings, sketch.variant)

    def place(self, rule: Rule, drawn: Draw, accepts: Accepts, program: Program | None = None) -> Scene | None:
        """The smallest surroundings in which the device does what is wanted. None where there are none."""
        sketch = drawn(())
        if sketch is None:
            return None
        found = self.scene(sketch, None, program)
        if found is not None and accepts(found):
            return found
        for model, around in self._surroundings(rule, drawn, sketch):
            found = self.scene(around, model, program)
            if found is not None and accepts(found):
                return found
        return None

    def _surroundings(self, rule: Rule, drawn: Draw, sketch: Sketch) -> Iterator[tuple[onnx.ModelProto, Sketch]]:
        """Kernels before what must be stored: the rule shaped for what they make, then they shaped for what it reads; last,
        operators in float around everything."""
        names = asked_to_be_stored(rule)
        tried: set[Shape] = set()
        several = any(len(sketch.bindings.get(name, ())) > 1 for name in names)
        if several:  # a pin speaks of the first tensor only
            model = self._fed(sketch, names, {})
            if model is not None:
                yield model, sketch
        for _, before, feeder in self.before() if names else ():
            shape = shape_of(feeder.model, result_of(before, feeder))
            if shape is None or shape in tried or len(shape) != self._rank(sketch, names):
                continue
            tried.add(shape)
            fitting = drawn(tuple(of_shape(name, shape, rule.span) for name in names))
            if fitting is not None:
                model = self._fed(fitting, names, {shape: (before, feeder)})
                if model is not None:
                    yield model, fitting
        if names and not several:
            model = self._fed(sketch, names, {})
            if model is not None:
                yield model, sketch
        yield inside(sketch.model, bystander_of(self.program)), sketch

    @staticmethod
    def _rank(sketch: Sketch, names: Sequence[str]) -> int | None:
        tensors = [t for name in names for t in sketch.bindings.get(name, ())]
        shape = shape_of(sketch.model, tensors[0]) if tensors else None
        return None if shape is None else len(shape)

    def _fed(
        self, sketch: Sketch, names: Sequence[str], known: Mapping[Shape, tuple[Rule, Sketch]]
    ) -> onnx.ModelProto | None:
        """A sketch with one kernel before each input of some captures."""
        model = sketch.model
        inputs = {v.name for v in model.graph.input}
        tensors = [t for name in names for t in sketch.bindings.get(name, ()) if t in inputs]
        for k, tensor in enumerate(dict.fromkeys(tensors)):
            shape = shape_of(model, tensor)
            found = (known.get(shape) or self._making(shape)) if shape is not None else None
            if found is None:
                return None
            rule, feeder = found
            joined = join(varied(feeder.model, self.seed + k), f"before{k}_", result_of(rule, feeder), model, tensor)
            if joined is None:
                return None
            model = joined
        return model if tensors else None

    def before(self) -> list[tuple[Program, Rule, Sketch]]:
        """Kernels that ask nothing of what they read, and store what they make."""
        if self._before is None:
            self._before = []
            for part, rule in self._candidates():
                sketch = draw(part, rule, 0)
                name = rule.pattern.result
                if sketch is None or name is None or not sketch.bindings.get(name):
                    continue
                scene = self.scene(sketch)
                if scene is not None and scene.takes(rule.qualified):
                    self._before.append((part, rule, sketch))
        return self._before

    def _candidates(self) -> Iterator[tuple[Program, Rule]]:
        for part in self.program.members:
            for rule in part.rules:
                results = [q for q in rule.quants if q.target == rule.pattern.result]
                types = [t for q in results for t in q.choice.alternatives.types]
                late = any(is_late(r) for r in rule.requires)
                if not (rule.is_float or rule.keep or late) and any(t.bits <= 16 and t.scale is None for t in types):
                    yield part, rule

    def _making(self, shape: Shape) -> tuple[Rule, Sketch] | None:
        """A kernel whose result has a shape."""

        def far(entry: tuple[Program, Rule, Sketch]) -> bool:
            drawn = shape_of(entry[2].model, result_of(entry[1], entry[2]))
            return drawn is None or len(drawn) != len(shape)

        for part, rule, _ in sorted(self.before(), key=far)[:NEIGHBOURS]:
            key = (rule.qualified, shape)
            if key not in self._shaped:
                pinned = with_requires(rule, (of_shape(str(rule.pattern.result), shape, rule.span),))
                self._shaped[key] = draw(part, pinned, 0, variants(pinned.pattern)[0])
            sketch = self._shaped[key]
            if sketch is not None:
                return rule, sketch
        return None

    def read_by_kernel(self, model: onnx.ModelProto, tensor: str) -> Iterator[onnx.ModelProto]:
        """The model with a kernel behind a result, which reads it stored."""
        shape = shape_of(infer_shapes(Model("", model, ())).proto, tensor)
        if shape is None:
            return
        for part, rule in itertools.islice(self._readers(), READERS):
            name = _first_value(rule)
            key = (f"{rule.qualified} reads", shape)
            if key not in self._shaped:
                pinned = with_requires(rule, (of_shape(name, shape, rule.span),))
                self._shaped[key] = draw(part, pinned, 0, variants(pinned.pattern)[0])
            sketch = self._shaped[key]
            if sketch is None or not sketch.bindings.get(name):
                continue
            joined = join(model, "", tensor, sketch.model, sketch.bindings[name][0], "behind_")
            if joined is not None:
                yield joined

    def _readers(self) -> Iterator[tuple[Program, Rule]]:
        """Kernels that can stand behind another one, those with weights first: they ask little of what they read."""
        found = [entry for entry in self._candidates() if _first_value(entry[1])]
        return iter(sorted(found, key=lambda entry: not _has_weight(entry[1])))


def _has_weight(rule: Rule) -> bool:
    return any(a.kind is Kind.CONST and not a.optional for a in _captures(rule))


def _first_value(rule: Rule) -> str:
    """The name of the first computed input of a rule's first operator, empty for none."""
    taken = (a for a in _captures(rule) if a.kind is not Kind.CONST and not a.optional and a.name != "_")
    return next((a.name for a in taken), "")


def _captures(rule: Rule) -> tuple[Capture, ...]:
    """What the first operator of a rule captures."""
    return tuple(a for n in rule.pattern.nodes[:1] for a in n.args if isinstance(a, Capture))


# ---------------------------------------------------------------------------------------------- models


def result_of(rule: Rule, sketch: Sketch) -> str:
    return sketch.bindings[str(rule.pattern.result)][0]


def shape_of(model: onnx.ModelProto, tensor: str) -> Shape | None:
    """The shape of an input, an output or an inferred tensor, None if it is not fixed."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.name == tensor and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None
    return None


def varied(model: onnx.ModelProto, k: int) -> onnx.ModelProto:
    """The same model with the numbers of its float constants shuffled, differently for each ``k``; 0 leaves them."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for place, tensor in enumerate(found.graph.initializer):
        array = numpy_helper.to_array(tensor)
        if k and array.dtype.kind == "f" and array.size > 1:
            shuffled = np.random.default_rng((k, place)).permutation(array.reshape(-1)).reshape(array.shape)
            tensor.CopyFrom(numpy_helper.from_array(shuffled, tensor.name))
    return found


def join(
    first: onnx.ModelProto,
    prefix: str,
    output: str,
    second: onnx.ModelProto,
    tensor: str,
    second_prefix: str = "",
) -> onnx.ModelProto | None:
    """One model in which ``second`` reads an output of ``first`` as its input ``tensor``. Prefixes keep names apart. None
    where the two have different opsets."""
    if [(o.domain, o.version) for o in first.opset_import] != [(o.domain, o.version) for o in second.opset_import]:
        return None
    link = f"{second_prefix}{tensor}" if prefix else output
    a, b = _renamed(first, prefix, {output: link}), _renamed(second, second_prefix, {tensor: link})
    found = onnx.ModelProto()
    found.CopyFrom(a)
    graph = found.graph
    graph.node.extend(b.graph.node)
    graph.initializer.extend(b.graph.initializer)
    graph.input.extend(v for v in b.graph.input if v.name != link)
    outputs = [v for v in (*a.graph.output, *b.graph.output) if v.name != link]
    del graph.output[:]
    graph.output.extend(outputs)
    return found


def _renamed(model: onnx.ModelProto, prefix: str, special: Mapping[str, str]) -> onnx.ModelProto:
    found = onnx.ModelProto()
    found.CopyFrom(model)

    def name(old: str) -> str:
        return special.get(old, f"{prefix}{old}") if old else old

    for node in found.graph.node:
        node.name = f"{prefix}{node.name}"
        node.input[:] = [name(n) for n in node.input]
        node.output[:] = [name(n) for n in node.output]
    for value in (*found.graph.input, *found.graph.output, *found.graph.value_info, *found.graph.initializer):
        value.name = name(value.name)
    return found

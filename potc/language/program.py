"""The checked rules: names resolved, types checked, defaults filled in. No later stage asks "is it set?".

A ``Program`` is one device: its own statements, those it inherits, and what it imports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from potc.diagnostics.diagnostic import Diagnostic
from potc.diagnostics.source import Span
from potc.language.syntax import Expr

# ---------------------------------------------------------------------------------------------- number formats


class Granularity(Enum):
    """How many scales a tensor has; the order is the lattice order, least expressive first."""

    PER_TENSOR = "per_tensor"
    PER_CHANNEL = "per_channel"
    PER_BLOCK = "per_block"


@dataclass(frozen=True, slots=True)
class QType:
    """A number format: real = scale * (code - zero_point), low <= code <= high.

    ``symmetric``: on a signed storage the zero point is 0 and the range is centred; on an unsigned storage the zero
    point is 0 and the type is legal only where no value is negative. ``axis`` is a role name (``out``, ``in``,
    ``channel``) or an axis number, None for per-tensor. ``block`` is the block length of PER_BLOCK. ``scale`` and
    ``zero_point`` are fixed by the rule where not None. ``power_of_two``: scales are 2**k. ``shared_zero_point``: all
    scales have the same zero point; False where that is so anyway (one scale, symmetric, or a fixed zero point). Codes of
    a float storage are its values: signed, symmetric, and rounded to the storage's own grid.
    """

    storage: str  # "u8", "i8", "i16", "i32", "f8e4m3", ...
    low: int
    high: int
    symmetric: bool
    granularity: Granularity = Granularity.PER_TENSOR
    axis: str | int | None = None
    block: int | None = None
    power_of_two: bool = False
    scale: float | None = None
    zero_point: int | None = None
    shared_zero_point: bool = False

    @property
    def signed(self) -> bool:
        return self.storage[0] != "u"

    @property
    def floating(self) -> bool:
        return self.storage in LARGEST_FLOAT

    @property
    def bits(self) -> int:
        return 8 if self.floating else int(self.storage[1:])


# What a quantized tensor can be stored as: what QuantizeLinear makes, and int32 for biases and accumulators.
INTEGERS = frozenset({"u2", "i2", "u4", "i4", "u8", "i8", "u16", "i16", "i32"})
# The largest finite value of each float storage. Source: the ONNX specification, "Float stored in 8 bits".
LARGEST_FLOAT: Mapping[str, int] = {"f8e4m3": 448, "f8e5m2": 57344}


def storage_limits(storage: str) -> tuple[int, int]:
    """The lowest and the highest code that a storage holds."""
    if storage in LARGEST_FLOAT:
        return -LARGEST_FLOAT[storage], LARGEST_FLOAT[storage]
    bits = int(storage[1:])
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if storage[0] == "i" else (0, (1 << bits) - 1)


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Allowed types of one tensor, fastest first. ``none`` True: leaving the tensor in float is allowed as well."""

    types: tuple[QType, ...]
    none: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Choice:
    """``alternatives when condition else otherwise``; a plain list has no condition. First true condition wins.

    ``derived``: tensors whose scales multiply to this one's scale (bias), where these alternatives are the ones.
    """

    alternatives: Alternatives
    condition: Expr | None = None
    otherwise: Choice | None = None
    derived: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuantStatement:
    """What ``quant`` says of one captured tensor."""

    target: str
    choice: Choice
    span: Span

    @property
    def derived(self) -> tuple[str, ...]:
        """The tensors whose scales multiply to this one's scale, in the first branch that says so."""
        branch: Choice | None = self.choice
        while branch is not None and not branch.derived:
            branch = branch.otherwise
        return () if branch is None else branch.derived


# ---------------------------------------------------------------------------------------------- patterns


class Kind(Enum):
    ANY = "any"
    CONST = "const"  # an initializer or a folded constant
    VALUE = "value"  # computed, or a model input


@dataclass(frozen=True, slots=True)
class Capture:
    """Binds an input tensor to a name; the same name twice means the same tensor. ``name`` "_" binds nothing."""

    name: str
    kind: Kind
    optional: bool
    variadic: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant input all of whose elements are within ``tolerance`` (relative) of ``value``."""

    value: float
    tolerance: float
    span: Span


@dataclass(frozen=True, slots=True)
class Result:
    """An output of another node of the same pattern: an index into ``Pattern.nodes``, and the output port. -1 means
    ``prev``, the first output of the step before in a chain."""

    node: int
    span: Span
    output: int = 0


Arg = Capture | Literal | Result


@dataclass(frozen=True, slots=True)
class PatternNode:
    """One operator of a pattern.

    ``ops``: operator types, with ``domain::`` before those outside the ONNX domain. ``args``: the first len(args)
    inputs in port order (fewer than the operator has: the rest is not looked at; a Capture that is optional may be
    missing). A step of a chain without arguments has ``prev`` at its first port, and the rest is not looked at.
    ``conditions`` are expressions over the node's attributes (schema defaults included) and captured tensors; ``refined``
    are those that hold for one operator only. ``name``: what ``as`` or the left side of a line calls its first output;
    ``others``: names of its further outputs, in port order (absent where the node leaves them out).
    """

    ops: frozenset[str]
    args: tuple[Arg, ...]
    conditions: tuple[Expr, ...]
    name: str | None
    span: Span
    others: tuple[str, ...] = ()
    refined: tuple[tuple[str, Expr], ...] = ()

    def conditions_of(self, op: str) -> tuple[Expr, ...]:
        """All conditions that hold for one of the operators."""
        return (*self.conditions, *(condition for name, condition in self.refined if name == op))


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a chain: one of ``alternatives`` (each a sequence of parts; nearly always one single node).

    A part that is a ``Pattern`` is several nodes that give one result (``-> Add(prev, Mul(z, c))``): it has no tail, and
    reads ``prev`` somewhere. ``exclusive``: nobody else reads the tensor before, and it is no model output (``->``); else
    ``~>``. ``negative``: the consumers must not match (``not``). ``low``/``high``: how often the step repeats (1, 1; 0, 1
    for ``?``). ``name``: what ``as`` calls the tensor behind the step, where no single node has that name.
    """

    alternatives: tuple[tuple[PatternNode | Step | Pattern, ...], ...]
    exclusive: bool
    low: int
    high: int
    negative: bool
    span: Span
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """A DAG ``nodes`` in topological order (the last one gives the result), then a chain ``tail`` from its output.

    A chain ``A(x) -> B? as y`` has one node and one step. Patterns that were used by name are already inlined.
    ``result``: the name of the last matched node's output (``as``), None if unnamed. ``others``: further ways to begin,
    where the first step of a chain is a choice.
    """

    nodes: tuple[PatternNode, ...]
    tail: tuple[Step, ...]
    result: str | None
    span: Span
    others: tuple[Pattern, ...] = ()

    @property
    def ways(self) -> tuple[Pattern, ...]:
        """The pattern itself and the further ways to begin, each without others."""
        return (self, *self.others)


@dataclass(frozen=True, slots=True)
class Require:
    """A condition on a match, and the sentence for people (``else``) when it fails."""

    condition: Expr
    reason: str | None
    span: Span


# ---------------------------------------------------------------------------------------------- statements


@dataclass(frozen=True, slots=True)
class Accumulator:
    """The hardware adds ``lanes`` products into ``storage`` before widening; ``along`` names the weight's axes by role,
    slowest first, in the order in which the kernel packs them ("kernel" stands for all axes that are neither in nor out)."""

    storage: str
    lanes: int
    along: tuple[str, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Rule:
    """``rule`` (``is_float`` False) or ``float``: a kernel, or operators that stay in float.

    ``accumulators`` are the rule's own if it states any, else the device's. ``unify``: groups of captures that share
    one scale. ``keep``: captures that must stay in float (``float ... keep f32 on p`` covers no node).
    """

    name: str
    device: str
    pattern: Pattern
    requires: tuple[Require, ...]
    quants: tuple[QuantStatement, ...]
    unify: tuple[tuple[str, ...], ...]
    keep: tuple[str, ...]
    accumulators: tuple[Accumulator, ...]
    is_float: bool
    speedup: float
    doc: str
    notes: tuple[str, ...]
    span: Span

    @property
    def qualified(self) -> str:
        return f"{self.device}.{self.name}"


@dataclass(frozen=True, slots=True)
class OpStatement:
    """``pass`` or ``same_scale``: operators, and a condition (``where``) on their attributes or None."""

    ops: frozenset[str]
    where: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Prefer:
    """Qualified rule names: ``winner`` is taken where both match with the same cover."""

    winner: str
    loser: str
    because: str | None
    span: Span


@dataclass(frozen=True, slots=True)
class EmitNode:
    """A node of a rewrite's right side. Each arg is an expression: a captured tensor, an emitted name, or constant arithmetic.

    ``attributes``: name -> expression; ``copy_from``: the named matched node whose other attributes are copied, or None.
    """

    name: str
    op: str
    args: tuple[Expr, ...]
    attributes: tuple[tuple[str, Expr], ...]
    copy_from: str | None
    span: Span


@dataclass(frozen=True, slots=True)
class EmitValue:
    """``name = expression`` on a rewrite's right side: a constant, or another tensor under the result's name."""

    name: str
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A graph edit before quantization; the emit of the pattern's result name replaces the match's last output.

    ``opset``: of ONNX's own domain, the lowest one that has all emitted operators: a model is raised to it where this matches.
    """

    name: str
    once: bool
    opset: int
    pattern: Pattern
    requires: tuple[Require, ...]
    emits: tuple[EmitNode | EmitValue, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Port:
    """What std.rules adds to the schema of one input or output: its role, and axes by name.

    ``axes``: axis name (``out``, ``in``, ``channel``) -> expression over the node's attributes (an int; may be negative).
    ``within``: the ends of all numbers that a result can hold, None where nothing is said.
    """

    role: str  # "act", "weight", "bias", "result", ...
    axes: tuple[tuple[str, Expr], ...]
    within: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """``op Conv(X: act(channel = 1), W: weight(out = 0, in = 1), B: bias?) -> Y: result(channel = 1) where ...``.

    ``where``: what holds between the shapes and attributes of a valid node, in the schema's port names; None: nothing
    is said. It guides what draws small graphs, and never decides about a model. ``ports``: those names, in port order.

    How scales pass through, for positive numbers: ``homogeneous``: the number that all ``act`` inputs (and limits, fill
    values) are multiplied by multiplies the result, to the power ``degree`` (a number, or an input by name).
    ``multiplicative``: the number that any one ``act`` input is multiplied by does. ``elementwise``: each element of the
    result is made of the elements in its place.

    How a weight meets positions: ``sliding``: ``strides``, ``dilations``, ``pads`` and ``auto_pad`` lay its axes without a name on
    those of the ``act``, in order. ``spreading``: the same the other way round, inputs being spread over results.
    """

    op: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    commutative: bool
    span: Span
    where: Expr | None = None
    ports: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    homogeneous: bool = False
    multiplicative: bool = False
    elementwise: bool = False
    degree: float | str = 1
    sliding: bool = False
    spreading: bool = False


@dataclass(frozen=True, slots=True)
class Extern:
    """``extern pred``: a Python function of a file that was allowed to run. Checks never call it."""

    name: str
    origin: str
    function: Callable[..., object] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Program:
    """One device, checked and complete.

    ``parts``: the devices of a meet (``device any = cpu & gpu``), each once and in an order of their own; a model is legal
    for a meet if it is for every part. A meet has no statements of its own.

    ``rules`` are sorted by qualified name, so nothing depends on the order in the file. ``features`` hold the values in
    force. ``domains`` are opset ranges beside ``opset``, that of ONNX itself. ``externs`` are the Python functions of
    ``extern pred``, ``extern_files`` the sha256 of each file that was allowed to run. ``sources`` are all files read, in
    import order (for dependency files); ``digest`` is a sha256 (hex) of the canonical form of everything that can change
    a result.
    """

    device: str
    opset: tuple[int, int]
    features: Mapping[str, bool | int | float]
    rules: tuple[Rule, ...]
    passes: tuple[OpStatement, ...]
    same_scale: tuple[OpStatement, ...]
    prefers: tuple[Prefer, ...]
    rewrites: tuple[Rewrite, ...]
    signatures: Mapping[str, Signature]
    accumulators: tuple[Accumulator, ...]
    graph_input: Alternatives | None
    graph_output: Alternatives | None
    interchange: frozenset[str]
    requantize: bool
    doc: str
    sources: tuple[str, ...]
    digest: str
    warnings: tuple[Diagnostic, ...] = ()  # what `check` says beside errors; never part of the digest
    parts: tuple[Program, ...] = ()
    externs: tuple[Extern, ...] = ()
    extern_files: tuple[str, ...] = ()
    domains: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    @property
    def members(self) -> tuple[Program, ...]:
        """The devices that must all accept a model: the parts of a meet, else the device itself."""
        return self.parts or (self,)

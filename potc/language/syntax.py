"""The tree of one rule file, as written. Every node is frozen and knows its ``span``; spans never count in comparisons.

Equality therefore is the equality of meaning-as-written: ``parse(format_file(p)) == p``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from potc.diagnostics.source import Source, Span

# The head of a test up to its graph: texts and remarks may hold braces.
_GRAPH = re.compile(r'(?:"(?:[^"\\\n]|\\[^\n])*"|#[^\n]*|[^"#{])*\{(?:#[^\n]*|[^"#{])*\{')


def _span() -> Span:
    """The field ``span`` of every node: not compared, so that equal text at two places is equal."""
    return field(compare=False, repr=False)  # pyright: ignore[reportReturnType]


# ---------------------------------------------------------------------------------------------- expressions


@dataclass(frozen=True, slots=True)
class Number:
    value: int | float
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Text:
    value: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Truth:
    value: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class TypeName:
    """``f32``, ``u8``, ...: an element type; its value is its name."""

    name: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Name:
    name: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Field:
    target: Expr
    name: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Index:
    target: Expr
    index: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    args: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Unary:
    """``op`` is "-" or "not"."""

    op: str
    operand: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Binary:
    """``op`` is one of ``+ - * / %``."""

    op: str
    left: Expr
    right: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Compare:
    """``op`` is one of ``== != < <= > >=``."""

    op: str
    left: Expr
    right: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Range:
    """``low .. high``, both included."""

    low: Expr
    high: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class SetOf:
    """``{a, b}``."""

    items: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class In:
    item: Expr
    members: Range | SetOf | Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Boolean:
    """``op`` is "and" or "or"; at least two operands, evaluated from the left until one decides."""

    op: str
    operands: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class NodeCall:
    """``Conv[attrs of c, pads = p](x, w)``: only on the right side of an ``emit``; brackets make it a node."""

    op: str
    copy_from: str | None
    attributes: tuple[Setting, ...]
    args: tuple[Expr, ...]
    span: Span = _span()


Expr = Number | Text | Truth | TypeName | Name | Field | Index | Call | Unary | Binary | Compare | In | Boolean


@dataclass(frozen=True, slots=True)
class Setting:
    """``name = value``."""

    name: str
    value: Expr
    span: Span = _span()


# ---------------------------------------------------------------------------------------------- operators


@dataclass(frozen=True, slots=True)
class OpTerm:
    """An operator or the name of a set of operators, with conditions on attributes: ``Pad[mode == "constant"]``."""

    op: str
    conditions: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class OpSet:
    name: str
    include: tuple[OpTerm, ...]
    exclude: tuple[OpTerm, ...]
    doc: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class SignaturePort:
    """``within``: the ends of all numbers that a result can hold; None: nothing is said."""

    name: str
    role: str
    axes: tuple[Setting, ...]
    optional: bool
    variadic: bool
    within: tuple[float, float] | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class OpFlag:
    """``homogeneous``, ``homogeneous(0.5)``, ``homogeneous(Y)``. ``degree``: a number, the name of an input, or None."""

    word: str
    degree: float | str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class OpSignature:
    op: str
    inputs: tuple[SignaturePort, ...]
    outputs: tuple[SignaturePort, ...]
    flags: tuple[OpFlag, ...]
    where: Expr | None
    doc: str
    span: Span = _span()


# ---------------------------------------------------------------------------------------------- patterns


@dataclass(frozen=True, slots=True)
class ArgCapture:
    """``x``, ``w: const``, ``b: const?``, ``x...``, ``const`` (name "_"). ``kind``: "any", "const" or "value"."""

    name: str
    kind: str
    optional: bool
    variadic: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class ArgPrevious:
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class ArgLiteral:
    value: int | float
    tolerance: int | float
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class ArgNested:
    node: NodePattern
    span: Span = _span()


PatternArg = ArgCapture | ArgPrevious | ArgLiteral | ArgNested


@dataclass(frozen=True, slots=True)
class NodePattern:
    """One operator, one of several (``any(Add, Mul)``), an op set or a pattern by name. ``args`` None: no parentheses."""

    ops: tuple[str, ...]
    conditions: tuple[Expr, ...]
    args: tuple[PatternArg, ...] | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class ChainStep:
    """One step: alternatives (one chain of one node if there are no parentheses). ``edge``: "", "->" or "~>"."""

    edge: str
    negative: bool
    alternatives: tuple[Chain, ...] | NodePattern
    low: int
    high: int
    name: str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Chain:
    steps: tuple[ChainStep, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Bind:
    names: tuple[str, ...]
    node: NodePattern
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Block:
    """A pattern as lines ``a = Op(...)``; the last line is the result."""

    binds: tuple[Bind, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Match:
    body: Chain | Block
    span: Span = _span()


# ---------------------------------------------------------------------------------------------- number formats


@dataclass(frozen=True, slots=True)
class Modifier:
    """``sym``, ``asym``, ``pow2``, ``per_tensor``, ``shared_zero_point``, ``per_channel``, ``per_block``, ``fixed``."""

    name: str
    axis: str | int | None
    block: int | None
    settings: tuple[Setting, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class TypeForm:
    """``i8[-127..127] sym per_channel(out)``."""

    storage: str
    limits: tuple[int, int] | None
    modifiers: tuple[Modifier, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class TypeReference:
    """A ``qtype`` by name, with further modifiers."""

    name: str
    modifiers: tuple[Modifier, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class NoType:
    """``none``: the tensor may stay in float."""

    span: Span = _span()


@dataclass(frozen=True, slots=True)
class TypeList:
    types: tuple[TypeForm | TypeReference | NoType, ...]
    span: Span = _span()


# ---------------------------------------------------------------------------------------------- inside rules


@dataclass(frozen=True, slots=True)
class RequireStatement:
    condition: Expr
    reason: str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class QuantChoice:
    """``types = derived when condition else otherwise``."""

    types: TypeList
    derived: Expr | None
    condition: Expr | None
    otherwise: QuantChoice | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    variadic: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class QuantAssign:
    targets: tuple[Target, ...]
    choice: QuantChoice
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Quant:
    assigns: tuple[QuantAssign, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Unify:
    targets: tuple[Target, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Keep:
    type: str
    names: tuple[str, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Note:
    text: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Speedup:
    value: int | float
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Accum:
    storage: str
    lanes: int
    along: tuple[str, ...]
    unless: Expr | None
    doc: str
    span: Span = _span()


RuleItem = Match | RequireStatement | Quant | Unify | Keep | Note | Speedup | Accum


@dataclass(frozen=True, slots=True)
class RuleDefinition:
    """``rule`` or ``float``."""

    name: str
    is_float: bool
    override: bool
    items: tuple[RuleItem, ...]
    doc: str
    span: Span = _span()


# ---------------------------------------------------------------------------------------------- inside devices


@dataclass(frozen=True, slots=True)
class OpsetRange:
    domain: str
    low: int
    high: int
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Interchange:
    types: tuple[str, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Requantize:
    doc: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class FeatureDefinition:
    name: str
    type: str
    value: Expr
    doc: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class SetFeature:
    name: str
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class RemoveRule:
    name: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class QTypeDefinition:
    name: str
    types: TypeList
    doc: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class GraphPort:
    direction: str
    types: TypeList
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Pass:
    terms: tuple[OpTerm, ...]
    where: Expr | None
    doc: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class SameScale:
    terms: tuple[OpTerm, ...]
    where: Expr | None
    doc: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class PreferStatement:
    """Names as written: ``conv`` or ``cpu.conv``."""

    winner: str
    loser: str
    because: str | None
    span: Span = _span()


DeviceItem = (
    OpsetRange
    | Interchange
    | Requantize
    | OpSet
    | FeatureDefinition
    | SetFeature
    | RemoveRule
    | QTypeDefinition
    | Accum
    | RuleDefinition
    | Pass
    | SameScale
    | PreferStatement
    | GraphPort
)


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    abstract: bool
    parents: tuple[str, ...]
    items: tuple[DeviceItem, ...]
    doc: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class DeviceReference:
    """``cpu`` or ``cpu with (vnni = false)``."""

    name: str
    settings: tuple[Setting, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class DeviceCombination:
    """``left & right``: what is legal on both."""

    left: DeviceExpr
    right: DeviceExpr
    span: Span = _span()


DeviceExpr = DeviceReference | DeviceCombination


@dataclass(frozen=True, slots=True)
class DeviceAlgebra:
    name: str
    value: DeviceExpr
    doc: str
    span: Span = _span()


# ---------------------------------------------------------------------------------------------- top level


@dataclass(frozen=True, slots=True)
class Use:
    """``use std`` (a sibling or shipped NAME.rules) or ``use "path.rules"``; ``names``: what is taken, empty: all."""

    target: str
    is_path: bool
    names: tuple[str, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    kind: str  # "any", "const", "value", "ops"
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Predicate:
    name: str
    parameters: tuple[str, ...]
    body: Expr
    doc: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class ExternPredicate:
    name: str
    parameters: tuple[str, ...]
    origin: str
    doc: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class PatternDefinition:
    name: str
    parameters: tuple[Parameter, ...]
    match: Match
    requires: tuple[RequireStatement, ...]
    doc: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class EmitBind:
    name: str
    value: Expr | NodeCall
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Emit:
    binds: tuple[EmitBind, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class RewriteDefinition:
    name: str
    once: bool
    items: tuple[Match | RequireStatement | Emit, ...]
    doc: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Expect:
    """``what``: "types", "same_scale", "float", "rule" or "error"; ``names`` are tensors, ``rule`` a rule or code."""

    what: str
    names: tuple[str, ...]
    rule: str
    types: TypeList | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Test:
    """A unit test of a rule file. ``graph``: ONNX text between its outer braces, as written."""

    title: str
    devices: tuple[str, ...]
    graph: str
    expects: tuple[Expect, ...]
    doc: str
    span: Span = _span()

    @property
    def graph_start(self) -> int:
        """Offset of ``graph`` in the source."""
        opening = _GRAPH.match(self.span.source.text, self.span.start)
        return opening.end() if opening is not None else self.span.start


Item = (
    Use
    | OpSet
    | OpSignature
    | Predicate
    | ExternPredicate
    | PatternDefinition
    | Device
    | DeviceAlgebra
    | RewriteDefinition
    | Test
    | PreferStatement
)


@dataclass(frozen=True, slots=True)
class Comment:
    """A ``#`` remark. ``own_line``: nothing but blanks before it on its line."""

    text: str
    own_line: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class File:
    """One parsed file. ``version`` None: no header. ``comments`` do not count in comparisons."""

    version: int | None
    items: tuple[Item, ...]
    source: Source = field(compare=False, repr=False)
    comments: tuple[Comment, ...] = field(compare=False, repr=False, default=())

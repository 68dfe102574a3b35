"""The graph of a test: ONNX text, in full or in short, becomes a model with made-up weights.

Full is what ``onnx.parser`` takes for a graph: ``name (inputs) => (outputs) <declarations> { nodes }``. In short, the name and
the inner braces may be left out, and types may be written as rules write them: ``(f32[1,8] x) => (f32[1,8] y) y = Relu (x)``.
A header in front, ``<opset_import: ["" : 20]>``, states another opset than 17 (or what the device has that is nearest to it).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

from potc.diagnostics.diagnostic import Diagnostic, Rejected
from potc.diagnostics.source import Span
from potc.graph.model import Model
from potc.graph.read import accept_model
from potc.graph.snapshot import DTYPES, FLOATS, outer_reads
from potc.language.syntax import Test

OPSET = 17
IR_VERSION = 10
MAX_ELEMENTS = 1 << 24  # of a made-up weight: tests are small
TYPES = {
    "f16": "float16",
    "f32": "float",
    "f64": "double",
    "bf16": "bfloat16",
    "f8e4m3": "float8e4m3fn",
    "f8e5m2": "float8e5m2",
    **{
        f"{sign}{bits}": f"{sign.replace('i', 'int').replace('u', 'uint')}{bits}"
        for sign in "iu"
        for bits in (4, 8, 16, 32, 64)
    },
}
_TOKEN = re.compile(r'\s+|#[^\n]*|"(?:[^"\\]|\\.)*"|[A-Za-z_][A-Za-z0-9_]*|[^\s"#A-Za-z_]')
_PLACE = re.compile(r"line: (\d+) column: (\d+)")


def model_of(test: Test, opsets: tuple[int, int]) -> Model:
    """The model of a test, for a device with these opsets. Weights that have a shape and no values get positive ones, the
    same each time. Raises Rejected(invalid-test), with the place in the rule file."""
    text = _full(test)
    opset = min(max(OPSET, opsets[0]), opsets[1])
    header = "" if text.has_header else f'<ir_version: {IR_VERSION}, opset_import: ["" : {opset}]>\n'
    try:
        proto = onnx.parser.parse_model(header + text.written)
    except onnx.parser.ParseError as error:
        raise _unreadable(test, text, header, error) from None
    proto.ir_version = proto.ir_version or IR_VERSION
    _import_domains(proto)
    _fill(test, proto)
    try:
        return accept_model("the graph of this test", proto)
    except Rejected as rejected:
        raise _wrong(test, rejected.diagnostics[0].message, _graph_span(test)) from None


def place_of(test: Test, name: str) -> Span:
    """Where a tensor is first named in the graph; the whole graph if it is not."""
    for start, token in _tokens(test.graph):
        if token == name:
            return Span(test.span.source, test.graph_start + start, test.graph_start + start + len(token))
    return _graph_span(test)


def _graph_span(test: Test) -> Span:
    start = test.graph_start + len(test.graph) - len(test.graph.lstrip())
    return Span(test.span.source, start, max(start, test.graph_start + len(test.graph.rstrip())))


def _wrong(test: Test, message: str, at: Span, help: str | None = None) -> Rejected:
    help = help or "graphs are written in ONNX text: `(inputs) => (outputs) <declarations> { nodes }`"
    return Rejected([Diagnostic("invalid-test", message, at=at, label=f'in "{test.title}"', help=help)])


# ---------------------------------------------------------------------------------------------- short to full


@dataclass(frozen=True, slots=True)
class _Text:
    """``written``: what onnx.parser reads; ``starts``: (offset there, offset in the test's graph), ascending."""

    written: str
    starts: tuple[tuple[int, int], ...]
    has_header: bool

    def source_offset(self, offset: int) -> int:
        """Where in the test's graph a character comes from."""
        before = [(a, b) for a, b in self.starts if a <= offset]
        return before[-1][1] + offset - before[-1][0] if before else 0


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    """What is neither blank nor remark, with its offset."""
    for match in _TOKEN.finditer(text):
        if not match[0].isspace() and not match[0].startswith("#"):
            yield match.start(), match[0]


def _full(test: Test) -> _Text:
    """Name, braces and types as onnx.parser wants them; the rest as it is written."""
    tokens = list(_tokens(test.graph))
    words = [token for _, token in tokens]
    head = _behind(words, 0) if words[:1] == ["<"] else 0
    body = _body(words, head)
    edits: list[tuple[int, str, str]] = []  # offset, what stands there, what is written instead
    for k, (start, token) in enumerate(tokens):
        if k == head and token == "(":
            edits.append((start, "", "g "))
        if k == body and token != "{":
            edits.append((start, "", "{ "))
        following = words[k + 1] if k + 1 < len(words) else ""
        if token in TYPES and re.match(r"[\[A-Za-z_]", following):
            edits.append((start, token, TYPES[token]))
    if body >= len(words):
        edits.append((len(test.graph), "", " {}"))
    elif words[body] != "{":
        edits.append((len(test.graph), "", "\n}"))
    written, starts, done = "", list[tuple[int, int]](), 0
    for start, old, new in edits:
        starts.append((len(written), done))
        written += test.graph[done:start] + new
        done = start + len(old)
    starts.append((len(written), done))
    return _Text(written + test.graph[done:], tuple(starts), head > 0)


def _behind(words: list[str], opening: int) -> int:
    """The place behind what a bracket encloses."""
    closing = {"(": ")", "<": ">"}[words[opening]]
    depth = 0
    for k in range(opening, len(words)):
        depth += (words[k] == words[opening]) - (words[k] == closing)
        if depth == 0:
            return k + 1
    return len(words)


def _body(words: list[str], head: int) -> int:
    """Where the nodes begin: behind the outputs and the declarations."""
    arrow = next((k for k in range(head, len(words) - 1) if words[k : k + 2] == ["=", ">"]), None)
    if arrow is None or words[arrow + 2 : arrow + 3] != ["("]:
        return len(words)
    body = _behind(words, arrow + 2)
    return _behind(words, body) if words[body : body + 1] == ["<"] else body


def _unreadable(test: Test, text: _Text, header: str, error: Exception) -> Rejected:
    """What onnx.parser says, at the place that it means."""
    said = error.args[0] if error.args else ""
    said = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    place = _PLACE.search(said)
    at = _graph_span(test)
    if place is not None:
        lines = (header + text.written).splitlines(keepends=True)
        line, column = int(place[1]), int(place[2])
        offset = sum(map(len, lines[: line - 1])) + column - 1 - len(header)
        start = test.graph_start + min(max(0, text.source_offset(max(0, offset))), len(test.graph))
        at = Span(test.span.source, start, start + 1)
    reason = said.strip().splitlines()[-1].rstrip(". ") if said.strip() else "no reason given"
    return _wrong(test, f"the graph is no ONNX text: {reason[:1].lower()}{reason[1:]}", at)


# ---------------------------------------------------------------------------------------------- domains and weights


def _import_domains(proto: onnx.ModelProto) -> None:
    """Domains of vendors need no header."""
    known = {o.domain for o in proto.opset_import}
    for domain in sorted({n.domain for n in proto.graph.node} - known - {"ai.onnx"}):
        proto.opset_import.append(helper.make_opsetid(domain, 1))


def _fill(test: Test, proto: onnx.ModelProto) -> None:
    """Values for declared weights. Raises Rejected for what is read and neither made nor declared."""
    graph = proto.graph
    known = {t.name for t in graph.initializer} | {i.name for i in graph.input}
    known |= {name for node in graph.node for name in node.output}
    declared = {v.name: v for v in graph.value_info}
    for name in dict.fromkeys(n for node in graph.node for n in (*node.input, *outer_reads(node)) if n):
        if name in known:
            continue
        if name not in declared:
            message = f"`{name}` is read, and neither made nor declared"
            help_ = f"declare it behind the outputs, `<float[8,8,3,3] {name}>`; its values are made up"
            raise _wrong(test, message, place_of(test, name), help_)
        graph.initializer.append(_weight(test, declared[name]))
        graph.value_info.remove(declared[name])


def _weight(test: Test, declared: onnx.ValueInfoProto) -> onnx.TensorProto:
    """Values between 0.1 and 1, so that they may be variances and divisors too; they depend on the name and shape alone."""
    name, kind = declared.name, declared.type.tensor_type
    at = place_of(test, name)
    if DTYPES.get(kind.elem_type) not in FLOATS:
        word = helper.tensor_dtype_to_string(kind.elem_type).removeprefix("TensorProto.").lower()
        help_ = f"give them behind its name, like `{word}[2] {name} = {{1, 1}}`"
        raise _wrong(test, f"`{name}` is {word}, and only float weights get made-up values", at, help_)
    if not all(d.HasField("dim_value") and d.dim_value > 0 for d in kind.shape.dim):
        raise _wrong(test, f"the weight `{name}` has an axis without a size", at, "give each axis a number")
    shape = tuple(d.dim_value for d in kind.shape.dim)
    count = 1
    for size in shape:
        count *= size
    if count > MAX_ELEMENTS:
        raise _wrong(test, f"the weight `{name}` has {count:,} elements", at, f"use at most {MAX_ELEMENTS:,}")
    generator = np.random.default_rng(zlib.crc32(f"{name} {shape}".encode()))
    values = generator.uniform(0.1, 1.0, shape).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return numpy_helper.from_array(values, name)

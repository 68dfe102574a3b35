"""Tree building: patterns, number formats, rewrites, tests and expressions."""

from __future__ import annotations

from typing import Any

from potc.diagnostics.source import Span
from potc.language import syntax as s
from potc.language.build import AttributeItem, Bracket, Builder, doc_of, marked, names_of, on, unquote

MAX_REPEAT = 64  # a fused chain that is longer than this is a typing mistake


@on("chain")
def _chain(builder: Builder, span: Span, children: list[Any]) -> s.Chain:
    return s.Chain(tuple(children), span)


@on("then")
def _then(builder: Builder, span: Span, children: list[Any]) -> s.ChainStep:
    step: s.ChainStep = children[1]
    return s.ChainStep(str(children[0]), step.negative, step.alternatives, step.low, step.high, step.name, step.span)


@on("step")
def _step(builder: Builder, span: Span, children: list[Any]) -> s.ChainStep:
    negative = marked(children)
    body, *rest = children
    name = rest.pop()
    low, high = rest[0] if rest else (1, 1)
    if not 0 <= low <= high <= MAX_REPEAT or high == 0:
        builder.mistake(f"a step can repeat 0 .. {MAX_REPEAT} times, and `{low} .. {high}` is outside", span)
        low, high = 1, 1
    return s.ChainStep("", negative, body, low, high, None if name is None else str(name), span)


@on("rep_optional")
def _rep_optional(builder: Builder, span: Span, children: list[Any]) -> tuple[int, int]:
    return 0, 1


@on("rep_times")
def _rep_times(builder: Builder, span: Span, children: list[Any]) -> tuple[int, int]:
    return int(builder.number(children[-2], span)), int(builder.number(children[-1], span))


@on("pnode")
def _pnode(builder: Builder, span: Span, children: list[Any]) -> s.NodePattern:
    return _node(children, span)


def _node(children: list[Any], span: Span) -> s.NodePattern:
    ops, *rest = children
    conditions: tuple[Any, ...] = ()
    args: tuple[Any, ...] | None = None
    for part in rest:
        if isinstance(part, _Args):
            args = part.items
        else:
            conditions = part
    return s.NodePattern(ops if isinstance(ops, tuple) else (ops,), conditions, args, span)


class _Args:
    """Arguments in parentheses, to tell them from conditions in brackets."""

    def __init__(self, items: tuple[Any, ...]) -> None:
        self.items = items


@on("pargs")
def _pargs(builder: Builder, span: Span, children: list[Any]) -> _Args:
    return _Args(tuple(c for c in children if c is not None))


@on("opref")
def _opref(builder: Builder, span: Span, children: list[Any]) -> tuple[str, ...]:
    return tuple(children)


@on("p_capture")
def _capture(builder: Builder, span: Span, children: list[Any]) -> s.ArgCapture:
    return s.ArgCapture(str(children[0]), children[1] or "any", len(children) > 2, False, span)


@on("p_variadic")
def _variadic(builder: Builder, span: Span, children: list[Any]) -> s.ArgCapture:
    return s.ArgCapture(str(children[0]), children[1] or "any", False, True, span)


@on("p_any")
def _any(builder: Builder, span: Span, children: list[Any]) -> s.ArgCapture:
    return s.ArgCapture("_", "any", False, False, span)


@on("p_prev")
def _prev(builder: Builder, span: Span, children: list[Any]) -> s.ArgPrevious:
    return s.ArgPrevious(span)


@on("p_const")
def _const(builder: Builder, span: Span, children: list[Any]) -> s.ArgCapture:
    return s.ArgCapture(str(children[-1]) if children else "_", "const", False, False, span)


@on("p_literal")
def _literal_arg(builder: Builder, span: Span, children: list[Any]) -> s.ArgLiteral:
    return s.ArgLiteral(children[0], 0 if children[1] is None else children[1], span)


@on("p_nested")
def _nested(builder: Builder, span: Span, children: list[Any]) -> s.ArgNested:
    return s.ArgNested(_node(children, span), span)


# ---------------------------------------------------------------------------------------------- number formats


@on("qalts")
def _qalts(builder: Builder, span: Span, children: list[Any]) -> s.TypeList:
    return s.TypeList(tuple(children), span)


@on("q_type")
def _q_type(builder: Builder, span: Span, children: list[Any]) -> s.TypeForm:
    storage, *rest = children
    limits = rest.pop(0) if rest and isinstance(rest[0], tuple) else None
    return s.TypeForm(str(storage), limits, tuple(rest), span)


@on("q_ref")
def _q_ref(builder: Builder, span: Span, children: list[Any]) -> s.TypeReference:
    return s.TypeReference(str(children[0]), tuple(children[1:]), span)


@on("q_none")
def _q_none(builder: Builder, span: Span, children: list[Any]) -> s.NoType:
    return s.NoType(span)


@on("qrange")
def _qrange(builder: Builder, span: Span, children: list[Any]) -> tuple[int, int]:
    return children[0], children[1]


@on("sint", "number")
def _number(builder: Builder, span: Span, children: list[Any]) -> int | float:
    return builder.number("".join(children), span)


@on("q_word")
def _q_word(builder: Builder, span: Span, children: list[Any]) -> s.Modifier:
    return s.Modifier(str(children[0]), None, None, (), span)


@on("q_channel")
def _q_channel(builder: Builder, span: Span, children: list[Any]) -> s.Modifier:
    return s.Modifier("per_channel", children[0], None, (), span)


@on("q_block")
def _q_block(builder: Builder, span: Span, children: list[Any]) -> s.Modifier:
    return s.Modifier("per_block", children[0], int(builder.number(children[1], span)), (), span)


@on("q_fixed")
def _q_fixed(builder: Builder, span: Span, children: list[Any]) -> s.Modifier:
    return s.Modifier("fixed", None, None, children[0], span)


@on("axis")
def _axis(builder: Builder, span: Span, children: list[Any]) -> str | int:
    return children[0] if isinstance(children[0], int) else str(children[0])


# ---------------------------------------------------------------------------------------------- rewrites and tests


@on("rewrite")
def _rewrite(builder: Builder, span: Span, children: list[Any]) -> s.RewriteDefinition:
    doc = doc_of(children)
    name, *items = children
    once = marked(items)
    return s.RewriteDefinition(str(name), once, tuple(items), doc, span)


@on("emit")
def _emit(builder: Builder, span: Span, children: list[Any]) -> s.Emit:
    return s.Emit(tuple(children), span)


@on("ebind")
def _ebind(builder: Builder, span: Span, children: list[Any]) -> s.EmitBind:
    return s.EmitBind(str(children[0]), children[1], span)


@on("test")
def _test(builder: Builder, span: Span, children: list[Any]) -> s.Test:
    doc = doc_of(children)
    title, devices, graph, *expects = children
    return s.Test(unquote(title), names_of(devices), str(graph)[1:-1], tuple(expects), doc, span)


@on("e_types")
def _e_types(builder: Builder, span: Span, children: list[Any]) -> s.Expect:
    return s.Expect("types", (str(children[0]),), "", children[1], span)


@on("e_same")
def _e_same(builder: Builder, span: Span, children: list[Any]) -> s.Expect:
    return s.Expect("same_scale", tuple(str(c) for c in children), "", None, span)


@on("e_float")
def _e_float(builder: Builder, span: Span, children: list[Any]) -> s.Expect:
    return s.Expect("float", children[0], "", None, span)


@on("e_rule")
def _e_rule(builder: Builder, span: Span, children: list[Any]) -> s.Expect:
    return s.Expect("rule", children[1], children[0], None, span)


@on("e_error")
def _e_error(builder: Builder, span: Span, children: list[Any]) -> s.Expect:
    return s.Expect("error", (), str(children[0]), None, span)


# ---------------------------------------------------------------------------------------------- expressions


@on("or_")
def _or(builder: Builder, span: Span, children: list[Any]) -> s.Boolean:
    return _boolean("or", children, span)


@on("and_")
def _and(builder: Builder, span: Span, children: list[Any]) -> s.Boolean:
    return _boolean("and", children, span)


def _boolean(op: str, children: list[Any], span: Span) -> s.Boolean:
    """``a or b or c`` is one node, however it is put in parentheses."""
    operands: list[s.Expr] = []
    for child in children:
        operands.extend(child.operands if isinstance(child, s.Boolean) and child.op == op else (child,))
    return s.Boolean(op, tuple(operands), span)


@on("not_", "minus")
def _unary(builder: Builder, span: Span, children: list[Any]) -> s.Unary:
    return s.Unary("-" if len(children) > 1 else "not", children[-1], span)


@on("compare")
def _compare(builder: Builder, span: Span, children: list[Any]) -> s.Compare:
    return s.Compare(str(children[1]), children[0], children[2], span)


@on("contains")
def _contains(builder: Builder, span: Span, children: list[Any]) -> s.In:
    return s.In(children[0], children[1], span)


@on("range_")
def _range(builder: Builder, span: Span, children: list[Any]) -> s.Range:
    return s.Range(children[0], children[1], span)


@on("set_of")
def _set_of(builder: Builder, span: Span, children: list[Any]) -> s.SetOf:
    return s.SetOf(tuple(children), span)


@on("binary")
def _binary(builder: Builder, span: Span, children: list[Any]) -> s.Binary:
    return s.Binary(str(children[1]), children[0], children[2], span)


@on("field")
def _field(builder: Builder, span: Span, children: list[Any]) -> s.Field:
    return s.Field(children[0], str(children[1]), span)


@on("attribute")
def _attribute(builder: Builder, span: Span, children: list[Any]) -> AttributeItem:
    return AttributeItem(str(children[0]), children[1], None, span)


@on("attributes_of")
def _attributes_of(builder: Builder, span: Span, children: list[Any]) -> AttributeItem:
    return AttributeItem(None, None, str(children[0]), span)


@on("index")
def _index(builder: Builder, span: Span, children: list[Any]) -> s.Index | Bracket:
    target, *items = children
    if len(items) == 1 and not isinstance(items[0], AttributeItem):
        return s.Index(target, items[0], span)
    builder.emitted = True
    return Bracket(target, tuple(items), span)


@on("call")
def _call(builder: Builder, span: Span, children: list[Any]) -> s.Call | s.NodeCall:
    target, args = children
    args = args or ()
    if isinstance(target, Bracket):
        return _node_call(builder, target, args, span)
    if not isinstance(target, s.Name):
        builder.mistake("only a function can be called, by its name", span)
        return s.Call("", args, span)
    return s.Call(target.name, args, span)


def _node_call(builder: Builder, target: Bracket, args: tuple[s.Expr, ...], span: Span) -> s.NodeCall:
    settings: list[s.Setting] = []
    copies: list[str] = []
    for item in target.items:
        if not isinstance(item, AttributeItem):
            builder.mistake("an emitted node's brackets hold `attrs of NAME` and `attribute = value`", target.span)
        elif item.name is None:
            copies.append(item.copy_from or "")
        else:
            assert item.value is not None
            settings.append(s.Setting(item.name, item.value, item.span))
    if len(copies) > 1:
        builder.mistake("`attrs of` can name one node only", target.span)
    name = target.target.name if isinstance(target.target, s.Name) else ""
    if not name:
        builder.mistake("brackets of a node follow the name of its operator", target.span)
    return s.NodeCall(name, copies[0] if copies else None, tuple(settings), args, span)


@on("literal")
def _literal(builder: Builder, span: Span, children: list[Any]) -> s.Number:
    return s.Number(builder.number(str(children[0]), span), span)


@on("text")
def _text(builder: Builder, span: Span, children: list[Any]) -> s.Text:
    return s.Text(unquote(children[0]), span)


@on("type_name")
def _type_name(builder: Builder, span: Span, children: list[Any]) -> s.TypeName:
    return s.TypeName(str(children[0]), span)


@on("name")
def _name(builder: Builder, span: Span, children: list[Any]) -> s.Name:
    return s.Name(str(children[0]), span)


@on("true")
def _true(builder: Builder, span: Span, children: list[Any]) -> s.Truth:
    return s.Truth(True, span)


@on("false")
def _false(builder: Builder, span: Span, children: list[Any]) -> s.Truth:
    return s.Truth(False, span)


@on("group")
def _group(builder: Builder, span: Span, children: list[Any]) -> s.Expr:
    return children[0]

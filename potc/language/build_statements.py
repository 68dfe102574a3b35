"""Tree building: files, operators, devices and rules."""

from __future__ import annotations

from typing import Any

from potc.diagnostics.source import Span
from potc.language import syntax as s
from potc.language.build import Builder, Mark, doc_of, marked, names_of, on, unquote

# ---------------------------------------------------------------------------------------------- top level


@on("start")
def _start(builder: Builder, span: Span, children: list[Any]) -> s.File:
    version = children.pop(0) if children and isinstance(children[0], int) else None
    if version not in (None, 1):
        builder.mistake(f"this potc reads version 1 of the rule language, the file says {version}", span)
    return s.File(version, tuple(children), builder.source)


@on("header")
def _header(builder: Builder, span: Span, children: list[Any]) -> int:
    return int(builder.number(children[0], span))


@on("use")
def _use(builder: Builder, span: Span, children: list[Any]) -> s.Use:
    target, names = children
    path = target.startswith('"')
    return s.Use(unquote(target) if path else str(target), path, names_of(names), span)


@on("dotted")
def _dotted(builder: Builder, span: Span, children: list[Any]) -> str:
    return ".".join(children)


@on("name_list")
def _name_list(builder: Builder, span: Span, children: list[Any]) -> tuple[str, ...]:
    return tuple(str(c) for c in children)


@on("op_name")
def _op_name(builder: Builder, span: Span, children: list[Any]) -> str:
    return str(children[0])


@on("ops_def")
def _ops_def(builder: Builder, span: Span, children: list[Any]) -> s.OpSet:
    doc = doc_of(children)
    name, include, exclude = children[-3:]
    return s.OpSet(str(name), include, exclude or (), doc, span)


@on("op_terms", "sig_ports", "settings", "params", "attr_refine", "arguments", "palt")
def _tuple(builder: Builder, span: Span, children: list[Any]) -> tuple[Any, ...]:
    return tuple(children)


@on("op_term")
def _op_term(builder: Builder, span: Span, children: list[Any]) -> s.OpTerm:
    return s.OpTerm(children[0], children[1] if len(children) > 1 else (), span)


@on("opsig")
def _opsig(builder: Builder, span: Span, children: list[Any]) -> s.OpSignature:
    doc = doc_of(children)
    op, inputs, outputs, *flags, where = children
    return s.OpSignature(op, inputs or (), outputs, tuple(flags), where, doc, span)


@on("sig_port")
def _sig_port(builder: Builder, span: Span, children: list[Any]) -> s.SignaturePort:
    name, role, axes, *more = children
    within = next((m for m in more if isinstance(m, tuple)), None)
    return s.SignaturePort(str(name), str(role), axes or (), "?" in more, "..." in more, within, span)


@on("within")
def _within(builder: Builder, span: Span, children: list[Any]) -> tuple[float, float]:
    low, high = children
    if low >= high:
        builder.mistake(f"no number is within [{low}, {high}]", span, "the lower end stands first")
    return low, high


@on("opflag")
def _opflag(builder: Builder, span: Span, children: list[Any]) -> s.OpFlag:
    word, degree = str(children[0]), children[1]
    if degree is not None and word != "homogeneous":
        builder.mistake(f"`{word}` has no degree: only `homogeneous` has", span, "leave out the brackets")
    return s.OpFlag(word, degree if isinstance(degree, int | float | None) else str(degree), span)


@on("port_suffix", "kind", "argkind")
def _word(builder: Builder, span: Span, children: list[Any]) -> str:
    return str(children[0])


@on("setting")
def _setting(builder: Builder, span: Span, children: list[Any]) -> s.Setting:
    return s.Setting(str(children[0]), children[1], span)


@on("pred_def")
def _pred(builder: Builder, span: Span, children: list[Any]) -> s.Predicate:
    doc = doc_of(children)
    return s.Predicate(str(children[0]), names_of(children[1]), children[2], doc, span)


@on("extern_pred")
def _extern(builder: Builder, span: Span, children: list[Any]) -> s.ExternPredicate:
    doc = doc_of(children)
    return s.ExternPredicate(str(children[0]), names_of(children[1]), unquote(children[2]), doc, span)


@on("pattern_def")
def _pattern(builder: Builder, span: Span, children: list[Any]) -> s.PatternDefinition:
    doc = doc_of(children)
    name, parameters, match, *requires = children
    return s.PatternDefinition(str(name), parameters or (), match, tuple(requires), doc, span)


@on("param")
def _param(builder: Builder, span: Span, children: list[Any]) -> s.Parameter:
    return s.Parameter(str(children[0]), children[1] or "any", span)


@on("abstract", "once", "override", "negation", "qmark")
def _mark(builder: Builder, span: Span, children: list[Any]) -> Mark:
    return Mark()


@on("device")
def _device(builder: Builder, span: Span, children: list[Any]) -> s.Device:
    doc = doc_of(children)
    abstract = marked(children)
    name, parents, *items = children
    return s.Device(str(name), abstract, names_of(parents), tuple(items), doc, span)


@on("device_alg")
def _device_algebra(builder: Builder, span: Span, children: list[Any]) -> s.DeviceAlgebra:
    doc = doc_of(children)
    return s.DeviceAlgebra(str(children[0]), children[1], doc, span)


@on("dev_meet")
def _meet(builder: Builder, span: Span, children: list[Any]) -> s.DeviceCombination:
    return s.DeviceCombination(children[0], children[1], span)


@on("dev_ref")
def _device_reference(builder: Builder, span: Span, children: list[Any]) -> s.DeviceReference:
    return s.DeviceReference(str(children[0]), children[1] or (), span)


# ---------------------------------------------------------------------------------------------- devices


@on("opset")
def _opset(builder: Builder, span: Span, children: list[Any]) -> s.OpsetRange:
    domain, low, high = children
    return s.OpsetRange(domain, low, high, span)


@on("interchange")
def _interchange(builder: Builder, span: Span, children: list[Any]) -> s.Interchange:
    return s.Interchange(tuple(str(c) for c in children), span)


@on("requantize")
def _requantize(builder: Builder, span: Span, children: list[Any]) -> s.Requantize:
    return s.Requantize(doc_of(children), span)


@on("feature")
def _feature(builder: Builder, span: Span, children: list[Any]) -> s.FeatureDefinition:
    doc = doc_of(children)
    return s.FeatureDefinition(str(children[0]), str(children[1]), children[2], doc, span)


@on("set_")
def _set(builder: Builder, span: Span, children: list[Any]) -> s.SetFeature:
    return s.SetFeature(str(children[0]), children[1], span)


@on("remove")
def _remove(builder: Builder, span: Span, children: list[Any]) -> s.RemoveRule:
    return s.RemoveRule(str(children[0]), span)


@on("qtype_def")
def _qtype_def(builder: Builder, span: Span, children: list[Any]) -> s.QTypeDefinition:
    doc = doc_of(children)
    return s.QTypeDefinition(str(children[0]), children[1], doc, span)


@on("accum")
def _accum(builder: Builder, span: Span, children: list[Any]) -> s.Accum:
    doc = doc_of(children)
    storage, lanes, along, unless = children
    return s.Accum(str(storage), int(builder.number(lanes, span)), names_of(along), unless, doc, span)


@on("graph_io")
def _graph_io(builder: Builder, span: Span, children: list[Any]) -> s.GraphPort:
    return s.GraphPort(str(children[0]), children[1], span)


@on("pass_")
def _pass(builder: Builder, span: Span, children: list[Any]) -> s.Pass:
    doc = doc_of(children)
    return s.Pass(children[0], children[1], doc, span)


@on("same_scale")
def _same_scale(builder: Builder, span: Span, children: list[Any]) -> s.SameScale:
    doc = doc_of(children)
    return s.SameScale(children[0], children[1], doc, span)


@on("prefer")
def _prefer(builder: Builder, span: Span, children: list[Any]) -> s.PreferStatement:
    because = children[2]
    return s.PreferStatement(children[0], children[1], None if because is None else unquote(because), span)


# ---------------------------------------------------------------------------------------------- rules


@on("rule")
def _rule(builder: Builder, span: Span, children: list[Any]) -> s.RuleDefinition:
    return _definition(span, children, is_float=False)


@on("float_")
def _float(builder: Builder, span: Span, children: list[Any]) -> s.RuleDefinition:
    return _definition(span, children, is_float=True)


def _definition(span: Span, children: list[Any], is_float: bool) -> s.RuleDefinition:
    doc = doc_of(children)
    override = marked(children)
    name, *items = children
    return s.RuleDefinition(str(name), is_float, override, tuple(items), doc, span)


@on("match")
def _match(builder: Builder, span: Span, children: list[Any]) -> s.Match:
    return s.Match(children[0], span)


@on("bind_block")
def _bind_block(builder: Builder, span: Span, children: list[Any]) -> s.Block:
    return s.Block(tuple(children), span)


@on("bind")
def _bind(builder: Builder, span: Span, children: list[Any]) -> s.Bind:
    return s.Bind(children[0], children[1], span)


@on("require")
def _require(builder: Builder, span: Span, children: list[Any]) -> s.RequireStatement:
    reason = children[1]
    return s.RequireStatement(children[0], None if reason is None else unquote(reason), span)


@on("quant")
def _quant(builder: Builder, span: Span, children: list[Any]) -> s.Quant:
    return s.Quant(tuple(children), span)


@on("qassign")
def _qassign(builder: Builder, span: Span, children: list[Any]) -> s.QuantAssign:
    return s.QuantAssign(tuple(children[:-1]), children[-1], span)


@on("target")
def _target(builder: Builder, span: Span, children: list[Any]) -> s.Target:
    return s.Target(str(children[0]), len(children) > 1, span)


@on("qchoice")
def _qchoice(builder: Builder, span: Span, children: list[Any]) -> s.QuantChoice:
    types, derived, condition, otherwise = children
    return s.QuantChoice(types, derived, condition, otherwise, span)


@on("unify")
def _unify(builder: Builder, span: Span, children: list[Any]) -> s.Unify:
    return s.Unify(tuple(children), span)


@on("keep")
def _keep(builder: Builder, span: Span, children: list[Any]) -> s.Keep:
    return s.Keep(str(children[0]), children[1], span)


@on("note")
def _note(builder: Builder, span: Span, children: list[Any]) -> s.Note:
    return s.Note(unquote(children[0]), span)


@on("speedup")
def _speedup(builder: Builder, span: Span, children: list[Any]) -> s.Speedup:
    return s.Speedup(children[0], span)

"""A float model and its integer model side by side: latency, what runs on integers, sizes, what stays in float and why."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import onnx

from potc.data.dataset import Dataset
from potc.data.source import open_samples
from potc.diagnostics.diagnostic import reject
from potc.evaluate.kernels import CODES, Loaded, element_kinds, load, runs_in_float
from potc.evaluate.latency import Paired, measure
from potc.execute.float_runs import unloadable
from potc.execute.session import SessionError, first_line, open_session
from potc.graph.model import Model
from potc.graph.names import all_nodes
from potc.graph.widen import read_runnable
from potc.graph.write import serialize
from potc.quantize.borders import borders_of
from potc.quantize.plan import Left
from potc.quantize.provenance import KERNEL, RULE

VERSION = 1
SAMPLES = 4  # different inputs that latency runs over
FLOATS = frozenset({"tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)"})
BORDERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, slots=True)
class Executed:
    """Operators that onnxruntime really runs, of one type: how many, and how many of them read integer codes."""

    operator: str
    count: int
    integer: int


@dataclass(frozen=True, slots=True)
class Kernels:
    """Kernels of one rule, as the model says it was compiled: how many, and how many of them run on integers."""

    rule: str
    count: int
    integer: int


@dataclass(frozen=True, slots=True)
class Floating:
    """A node that runs in float. ``rule``: that covers it all the same, or ""; ``reasons``: why, as far as it is known."""

    node: str
    operator: str
    rule: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bench:
    """All that is known of the two models. ``borders``: conversions between float and integers that are executed; sizes
    in bytes, with external data."""

    latency: Paired
    threads: int
    generated: bool
    float_bytes: int
    integer_bytes: int
    executed: tuple[Executed, ...]
    borders: int
    kernels: tuple[Kernels, ...]
    floating: tuple[Floating, ...]

    def to_json(self) -> str:
        return json.dumps({"potc": "bench", "version": VERSION, **asdict(self)}, indent=1, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class How:
    """How latency is measured: ``rounds`` counted runs of each model after ``warmup`` others, on ``threads``."""

    rounds: int = 100
    warmup: int = 5
    threads: int = 1
    data: str | None = None


def bench(float_path: str, integer_path: str, how: How, left: Sequence[Left] = ()) -> Bench:
    """Measures and reads both models. ``left``: what a plan leaves in float, for its reasons.

    Raises Rejected where a model can't be read or does not run.
    """
    plain, integer = read_runnable(float_path), read_runnable(integer_path)
    compiled = serialize(integer.proto)
    loaded = _loaded(compiled, integer_path)
    samples = open_samples(how.data, plain, SAMPLES)
    kinds = element_kinds(loaded.graph)
    executed, borders = _executed(loaded, kinds)
    floating = _floating(integer, loaded, kinds, left)
    return Bench(
        _latency(plain, serialize(plain.proto), compiled, samples, how, integer_path),
        how.threads,
        samples.generated,
        _size(plain),
        _size(integer),
        executed,
        borders,
        _kernels(integer, {f.node for f in floating}),
        floating,
    )


def integer_share(path: str) -> tuple[int, int]:
    """How many operators onnxruntime executes on integers, and how many it executes, conversions aside. Raises Rejected."""
    loaded = _loaded(serialize(read_runnable(path).proto), path)
    executed, _ = _executed(loaded, element_kinds(loaded.graph))
    return sum(e.integer for e in executed), sum(e.count for e in executed)


def _loaded(model: bytes, path: str) -> Loaded:
    """Raises Rejected (``unrunnable-model``) with what onnxruntime says."""
    loaded = load(model)
    if loaded is None:
        try:
            open_session(model, optimize=True, threads=1)
        except SessionError as error:
            raise unloadable(error, f"`{path}`") from error
        raise reject("unrunnable-model", f"onnxruntime does not write down how it runs `{path}`")
    return loaded


def _size(model: Model) -> int:
    return sum(os.path.getsize(path) for path in model.files)


def _latency(plain: Model, first: bytes, second: bytes, samples: Dataset, how: How, where: str) -> Paired:
    feeds = [dict(feed) for feed in samples.feeds()]
    borders = {b.tensor: b for b in borders_of(onnx.ModelProto.FromString(second)) if b.direction == "input"}
    codes = [{n: borders[n].codes(v) if n in borders else v for n, v in feed.items()} for feed in feeds]
    names = [o.name for o in plain.proto.graph.output]
    try:
        a, b = (open_session(m, optimize=True, threads=how.threads) for m in (first, second))
        outputs = [o.name for o in b.get_outputs()]
        same = [name for name in names if name in outputs]
        wanted = {i.name for i in b.get_inputs()}
        if wanted != {i.name for i in a.get_inputs()}:
            raise reject("unrunnable-model", f"`{where}` has other inputs than `{plain.path}`")
        return measure(
            lambda turn: a.run(names, feeds[turn % len(feeds)]),
            lambda turn: b.run(same, codes[turn % len(codes)]),
            how.rounds,
            how.warmup,
        )
    except SessionError as error:
        raise unloadable(error, "the model") from error
    except (RuntimeError, ValueError) as error:
        raise reject("sample-failed", f"onnxruntime does not run the model: {first_line(error)}") from error


def _executed(loaded: Loaded, kinds: Mapping[str, str]) -> tuple[tuple[Executed, ...], int]:
    """What computes something; conversions apart."""
    every: Counter[str] = Counter()
    integer: Counter[str] = Counter()
    borders = 0
    for node in all_nodes(loaded.graph.graph):
        if node.op_type in BORDERS:
            borders += 1
        elif any(kinds.get(name) in FLOATS | CODES for name in (*node.input, *node.output)):
            every[node.op_type] += 1
            integer[node.op_type] += any(kinds.get(name) in CODES for name in node.input)
    return tuple(Executed(op, count, integer[op]) for op, count in sorted(every.items())), borders


def _props(node: onnx.NodeProto) -> dict[str, str]:
    return {p.key: p.value for p in node.metadata_props}


def _kernels(model: Model, floating: set[str]) -> tuple[Kernels, ...]:
    """By rule. A kernel runs in float if one of its nodes does."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for node in all_nodes(model.proto.graph):
        props = _props(node)
        if KERNEL in props and RULE in props:
            nodes.setdefault((props[RULE], props[KERNEL]), []).append(node.name)
    every = Counter(rule for rule, _ in nodes)
    integer = Counter(rule for (rule, _), members in nodes.items() if floating.isdisjoint(members))
    return tuple(Kernels(rule, count, integer[rule]) for rule, count in sorted(every.items()))


def _floating(model: Model, loaded: Loaded, kinds: Mapping[str, str], left: Sequence[Left]) -> tuple[Floating, ...]:
    """Nodes of the model that still compute floats from floats when onnxruntime runs it."""
    why = {one.node: tuple(f"{o.rule}: {o.reason}" for o in one.reasons) for one in left}
    in_float = runs_in_float(model.proto.graph, loaded.graph.graph, {n for n, kind in kinds.items() if kind in CODES})
    found: list[Floating] = []
    for node in all_nodes(model.proto.graph):
        makes_floats = any(kinds.get(name, "tensor(float)") in FLOATS for name in node.output if name)
        if node.op_type in BORDERS or not in_float.get(node.name, False) or not makes_floats:
            continue
        rule = _props(node).get(RULE, "")
        reasons = why.get(node.name, ())
        if rule:
            reasons = (*reasons, "covered; onnxruntime has no integer kernel for it as it stands here")
        found.append(Floating(node.name, node.op_type, rule, reasons))
    return tuple(found)


def bench_lines(found: Bench, second: str, everything: bool = False) -> list[str]:
    """For people. ``everything``: all nodes in float, not the first ten."""
    time, floats = found.latency, found.floating
    threads = f"{found.threads} thread{'s' if found.threads != 1 else ''}"
    lines = [
        f"latency   {time.first_ms:.3f} ms in float, {time.second_ms:.3f} ms on integers "
        f"({threads}, medians of {time.rounds} runs)",
        f"          float takes {time.ratio:.2f} times as long (95 % between {time.low:.2f} and {time.high:.2f})",
        f"size      {found.float_bytes:,} bytes, {found.integer_bytes:,} bytes ({found.integer_bytes / found.float_bytes:.0%})",
    ]
    if found.generated:
        lines.append("          the samples were generated: give --data if what the model computes depends on values")
    count, integer = sum(e.count for e in found.executed), sum(e.integer for e in found.executed)
    lines.append(f"executed  {integer} of {count} operators read integers; {found.borders} conversions")
    lines.extend(f"          {e.integer} of {e.count}  {e.operator}" for e in found.executed)
    lines.extend(
        f"{'kernels   ' if not k else ' ' * 10}{one.integer} of {one.count}  {one.rule}"
        for k, one in enumerate(found.kernels)
    )
    if not found.kernels:
        lines.append(f"kernels   {second} does not say by which rules it was made")
    lines.append(f"in float  {len(floats)} node{'s' if len(floats) != 1 else ''}")
    for one in floats if everything else floats[:10]:
        lines.append(f"          {one.node} ({one.operator}){f' of {one.rule}' if one.rule else ''}")
        lines.extend(f"            {reason}" for reason in one.reasons)
    if len(floats) > 10 and not everything:
        lines.append(f"          and {len(floats) - 10} more; -v lists all")
    return lines

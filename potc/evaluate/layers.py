"""The accounts of a compile as plain rows, the largest share of the error first: what ``--report`` and -v show of each
layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from potc.evaluate.account import Account, Accounts
from potc.evaluate.sources import Source
from potc.language.lattice import spell
from potc.match.rewrite import Change
from potc.quantize.numbers import QuantParams
from potc.quantize.params import Params
from potc.quantize.plan import Plan
from potc.quantize.ranges import Ranges

VERSION = 1
DIGITS = 6  # of figures: sums in other orders, on other processors, differ in the last ones


@dataclass(frozen=True, slots=True)
class StoredRange:
    """One stored result: what its scale was solved for (``seen``, null if no calibration saw it), and what its codes
    reach."""

    tensor: str
    format: str
    seen: tuple[float, float] | None
    reach: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of noise: a kernel, or with an empty ``rule`` a stored tensor that no kernel makes.

    ``share``: of the error at the model's outputs; ``output_db``: SQNR of the outputs with its noise alone; ``sqnr_db``:
    of its results in the compiled model, the worst of several; ``alone_db``: the same for the inputs that it gets there;
    ``clipped``: share of the float values beyond ``reach``, null if nothing is stored. ``constants``: formats of weights
    and biases; ``changes``: what rewrites and passes did to it.
    """

    tensor: str
    rule: str
    place: str
    nodes: tuple[str, ...]
    share: float | None
    output_db: float | None
    sqnr_db: float
    alone_db: float
    clipped: float | None
    stored: tuple[StoredRange, ...]
    constants: dict[str, str]
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layers:
    """``samples``: of each figure; ``followed``: of which the noise was followed to the outputs; ``measured``: False where
    ``share`` is an estimate inside of groups; ``explained``: sum of all shares (see ``account``); ``unwatched``: nodes of each
    kernel in the body of an If, Loop or Scan, of which nothing is known."""

    version: int
    samples: int
    followed: int
    measured: bool
    explained: float | None
    rows: tuple[Layer, ...]
    unwatched: tuple[tuple[str, ...], ...] = ()


def layers(accounts: Accounts, plan: Plan, params: Params, ranges: Ranges, changes: Sequence[Change]) -> Layers:
    """Rows in order of their share; those with equal shares in order of the graph."""
    rows = sorted((_row(a, plan, params, ranges, changes) for a in accounts.accounts), key=lambda r: -(r.share or 0.0))
    explained = None if accounts.explained is None else _short(accounts.explained)
    watched = {a.source.kernel for a in accounts.accounts}
    apart = tuple(kernel.nodes for kernel in plan.kernels if kernel not in watched)
    return Layers(VERSION, accounts.samples, accounts.disturbed, accounts.measured, explained, tuple(rows), apart)


def _row(account: Account, plan: Plan, params: Params, ranges: Ranges, changes: Sequence[Change]) -> Layer:
    source = account.source
    kernel = source.kernel
    return Layer(
        tensor=source.points[0].tensor if source.points else "",
        rule=kernel.rule if kernel else "",
        place=kernel.place if kernel else "",
        nodes=kernel.nodes if kernel else (),
        share=None if account.share is None else _short(account.share),
        output_db=None if account.output_db is None else _short(account.output_db),
        sqnr_db=_short(min(account.sqnr_db.values(), default=math.inf)),
        alone_db=_short(account.alone_db),
        clipped=_short(account.clipped / account.values) if account.values else None,
        stored=tuple(_stored(source, plan, params, ranges)),
        constants={plan.constants[i].tensor: spell(params.constants[i].qtype) for i in source.constants},
        changes=tuple(_changes(source, plan, params, changes)),
    )


def _stored(source: Source, plan: Plan, params: Params, ranges: Ranges) -> Iterator[StoredRange]:
    for point in source.points:
        if point.quantizer is None:
            continue
        solved, observed = params.activations[point.quantizer], plan.quantizers[point.quantizer].observed
        seen = [ranges.by_tensor[t] for t in observed if t in ranges.by_tensor]
        found = (min(s.min for s in seen), max(s.max for s in seen)) if seen else None
        yield StoredRange(point.tensor, spell(solved.qtype), _both(found) if found else None, _both(reach(solved)))


def together_db(rows: Iterable[Layer]) -> float:
    """SQNR of the outputs if the noise of each row alone (``output_db``) adds up in power; infinite without noise."""
    noise = sum(10 ** (-row.output_db / 10) for row in rows if row.output_db is not None)
    return -10 * math.log10(noise) if noise else math.inf


def reach(params: QuantParams) -> tuple[float, float]:
    """The smallest and largest number that has a code, over all channels."""
    scale, zero_point = params.scale.astype(np.float64), params.zero_point.astype(np.float64)
    low, high = (params.qtype.low - zero_point) * scale, (params.qtype.high - zero_point) * scale
    return float(low.min()), float(high.max())


def _changes(source: Source, plan: Plan, params: Params, changes: Iterable[Change]) -> Iterator[str]:
    """Rewrites that made its nodes, then why its constants and its results have their numbers."""
    nodes = set(source.kernel.nodes) if source.kernel else set[str]()
    tensors = {p.tensor for p in source.points} | {t for i in source.constants for t in [plan.constants[i].tensor]}
    for change in changes:
        if change.tensor in tensors or not nodes.isdisjoint(change.nodes):
            yield f"{change.rewrite} ({change.place})"
    for i in source.constants:
        yield f"{plan.constants[i].tensor}: {params.constant_reasons[i]}"
    for point in source.points:
        if point.quantizer is not None:
            yield f"{point.tensor}: {params.activation_reasons[point.quantizer]}"


def _both(pair: tuple[float, float]) -> tuple[float, float]:
    return _short(pair[0]), _short(pair[1])


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")

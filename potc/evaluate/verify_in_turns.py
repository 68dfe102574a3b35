"""Verification and kernel share in a stated memory: both models are run group by group, and neither is ever there as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx

from potc.data.dataset import Dataset
from potc.data.kept import some
from potc.diagnostics.diagnostic import Rejected
from potc.evaluate.kernels import KernelShare, kernel_share, load
from potc.evaluate.simulate import lane_uses
from potc.evaluate.verify import Check, Comparison, Verification, checked_form, lanes_check
from potc.execute.float_runs import open_float
from potc.execute.freed import give_back
from potc.execute.session import InferenceSession, SessionError, first_line, open_session
from potc.graph.groups import Room, Wishes, cut, lengths_of
from potc.graph.model import Model
from potc.graph.prepare import infer_shapes
from potc.graph.turns import Feed, run_in_turns
from potc.quantize.plan import Plan

FLOAT = (2.2, 2.0)  # see potc.quantize.calibrate_in_turns; one sample is under way
# What is stored, and for each number a float and its packed copy: as onnxruntime folds what no kernel of it takes as codes.
INTEGER = (1.1, 2.0, 8.0)


def verify_in_turns(
    float_model: Model,
    compiled: bytes,
    plan: Plan,
    dataset: Dataset,
    samples: int,
    floor_db: float,
    simulate: bool,
    memory: int,
    steps: Mapping[str, float],
) -> tuple[Verification, KernelShare]:
    """What ``verify`` and ``kernel_share`` tell, in ``memory`` bytes beside what the process has: all checks but the simulation
    of sums that saturate. Kernels are counted in groups that no kernel crosses.

    Raises Rejected where onnxruntime does not run the float model, and for a node that needs more memory.
    """
    chosen = list(some(dataset, samples))
    feeds = [feed for _, feed in chosen]
    written = onnx.ModelProto.FromString(compiled)
    lengths = lengths_of(float_model.proto, feeds[0]) if feeds else {}
    checks = list(checked_form(float_model.proto, compiled))
    wanted = _float_results(infer_shapes(float_model), plan, feeds, lengths, memory)
    wishes = Wishes(together=tuple(kernel.nodes for kernel in plan.kernels), lengths=lengths)
    groups = cut(written, Room(memory, *INTEGER), wishes)
    shares: list[KernelShare] = []
    try:
        found = run_in_turns(written, groups, feeds, lambda part: _opened(part, plan, shares, simulate))
    except Rejected:
        raise
    except SessionError as error:
        return Verification((*checks, Check("loads", False, str(error)))), _shared(plan, shares)
    except Exception as error:  # whatever onnxruntime says is the finding
        ran = Check("runs", False, first_line(error))
        return Verification((*checks, Check("loads", True, "yes"), ran)), _shared(plan, shares)
    checks.append(Check("loads", True, f"in {len(groups)} groups"))
    outputs = [o.name for o in float_model.proto.graph.output]
    comparison = Comparison(outputs, steps)
    for (index, _), a, b in zip(chosen, wanted, found, strict=True):
        comparison.add(index, [a[n] for n in outputs], [b[n] for n in outputs])
    uses = lane_uses(compiled, plan)
    if uses:
        checks.append(lanes_check(uses))
    checks.append(Check("runs", True, f"{comparison.samples} samples"))
    told = Verification((*checks, *comparison.checks(floor_db)), comparison.sqnr_db(), comparison.samples, uses)
    return told, _shared(plan, shares)


def _float_results(
    model: Model, plan: Plan, feeds: list[Feed], lengths: Mapping[str, int], memory: int
) -> list[dict[str, Any]]:
    wishes = Wishes(watched=frozenset(plan.observed), lengths=lengths)
    groups = cut(model.proto, Room(memory, *FLOAT), wishes)
    return run_in_turns(model.proto, groups, feeds, lambda part: open_float(part.SerializeToString()))


def _opened(part: onnx.ModelProto, plan: Plan, shares: list[KernelShare], simulate: bool) -> InferenceSession:
    """A session of a group of the compiled model; what it runs on integers is noted. Raises SessionError."""
    serialized = part.SerializeToString()
    loaded = load(serialized)
    if loaded is None:
        return open_session(serialized, optimize=True, threads=1)  # which says why
    here = {node.name for node in part.graph.node}
    own = replace(
        plan,
        kernels=tuple(k for k in plan.kernels if not here.isdisjoint(k.nodes)),
        constants=tuple(c for c in plan.constants if c.node in here),
    )
    shares.append(kernel_share(serialized, own, loaded))
    if not simulate:
        return loaded.session
    del loaded
    give_back()
    return open_session(serialized, optimize=False, threads=1)


def _shared(plan: Plan, shares: list[KernelShare]) -> KernelShare:
    covered = dict.fromkeys(name for kernel in plan.kernels for name in kernel.nodes)
    floating = {name for share in shares for name in share.floating}
    return KernelShare(
        len(covered),
        sum(s.covered_integer for s in shares),
        sum(s.weighted for s in shares),
        sum(s.weighted_integer for s in shares),
        tuple(name for name in covered if name in floating),
    )

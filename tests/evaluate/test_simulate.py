"""Whole models with a device's saturating sums: as this host's kernels where they saturate, and told by ``verify``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper, parser
from test_saturate import HOST_SATURATES

from potc.compiler import Compilation, Job, compile_model, opset_for, weights
from potc.data.kept import some
from potc.evaluate.measures import Sqnr
from potc.evaluate.saturate import Unfit
from potc.evaluate.simulate import Simulation, lane_uses
from potc.evaluate.verify import verify
from potc.execute.session import open_session
from potc.graph.opset import raise_opset
from potc.graph.write import serialize
from potc.quantize.lower import lower
from potc.quantize.params import solve_params

DIGITS = Path(__file__).parents[2] / "samples" / "digits"
BRANCHES = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,6,8,8] x, bool c) => (float[1,8,6,6] y, float[1,8,8,8] s)
{
    a = Conv (x, v, b)
    r = Relu (a)
    k = If (c) <
        then_branch = t () => (float[1,8,8,8] p) { p = Abs (r) },
        else_branch = e () => (float[1,8,8,8] q) { q = Neg (r) }>
    s = Sigmoid (k)
    d = Conv (r, w)
    y = Relu (d)
}"""


@dataclass(frozen=True)
class Case:
    """A compile, and the same model with weights that were not narrowed."""

    compilation: Compilation
    unsafe: bytes

    def simulation(self, compiled: bytes) -> Simulation:
        return Simulation(compiled, self.compilation.plan, self.compilation.program.signatures)

    def outputs(self) -> list[str]:
        return [o.name for o in self.compilation.model.proto.graph.output]


def case(job: Job) -> Case:
    found = compile_model(job)
    plan = replace(found.plan, constants=tuple(replace(c, lanes=()) for c in found.plan.constants))
    prepared = found.prepared
    params = solve_params(plan, found.ranges, weights(prepared, plan), job.tuning)
    unsafe = serialize(lower(raise_opset(prepared, opset_for(params)), plan, params))
    return Case(found, unsafe)


@cache
def digits() -> Case:
    return case(Job(str(DIGITS / "model.onnx"), "cpu.rules", data=str(DIGITS / "calib.npz"), samples=4))


@pytest.fixture
def branches(tmp_path: Path) -> Case:
    model = parser.parse_model(BRANCHES)
    rng = np.random.default_rng(0)
    for name, shape in (("v", (8, 6, 1, 1)), ("w", (8, 8, 3, 3)), ("b", (8,))):
        values = np.abs(rng.normal(size=shape)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    path = tmp_path / "branches.onnx"
    path.write_bytes(model.SerializeToString())
    inputs = {"x": np.abs(rng.normal(size=(4, 1, 6, 8, 8))).astype(np.float32), "c": np.array([True, False] * 2)}
    np.savez(tmp_path / "data.npz", **inputs)
    return case(Job(str(path), "cpu.rules", data=str(tmp_path / "data.npz")))


def test_nothing_can_saturate_in_what_is_compiled() -> None:
    compiled = digits().compilation
    uses = compiled.verification.lanes
    assert uses == lane_uses(compiled.compiled, compiled.plan)
    assert len(uses) == 5
    assert all(u.groups and not u.at_risk and not u.saturated for u in uses)
    assert {c.name: c.ok for c in compiled.verification.checks}["lanes"]


def test_without_risk_the_model_runs_as_written() -> None:
    found = digits()
    compiled = found.compilation.compiled
    session = open_session(compiled, optimize=False)
    for _, feed in some(found.compilation.samples, 2):
        simulated = found.simulation(compiled).run(found.outputs(), feed)
        for a, b in zip(simulated, session.run(found.outputs(), dict(feed)), strict=True):
            assert np.array_equal(a, b)


def test_a_model_that_saturates_is_judged_as_on_the_device() -> None:
    """On a host whose kernels saturate they agree with the simulation far better than with exact sums."""
    found = digits()
    simulation = found.simulation(found.unsafe)
    exact, real = open_session(found.unsafe, optimize=False), open_session(found.unsafe, optimize=True)
    to_exact, to_real = Sqnr(), Sqnr()
    for _, feed in some(found.compilation.samples, 4):
        simulated = simulation.run(found.outputs(), feed)[0]
        to_exact.add(simulated, exact.run(None, dict(feed))[0])
        to_real.add(simulated, real.run(None, dict(feed))[0])
    assert sum(u.saturated for u in simulation.uses) > 0
    assert to_exact.db < 30
    if HOST_SATURATES:
        assert to_real.db > to_exact.db + 10


def test_verify_names_the_kernels_that_saturate() -> None:
    found = digits().compilation
    judged = verify(
        found.model, digits().unsafe, found.samples, 2, plan=found.plan, signatures=found.program.signatures
    )
    assert [c.name for c in judged.failed] == ["lanes"]
    worst = max(judged.lanes, key=lambda u: u.saturated)
    assert worst.saturated > 0
    assert 0 < worst.at_risk < worst.groups
    assert f"`{worst.node}`: {worst.at_risk} of {worst.groups} groups" in judged.failed[0].detail
    again = verify(found.model, digits().unsafe, found.samples, 2, plan=found.plan, signatures=found.program.signatures)
    assert again == judged


def test_graphs_are_cut_around_nested_graphs_and_several_outputs(branches: Case) -> None:
    simulation = branches.simulation(branches.unsafe)
    assert sum(bool(u.at_risk) for u in simulation.uses) == 2
    exact = open_session(branches.unsafe, optimize=False)
    for _, feed in some(branches.compilation.samples, 2):
        simulated = simulation.run(branches.outputs(), feed)
        written = exact.run(branches.outputs(), dict(feed))
        assert [a.shape for a in simulated] == [b.shape for b in written]
        assert not np.array_equal(simulated[0], written[0])
    assert all(u.saturated for u in simulation.uses)


def test_a_kernel_without_axes_is_unfit(branches: Case) -> None:
    simulation = Simulation(branches.unsafe, branches.compilation.plan, {})
    _, feed = next(iter(some(branches.compilation.samples, 1)))
    with pytest.raises(Unfit, match="axis `out`"):
        simulation.run(branches.outputs(), feed)

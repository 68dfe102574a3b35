"""Accounts of noise: who lost what is found again where it was planted, and the figures are those of their definitions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_cases import model_from_text

from potc.cli.layers import layer_rows, layers_title, unwatched_line
from potc.compiler import Job, Trace, compile_model, finish, known_ranges, match_model, opset_for
from potc.data.kept import some
from potc.evaluate.account import Accounts, account
from potc.evaluate.layers import layers
from potc.evaluate.measures import sqnr_db
from potc.execute.session import open_session
from potc.graph.model import Model
from potc.graph.opset import raise_opset
from potc.graph.write import serialize
from potc.quantize.lower import lower
from potc.quantize.params import Params, solve_params
from potc.quantize.plan import Plan
from potc.quantize.ranges import Ranges
from potc.quantize.tuning import BiasSettings, Tuning

PLAIN = Tuning(bias=BiasSettings("none"))  # no layer makes up for what others lose


@dataclass(frozen=True)
class Made:
    """A model compiled without verification, and everything that accounts are made from."""

    prepared: Model
    plan: Plan
    ranges: Ranges
    params: Params
    compiled: bytes
    samples: object

    def accounts(self, **limits: int) -> Accounts:
        return account(self.prepared, self.plan, self.params, self.compiled, self.samples, **limits)  # type: ignore[arg-type]


def made(
    text: str,
    folder: Path,
    change: Callable[[Plan, Params], Params] = lambda _, params: params,
    rules: str = "cpu.rules",
) -> Made:
    path = folder / "model.onnx"
    onnx.save(model_from_text(text), path)
    job = Job(str(path), rules, tuning=PLAIN, samples=16)
    matched = match_model(job, Trace())
    ranges = known_ranges(matched, job, Trace())
    prepared, plan = matched.prepared, matched.plan
    values = {t.name: numpy_helper.to_array(t) for t in prepared.proto.graph.initializer}
    params = change(plan, solve_params(plan, ranges, values, PLAIN))
    compiled = serialize(lower(raise_opset(prepared, opset_for(params)), plan, params))
    return Made(prepared, plan, ranges, params, compiled, matched.samples)


def chain(random: Random) -> str:
    """Convolutions in a row, of which some are joined to what came before them."""
    lines, weights, name, inputs = [], [], "x", 4
    for k in range(random.randint(3, 8)):
        size = random.choice((1, 3))
        weights.append(f"float[8,{inputs},{size},{size}] w{k}, float[8] b{k}")
        lines.append(f"c{k} = Conv <pads = [{', '.join([str(size // 2)] * 4)}]> ({name}, w{k}, b{k})")
        joined = inputs == 8 and random.random() < 0.4
        lines.append(f"r{k} = {f'Add (c{k}, {name})' if joined else f'Relu (c{k})'}")
        name, inputs = f"r{k}", 8
    return f"g (float[1,4,8,8] x) => (float[1,8,8,8] {name}) <{', '.join(weights)}> {{ {' '.join(lines)} }}"


def four_bits(quantizer: int) -> Callable[[Plan, Params], Params]:
    """One stored tensor gets a scale that is 16 times as large."""

    def change(plan: Plan, params: Params) -> Params:
        activations = list(params.activations)
        found = activations[quantizer]
        zero_point = np.asarray(np.rint(found.zero_point / 16), found.zero_point.dtype)
        activations[quantizer] = replace(found, scale=found.scale * np.float32(16), zero_point=zero_point)
        return replace(params, activations=tuple(activations))

    return change


def test_a_planted_noisy_layer_comes_first(tmp_path: Path) -> None:
    """One stored tensor of each random network keeps 4 bits where all others have 8."""
    found = 0
    for seed in range(100):
        random = Random(seed)
        text = chain(random)
        quantizer = random.choice(planned(text, tmp_path).quantizers).id
        noisy = made(text, tmp_path, four_bits(quantizer))
        rows = layers(noisy.accounts(), noisy.plan, noisy.params, noisy.ranges, ()).rows
        found += rows[0].tensor in noisy.plan.quantizers[quantizer].tensors
    assert found >= 95


def planned(text: str, folder: Path) -> Plan:
    path = folder / "model.onnx"
    onnx.save(model_from_text(text), path)
    return match_model(Job(str(path), "cpu.rules", tuning=PLAIN), Trace()).plan


def test_shares_of_independent_errors_add_up(tmp_path: Path) -> None:
    sums = []
    for seed in range(12):
        accounts = made(chain(Random(seed)), tmp_path).accounts()
        assert accounts.measured
        assert accounts.disturbed == accounts.samples == 16
        assert accounts.explained == pytest.approx(sum(a.share or 0 for a in accounts.accounts))
        sums.append(accounts.explained)
    assert all(0.8 < total < 1.2 for total in sums)
    assert np.mean(sums) == pytest.approx(1, abs=0.05)


BRANCHES = """g (float[1,4,8,8] x, bool c) => (float[1,8,8,8] y, float[1,8,8,8] s, int64[1,8,8] i)
<float[8,4,1,1] v, float[8,8,3,3] w> {
    a = Conv (x, v)
    r = Relu (a)
    k = If (c) <then_branch = t () => (float[1,8,8,8] p) { p = Abs (r) },
                else_branch = e () => (float[1,8,8,8] q) { q = Neg (r) }>
    s = Sigmoid (k)
    d = Conv <pads = [1,1,1,1]> (r, w)
    y = Relu (d)
    i = ArgMax <axis = 1, keepdims = 0> (y)
}"""
MODELS = {
    "no weights": ("g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Relu (x) y = Sigmoid (a) }", 0),
    "only integers come out": (
        "g (float[1,4,8,8] x) => (int64[1,8,8] i) <float[8,4,1,1] w> { a = Conv (x, w) i = ArgMax <axis = 1, keepdims = 0> (a) }",
        2,
    ),
    "several outputs and nested graphs": (BRANCHES, 3),
    "the same input twice": (
        "g (float[1,8] x) => (float[1,8] y) <float[8,8] w, float[8,8] v> { a = MatMul (x, w) b = MatMul (x, v) y = Add (a, b) }",
        3,
    ),
}


@pytest.mark.parametrize(("text", "least"), MODELS.values(), ids=MODELS)
def test_all_kinds_of_models(text: str, least: int, tmp_path: Path) -> None:
    found = made(text, tmp_path)
    told = layers(found.accounts(), found.plan, found.params, found.ranges, ())
    noisy = [row for row in told.rows if row.constants or row.stored]
    assert len(noisy) >= least
    assert (told.explained is None) == (least == 0 or "=> (int64" in text)
    if told.explained is not None:
        assert told.explained == pytest.approx(1, abs=0.3)
        assert [r.share for r in told.rows] == sorted((r.share for r in told.rows), reverse=True)
    assert ("nothing to share" in layers_title(told)) == (told.explained is None)
    assert len(list(layer_rows(told))) == len(noisy) + bool(noisy)


def test_kernels_in_bodies_are_counted_apart(tmp_path: Path) -> None:
    text = """g (float[4,16] x) => (float[4,16] y, float[3,4,16] ys) <float[16,16] w, float[16,16] v> {
        n = Constant <value = int64 {3}> ()
        go = Constant <value = bool {1}> ()
        p = Gemm (x, v)
        y, ys = Loop (n, go, p) <body = body (int64 i, bool ci, float[4,16] h) => (bool co, float[4,16] t, float[4,16] s) {
            co = Identity (ci)
            t = Gemm (h, w)
            s = Relu (t)
        }>
    }"""
    onnx.save(model_from_text(text), tmp_path / "model.onnx")
    c = compile_model(Job(str(tmp_path / "model.onnx"), "cpu.rules"))
    told = layers(account(c.prepared, c.plan, c.params, c.compiled, c.samples), c.plan, c.params, c.ranges, ())
    assert told.unwatched == (("Gemm_1",),)
    assert [row.nodes for row in told.rows if row.nodes] == [("Gemm_2",)]
    assert unwatched_line(told).startswith("  1 kernel in bodies")
    assert unwatched_line(replace(told, unwatched=())) == ""


@cache
def digits() -> tuple[Accounts, object]:
    sample = Path(__file__).parents[2] / "samples" / "digits"
    job = Job(str(sample / "model.onnx"), "cpu.rules", data=str(sample / "calib.npz"), samples=24)
    matched = match_model(job, Trace())
    c = finish(matched, known_ranges(matched, job, Trace()), job.tuning, Trace())
    return account(c.prepared, c.plan, c.params, c.compiled, c.samples), c


def test_figures_are_those_of_their_definitions() -> None:
    """Clipped values and the ratio of each result, against numpy on the tensors themselves."""
    accounts, c = digits()
    tensors = [p.tensor for a in accounts.accounts for p in a.source.points if p.quantizer is not None]
    values = exposed(c.prepared.proto, tensors, c.samples, accounts.samples)
    for found in accounts.accounts:
        clipped = 0
        for point in found.source.points:
            if point.quantizer is not None:
                solved = c.params.activations[point.quantizer]
                codes = np.rint(values[point.tensor] / solved.scale) + np.float32(solved.zero_point)
                clipped += int(((codes < solved.qtype.low) | (codes > solved.qtype.high)).sum())
        assert found.clipped == clipped
    kept = [a for a in accounts.accounts if a.source.kernel and a.source.points[0].readers is None]
    names = [a.source.points[0].tensor for a in kept if a.source.points[0].tensor in values]
    quantized = exposed(onnx.ModelProto.FromString(c.compiled), names, c.samples, accounts.samples)
    for found in kept:
        tensor = found.source.points[0].tensor
        if tensor in quantized:
            assert found.sqnr_db[tensor] == pytest.approx(sqnr_db(values[tensor], quantized[tensor]), abs=1e-3)


def exposed(proto: onnx.ModelProto, tensors: list[str], samples: object, count: int) -> dict[str, np.ndarray]:
    known = {v.name for v in (*proto.graph.input, *proto.graph.output)}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(t) for t in tensors if t not in known)
    session = open_session(copy.SerializeToString(), optimize=False, threads=1)
    seen: dict[str, list[np.ndarray]] = {t: [] for t in tensors}
    for _, feed in some(samples, count):  # type: ignore[arg-type]
        results = dict(feed)
        wanted = [t for t in tensors if t not in feed]
        results.update(zip(wanted, session.run(wanted, dict(feed)) if wanted else [], strict=True))
        for t in tensors:
            seen[t].append(np.asarray(results[t]))
    return {t: np.concatenate(v) for t, v in seen.items()}


def test_clipped_values_are_counted(tmp_path: Path) -> None:
    """A scale for a quarter of the range: what numpy counts on the stored values, to the last one."""

    def quarter(plan: Plan, params: Params) -> Params:
        first = params.activations[0]
        return replace(params, activations=(replace(first, scale=first.scale / np.float32(4)), *params.activations[1:]))

    found = made(chain(Random(3)), tmp_path, quarter)
    accounts = found.accounts(samples=8)
    tensor = found.plan.quantizers[0].tensors[0]
    values = exposed(found.prepared.proto, [tensor], found.samples, 8)[tensor]
    solved = found.params.activations[0]
    codes = np.rint(values / solved.scale) + np.float32(solved.zero_point)
    expected = int(((codes < solved.qtype.low) | (codes > solved.qtype.high)).sum())
    assert expected > 0
    row = next(a for a in accounts.accounts if any(p.tensor == tensor for p in a.source.points))
    assert (row.clipped, row.values) == (expected, values.size)


def test_the_noise_of_a_single_number_is_followed(tmp_path: Path) -> None:
    text = "g (float[1,8] x) => (float[1,8] y) <float[8,8] w, float s = {0.7}> { m = Mul (s, s) t = ReduceMax <keepdims = 0> (x) "
    accounts = made(
        f"{text} u = Add (t, m) a = MatMul (x, w) y = Mul (a, u) }}", tmp_path, rules="gna.rules"
    ).accounts()
    assert accounts.explained == pytest.approx(1, abs=0.5)


def test_many_layers_are_followed_in_groups(tmp_path: Path) -> None:
    """The share of a group is what its layers have together, whoever of them is named."""
    found = made(chain(Random(11)), tmp_path)
    alone, grouped = found.accounts(samples=1, runs=100), found.accounts(samples=1, runs=3)
    assert alone.measured
    assert not grouped.measured
    assert grouped.explained == pytest.approx(alone.explained or 0, rel=0.1)


def test_equal_compiles_give_equal_accounts() -> None:
    first, c = digits()
    again = account(c.prepared, c.plan, c.params, c.compiled, c.samples)
    one, two = (layers(a, c.plan, c.params, c.ranges, c.changes) for a in (first, again))
    assert one == two
    assert one.version == 1
    assert any("fold_batchnorm" in change for row in one.rows for change in row.changes)
    assert any("narrowed" in change for row in one.rows for change in row.changes)
    assert json.dumps([row.share for row in one.rows])

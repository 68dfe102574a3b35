"""What a search says of its answer is what the file on disk scores when anybody evaluates it: for any device, model and metric."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from planted import RULES, planted

import potc
from potc.evaluate.confidence import highest_drop, samples_to_show
from potc.evaluate.evaluation import Evaluation
from potc.evaluate.metrics.classification import topk
from potc.evaluate.metrics.metric import Metric, mean
from potc.search.target import Target

DIGITS = Path(__file__).parents[2] / "samples" / "digits"

# One scale for all weights, of 127, 7 or 1 code on each side; a finer type behind it, or none.
DEVICES = {
    "plain": RULES,
    "coarse": RULES.replace("i8[-127..127]", "i8[-7..7]"),
    "hopeless": RULES.replace("i8[-127..127]", "i8[-1..1]"),
    "finer": RULES.replace(
        "qtype w8 = i8[-127..127] sym per_tensor", "qtype w8 = i8[-3..3] sym per_tensor | i8[-127..127] sym per_tensor"
    ),
    "wide": RULES.replace("qtype a8 = u8 asym per_tensor", "qtype a8 = u8 asym per_tensor | u16 asym per_tensor"),
}
METRICS = ["top1", "top2", "agreement", "cosine", "sqnr", "rmse,reference=true", "f1", "f1,average=micro"]


@settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(
    seed=st.integers(0, 999),
    device=st.sampled_from(sorted(DEVICES)),
    metrics=st.lists(st.sampled_from(METRICS), min_size=1, max_size=2, unique_by=lambda m: m.partition(",")[0]),
    drop=st.sampled_from(["0", "0.01", "0.05", "0.3"]),
    relative=st.booleans(),
    evaluations=st.integers(1, 5),
)
def test_a_claim_is_what_the_file_scores(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    device: str,
    metrics: list[str],
    drop: str,
    relative: bool,
    evaluations: int,
) -> None:
    folder = tmp_path_factory.mktemp("claim")
    net = planted(seed)
    onnx.save(net.model, folder / "model.onnx")
    (folder / "d.rules").write_text(DEVICES[device])
    labels = np.random.default_rng(seed).integers(0, 10, 60)
    np.savez(folder / "labelled.npz", x=net.inputs[:60], label=labels)
    done = potc.compile(
        folder / "model.onnx",
        rules=folder / "d.rules",
        data=[{"x": row} for row in net.calibration[:8]],
        max_drop=drop,
        drop_type="relative" if relative else "absolute",
        metric=metrics,
        eval_data=folder / "labelled.npz",
        eval_labels="label",
        evaluations=evaluations,
        ranking_samples=2,
    )
    done.save(folder / "out.onnx")
    found = done.found
    assert found is not None
    assert len(found.candidates) <= evaluations
    scored = potc.evaluate(
        folder / "out.onnx",
        data=folder / "labelled.npz",
        labels="label",
        metric=metrics,
        reference=folder / "model.onnx",
        simulate=True,
        resamples=1,
    )
    values = tuple(m.value for m in scored.models[0].metrics)
    assert values == found.answer.values
    # And so does the drop, as a person would compute it.
    told = done.report.search
    assert told is not None
    best = told["candidates"][told["answer"]]
    assert best["values"] == list(values)
    better = [m.higher_is_better for m in scored.models[0].metrics]
    for was, now, lost, is_higher in zip(told["float"], values, best["drops"], better, strict=True):
        if np.isfinite(was) and np.isfinite(now):
            assert lost == pytest.approx(was - now if is_higher else now - was, abs=1e-12)


def evaluation(records: np.ndarray) -> Evaluation:
    return Evaluation(topk(1), float(records.mean()), tuple(map(float, records)), tuple(range(len(records))))


def test_bounds_hold_as_often_as_they_say() -> None:
    """Drawn models whose drop is known: what the bound says is too low in at most 5 of 100 draws of samples."""
    generator = np.random.default_rng(0)
    for size, worse, better in [(50, 0.1, 0.0), (60, 0.2, 0.2), (200, 0.005, 0.0)]:
        broken = 0
        for _ in range(60):
            kind = generator.choice(3, size, p=[worse, better, 1 - worse - better])
            before = np.where(kind == 0, 1, np.where(kind == 1, 0, generator.integers(0, 2, size)))
            after = np.where(kind == 0, 0, np.where(kind == 1, 1, before))
            broken += highest_drop(evaluation(before), evaluation(after), 0.95) < worse - better
        assert broken <= 0.05 * 60


def test_few_samples_flatter_nobody() -> None:
    same = evaluation(np.ones(100))
    assert highest_drop(same, same, 0.95) == pytest.approx(1 - 0.025 ** (1 / 100))
    for drop in (0.005, 0.01, 0.1):
        needed = samples_to_show(drop, 0.95)
        enough, short = (evaluation(np.ones(n)) for n in (needed, needed - 1))
        assert highest_drop(enough, enough, 0.95) <= drop < highest_drop(short, short, 0.95)


def test_numbers_are_bounded_by_resampling_in_the_direction_that_loses() -> None:
    generator = np.random.default_rng(0)
    error = Metric("error", lambda outputs, known: 0.0, mean, higher_is_better=False)
    before = generator.normal(1, 0.1, 400)
    after = before + generator.normal(0.05, 0.2, 400)
    pair = [Evaluation(error, float(v.mean()), tuple(v), tuple(range(400))) for v in (before, after)]
    assert highest_drop(pair[0], pair[1], 0.95) == pytest.approx(0.05 + 1.645 * 0.2 / 20, abs=0.01)
    assert highest_drop(pair[1], pair[0], 0.95) < 0


def test_with_confidence_the_bound_decides() -> None:
    plain = Target((topk(1),), "0.02")
    sure = replace(plain, confidence=0.95)
    assert plain.is_met((0.9,), (0.9,), (0.03,))
    assert not sure.is_met((0.9,), (0.9,), (0.03,))
    assert sure.is_met((0.9,), (0.9,), (0.015,))
    assert sure.excess((0.9,), (0.9,), (0.03,)) == pytest.approx(1.5)
    assert sure.level == 1 - 0.05 / 8
    with pytest.raises(ValueError, match="between 0 and 1"):
        replace(plain, confidence=1.0)

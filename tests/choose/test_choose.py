"""Choosing a setting: bounded, repeatable, never below what was asked for on the samples that were held back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from potc import choose as choosing
from potc.choose import CHANGES, GAIN_DB, TRIES, Choice, Try, choose
from potc.compiler import Compilation, Job, Trace, compile_model
from potc.diagnostics.diagnostic import Rejected, reject
from potc.evaluate.judge import Judge, Score
from potc.quantize.tuning import RangeSettings, Tuning

DIGITS = Path(__file__).parents[2] / "samples" / "digits"
JOB = Job(str(DIGITS / "model.onnx"), "cpu.rules", str(DIGITS / "calib.npz"), samples=24)


@pytest.fixture(scope="module")
def chosen() -> tuple[Compilation, Choice]:
    return choose(JOB)


def test_the_best_setting_is_kept(chosen: tuple[Compilation, Choice]) -> None:
    compilation, choice = chosen
    scores = [t.score.mean_db for t in choice.tries if t.score is not None]
    assert 1 < len(choice.tries) <= TRIES
    assert choice.tries[0].tuning == JOB.tuning
    assert choice.tries[0].changed == ()
    kept = choice.tries[choice.best]
    assert kept.score is not None
    assert kept.score.mean_db >= scores[0]
    assert kept.score.mean_db > max(scores) - GAIN_DB * len(scores)
    assert compilation.job.tuning == kept.tuning
    assert compilation.verification.ok
    assert (choice.calibrated, choice.held_back, choice.simulated) == (18, 6, False)


def test_the_model_is_that_of_the_setting_with_all_samples(chosen: tuple[Compilation, Choice]) -> None:
    compilation, choice = chosen
    assert compile_model(replace(JOB, tuning=choice.tries[choice.best].tuning)).compiled == compilation.compiled


def test_twice_the_same_answer(chosen: tuple[Compilation, Choice]) -> None:
    compilation, choice = choose(JOB)
    assert compilation.compiled == chosen[0].compiled
    assert choice == chosen[1]


def test_stages_tell_the_number_of_settings() -> None:
    told: list[str] = []
    _, choice = choose(replace(JOB, samples=8), Trace(told.append))
    settings = [t for t in told if t.startswith("setting ")]
    assert len(settings) == len(choice.tries)
    assert settings[0] == f"setting 1 of at most {TRIES}: as given"


def test_what_was_asked_for_is_tried_first_and_built_on() -> None:
    tuning = Tuning(RangeSettings("performance"))
    _, choice = choose(replace(JOB, samples=8, tuning=tuning))
    assert all(t.tuning.ranges.preset == "performance" for t in choice.tries)


def scored(*scores: tuple[float, float] | str, monkeypatch: pytest.MonkeyPatch) -> Choice:
    """A choice among settings with these scores; a text is a setting that fails."""
    answers = iter(scores)

    def score(self: Judge, compiled: bytes) -> Score:
        answer = next(answers)
        if isinstance(answer, str):
            raise reject("no-legal-type", answer)
        return Score({"y": answer[0]}, *answer)

    monkeypatch.setattr(choosing.Judge, "score", score)
    monkeypatch.setattr(choosing, "CHANGES", CHANGES[: len(scores) - 1])
    return choose(replace(JOB, samples=4))[1]


def test_a_gain_must_be_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scored((20, 0.1), (20 + GAIN_DB / 2, 0.1), (20, 0.0), monkeypatch=monkeypatch).best == 0
    assert scored((20, 0.1), (21, 0.2), monkeypatch=monkeypatch).best == 0  # closer, but its answers differ more
    assert scored((20, 0.1), (21, 0.1), (20.9, 0.1), monkeypatch=monkeypatch).best == 1


def test_a_setting_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = scored((20, 0.1), "no type fits", (22, 0.1), monkeypatch=monkeypatch)
    assert choice.best == 2
    assert choice.tries[1].score is None
    assert "no type fits" in choice.tries[1].failed
    assert choice.tries[2].changed == (CHANGES[1][0],)


def test_what_was_asked_for_may_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Rejected, match="no type fits"):
        scored("no type fits", (22, 0.1), monkeypatch=monkeypatch)


def test_changes_of_one_kind_replace_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = scored((20, 0.1), (22, 0.1), (24, 0.1), monkeypatch=monkeypatch)
    assert [t.changed for t in choice.tries] == [(), (CHANGES[0][0],), (CHANGES[1][0],)]


def test_nothing_that_a_try_does_sees_what_judges_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample that a try could look at is one of the calibrating part."""
    seen: list[int] = []
    quantize = choosing.quantize

    def watched(matched: choosing.Matched, *rest: object) -> object:
        seen.append(len(matched.samples))
        return quantize(matched, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(choosing, "quantize", watched)
    _, choice = choose(replace(JOB, samples=8))
    assert seen == [choice.calibrated] * len(choice.tries) == [6] * len(choice.tries)


def test_one_sample_is_too_few() -> None:
    with pytest.raises(Rejected, match="only one sample"):
        choose(replace(JOB, samples=1))


def test_two_samples_are_enough() -> None:
    _, choice = choose(replace(JOB, samples=2))
    assert (choice.calibrated, choice.held_back) == (1, 1)


def test_samples_are_shared_out_without_overlap(tmp_path: Path) -> None:
    """A held-back sample that is an outlier widens no range of a try, but all samples make the model."""
    with np.load(DIGITS / "calib.npz") as file:
        (name,) = file.files
        values = file[name][:8].copy()
    values[3] *= 50  # the first one that is held back
    path = tmp_path / "outlier.npz"
    np.savez(path, **{name: values})
    compilation, choice = choose(replace(JOB, data=str(path), samples=None))
    assert choice.held_back == 2
    assert isinstance(choice.tries[0], Try)
    plain = compile_model(replace(JOB, data=str(path), samples=None, tuning=choice.tries[choice.best].tuning))
    assert plain.compiled == compilation.compiled

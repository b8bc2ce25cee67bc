"""Samplers by name: what each suggests, that it learns, and in which words it is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sweeps.agenda import Agenda
from sweeps.plan import Study
from sweeps.reading import read_spec
from sweeps.search import Finished, suggest
from sweeps.space import Fixed, Range, Space
from sweeps.spec import Sampler
from tests.sweeps.examples import SPEC, studies_of
from trainer.result import TrialState
from trainer.trial import TrialSpec

SPACE = Space(
    learning_rate=Range(low=1e-4, high=1e-1), temperature=Fixed(value=0.05), weight_decay=Range(low=0.01, high=1)
)
STUDY = replace(studies_of(read_spec(SPEC))[0], space=SPACE, lag=2)


def ended(spec: TrialSpec) -> Finished:
    """A bowl around 1e-2 and 0.1 with a cliff at a rate of 0.05; trial 3 fails."""
    rate, decay = (math.log10(x) for x in (spec.hyperparameters.learning_rate, spec.hyperparameters.weight_decay))
    if rate > math.log10(0.05) or spec.number == 3:
        state = TrialState.FAILED if spec.number == 3 else TrialState.DIVERGED
        return Finished(spec=spec, state=state, loss=None)
    return Finished(spec=spec, state=TrialState.COMPLETE, loss=3 + (rate + 2) ** 2 + 0.3 * (decay + 1) ** 2)


def rows_of(study: Study, number: int) -> dict[int, Finished]:
    rows: dict[int, Finished] = {}
    for n in range(number):
        rows[n] = ended(study.trial(n, suggest(study, n, rows).hyperparameters))
    return rows


@pytest.mark.parametrize(("sampler", "number"), [("cmaes", 20), ("gp", 10)])
def test_samplers_that_learn(sampler: Sampler, number: int) -> None:
    """They come near the bottom, 3; asked anew, or with less known, each trial is the same."""
    study = replace(STUDY, sampler=sampler, num_trials=number)
    rows = rows_of(study, number)
    losses = [math.inf if rows[n].loss is None else rows[n].loss for n in range(number)]
    assert min(losses[number // 2 :]) < 3.1 < losses[0]
    for n in (1, number // 2, number - 2):
        known = {m: rows[m] for m in range(n - 1)}
        assert suggest(study, n, known).hyperparameters == rows[n].spec.hyperparameters


def test_a_grid_has_every_combination_of_even_steps() -> None:
    study = replace(STUDY, sampler="grid", num_trials=9, lag=0)
    points = [suggest(study, n, {}).hyperparameters for n in range(9)]
    assert sorted({p.learning_rate for p in points}) == pytest.approx([1e-4, 10**-2.5, 1e-1], rel=1e-3)
    assert sorted({p.weight_decay for p in points}) == pytest.approx([0.01, 0.1, 1])
    assert len({(p.learning_rate, p.weight_decay) for p in points}) == 9
    assert [p.weight_decay for p in points[:3]] == pytest.approx([0.01, 0.1, 1])


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_no_point_is_suggested_twice(sampler: Sampler) -> None:
    """On a range with few numbers of four digits in it, where chance would repeat itself."""
    space = replace(SPACE, weight_decay=Fixed(value=0.1), learning_rate=Range(low=0.01, high=0.01006, log=False))
    rows = rows_of(replace(STUDY, sampler=sampler, space=space, num_trials=5, lag=1), 5)
    assert len({row.spec.hyperparameters.learning_rate for row in rows.values()}) == 5


def test_a_failed_trial_is_told_as_a_bad_one() -> None:
    """Whether a trial diverged or failed, TPE keeps away from where it was."""
    study = replace(STUDY, num_trials=12, lag=1)
    rows = rows_of(study, 11)
    other = {n: replace(r, state=TrialState.FAILED) if r.loss is None else r for n, r in rows.items()}
    assert suggest(study, 11, other) == suggest(study, 11, rows)


@pytest.mark.parametrize(
    ("sampler", "space", "message"),
    [
        ("grid", SPACE, r"trials is 7 with search.sampler grid over learning_rate, weight_decay: give a whole number"),
        ("cmaes", replace(SPACE, weight_decay=Fixed(value=0.1)), r"'cmaes' over learning_rate alone: search two"),
    ],
)
def test_what_a_sampler_cannot_do_is_refused_before_anything_runs(sampler: Sampler, space: Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Agenda([replace(STUDY, sampler=sampler, space=space, num_trials=7)])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.search.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="'cmaes', which needs the package cmaes: install it, or choose tpe"):
        Agenda([replace(STUDY, sampler="cmaes")])
    Agenda([replace(STUDY, sampler="tpe")])

"""Pruning: checks are a function of the rows before, and a pruned trial is never a finished value."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from sweeps import search
from sweeps.agenda import Agenda
from sweeps.plan import Study
from sweeps.pruning import checks_of
from sweeps.reading import read_spec
from sweeps.search import Finished, best_of, write_sqlite
from sweeps.spec import Pruning
from tests.sweeps.examples import SPEC, edited, studies_of
from tests.sweeps.test_search import run_alone, run_wildly, tried
from trainer.result import TrialState
from trainer.trial import Check, TrialSpec

PRUNED = edited("trials: 3", "trials: 14").replace("search:", "search:\n  pruning: {shares: [0.5, 0.25], min_rows: 4}")
STUDY: Study = studies_of(read_spec(PRUNED))[0]


def loss_at(spec: TrialSpec, share: float) -> float:
    return 3 + (1 - share) + abs(math.log10(spec.hyperparameters.learning_rate / 0.01)) * (0.5 + share)


def ended(spec: TrialSpec) -> Finished:
    """What the trainer does, without training."""
    checked: dict[float, float] = {}
    for check in spec.checks:
        checked[check.share] = loss_at(spec, check.share)
        if check.above is not None and checked[check.share] > check.above:
            return Finished(spec=spec, state=TrialState.PRUNED, loss=None, checked=checked)
    return Finished(spec=spec, state=TrialState.COMPLETE, loss=loss_at(spec, 1.0), checked=checked)


def test_a_spec_that_does_not_ask_checks_nothing() -> None:
    assert read_spec(SPEC).search.pruning is None
    assert read_spec(edited("search:", "search:\n  pruning: off")) == read_spec(SPEC)
    assert not any(spec.checks for spec in run_alone(studies_of(read_spec(SPEC)), ended))
    assert "checks" not in run_alone(studies_of(read_spec(SPEC)), ended)[0].to_json()


def test_the_shares_are_sorted_and_the_spec_reads_back() -> None:
    spec = read_spec(PRUNED)
    assert spec.search.pruning == Pruning(shares=(0.25, 0.5), min_rows=4)
    assert read_spec(spec.to_yaml()) == spec
    assert spec.hash != read_spec(PRUNED.replace("min_rows: 4", "min_rows: 5")).hash


def test_each_threshold_is_the_median_of_the_trials_that_are_surely_known() -> None:
    specs = {spec.number: spec for spec in run_alone((STUDY,), ended)}
    rows = {n: ended(spec) for n, spec in specs.items()}
    assert STUDY.lag == 2
    for n, spec in specs.items():
        for check in spec.checks:
            reached = [rows[m].checked[check.share] for m in range(n - 1) if check.share in rows[m].checked]
            expected = statistics.median(reached) if len(reached) >= 4 else None
            assert check == Check(share=check.share, above=expected)
    assert [check.above for check in specs[4].checks] == [None, None]
    assert specs[5].checks[0].above is not None
    states = [rows[n].state for n in specs]
    assert 2 <= states.count(TrialState.PRUNED) <= 7
    assert TrialSpec.from_json(specs[9].to_json()) == specs[9]


def test_failed_and_diverged_trials_do_not_count() -> None:
    rows = {spec.number: ended(spec) for spec in run_alone((STUDY,), ended) if spec.number < 8}
    broken = {n: replace(row, state=TrialState.FAILED, loss=None) if n < 4 else row for n, row in rows.items()}
    assert checks_of(STUDY, 8, rows)[0].above is not None
    assert checks_of(STUDY, 8, broken)[0].above is None


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_checks_do_not_depend_on_timing_concurrency_or_crashes(sampler: str) -> None:
    text = PRUNED.replace("trials: 14", "trials: 16").replace("search:", f"search:\n  sampler: {sampler}")
    studies = studies_of(read_spec(text.replace("[8e10, 4e10]", "[4e10]")))
    alone = run_alone(studies, ended)
    assert any(ended(spec).state is TrialState.PRUNED for spec in alone)
    for seed in range(4):
        assert tried(run_wildly(studies, random.Random(seed), ended)) == tried(alone)


def test_a_repeat_and_a_study_without_a_search_are_not_checked() -> None:
    seeded = studies_of(read_spec(PRUNED.replace("trials: 14", "trials: 8\nseeds: 3")))[0]
    specs = run_alone((seeded,), ended)
    assert [bool(spec.checks) for spec in specs] == [True] * 8 + [False] * 2
    held = PRUNED.replace("{of: pretraining, low: 0.1, high: 10, start: 1}", "0.01").replace(
        "{low: 0.001, high: 1}", "0.1"
    )
    assert not any(spec.checks for spec in run_alone((studies_of(read_spec(held))[0],), ended))


def test_a_pruned_trial_is_told_with_its_losses_on_the_way_and_never_with_a_value() -> None:
    rows = {n: ended(spec) for n, spec in enumerate(run_alone((STUDY,), ended))}
    pruned = next(n for n, row in rows.items() if row.state is TrialState.PRUNED)
    for sampler in ("tpe", "gp", "cmaes"):
        told = search._told(replace(STUDY, sampler=sampler), rows, pruned, upto=13)
        assert told["state"] is optuna.trial.TrialState.PRUNED
        assert "value" not in told
        assert told["intermediate_values"] == {round(100 * s): loss for s, loss in rows[pruned].checked.items()}
    best = best_of(STUDY, rows)
    assert best is not None
    assert best.state is TrialState.COMPLETE


def test_the_sqlite_copy_has_pruned_trials_with_their_losses_on_the_way(tmp_path: Path) -> None:
    rows = {n: ended(spec) for n, spec in enumerate(run_alone((STUDY,), ended))}
    path = tmp_path / "copy.db"
    write_sqlite(path, [(STUDY, rows)])
    copy = optuna.load_study(study_name=STUDY.key, storage=f"sqlite:///{path}")
    for trial in copy.trials:
        row = rows[trial.number]
        assert trial.state.name == row.state.name
        assert trial.value == row.loss
        assert trial.intermediate_values == {round(100 * share): loss for share, loss in row.checked.items()}


@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_the_other_samplers_go_on_past_pruned_trials(sampler: str) -> None:
    text = PRUNED.replace("trials: 14", "trials: 12").replace("search:", f"search:\n  sampler: {sampler}")
    studies = studies_of(read_spec(text.replace("[8e10, 4e10]", "[4e10]").replace("[nano-3k, nano-14k]", "[nano-3k]")))
    specs = run_alone(studies[:1], ended)
    assert len(specs) == 12
    agenda = Agenda(studies[:1])
    for spec in specs:
        agenda.tell(ended(spec))
    assert not agenda.remaining

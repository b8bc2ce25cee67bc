"""The search is a function of the rows: whatever the order, the concurrency and the crashes, it tries the same."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.agenda import Agenda
from sweeps.plan import Study
from sweeps.reading import read_spec
from sweeps.search import Finished, askable, suggest
from sweeps.space import Fixed, Range, Space
from sweeps.spec import Sampler
from tests.sweeps.examples import SPEC, edited, studies_of
from trainer.result import TrialState
from trainer.trial import TrialSpec

STUDY = studies_of(read_spec(SPEC))[0]
TRIALS = set[tuple[str, str]]


def loss_of(spec: TrialSpec) -> float:
    """A bowl around a learning rate that falls with the model's name, and a slight slope in weight decay."""
    target = -2.5 if spec.model == "nano-3k" else -1.9
    values = spec.hyperparameters
    return 3 + (math.log10(values.learning_rate) - target) ** 2 + 0.1 * values.weight_decay


def ended(spec: TrialSpec) -> Finished:
    """High rates diverge, a few trials fail, the others are complete."""
    if spec.hyperparameters.learning_rate > 0.05:
        return Finished(spec=spec, state=TrialState.DIVERGED, loss=None)
    if spec.number == 2:
        return Finished(spec=spec, state=TrialState.FAILED, loss=None)
    return Finished(spec=spec, state=TrialState.COMPLETE, loss=loss_of(spec))


Ending = Callable[[TrialSpec], Finished]


def run_alone(studies: tuple[Study, ...], ending: Ending = ended) -> list[TrialSpec]:
    """One trial after the other, in the agenda's order."""
    agenda, specs = Agenda(studies), []
    while agenda.remaining:
        specs.append(agenda.trial(*next(agenda.ready())))
        agenda.tell(ending(specs[-1]))
    return specs


def run_wildly(studies: tuple[Study, ...], chance: random.Random, ending: Ending = ended) -> list[TrialSpec]:
    """Many at a time, ending in any order, with crashes that forget everything but the rows."""
    rows: list[Finished] = []
    agenda, running = Agenda(studies), {}
    while agenda.remaining:
        width = chance.randint(1, 9)
        for study, number in list(agenda.ready(running)):
            if len(running) < width:
                running[study.key, number] = agenda.trial(study, number)
        if chance.random() < 0.2:
            agenda, running = Agenda(studies), {}
            for row in chance.sample(rows, len(rows)):
                agenda.tell(row)
            continue
        key = chance.choice(sorted(running))
        rows.append(ending(running.pop(key)))
        agenda.tell(rows[-1])
    return [row.spec for row in rows]


def tried(specs: list[TrialSpec]) -> TRIALS:
    return {(spec.trial_id, spec.to_json()) for spec in specs}


REFERENCE: dict[tuple[str, int], tuple[tuple[Study, ...], list[TrialSpec]]] = {}


def reference(sampler: Sampler, lag: int) -> tuple[tuple[Study, ...], list[TrialSpec]]:
    if (sampler, lag) not in REFERENCE:
        text = edited("trials: 3", "trials: 6").replace("[8e10, 4e10]", "[4e10]")
        studies = studies_of(read_spec(text.replace("search:", f"search:\n  sampler: {sampler}\n  lag: {lag}")))
        REFERENCE[sampler, lag] = studies, run_alone(studies)
    return REFERENCE[sampler, lag]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["tpe", "random", "qmc"]), st.integers(1, 4), st.integers(0, 2**32))
def test_what_is_tried_does_not_depend_on_timing_concurrency_or_crashes(sampler: Sampler, lag: int, seed: int) -> None:
    studies, alone = reference(sampler, lag)
    wildly = run_wildly(studies, random.Random(seed))
    assert len(wildly) == len(alone) == 24
    assert tried(wildly) == tried(alone)


def test_the_same_in_another_process_with_another_hash_seed() -> None:
    code = (
        "from tests.sweeps.test_search import *\n"
        "print(sorted(spec.trial_id for spec in run_alone(reference('tpe', 2)[0])))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == str(sorted(spec.trial_id for spec in reference("tpe", 2)[1]))
    assert run.stderr == ""  # Optuna is quiet


def rows_of(study: Study, num_rows: int) -> dict[int, Finished]:
    rows: dict[int, Finished] = {}
    for n in range(num_rows):
        rows[n] = ended(study.trial(n, suggest(study, n, rows).hyperparameters))
    return rows


def test_a_suggestion_uses_the_rows_up_to_the_lag_and_no_later_ones() -> None:
    study = replace(STUDY, num_trials=9, lag=3)
    rows = rows_of(study, 8)
    known = {n: rows[n] for n in range(6)}
    other = {**known, 6: replace(rows[6], loss=-99.0), 7: replace(rows[7], state=TrialState.FAILED, loss=None)}
    assert suggest(study, 8, known) == suggest(study, 8, rows) == suggest(study, 8, other)
    earlier = {**rows, 5: replace(rows[5], loss=-99.0, state=TrialState.COMPLETE)}
    assert suggest(study, 8, earlier) != suggest(study, 8, rows)


@pytest.mark.parametrize("lag", [1, 2, 4])
def test_a_trial_may_be_asked_once_the_rows_it_needs_exist(lag: int) -> None:
    study = replace(STUDY, lag=lag)
    assert [n for n in range(9) if askable(study, n, {})] == list(range(lag))
    assert [n for n in range(9) if askable(study, n, {0, 1, 3})] == list(range(2 + lag))


def test_another_seed_or_another_study_tries_something_else() -> None:
    rows = rows_of(STUDY, 1)
    first = suggest(replace(STUDY, lag=1), 1, rows)
    assert suggest(replace(STUDY, lag=1, seed=1), 1, rows) != first
    cell = replace(STUDY.cell, budget_flops=STUDY.cell.budget_flops + 1)
    assert suggest(replace(STUDY, lag=1, cell=cell), 1, rows) != first


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_the_first_trial_takes_the_start_or_the_middle(sampler: Sampler) -> None:
    space = Space(
        learning_rate=Range(low=1e-4, high=1e-1, start=0.02),
        temperature=Range(low=0.01, high=0.09, log=False),
        weight_decay=Range(low=0.01, high=1),
    )
    first = suggest(replace(STUDY, sampler=sampler, space=space), 0, {}).hyperparameters
    assert first.learning_rate == 0.02
    assert first.temperature == pytest.approx(0.05)
    assert first.weight_decay == pytest.approx(0.1)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_suggestions_stay_in_their_ranges_and_keep_what_is_fixed(sampler: Sampler) -> None:
    low, high = 0.001234567, 0.0012345678
    space = Space(
        learning_rate=Range(low=low, high=high),
        temperature=Fixed(value=0.05),
        weight_decay=Range(low=0, high=1, log=False),
    )
    study = replace(STUDY, sampler=sampler, space=space, lag=1)
    points = [row.spec.hyperparameters for row in rows_of(study, 12).values()]
    assert all(low <= p.learning_rate <= high and 0 <= p.weight_decay <= 1 for p in points)
    assert {(p.temperature, p.batch_size, p.max_length) for p in points} == {(0.05, 64, 32)}
    assert len({p.weight_decay for p in points}) > 10


def test_nothing_to_search_gives_the_fixed_values_at_once() -> None:
    space = Space(learning_rate=Fixed(value=0.3), temperature=Fixed(value=0.2), weight_decay=Fixed(value=0.1))
    point = suggest(replace(STUDY, space=space, lag=0), 5, {}).hyperparameters
    assert (point.learning_rate, point.temperature, point.weight_decay) == (0.3, 0.2, 0.1)


def best_of_24(sampler: Sampler, seed: int, cliff: float) -> tuple[float, int]:
    """The least loss and the number of trials over the cliff, on a bowl around 1e-2 that ends at a cliff."""
    space = Space(
        learning_rate=Range(low=1e-4, high=1e-1), temperature=Fixed(value=0.05), weight_decay=Range(low=0.01, high=1)
    )
    study = replace(STUDY, sampler=sampler, space=space, seed=seed, lag=2 if sampler == "tpe" else 0)
    rows: dict[int, Finished] = {}
    for n in range(24):
        spec = study.trial(n, suggest(study, n, rows).hyperparameters)
        rate = math.log10(spec.hyperparameters.learning_rate)
        loss = (rate + 2) ** 2 + 0.05 * math.log10(spec.hyperparameters.weight_decay * 10) ** 2
        state = TrialState.DIVERGED if rate > cliff else TrialState.COMPLETE
        rows[n] = Finished(spec=spec, state=state, loss=None if state is TrialState.DIVERGED else loss)
    losses = [row.loss for row in rows.values() if row.loss is not None]
    return min(losses), 24 - len(losses)


def test_the_search_learns() -> None:
    """Over ten seeds TPE finds a better point than chance does."""
    tpe, chance = ([best_of_24(sampler, seed, cliff=0.0)[0] for seed in range(10)] for sampler in ("tpe", "random"))
    assert sum(tpe) < 0.5 * sum(chance)


def test_the_search_learns_from_divergence() -> None:
    """A third of the range lies over the cliff; trials told as bad, not as forgotten, keep away from it."""
    over = [best_of_24("tpe", seed, cliff=-1.9)[1] for seed in range(10)]
    assert sum(over) / 10 < 10


def test_quasi_random_trials_fill_the_range_evenly() -> None:
    study = replace(STUDY, sampler="qmc", lag=0)
    rates = sorted(math.log10(suggest(study, n, {}).hyperparameters.learning_rate) for n in range(1, 33))
    low, high = (math.log10(end) for end in (STUDY.space.learning_rate.low, STUDY.space.learning_rate.high))
    shares = [(rate - low) / (high - low) for rate in rates]
    # At most 1/32 is missing at any point; 32 random numbers miss about five times as much.
    assert max(abs(share - (i + 0.5) / 32) for i, share in enumerate(shares)) < 0.06


def test_the_agenda_goes_from_cheap_to_dear_and_through_all_studies_before_a_second_trial() -> None:
    studies = studies_of(read_spec(SPEC))
    specs = run_alone(studies)
    assert [(s.budget_flops, s.number) for s in specs] == sorted((s.budget_flops, s.number) for s in specs)
    assert len(specs) == len({s.trial_id for s in specs}) == 8 * 3
    steps = {study.key: study.steps for study in studies}
    first_round = [steps[study.key] for study, n in Agenda(studies).remaining[:4]]
    assert first_round == sorted(first_round, reverse=True)


def test_the_agenda_offers_what_may_start_and_counts_what_is_left() -> None:
    studies = studies_of(read_spec(SPEC))
    agenda = Agenda(studies)
    assert len(agenda.remaining) == 24
    offered = list(agenda.ready())
    assert len(offered) == 8 * 2 and {number for _, number in offered} == {0, 1}  # lag 2
    study, number = offered[0]
    assert (study, number) not in list(agenda.ready({(study.key, number)}))
    agenda.tell(ended(agenda.trial(study, number)))
    assert len(agenda.remaining) == 23
    assert (study, 2) in list(agenda.ready()) and (study, number) not in list(agenda.ready())
    agenda.tell(ended(agenda.trial(study, 1)))
    agenda.tell(ended(agenda.trial(study, 1)))
    assert len(agenda.remaining) == 22


def test_a_row_of_other_data_or_weights_is_refused() -> None:
    agenda = Agenda(studies_of(read_spec(SPEC)))
    spec = agenda.trial(*next(agenda.ready()))
    with pytest.raises(ValueError, match=r"trained with data another, and the data are 0123456789abcdef now: give"):
        agenda.tell(ended(replace(spec, data="another")))
    with pytest.raises(ValueError, match=r"trained with weights another, and the weights are weights now"):
        agenda.tell(ended(replace(spec, revision="another")))
    with pytest.raises(ValueError, match="not part of the plan any more"):
        agenda.tell(ended(replace(spec, model="nano-85k")))

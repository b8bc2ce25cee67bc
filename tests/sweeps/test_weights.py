"""Kept weights: always those of the best, whoever tidies up and when; and which trial a person means."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.reading import read_spec
from sweeps.store import Store
from sweeps.weights import best_trials, drop_worse_weights, find_trial
from tests.sweeps.examples import SPEC, result_of, trial_spec
from trainer.result import TrialResult, TrialState
from trainer.trial import Bias, Full, Lora


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "example", read_spec(SPEC), "{}")


def save(store: Store, result: TrialResult) -> str:
    """As a trial does: weights first, whole, then its row."""
    folder = store.weights(result.spec.trial_id)
    folder.mkdir(parents=True)
    (folder / "trained.safetensors").write_text(result.spec.trial_id)
    store.record(result)
    return result.spec.trial_id


def of(number: int, loss: float, *, state: TrialState = TrialState.COMPLETE, **changes: object) -> TrialResult:
    return result_of(replace(trial_spec(number), **changes), state=state, loss=loss)


def test_the_best_of_each_budget_and_method_stays(store: Store) -> None:
    kept = [
        of(1, 2.0, method=Full()),
        of(2, 3.0, method=Bias(), model="nano-14k"),
        of(3, 1.0, method=Full(), budget_flops=10**12),
    ]
    dropped = [
        of(4, 2.5, method=Full(), model="nano-14k"),
        of(5, 3.5, method=Bias()),
        of(6, 0.0, method=Full(), state=TrialState.DIVERGED),
        of(7, 0.0, method=Bias(), state=TrialState.FAILED),
    ]
    for result in kept + dropped:
        save(store, result)
    assert best_trials(kept + dropped, store.spec) == {result.spec.trial_id for result in kept}
    drop_worse_weights(store)
    assert store.trials_with_weights() == {result.spec.trial_id for result in kept}
    drop_worse_weights(store)
    assert store.trials_with_weights() == {result.spec.trial_id for result in kept}


def test_of_ranks_that_studies_search_the_best_stays_and_of_a_grid_of_them_each(store: Store) -> None:
    ranks = [of(1, 3.0, method=Lora(rank=4, alpha=8)), of(2, 2.0, method=Lora(rank=5, alpha=8))]
    searched = "{low: 1, high: 8}"
    text = SPEC.replace("rank: 4", f"rank: {searched}").replace("trials: 3", "trials: 9")
    assert best_trials(ranks, read_spec(text)) == {ranks[1].spec.trial_id}
    grid = text.replace(searched, "[4, 5, 6]").replace("search:", "search:\n  sampler: grid")
    assert best_trials(ranks, read_spec(grid)) == {result.spec.trial_id for result in ranks}


def test_a_trial_without_a_row_keeps_its_weights(store: Store) -> None:
    better = save(store, of(1, 2.0))
    worse = of(2, 3.0)
    store.weights(worse.spec.trial_id).mkdir()
    drop_worse_weights(store)
    assert store.trials_with_weights() == {better, worse.spec.trial_id}
    store.record(worse)
    drop_worse_weights(store)
    assert store.trials_with_weights() == {better}


def test_the_best_survives_any_order_of_many_at_once(store: Store) -> None:
    """Every trial tidies up after its own row, as the actors do; the best one's weights are never missing."""
    results = [of(number, 2 + number / 100) for number in range(40)]
    best = results[0].spec.trial_id
    random.Random(0).shuffle(results)

    def end(result: TrialResult) -> None:
        save(store, result)
        drop_worse_weights(store)
        recorded = store.trial_ids()
        assert best not in recorded or store.weights(best).is_dir()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, results))
    assert store.trials_with_weights() == {best}


def test_a_half_removed_folder_goes_with_the_next(store: Store) -> None:
    save(store, of(1, 2.0))
    worse = save(store, of(2, 3.0))
    (store.weights(worse) / "trained.safetensors").unlink()
    drop_worse_weights(store)
    assert worse not in store.trials_with_weights()


def test_what_is_kept_is_no_part_of_a_sweep_s_identity() -> None:
    specs = [read_spec(SPEC + f"resources: {{keep_weights: {keep}}}\n") for keep in ("none", "best", "all")]
    assert {spec.hash for spec in specs} == {read_spec(SPEC).hash}
    assert read_spec(SPEC).resources.keep_weights == "best"
    with pytest.raises(ValueError, match=r"resources\.keep_weights"):
        read_spec(SPEC + "resources: {keep_weights: some}\n")


def test_a_trial_is_found_by_the_start_of_its_id(store: Store) -> None:
    ids = sorted(save(store, of(number, 2 + number)) for number in range(3))
    assert find_trial(store, ids[1]).spec.trial_id == ids[1]
    assert find_trial(store, ids[1][:-3]).spec.trial_id == ids[1]
    assert find_trial(store, "").spec.number == 0


def test_a_trial_that_cannot_be_meant_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="no complete trial with weights"):
        find_trial(store, "")
    first, second = (save(store, of(number, 2.0 + number)) for number in range(2))
    with pytest.raises(ValueError, match=f"may be .*{second}.*: give more characters"):
        find_trial(store, first[:5])
    with pytest.raises(ValueError, match="'9e9' has no row"):
        find_trial(store, "9e9")
    store.remove_weights(second)
    with pytest.raises(ValueError, match=r"has no weights.*resources\.keep_weights: all"):
        find_trial(store, second)
    failed = save(store, of(5, 1.0, state=TrialState.FAILED))
    with pytest.raises(ValueError, match="ended FAILED"):
        find_trial(store, failed)
    assert find_trial(store, "").spec.trial_id == first

"""A process that evaluates: what is in the store is not done again, and a task that fails leaves the others alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.evaluate import Question, divided, missing_work
from cluster.scorer import Outcome, Work, evaluate_work
from sweeps.scores import read_score, read_scores, write_score
from sweeps.store import Store
from tests.scored import nano_world, scored_store
from trainer.tasks import BASELINES, baseline_tasks

TASKS = ("NanoPairClassification", "NanoRelatedness")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return scored_store(tmp_path)


def question(store: Store, tasks: tuple[str, ...] = TASKS) -> Question:
    rows = nano_world()
    return Question(
        results=tuple(store.read_trial(trial_id) for trial_id in sorted(store.trial_ids())),
        tasks=tasks,
        nano=rows,
        revisions=(rows.revision,) * len(tasks),
        baselines=tuple((name, baseline_tasks(name, tasks)) for name in BASELINES),
    )


def missing(store: Store, tasks: tuple[str, ...] = TASKS) -> list[Work]:
    return missing_work(store, question(store, tasks), str(Path(str(store.root)).parent / "cache"))


def carried_out(work: Work) -> list[Outcome]:
    return list(evaluate_work(work, nano_world()))


def test_everything_is_evaluated_once(store: Store) -> None:
    pieces = missing(store)
    assert {(work.shelf, work.tasks) for work in pieces} == {("scores", TASKS), ("baselines", TASKS)}
    assert sorted(work.name for work in pieces) == sorted([*store.trial_ids(), "tf-idf"])
    outcomes = [outcome for work in pieces for outcome in carried_out(work)]
    assert not any(outcome.error for outcome in outcomes)
    assert missing(store) == []
    scores = read_scores(store)
    told = {(o.name, o.task): o.score for o in outcomes if o.name != "tf-idf"}
    assert dict(zip(zip(scores["trial_id"], scores["task"], strict=True), scores["score"], strict=True)) == told
    assert scores["weights_hash"].nunique() == 2
    # One more task asks for it alone.
    assert [work.tasks for work in missing(store, (*TASKS, "NanoRetrieval"))] == [("NanoRetrieval",)] * 4


def test_what_is_there_is_told_again_and_needs_no_model(store: Store) -> None:
    """As after the death of a process: the model's weights are gone, and only what is missing would need them."""
    [work] = [work for work in missing(store) if work.name == min(store.trial_ids())]
    first = carried_out(work)
    store.remove_weights(work.name)
    assert carried_out(work) == first


def test_other_weights_or_other_data_are_evaluated_anew(store: Store) -> None:
    for work in missing(store):
        carried_out(work)
    row = read_score(store, min(store.trial_ids()), TASKS[0])
    assert row is not None
    for changed in (replace(row, weights_hash="other"), replace(row, dataset_revision="other")):
        write_score(store, changed)
        [work] = missing(store)
        assert (work.name, work.tasks) == (row.trial_id, TASKS[:1])
        carried_out(work)
    again = read_score(store, row.trial_id, row.task)
    assert again is not None and again.score == row.score


def test_a_task_that_fails_is_a_sentence_and_the_others_go_on(store: Store) -> None:
    [work, *_] = [work for work in missing(store) if work.shelf == "scores"]
    broken = replace(work, tasks=("NoSuchTask", *TASKS), revisions=("r", *work.revisions))
    failed, *others = carried_out(broken)
    assert failed.error.startswith("ValueError: --tasks has 'NoSuchTask', which mteb does not know")
    assert [outcome.error for outcome in others] == ["", ""]
    assert len(read_scores(store)) == 2


def test_weights_that_are_not_whole_fail_without_a_score(store: Store) -> None:
    [work, *_] = [work for work in missing(store) if work.shelf == "scores"]
    with (Path(str(store.weights(work.name))) / "trained.safetensors").open("ab") as file:
        file.write(b"x")
    assert all("are not what trial" in outcome.error for outcome in carried_out(work))
    assert carried_out(replace(work, weights_hash="asked for before"))[0].error
    assert read_scores(store).empty


def test_pieces_are_cut_where_slots_would_be_idle(store: Store) -> None:
    one = replace(missing(store)[0], tasks=tuple("abcde"), revisions=tuple("12345"))
    assert divided([one], 1) == [one]
    parts = divided([one], 2)
    assert [(part.tasks, part.revisions) for part in parts] == [
        (("a", "c", "e"), ("1", "3", "5")),
        (("b", "d"), ("2", "4")),
    ]
    assert len(divided([one], 50)) == 5
    assert divided([one] * 4, 2) == [one] * 4, "a model is loaded once where there are models for all"

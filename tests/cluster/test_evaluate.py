"""Evaluations on a real Ray: all scores, whatever dies on the way, and an evaluation that fails costs no trial."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from cluster import evaluation
from cluster.evaluate import EvaluationProgress, evaluate_on_ray
from cluster.local import LocalRay, local_ray
from sweeps.scores import read_scores
from sweeps.store import Store
from tests.cluster.head import CACHE
from tests.cluster.test_scorer import TASKS, missing
from tests.scored import nano_world, scored_store
from trainer.tasks import BASELINES


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[LocalRay]:
    # A worker is to find the packages of this checkout, and the tests' own.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        with local_ray(CACHE) as ray:
            yield ray


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return scored_store(tmp_path)


@pytest.mark.slow  # two processes import torch and mteb, twice
def test_a_process_that_is_killed_loses_the_task_it_was_at_and_no_other(store: Store) -> None:
    pieces = missing(store)
    shown: list[EvaluationProgress] = []
    killed: list[int] = []

    def show(progress: EvaluationProgress) -> None:
        shown.append(progress)
        if progress.num_done and not killed:
            # Ray calls a process that is at work by the name of its task.
            at_work = [
                process
                for process in psutil.Process().children(recursive=True)
                if any("evaluate" in part for part in process.cmdline()[:1])
            ]
            for process in at_work:
                process.send_signal(signal.SIGKILL)
            killed.extend(process.pid for process in at_work)

    outcomes = evaluate_on_ray(store, pieces, nano_world(), show)
    assert killed, "nothing was at work after the first score"
    assert [outcome.error for outcome in outcomes] == [""] * 6
    assert missing(store) == []
    assert len(read_scores(store)) == 4 and len(read_scores(store, "baselines")) == 2
    last = shown[-1]
    assert (last.num_done, last.num_scores, last.num_failed, last.remaining_seconds) == (6, 6, 0, 0)


def test_an_evaluation_that_fails_says_so_and_leaves_the_rows(store: Store) -> None:
    """At the end of a sweep: the data of the nano tasks are gone here."""
    before = store.read_trials()
    told = io.StringIO()
    console = Console(file=told, width=200)
    assert not evaluation.score_kept(store, ["nano"], console, ray_up)
    assert "no scores: the sweep's pairs are no longer in" in told.getvalue()
    for trial_id in store.trial_ids():
        store.remove_weights(trial_id)
    assert not evaluation.score_kept(store, ["nano"], console, ray_up)
    assert "resources.keep_weights: all" in told.getvalue()
    assert store.read_trials().equals(before) and read_scores(store).empty


def ray_up() -> AbstractContextManager[object]:
    return nullcontext()


def test_the_table_has_every_trial_and_word_matching_beside(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cluster.score_tables import score_record, score_table
    from trainer import prepare

    monkeypatch.setattr(prepare, "nano_test_rows", lambda *_: nano_world())
    told = io.StringIO()
    console = Console(file=told, width=200)
    store.remove_weights(max(store.trial_ids()))
    found = evaluation.chosen(store, "", "all", console)
    assert "1 of 2 trials have no weights and get no scores" in told.getvalue()
    names = (*TASKS, "NoSuchTask")
    with pytest.raises(ValueError, match="which mteb does not know"):
        evaluation.evaluate_chosen(store, found, names, tmp_path / "cache", console, ray_up)
    asked, is_whole = evaluation.evaluate_chosen(store, found, TASKS, tmp_path / "cache", console, ray_up)
    assert is_whole and "4 of 4 scores" in told.getvalue()
    console.print(score_table(found.results, *evaluation.scores_asked(store, asked)))
    lines = told.getvalue().splitlines()
    [heading] = [line for line in lines if line.startswith("budget")]
    assert all(name in heading for name in TASKS)
    loss = found.results[0].metrics
    assert loss is not None
    assert any("nano-3k" in line and f"{loss.loss:.4f}" in line and "[" in line for line in lines)
    assert any(BASELINES[1] in line and "word matching" in line for line in lines)
    record = score_record(found.results, *evaluation.scores_asked(store, asked))
    assert [len(trial["scores"]) for trial in record["trials"]] == [2]
    assert record["trials"][0]["aggregate"]["mean"]["num_tasks"] == 2
    assert [baseline["name"] for baseline in record["baselines"]] == ["tf-idf"]

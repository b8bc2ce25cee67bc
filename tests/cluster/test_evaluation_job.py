"""An evaluation as a job of a real Ray head: the store is filled, and what cannot be done is a sentence."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cluster.evaluation_job import EvaluationOrder, evaluate_on
from sweeps.scores import read_scores
from tests.cluster.head import Head, head
from tests.hub import LoopbackHub
from tests.mteb_hub import write_tasks
from tests.scored import scored_store


@pytest.fixture(scope="module")
def a_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with pytest.MonkeyPatch.context() as patch:
        # The job is started with the head's own `python`.
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        with head(tmp_path_factory.mktemp("head")) as up:
            yield up


@pytest.mark.slow
def test_a_job_evaluates_and_says_what_it_cannot(a_head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(a_head.token_file))
    store = scored_store(tmp_path)
    write_tasks(tmp_path / "hub" / "datasets")
    with LoopbackHub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        order = EvaluationOrder(store=str(store.root), trial="", which="all", tasks="BIOSSES", prefetch=False)
        statuses, told = [], []
        for asked in (order, replace(order, tasks="nothing of mteb")):
            heard = io.StringIO()
            statuses.append(evaluate_on(a_head.address, asked, Console(file=heard, width=200)))
            told.append(heard.getvalue())
    assert statuses == [0, 2], told
    assert set(read_scores(store)["trial_id"]) == store.trial_ids()
    assert "submitted: job" in told[0] and "2 of 2 scores" in told[0] and "BIOSSES" in told[0]
    assert "isoflop: --tasks has 'nothing of mteb', which mteb does not know" in told[1]
    with pytest.raises(ValueError, match="STORE is 'stores/mine'"):
        evaluate_on(a_head.address, replace(order, store="stores/mine"), Console(file=io.StringIO()))

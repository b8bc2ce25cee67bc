"""Scores belong to weights: two trials never get each other's, and what mteb sees is what was exported."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import mteb
import numpy as np
import pytest
from mteb.cache import ResultCache

from cluster.scorer import Work, open_model
from sweeps.store import Store
from tests.scored import nano_world, scored_store
from trainer.scoring import ExportedEncoder, model_meta, score
from trainer.task_data import quiet_mteb
from trainer.tasks import make_task
from trainer.trained import RECORD, weights_hash


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return scored_store(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="module")
def models(store: Store) -> list[ExportedEncoder]:
    """Of both trials, opened as an evaluation does."""
    return [opened(store, trial_id) for trial_id in sorted(store.trial_ids())]


def opened(store: Store, trial_id: str) -> ExportedEncoder:
    work = Work(
        store=store.root,
        shelf="scores",
        name=trial_id,
        weights_hash=weights_hash((store.weights(trial_id) / RECORD).read_text()),
        tasks=(),
        revisions=(),
        cache=str(Path(str(store.root)).parent / "cache"),
        device="cpu",
        num_threads=1,
    )
    model: ExportedEncoder = open_model(work, store, None)
    return model


def through_mteb(model: object, cache: ResultCache) -> float:
    """A score by mteb with a cache of results, which we never give it."""
    with quiet_mteb():
        task = make_task("NanoPairClassification", nano_world())
        return float(mteb.evaluate(model, task, cache=cache, show_progress_bar=False).task_results[0].get_score())


def test_two_trials_are_never_given_each_others_scores(models: list[ExportedEncoder]) -> None:
    """Even a cache of mteb's own that both share keeps them apart; with one name for both it would not."""
    own = [score(model, make_task("NanoPairClassification", nano_world())).score for model in models]
    assert own[0] != own[1]
    with TemporaryDirectory() as shared:
        cache = ResultCache(shared)
        assert [through_mteb(model, cache) for model in models] == pytest.approx(own)
        # From the cache, by their names: the second time nothing is encoded.
        assert [through_mteb(model, cache) for model in models] == pytest.approx(own)
        assert len(list(Path(shared).rglob("NanoPairClassification.json"))) == 2
    metas = [model.mteb_model_meta for model in models]
    try:
        for model in models:
            model.mteb_model_meta = model_meta("one", "for all")
        with TemporaryDirectory() as shared:
            cache = ResultCache(shared)
            given = [through_mteb(model, cache) for model in models]
        assert given == pytest.approx([own[0], own[0]]), "what this test guards against"
        # Ours asks no cache, so even then each has its own.
        again = [score(model, make_task("NanoPairClassification", nano_world())).score for model in models]
        assert again == own
    finally:
        for model, meta in zip(models, metas, strict=True):
            model.mteb_model_meta = meta


def test_a_model_is_named_by_its_weights(store: Store, models: list[ExportedEncoder], tmp_path: Path) -> None:
    names = [(model.mteb_model_meta.name, model.mteb_model_meta.revision) for model in models]
    ids = sorted(store.trial_ids())
    assert [name for name, _ in names] == [f"isoflop/{trial_id}" for trial_id in ids]
    assert len({revision for _, revision in names}) == 2
    record = json.loads((store.weights(ids[0]) / RECORD).read_text())
    assert weights_hash(json.dumps(record)) == names[0][1]
    for field in ("trial", "sha256"):
        assert weights_hash(json.dumps({**record, field: record[field] + " "})) != names[0][1]


def test_a_score_says_what_it_is_of(models: list[ExportedEncoder]) -> None:
    found = score(models[0], make_task("NanoRetrieval", nano_world()))
    assert (found.task, found.task_type, found.main_metric) == ("NanoRetrieval", "Retrieval", "ndcg_at_10")
    assert (found.dataset_revision, found.mteb_version) == (nano_world().revision, mteb.__version__)
    assert found.seconds > 0
    [metrics] = json.loads(found.metrics)["test"]
    assert metrics["ndcg_at_10"] == metrics["main_score"] == found.score
    assert metrics["hf_subset"] == "default"


def test_an_empty_text_is_read_as_a_blank(models: list[ExportedEncoder]) -> None:
    """A batch of nothing else would have no tokens at all."""
    embeddings = models[0].encode([{"text": ["", ""]}, {"text": [" ", "banlan"]}])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(embeddings[:2], embeddings[[2, 2]], atol=1e-6)
    assert not np.allclose(embeddings[2], embeddings[3])

"""A store on object storage: what holds of one on a disk holds there, through errors and slow answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from sweeps import remote
from sweeps.reading import read_spec
from sweeps.remote import RemotePath, place
from sweeps.scores import read_score, read_scores, write_score
from sweeps.store import Store, StoreError
from sweeps.weights import find_trial
from tests.bucket import CREDENTIALS, Bucket, running_bucket
from tests.sweeps.examples import SPEC, result_of, trial_spec
from tests.sweeps.test_scores import ROW

PREPARED = json.dumps({"manifest": {"hash": "0123456789abcdef"}})


@pytest.fixture(scope="module")
def service() -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as patch, running_bucket() as bucket:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield bucket


@pytest.fixture
def bucket(service: Bucket) -> Iterator[Bucket]:
    service.writes.clear()
    yield service
    service.failing, service.seconds, service.away = 0.0, 0.0, False


def test_a_store_there_is_as_one_here(bucket: Bucket, tmp_path: Path) -> None:
    stores = [Store.create(root, read_spec(SPEC), PREPARED) for root in (bucket.uri("same"), tmp_path / "same")]
    results = [result_of(trial_spec(n), loss=3 + n / 7) for n in range(5)]
    for store in stores:
        for result in results:
            store.record(result)
            store.record(result)
    there, here = stores
    pd.testing.assert_frame_equal(there.read_trials(), here.read_trials())
    trial_id = results[2].spec.trial_id
    pd.testing.assert_frame_equal(there.read_curve(trial_id), here.read_curve(trial_id))
    assert there.trial_ids() == here.trial_ids()
    assert there.has(trial_id) and not there.has("another")
    assert there.read_trial(trial_id) == here.read_trial(trial_id)
    assert Store.open(bucket.uri("same")).spec == here.spec
    assert Store.open(bucket.uri("same")).prepared == PREPARED
    with pytest.raises(StoreError, match=r"seed is 7 in this spec and 0 there"):
        Store.create(bucket.uri("same"), read_spec(SPEC + "seed: 7\n"), PREPARED)
    with pytest.raises(StoreError, match="does not exist: give the folder of a sweep"):
        Store.open(bucket.uri("nothing"))


def test_every_object_is_written_in_one_go(bucket: Bucket) -> None:
    store = Store.create(bucket.uri("once"), read_spec(SPEC), PREPARED)
    store.record(result_of(trial_spec()))
    trial_id = trial_spec().trial_id
    names = ("sweep.yaml", "prepared.json", f"curves/{trial_id}.parquet", f"trials/{trial_id}.parquet")
    assert bucket.writes == {f"/bucket/once/{name}": 1 for name in names}


def test_scores_there_are_as_scores_here(bucket: Bucket) -> None:
    store = Store.create(bucket.uri("scored"), read_spec(SPEC), PREPARED)
    assert read_scores(store).empty
    write_score(store, ROW)
    assert read_score(store, ROW.trial_id, ROW.task) == ROW
    assert read_scores(store).to_dict("records") == [asdict(ROW)]


def test_many_rows_are_read_from_one_object_the_next_time(bucket: Bucket) -> None:
    store = Store.create(bucket.uri("many"), read_spec(SPEC), PREPARED)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.record(result_of(trial_spec(n))), range(70)))
    rows = store.read_trials()
    bucket.reads.clear()
    pd.testing.assert_frame_equal(store.read_trials(), rows)
    assert [path.split("/")[3] for path in bucket.reads] == ["compact"]


def test_errors_and_slow_answers_change_nothing(bucket: Bucket) -> None:
    bucket.failing, bucket.seconds = 0.3, 0.02
    store = Store.create(bucket.uri("faulty"), read_spec(SPEC), PREPARED)
    results = [result_of(trial_spec(n), loss=3 + n) for n in range(20)]
    for result in results:
        store.record(result)
    assert bucket.num_failed > 10, "the proxy has injected nothing"
    assert store.read_trials()["loss"].sum() == sum(3 + n for n in range(20))
    assert [store.read_trial(r.spec.trial_id) for r in results] == [replace(r, curve=()) for r in results]


def test_a_storage_that_is_away_is_named_and_nothing_is_lost(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_ATTEMPTS", 2)
    remote._file_system.cache_clear()
    store = Store.create(bucket.uri("away"), read_spec(SPEC), PREPARED)
    store.record(result_of(trial_spec(0)))
    bucket.away = True
    with pytest.raises(StoreError, match=r"cannot be written .*: launch again when the storage is there"):
        store.record(result_of(trial_spec(1)))
    with pytest.raises(StoreError, match="cannot be read"):
        store.read_trials()
    bucket.away = False
    store.record(result_of(trial_spec(1)))
    assert len(store.read_trials()) == 2
    remote._file_system.cache_clear()


def test_weights_and_checkpoints_are_removed_with_all_that_is_in_them(bucket: Bucket) -> None:
    store = Store.create(bucket.uri("weights"), read_spec(SPEC), PREPARED)
    for n in range(2):
        result = result_of(trial_spec(n), loss=3 - n)
        weights = store.weights(result.spec.trial_id)
        assert isinstance(weights, RemotePath)
        (weights / "trained.safetensors").write_bytes(b"weights")
        (weights / "deeper" / "record.json").write_bytes(b"{}")
        store.record(result)
    assert store.trials_with_weights() == store.trial_ids()
    assert find_trial(store, "").spec.number == 1
    store.remove_weights(trial_spec(0).trial_id)
    store.remove_weights(trial_spec(0).trial_id)
    assert store.trials_with_weights() == {trial_spec(1).trial_id}


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3://key:secret@bucket/store", "give them in the environment"),
        ("ftp://host/store", "give s3://bucket/prefix or gs://bucket/prefix"),
        ("s3://", "give s3://bucket/prefix"),
        ("s3://bucket/store?access_key=x", "'access_key' in its URI: only region, scheme, endpoint_override"),
    ],
)
def test_a_uri_that_will_not_do_is_refused(uri: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        place(uri)
    assert "secret" not in str(refused.value)

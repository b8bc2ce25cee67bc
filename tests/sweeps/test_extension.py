"""A changed spec: what may change beside rows, what is added, and overrides as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.agenda import Agenda
from sweeps.extension import added, obstacle, sentences
from sweeps.plan import plan
from sweeps.reading import read_spec
from sweeps.search import Finished
from sweeps.store import Store, StoreError
from tests.sweeps.examples import FACTS, SPEC, edited, result_of, studies_of
from tests.sweeps.test_search import ended, run_alone
from trainer.ladder import SHAPES
from trainer.result import TrialState

THERE = read_spec(SPEC)
LARGER = {
    "a budget": edited("[8e10, 4e10]", "[8e10, 4e10, 1.6e11]"),
    "a model": edited("[nano-3k, nano-14k]", "[nano-3k, nano-7k, nano-14k]"),
    "a method": edited("[full,", "[full, bias,"),
    "more trials": edited("trials: 3", "trials: 5"),
}


@pytest.mark.parametrize(("text", "number"), [*zip(LARGER.values(), [12, 12, 12, 16], strict=True)], ids=[*LARGER])
def test_an_extended_sweep_runs_only_what_is_new(text: str, number: int, tmp_path: Path) -> None:
    wanted = read_spec(text)
    assert obstacle(THERE, wanted) is None
    found = added(plan(THERE, FACTS, SHAPES), plan(wanted, FACTS, SHAPES))
    assert sum(item.num_trials for item in found) == number
    assert sentences(found)[0].startswith(f"This spec adds {number} trials to the store, ")

    store = Store.create(tmp_path / "store", THERE, "{}")
    before = run_alone(studies_of(THERE))
    for spec in before:
        row = ended(spec)
        store.record(result_of(spec, state=row.state, loss=row.loss or 0))
    again = Store.create(tmp_path / "store", wanted, '{"more": 1}')
    assert (again.spec, again.prepared) == (wanted, '{"more": 1}')
    agenda = Agenda(studies_of(wanted))
    for spec in before:
        agenda.tell(ended(spec))
    assert len(agenda.remaining) == number
    while item := next(agenda.ready(), None):
        trial = agenda.trial(*item)
        assert trial.trial_id not in again.trial_ids()
        agenda.tell(Finished(spec=trial, state=TrialState.COMPLETE, loss=3.0))
        number -= 1
    assert number == 0


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (edited("nano-3k, nano-14k", "nano-14k"), r"models is \['nano-14k'\]"),
        (edited("trials: 3", "trials: 2"), r"methods\[0\].trials is 2"),
        (edited("temperature: 0.05", "temperature: 0.06"), r"methods\[0\].search.temperature.value is 0.06"),
        (SPEC + "seeds: 2\n", "seeds is 2"),
    ],
)
def test_what_would_change_the_rows_is_refused(text: str, path: str, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", THERE, "{}")
    with pytest.raises(StoreError, match=f"holds another sweep: {path}"):
        store.refuse_another(read_spec(text))


def test_trials_are_not_added_to_a_sweep_with_repeats() -> None:
    path, ours, theirs = obstacle(read_spec(SPEC + "seeds: 2\n"), read_spec(LARGER["more trials"] + "seeds: 2\n")) or ()
    assert (path, ours, theirs) == ("methods[0].trials", 5, 3)


def test_trials_are_not_added_to_a_grid() -> None:
    grid = SPEC.replace("search:", "search:\n  sampler: grid")
    more = LARGER["more trials"].replace("search:", "search:\n  sampler: grid")
    path, ours, theirs = obstacle(read_spec(grid), read_spec(more)) or ()
    assert (path, ours, theirs) == ("methods[0].trials", 5, 3)


def test_overrides_change_fields_as_if_they_were_written() -> None:
    changed = read_spec(
        SPEC, ["budgets_flops=[1e11]", "search.lag=1", "methods.1.lora.rank=8", "limits.max_epochs = 2"]
    )
    text = edited("[8e10, 4e10]", "[1e11]").replace("rank: 4", "rank: 8").replace("search:", "search:\n  lag: 1")
    assert changed == read_spec(text + "limits: {max_epochs: 2}\n")
    assert read_spec(SPEC, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.lag", "override 'search.lag' is none: write field=value"),
        ("=3", "override '=3' is none"),
        ("search.leg=3", "search has no field 'leg': did you mean 'lag'"),
        ("data.split=dev", "names 'split' inside of 'nano', which has no such part: give the whole field, as data="),
        ("seed=[", r"override 'seed=\[': line 1 cannot be read as YAML"),
    ],
)
def test_an_override_that_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_spec(SPEC, [override])

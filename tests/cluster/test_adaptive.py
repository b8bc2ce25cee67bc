"""An adaptive sweep on the real Ray, killed and gone on with: its rows are those of the search replayed alone."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from sweeps.agenda import Agenda
from sweeps.reading import read_spec
from sweeps.search import Finished
from sweeps.store import Store
from tests.cluster import fake
from tests.cluster.sweep import expected_rows, make_world, same_rows, studies_of
from tests.cluster.test_killed import Driver
from trainer.result import TrialState
from trainer.trial import TrialSpec

ADAPTIVE = """
name: adaptive
data: nano
models: nano
methods: [full]
budgets_flops: [1e8, 4e8, 1.6e9]
trials: 3
seeds: 2
allocation: adaptive
fixed: {batch_size: 8}
search: {learning_rate: {low: 1e-4, high: 1e-1}, warm_start: true}
limits: {min_steps: 0, max_epochs: 1e9}
"""


@pytest.mark.slow
def test_an_adaptive_sweep_that_is_killed_has_the_rows_of_one_that_is_not(tmp_path: Path) -> None:
    expected = expected_rows(ADAPTIVE)
    studies = studies_of(read_spec(ADAPTIVE))
    assert len(expected) < 0.8 * sum(study.num_trials for study in studies), "nothing was saved"

    root, world = tmp_path / "store", make_world(tmp_path / "world", seconds=0.02)
    for number, rows in ((signal.SIGKILL, len(expected) // 3), (signal.SIGTERM, 2 * len(expected) // 3)):
        driver = Driver(root, world, ADAPTIVE)
        _wait_for_rows(driver, rows)
        driver.process.send_signal(number)
        driver.end()
    assert 0 < len(Store.open(root).trial_ids()) < len(expected), "the signals came too late to test anything"

    last = Driver(root, world, ADAPTIVE)
    assert json.loads(last.end()) == {"states": {"COMPLETE": len(expected)}, "stopped_by": None}
    found = Store.open(root).read_trials()
    same_rows(found, ADAPTIVE)
    assert sum(fake.starts(world, trial) for trial in found["trial_id"]) < 2 * len(found)

    agenda = Agenda(studies)
    for spec in map(TrialSpec.from_json, found["spec"]):
        agenda.tell(Finished(spec=spec, state=TrialState.COMPLETE, loss=fake.law(spec)))
    assert not agenda.remaining
    assert {decision.verdict for decision in agenda.decisions} == {"run", "leave"}


def _wait_for_rows(driver: Driver, number: int) -> None:
    """Until the driver says that it has so many rows."""
    assert driver.process.stdout is not None
    for line in driver.process.stdout:
        driver.lines.append(line.rstrip())
        if line.strip().isdigit() and int(line) >= number:
            return
    raise AssertionError(driver.lines[-1])

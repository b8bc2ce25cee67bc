"""A sweep that prunes, on the real Ray, killed and gone on with: it ends the same trials at the same shares."""

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
from tests.cluster.sweep import make_world, studies_of
from tests.cluster.test_killed import Driver
from trainer.result import TrialState

SPEC = """
name: pruned
data: nano
models: [nano-3k, nano-7k]
methods: [{lora: {rank: [1, 2, 4], alpha: 8}}]
budgets_flops: [1e8]
trials: 12
seeds: 2
fixed: {batch_size: 8}
search: {learning_rate: {low: 1e-4, high: 1e-1}, pruning: {shares: [0.2, 0.6], min_rows: 3}}
limits: {min_steps: 0, max_epochs: 1e9}
"""


def alone() -> dict[str, tuple[str, list[float]]]:
    """State and losses on the way of each trial, by the search replayed without Ray."""
    agenda, found = Agenda(studies_of(read_spec(SPEC))), {}
    while ready := next(agenda.ready(), None):
        spec = agenda.trial(*ready)
        checked, pruned = fake.checks_until(spec, 1.0)
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        found[spec.trial_id] = (str(state), [one.loss for one in checked])
        agenda.tell(
            Finished(
                spec=spec,
                state=state,
                loss=None if pruned else fake.law(spec),
                checked={one.share: one.loss for one in checked},
            )
        )
    return found


@pytest.mark.slow
def test_a_killed_sweep_prunes_the_trials_that_a_quiet_one_prunes(tmp_path: Path) -> None:
    expected = alone()
    states = [state for state, _ in expected.values()]
    assert len(expected) == 26
    assert 4 <= states.count("PRUNED") <= 16

    root, world = tmp_path / "store", make_world(tmp_path / "world", seconds=0.02)
    first = Driver(root, world, SPEC)
    assert first.process.stdout is not None
    for line in first.process.stdout:
        first.lines.append(line.rstrip())
        if line.strip().isdigit() and int(line) >= 9:
            break
    first.process.send_signal(signal.SIGKILL)
    first.end()
    assert 0 < len(Store.open(root).trial_ids()) < 26

    states_told = json.loads(Driver(root, world, SPEC).end())["states"]
    assert states_told == {"COMPLETE": states.count("COMPLETE"), "PRUNED": states.count("PRUNED")}
    store = Store.open(root)
    found = {trial_id: store.read_trial(trial_id) for trial_id in store.trial_ids()}
    assert {i: (str(row.state), [one.loss for one in row.checked]) for i, row in found.items()} == expected
    booked = sum(row.spending.booked_flops for row in found.values())
    assert booked < 0.8 * sum(row.spec.budget_flops for row in found.values())

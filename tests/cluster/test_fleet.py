"""Placements as machines come and go: known answers on made-up machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.fleet import Fleet
from cluster.placement import Machine, layout_of, place
from sweeps.reading import read_spec
from tests.cluster.test_placement import ON_CPU, ON_GPU, load, node
from tests.sweeps.examples import SPEC
from trainer.memory import GIB
from trainer.trial import Full, Lora, Placement

PC = Machine(num_cpus=2, memory_bytes=16 * GIB)
SMALL = load("nano-1k", Full(), 64)


def fleet(machines: list[Machine], num_workers: int, *, resumed: bool = False) -> Fleet:
    resources = replace(ON_CPU, workers_per_trial=num_workers)
    return Fleet({"study": SMALL}, resources, lambda: tuple(machines), resumed=resumed)


def test_four_workers_go_over_two_machines_and_become_two_when_one_is_lost_and_four_again() -> None:
    there = [PC, PC]
    found = fleet(there, 4)
    assert (found.placement("study").num_workers, found.layout(found.placement("study"))) == (4, "PACK")
    assert found.num_slots == 1
    there.pop()
    found.look(now=True)
    assert (found.placement("study").num_workers, found.layout(found.placement("study"))) == (2, "STRICT_PACK")
    there.append(PC)
    found.look(now=True)
    assert found.placement("study").num_workers == 4


def test_where_nothing_is_left_trials_wait_with_the_placement_they_had() -> None:
    there = [PC]
    found = fleet(there, 2)
    before = found.placement("study")
    there.clear()
    found.look(now=True)
    assert found.placement("study") == before


def test_at_a_first_launch_what_does_not_fit_is_refused_and_a_resumed_sweep_takes_less() -> None:
    with pytest.raises(ValueError, match=r"resources\.workers_per_trial is 4, and the machines do not have"):
        fleet([PC], 4)
    assert fleet([PC], 4, resumed=True).placement("study").num_workers == 2


def test_slots_follow_the_machines() -> None:
    there = [PC]
    found = fleet(there, 1)
    assert found.num_slots == 2
    there += [PC, PC]
    found.look(now=True)
    assert found.num_slots == 6


def test_the_gpus_of_several_machines_are_taken_where_those_of_one_do_not_suffice() -> None:
    """12b full needs 8 GPUs of 80 GB: two machines of four have them, and one machine of eight is asked for first."""
    two, one = [node("H100", 4), node("H100", 4)], [node("H100", 8), node("H100", 8)]
    across = place(load("12b", Full()), ON_GPU, two)
    assert across.num_workers > 4 and not across.offload
    assert layout_of(across, two) == "PACK"
    assert layout_of(place(load("12b", Full()), ON_GPU, one), one) == "STRICT_PACK"
    capped = place(load("12b", Full()), replace(ON_GPU, max_gpus_per_trial=4), two)
    assert (capped.num_workers, capped.offload) == (4, True)
    assert layout_of(place(load("12b", Lora(rank=128, alpha=8)), ON_GPU, two), two) == "STRICT_PACK"


def test_a_small_trial_is_one_bundle_and_several_workers_have_one_each() -> None:
    from cluster.actor import Assignment, Trial
    from trainer.ladder import SHAPES
    from trainer.trial import TrialFiles

    def bundles(placement: Placement) -> list[dict[str, float]]:
        assignment = Assignment(
            spec=None,  # type: ignore[arg-type]  # nothing asks for it
            shape=SHAPES["nano-1k"],
            placement=placement,
            files=TrialFiles(tokens="", model="", checkpoints=""),
            store=None,  # type: ignore[arg-type]
            max_attempts=1,
        )
        found: list[dict[str, float]] = Trial.default_resource_request({"assignment": assignment}).bundles
        return found

    share = Placement(device="cuda", cpus_per_worker=0.5, gpus_per_worker=0.25)
    assert bundles(share) == [{"CPU": 0.5, "GPU": 0.25}]
    assert bundles(replace(share, num_workers=2, gpus_per_worker=1)) == [{"CPU": 0.5, "GPU": 1}] * 2
    assert read_spec(SPEC).resources.gpus_per_trial == 0

"""Which hardware each study's trials get on the machines that are there now, as these come and go.

Knows the sweep's steps, what its spec grants, and how to look at the machines. Never knows which trials run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from cluster.placement import Layout, Machine, largest_step_tokens, layout_of, num_on_all, place, size_of
from sweeps.plan import Study
from sweeps.spec import Resources
from trainer.memory import StepLoad
from trainer.prepare import Prepared
from trainer.trial import Placement

LOOK_SECONDS = 2.0

Look = Callable[[], tuple[Machine, ...]]


class Fleet:
    """The machines of a cluster, and the placement of each study on them.

    Raises ``ValueError`` where a study fits nowhere at the start. Where machines are lost later, its trials get fewer
    workers, and where even that does not fit they wait for machines: what was planned is kept.
    """

    def __init__(
        self, loads: Mapping[str, StepLoad], resources: Resources, look: Look, *, resumed: bool = False
    ) -> None:
        self._loads, self._resources, self._look = loads, resources, look
        self._machines = look()
        self._looked = time.monotonic()
        self.num_slots = _num_slots(resources, self._machines)
        place_on = self._placed if resumed else self._place
        self._placements = {key: place_on(key, resources) for key in loads}

    def look(self, *, now: bool = False) -> None:
        """See which machines there are, if the last look was some seconds ago or ``now``."""
        if not now and time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        machines = self._look()
        if machines == self._machines or not machines:
            return
        self._machines = machines
        try:
            self.num_slots = _num_slots(self._resources, machines)
            self._placements = {key: self._placed(key, self._resources) for key in self._loads}
        except ValueError:
            return  # what is left holds no trial: they wait

    def placement(self, key: str) -> Placement:
        """What a trial of this study gets now."""
        return self._placements[key]

    def layout(self, placement: Placement) -> Layout:
        return layout_of(placement, self._machines)

    def has_room(self, placement: Placement) -> bool:
        """Whether the machines there are now could hold such a trial, were they empty."""
        return num_on_all(placement, self._machines) >= placement.num_workers

    @property
    def smallest(self) -> float:
        """The size of the sweep's smallest trials."""
        return min(size_of(placement) for placement in self._placements.values())

    def _place(self, key: str, resources: Resources) -> Placement:
        return place(self._loads[key], resources, self._machines)

    def _placed(self, key: str, resources: Resources) -> Placement:
        """With fewer workers than the spec gives, where so many fit no more."""
        workers = resources.workers_per_trial
        try:
            return self._place(key, resources)
        except ValueError:
            if workers in ("auto", 1):
                raise
        return self._placed(key, replace(resources, workers_per_trial=int(workers) // 2))


def load_of(study: Study, prepared: Prepared) -> StepLoad:
    """The training step of any trial of ``study``."""
    num_negatives = prepared.manifest.source.num_negatives
    batch_size, longest = study.fixed.batch_size, (2 + num_negatives) * study.fixed.max_length
    return StepLoad(
        shape=prepared.models[study.cell.model].shape,
        method=study.cell.method,
        batch_size=batch_size,
        tokens=largest_step_tokens(prepared.statistics.tokens_per_pair, batch_size, longest),
        num_negatives=num_negatives,
    )


def _num_slots(resources: Resources, machines: tuple[Machine, ...]) -> int:
    """Trials that fit beside each other onto the machines, where each has the share that the spec grants."""
    num_workers = 1 if resources.workers_per_trial == "auto" else resources.workers_per_trial
    slots = sum(_num_workers_on(machine, resources) for machine in machines)
    if slots == 0:
        wanted = {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial}
        has = {"CPU": sum(m.num_cpus for m in machines), "GPU": sum(m.num_gpus for m in machines)}
        asked = ", ".join(f"resources.{kind.lower()}s_per_trial is {n:g}" for kind, n in wanted.items() if n)
        there = ", ".join(f"{has[kind]:g} {kind}s" for kind in wanted)
        raise ValueError(f"{asked}, and this Ray has {there}: ask for less in the spec, or launch on a larger machine")
    return max(1, slots // num_workers)


def _num_workers_on(machine: Machine, resources: Resources) -> int:
    by_cpus = int(machine.num_cpus / resources.cpus_per_trial)
    return min(by_cpus, int(machine.num_gpus / resources.gpus_per_trial)) if resources.gpus_per_trial else by_cpus

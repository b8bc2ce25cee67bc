"""The outlook of a plan: where each cell's trials would run, with how much memory, before anything is started.

Knows the placement's own arithmetic, and assumes machines. Pure; never knows Ray, or what machines there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from cluster.placement import Machine, largest_step_tokens, place
from sweeps.plan import Plan, short_model
from sweeps.spec import Resources, SweepSpec
from trainer.devices import find_device
from trainer.ladder import ModelShape
from trainer.memory import GIB, StepLoad, estimate
from trainer.trial import Method, Placement

GPUS_A_MACHINE, CPUS_A_MACHINE, HOST_BYTES = 8, 128, 1024 * GIB
"""What a rented machine of large GPUs usually has."""

Outlook = Mapping[tuple[str, Method], "Seat | str"]
"""Of each model and method: where a trial runs, or why it fits nowhere. Empty for a GPU that is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """Where a trial would run."""

    placement: Placement
    memory_bytes: int
    """Estimated, of one worker's device; of a worker's process where it has none."""

    @property
    def words(self) -> str:
        """``1/4 GPU``, ``8 GPU, ZeRO-3, offload``, ``2 CPU``; with a star where activations are computed again."""
        where = self.placement
        total = Fraction(where.num_workers * (where.gpus_per_worker or where.cpus_per_worker)).limit_denominator(100)
        stage = None if where.zero_stage is None else f"ZeRO-{where.zero_stage}"
        said = [f"{total} {'GPU' if where.gpus_per_worker else 'CPU'}", stage, "offload" if where.offload else None]
        return ", ".join(filter(None, said)) + (" *" if where.recompute else "")


def outlook(
    spec: SweepSpec, plan: Plan, shapes: Mapping[str, ModelShape], device: str, *, num_negatives: int
) -> Outlook:
    """Where the trials of each planned model and method would run.

    On machines of eight of this GPU; where the spec grants no GPU, on a large one of CPUs, since the real ones are
    looked at when the sweep is launched. What a spec says of workers, memory and chunks holds.
    """
    on_gpu = spec.resources.gpus_per_trial > 0
    if on_gpu and find_device(device) is None and spec.resources.memory_gib_per_worker == "auto":
        return {}
    machine = Machine(
        num_cpus=max(CPUS_A_MACHINE, spec.resources.cpus_per_trial),
        memory_bytes=HOST_BYTES,
        num_gpus=GPUS_A_MACHINE if on_gpu else 0,
        gpu=device if on_gpu else "",
    )
    batch_size, longest = spec.fixed.batch_size, (2 + num_negatives) * spec.fixed.max_length
    tokens = largest_step_tokens(plan.facts.tokens_per_pair, batch_size, longest)
    return {
        (model, method): _seat(
            StepLoad(
                shape=shapes[model], method=method, batch_size=batch_size, tokens=tokens, num_negatives=num_negatives
            ),
            spec.resources,
            machine,
        )
        for model, method in dict.fromkeys((planned.cell.model, planned.cell.method) for planned in plan.cells)
    }


def memory_sentences(spec: SweepSpec, plan: Plan, seats: Outlook, device: str) -> tuple[str, ...]:
    """A sentence for each model that fits no GPU of this kind, or not one alone, and by which methods.

    None for a sweep on CPUs, whose machines are looked at when it is launched.
    """
    if not spec.resources.gpus_per_trial:
        return ()
    labels = {(planned.cell.model, planned.cell.method): planned.cell.label for planned in plan.cells}
    found: list[str] = []
    for model in dict.fromkeys(model for model, _ in seats):
        several: dict[int, list[str]] = {}
        for (name, method), seat in seats.items():
            if name != model:
                continue
            if isinstance(seat, str):
                found.append(f"On machines of {GPUS_A_MACHINE} {device}, {seat}.")
            elif seat.placement.num_workers > 1 and spec.resources.workers_per_trial == "auto":
                several.setdefault(seat.placement.num_workers, []).append(labels[model, method])
        found += [
            f"{short_model(model)} by {', '.join(methods)} takes {num_workers} {device} for each trial: it does not "
            "fit one."
            for num_workers, methods in several.items()
        ]
    return tuple(found)


def _seat(load: StepLoad, resources: Resources, machine: Machine) -> Seat | str:
    try:
        placement = place(load, resources, [machine])
    except ValueError as lack:
        return str(lack)
    return Seat(placement=placement, memory_bytes=estimate(load, placement).total)

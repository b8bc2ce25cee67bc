"""The outlook of a plan on GPUs: which models need several of them, and which do not fit, before anything is started.

Knows the placement's own arithmetic, and assumes machines. Pure; never knows Ray, or what machines there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.placement import Machine, largest_step_tokens, place
from sweeps.plan import Plan, short_model
from sweeps.spec import SweepSpec
from trainer.devices import find_device
from trainer.ladder import ModelShape
from trainer.memory import GIB, StepLoad
from trainer.trial import Method

GPUS_A_MACHINE, CPUS_A_MACHINE, HOST_BYTES = 8, 128, 1024 * GIB
"""What a rented machine of large GPUs usually has."""


def memory_sentences(
    spec: SweepSpec, plan: Plan, shapes: Mapping[str, ModelShape], device: str, *, num_negatives: int
) -> tuple[str, ...]:
    """A sentence for each model that does not fit one GPU of this kind, for its most demanding method.

    Empty for a sweep on CPUs, whose machines are looked at when it is launched, and for a device that is not known.
    """
    if not spec.resources.gpus_per_trial or find_device(device) is None:
        return ()
    machine = Machine(num_cpus=CPUS_A_MACHINE, memory_bytes=HOST_BYTES, num_gpus=GPUS_A_MACHINE, gpu=device)
    resources = replace(spec.resources, gpus_per_trial=1)
    batch_size, longest = spec.fixed.batch_size, (2 + num_negatives) * spec.fixed.max_length
    tokens = largest_step_tokens(plan.facts.tokens_per_pair, batch_size, longest)
    found = []
    for model in dict.fromkeys(planned.cell.model for planned in plan.cells):
        several: dict[int, list[str]] = {}
        for method, label in _methods(plan, model).items():
            load = StepLoad(
                shape=shapes[model], method=method, batch_size=batch_size, tokens=tokens, num_negatives=num_negatives
            )
            try:
                num_workers = place(load, resources, [machine]).num_workers
            except ValueError as lack:
                found.append(f"On machines of {GPUS_A_MACHINE} {device}, {lack}.")
                continue
            if num_workers > 1:
                several.setdefault(num_workers, []).append(label)
        for num_workers, labels in several.items():
            found.append(
                f"{short_model(model)} by {', '.join(labels)} takes {num_workers} {device} for each trial: it does not "
                "fit one."
            )
    return tuple(found)


def _methods(plan: Plan, model: str) -> dict[Method, str]:
    return {planned.cell.method: planned.cell.label for planned in plan.cells if planned.cell.model == model}

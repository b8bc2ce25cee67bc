"""Which hardware a trial gets, as a pure function of the trial and of what the sweep grants each of its trials.

Knows placements and the spec's resources. Never knows Ray, or what is free now.
"""

from __future__ import annotations

from sweeps.spec import Resources
from trainer.trial import Placement, TrialSpec


def place(spec: TrialSpec, resources: Resources) -> Placement:
    """The placement of ``spec``: one worker on CPU, or on the granted share of one GPU.

    Raises ``ValueError`` for more than one GPU a trial: a trial does not spread over devices yet.
    """
    if resources.gpus_per_trial > 1:
        raise ValueError(
            f"resources.gpus_per_trial is {resources.gpus_per_trial:g}: give a number up to 1, "
            f"since trial {spec.trial_id} would run on one device"
        )
    return Placement(
        device="cuda" if resources.gpus_per_trial else "cpu",
        cpus_per_worker=resources.cpus_per_trial,
        gpus_per_worker=resources.gpus_per_trial,
        num_threads=resources.num_threads,
        # What fits a CPU is written in milliseconds; a large model on a GPU takes seconds.
        checkpoint_seconds=60 if resources.gpus_per_trial else 10,
    )

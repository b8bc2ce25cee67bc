"""One trial of a tiny decoder, trained for real by several workers on the Ray that is up.

``python -m tests.cluster.real STORE WORLD WORKERS STEPS ADDRESS`` drives it on the Ray at ADDRESS.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from sweeps.plan import DataFacts, Study, plan, studies
from sweeps.reading import read_spec
from sweeps.spec import SweepSpec
from sweeps.store import Store
from tests.cluster.sweep import prepared_for
from tests.trainer.tiny import tiny_decoder
from trainer.anatomy import measure_shape
from trainer.flops import booked_flops_per_token
from trainer.ladder import ModelShape, parameter_counts
from trainer.prepare import Prepared
from trainer.trial import Full

MODEL = "nano-1k"
TOKENS_A_STEP = 250
SPEC = """
name: real
data: nano
models: [nano-1k]
methods: [full]
budgets_flops: [{budget}]
trials: 1
fixed: {{batch_size: 16, max_length: 12}}
evaluation: {{num_pairs: 64, num_candidates: 16}}
limits: {{min_steps: 0, max_epochs: 1e9}}
search: {{learning_rate: {{value: 1e-3}}}}
resources: {{workers_per_trial: {workers}, keep_weights: none}}
"""


def shape() -> ModelShape:
    return measure_shape(MODEL, tiny_decoder("gpt_neox"), 0)


def spec_of(num_workers: int, num_steps: int) -> SweepSpec:
    per_token = booked_flops_per_token(parameter_counts(shape(), Full()), Full())
    return read_spec(SPEC.format(budget=num_steps * TOKENS_A_STEP * per_token, workers=num_workers))


def parts(spec: SweepSpec, world: Path) -> tuple[Prepared, tuple[Study, ...]]:
    """What a sweep of this spec works with, in the world of ``tests/trainer/trials.py``."""
    prepared = prepared_for(spec, world / "tokens")
    model = replace(prepared.models[MODEL], path=str(world / "model"), shape=shape())
    facts = DataFacts(num_train_pairs=10**9, tokens_per_pair=16.0, measured=True)
    planned = plan(spec, facts, {MODEL: shape()})
    found = studies(spec, planned, data="d", revisions={MODEL: "r"}, shapes={MODEL: shape()})
    return replace(prepared, models={MODEL: model}), found


def drive_real(root: Path, world: Path, num_workers: int, num_steps: int) -> None:
    from cluster.tune import run

    spec = spec_of(num_workers, num_steps)
    prepared, found = parts(spec, world)
    store = Store.create(root, spec, prepared.to_json())
    run(found, prepared, store, spec.resources, lambda progress: None)


if __name__ == "__main__":
    import ray

    from cluster import placement

    # The trial is over before the first checkpoint otherwise.
    placement.CHECKPOINT_SECONDS["cpu"] = 0.5
    store, world, workers, steps, address = sys.argv[1:]
    ray.init(address=address, log_to_driver=False, logging_level="error")
    drive_real(Path(store), Path(world), int(workers), int(steps))

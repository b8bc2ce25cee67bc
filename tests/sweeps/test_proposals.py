"""What a plan proposes, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.outlook import memory_sentences, outlook
from sweeps.plan import DataFacts, Plan, plan
from sweeps.proposals import proposals
from sweeps.reading import read_spec
from sweeps.spec import SweepSpec
from tests.sweeps.test_plan import PAQ_FACTS
from trainer.ladder import SHAPES

SPEC = """\
name: proposed
data: nano
models: [pythia-14m, pythia-70m, pythia-410m]
methods: full
budgets_flops: [1.5e15, 2.4e16]
fixed: {batch_size: 1024, max_length: 75}
"""


def said(text: str = SPEC, pairs: int | None = 200_000_000) -> tuple[str, ...]:
    spec = read_spec(text)
    facts = replace(PAQ_FACTS, num_train_pairs=pairs)
    return proposals(spec, plan(spec, facts, SHAPES))


def test_too_few_steps_name_the_budget_from_which_there_are_enough() -> None:
    """A step is 6 N 78 1024 FLOPs: 1.5e15 pays for 10.35 of them at 410m, and 50 cost 7.25e15."""
    [few, no_minimum] = said()
    assert few == ("pythia-410m gets 10 steps at 1.5e15 FLOPs by full: left out; from 7.3e15 FLOPs on it gets 50.")
    flops_of_50 = 50 * 6 * SHAPES["EleutherAI/pythia-410m"].num_params_non_embedding * 78 * 1024
    assert 7.2e15 < flops_of_50 < 7.3e15
    assert no_minimum == (
        "full at 1.5e15 FLOPs: 2 models left, and a minimum inside needs 3; add smaller models, or leave this budget "
        "out."
    )


def test_repeats_name_the_pairs_that_are_missing_and_what_a_cap_saves() -> None:
    """14m at 2.4e16 sees 43.1 million pairs."""
    wide = SPEC.replace("budgets_flops: [1.5e15, 2.4e16]", "budgets_flops: [2.4e16]")
    [repeated] = said(wide, pairs=8_000_000)
    assert repeated == (
        "pythia-14m repeats the data 5.4 times at 2.4e16 FLOPs: beyond about 4 times repeats teach less; add "
        "2,800,000 pairs, or cap the epochs by limits.max_epochs=4, which leaves out 1 cell of it and 7.2e16 FLOPs "
        "(33.3% of the sweep)."
    )
    [left_out, _] = said(wide, pairs=3_000_000)
    assert left_out == (
        "pythia-14m goes 14.4 times through the data at 2.4e16 FLOPs by full: left out; 1.8 times the pairs would keep "
        "it, or limits.max_epochs=15."
    )


def test_a_plan_without_problems_proposes_nothing() -> None:
    assert said(SPEC.replace("[1.5e15, 2.4e16]", "[2.4e16]")) == ()
    assert said(SPEC.replace(", pythia-70m, pythia-410m", "")) == (), "one model asks for no profile"


def memory(text: str, device: str = "A100 80GB") -> tuple[str, ...]:
    spec: SweepSpec = read_spec(text)
    made: Plan = plan(spec, DataFacts(num_train_pairs=None, tokens_per_pair=78, measured=False), SHAPES)
    return memory_sentences(spec, made, outlook(spec, made, SHAPES, device, num_negatives=0), device)


def test_models_that_do_not_fit_one_gpu_or_any_are_named() -> None:
    gpus = SPEC.replace("budgets_flops: [1.5e15, 2.4e16]", "budgets_flops: [1e20]\nresources: {gpus_per_trial: 1}")
    assert memory(gpus) == ()
    large = gpus.replace("pythia-410m", "pythia-12b")
    [several] = memory(large)
    assert several.startswith("pythia-12b by full takes ")
    assert several.endswith(" A100 80GB for each trial: it does not fit one.")
    [lack] = memory(large.replace("gpus_per_trial: 1", "gpus_per_trial: 1, max_gpus_per_trial: 1, offload: false"))
    assert "pythia-12b with method full and fixed.batch_size 1024 needs" in lack
    assert lack.startswith("On machines of 8 A100 80GB, ")
    asked = large.replace("gpus_per_trial: 1", "gpus_per_trial: 1, workers_per_trial: 8")
    assert memory(asked) == (), "several GPUs that the spec asks for are no lack of one"
    assert memory(SPEC) == (), "on CPUs the machine is looked at when the sweep is launched"


@pytest.mark.parametrize("device", ["an unknown gpu"])
def test_of_an_unknown_device_nothing_is_said(device: str) -> None:
    assert memory(SPEC.replace("methods: full", "methods: full\nresources: {gpus_per_trial: 1}"), device) == ()

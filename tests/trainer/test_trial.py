"""Identity: what renames a trial, what does not, and that a name is safe wherever it goes."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.trial import (
    METHODS,
    Bias,
    Check,
    Evaluation,
    Freeze,
    Full,
    Hyperparameters,
    Lora,
    Placement,
    TrialSpec,
    format_flops,
    method_from,
    model_slug,
)

SPEC = TrialSpec(
    model="EleutherAI/pythia-14m",
    revision="f33025648652797a390d8c54835273845b437161",
    method=Lora(rank=8, alpha=16.0),
    budget_flops=15 * 10**14,
    hyperparameters=Hyperparameters(
        learning_rate=1e-3,
        temperature=0.025,
        weight_decay=0.1,
        batch_size=1024,
        max_length=75,
        warmup_fraction=0.1,
        pooling="mean",
        gradient_clipping=0.0,
    ),
    evaluation=Evaluation(num_pairs=1024, num_candidates=256),
    data="0123456789abcdef",
    seed=0,
    number=3,
)


def with_hyperparameters(**changed: float) -> Hyperparameters:
    return replace(SPEC.hyperparameters, **changed)


def test_a_trial_s_name_is_readable_and_stays_as_it_is() -> None:
    # A change of this literal renames every trial of every store: nothing would be found done.
    assert SPEC.trial_id == "1.5e15-pythia-14m-lora-r8-4781134d8068"


@pytest.mark.parametrize("method", [Full(), Freeze(active_fraction=0.25), Bias(), Lora(rank=4, alpha=8.0)])
def test_json_gives_the_spec_back(method: Full | Freeze | Bias | Lora) -> None:
    spec = replace(SPEC, method=method)
    assert TrialSpec.from_json(spec.to_json()) == spec
    assert json.loads(spec.to_json())["method"]["kind"] == method.kind


def test_every_field_of_the_spec_is_part_of_its_identity() -> None:
    changed = {
        "model": "EleutherAI/pythia-31m",
        "revision": "other",
        "method": Lora(rank=8, alpha=17.0),
        "budget_flops": SPEC.budget_flops + 1,
        "hyperparameters": replace(SPEC.hyperparameters, pooling="last"),
        "evaluation": replace(SPEC.evaluation, num_pairs=2048),
        "data": "fedcba9876543210",
        "seed": 1,
        "number": 4,
        "checks": (Check(share=0.5, above=None),),
    }
    assert set(changed) == {field.name for field in fields(TrialSpec)}
    names = {replace(SPEC, **{field: value}).trial_id for field, value in changed.items()}
    assert len(names | {SPEC.trial_id}) == len(changed) + 1


def test_placement_has_no_way_into_the_identity() -> None:
    assert not {field.name for field in fields(Placement)} & set(json.loads(SPEC.to_json()))


@given(st.text())
def test_a_model_s_name_never_makes_a_path(name: str) -> None:
    slug = model_slug(name)
    assert slug and set(slug) <= set(string.ascii_letters + string.digits + "._-")
    assert not slug.startswith(".")


def test_budgets_are_written_short() -> None:
    assert [format_flops(flops) for flops in (4e10, 1.5e15, 15 * 10**17)] == ["4.0e10", "1.5e15", "1.5e18"]


@pytest.mark.parametrize(
    "text", ["{}", '{"method": {"kind": "prompt"}}', SPEC.to_json().replace('"seed":0', '"sed":0')]
)
def test_a_spec_of_another_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="fields of this version"):
        TrialSpec.from_json(text)


def test_the_ends_of_the_ranges_are_possible() -> None:
    with_hyperparameters(weight_decay=0.0, gradient_clipping=0.0, warmup_fraction=0.0, batch_size=2, max_length=2)
    Evaluation(num_pairs=2, num_candidates=2)
    Placement(chunk_tokens=1, checkpoint_seconds=0)
    replace(SPEC, budget_flops=1)


def test_methods_by_name() -> None:
    assert method_from("lora", rank=4, alpha=8.0) == Lora(rank=4, alpha=8.0)
    assert set(METHODS) == {"full", "freeze", "bias", "lora"}
    with pytest.raises(ValueError, match="'prompt' is unknown: choose among full, freeze, bias, lora"):
        method_from("prompt")
    with pytest.raises(ValueError, match="'lora' takes rank, alpha, not rank"):
        method_from("lora", rank=4)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: Lora(rank=0, alpha=8.0), "rank is 0"),
        (lambda: Lora(rank=4, alpha=0.0), "alpha is 0.0"),
        (lambda: Freeze(active_fraction=0.0), "active_fraction is 0.0"),
        (lambda: Freeze(active_fraction=1.5), "active_fraction is 1.5"),
        (lambda: Lora(rank=4, alpha=math.inf), "alpha is inf"),
        (lambda: with_hyperparameters(learning_rate=0.0), "learning_rate is 0.0: give a finite number above 0"),
        (lambda: with_hyperparameters(learning_rate=math.nan), "learning_rate is nan"),
        (lambda: with_hyperparameters(learning_rate=math.inf), "learning_rate is inf"),
        (lambda: with_hyperparameters(temperature=-0.1), "temperature is -0.1"),
        (lambda: with_hyperparameters(temperature=math.nan), "temperature is nan"),
        (lambda: with_hyperparameters(weight_decay=-0.1), "weight_decay is -0.1: give a finite number from 0 up"),
        (lambda: with_hyperparameters(gradient_clipping=-1.0), "gradient_clipping is -1.0"),
        (lambda: with_hyperparameters(gradient_clipping=math.nan), "gradient_clipping is nan"),
        (lambda: with_hyperparameters(batch_size=1), "batch_size is 1: give at least 2, since one pair alone"),
        (lambda: with_hyperparameters(max_length=1), "max_length is 1: give at least 2 tokens"),
        (lambda: with_hyperparameters(warmup_fraction=1.0), "warmup_fraction is 1.0: give a share"),
        (lambda: with_hyperparameters(warmup_fraction=-0.1), "warmup_fraction is -0.1"),
        (lambda: Evaluation(num_pairs=8, num_candidates=1), "num_candidates is 1: give at least 2"),
        (lambda: Evaluation(num_pairs=8, num_candidates=9), "num_pairs is 8, less than one set of num_candidates 9"),
        (lambda: replace(SPEC, budget_flops=0), "budget_flops is 0: give a whole number of FLOPs"),
        (lambda: Placement(chunk_tokens=0), "chunk_tokens is 0: give a whole number of tokens"),
        (lambda: Placement(checkpoint_seconds=math.nan), "checkpoint_seconds is nan: give a number from 0 up"),
    ],
)
def test_settings_out_of_range_are_refused(build: Callable[[], object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        build()

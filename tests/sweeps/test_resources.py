"""The resources section of a spec: what may be given, what is left to the placement, and what is refused."""

from __future__ import annotations

import pytest

from sweeps.reading import read_spec
from tests.sweeps.examples import SPEC


def test_what_is_given_is_read_and_written_back() -> None:
    text = SPEC + (
        "resources: {gpus_per_trial: 1, workers_per_trial: 4, memory_gib_per_worker: 40.5, "
        "dtype: float32, tf32: true, zero_stage: none, offload: false, recompute: true, chunk_tokens: 8e3}\n"
    )
    resources = read_spec(text).resources
    assert (resources.workers_per_trial, resources.memory_gib_per_worker) == (4, 40.5)
    assert (resources.dtype, resources.tf32, resources.zero_stage) == ("float32", True, "none")
    assert (resources.offload, resources.recompute, resources.chunk_tokens) == (False, True, 8000)
    assert read_spec(read_spec(text).to_yaml()).resources == resources
    bounded = read_spec(SPEC + "resources: {gpus_per_trial: 0.5, max_gpus_per_trial: 8}\n").resources
    assert (bounded.workers_per_trial, bounded.max_gpus_per_trial) == ("auto", 8)


def test_what_is_not_given_is_left_to_the_placement() -> None:
    resources = read_spec(SPEC).resources
    left = ("workers_per_trial", "max_gpus_per_trial", "memory_gib_per_worker", "dtype", "zero_stage", "offload")
    assert {getattr(resources, name) for name in (*left, "recompute", "chunk_tokens")} == {"auto"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("workers_per_trial: 0", ["resources.workers_per_trial is 0", "auto", "1 up"]),
        ("workers_per_trial: true", ["resources.workers_per_trial is True", "auto", "1 up"]),
        ("workers_per_trial: many", ["resources.workers_per_trial is 'many'", "auto"]),
        ("memory_gib_per_worker: -1", ["resources.memory_gib_per_worker is -1", "above 0"]),
        ("memory_gib_per_worker: .inf", ["resources.memory_gib_per_worker is inf", "above 0"]),
        ("dtype: float16", ["resources.dtype is 'float16'", "bfloat16"]),
        ("zero_stage: 4", ["resources.zero_stage is 4", "0, 1, 2 or 3"]),
        ("zero_stage: null", ["resources.zero_stage is empty", "auto", "the word none (plain torch)"]),
        ("zero_stage: ~", ["resources.zero_stage is empty", "the word none (plain torch)"]),
        ("zero_stage: ", ["resources.zero_stage is empty", "the word none (plain torch)"]),
        ("workers_per_trial: null", ["resources.workers_per_trial is empty", "auto", "1 up"]),
        ("recompute: yes", ["resources.recompute is 'yes'", "true or false"]),
        ("chunk_tokens: 1.5", ["resources.chunk_tokens is 1.5", "whole number"]),
        ("gpus_per_trial: 2", ["resources has gpus_per_trial 2", "max_gpus_per_trial"]),
        ("gpus_per_trial: 0.5, workers_per_trial: 2", ["workers_per_trial 2", "gpus_per_trial 0.5", "give"]),
        ("zero_stage: 0, dtype: bfloat16", ["zero_stage 0", "bfloat16", "stage 1 or higher"]),
        ("zero_stage: 2, dtype: float64", ["float64", "zero_stage none"]),
        ("offload: true, dtype: float64", ["dtype float64 with offload", "no float64", "give offload false"]),
        (
            "gpus_per_trial: 1, max_gpus_per_trial: 2, workers_per_trial: 4",
            ["max_gpus_per_trial 2 beside workers_per_trial 4", "give one of the two"],
        ),
        ("max_gpus_per_trial: 2", ["max_gpus_per_trial 2 and gpus_per_trial 0", "give gpus_per_trial 1"]),
        ("zero_stage: none, offload: true", ["offload", "zero_stage none", "1, 2 or 3"]),
    ],
)
def test_a_mistake_is_one_sentence_with_field_value_and_mend(given: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        read_spec(SPEC + f"resources: {{{given}}}\n")
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message and message.startswith("spec: "), message

"""Known answers of the placement, and what holds for every answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.placement import DEVICE_FILL, Machine, largest_step_tokens, place
from sweeps.reading import read_spec
from tests.sweeps.examples import SPEC
from trainer.devices import find_device
from trainer.ladder import LADDERS, SHAPES
from trainer.memory import GIB, StepLoad, estimate
from trainer.trial import Bias, Freeze, Full, Lora, Method, Placement

ON_CPU = read_spec(SPEC).resources
ON_GPU = replace(ON_CPU, gpus_per_trial=1.0)
SMALL = Machine(num_cpus=2, memory_bytes=16 * GIB)
METHODS: tuple[Method, ...] = (Full(), Freeze(active_fraction=0.5), Bias(), Lora(rank=128, alpha=8))


def load(model: str, method: Method, batch_size: int = 1024) -> StepLoad:
    """Pairs of 78 tokens, as in the paper."""
    shape = SHAPES.get(f"EleutherAI/pythia-{model}") or SHAPES[model]
    return StepLoad(shape=shape, method=method, batch_size=batch_size, tokens=78 * batch_size)


def node(gpu: str, num_gpus: int = 1) -> Machine:
    return Machine(num_cpus=64, memory_bytes=512 * GIB, num_gpus=num_gpus, gpu=gpu)


def test_a_nano_trial_on_a_cpu_is_one_thread_of_plain_torch() -> None:
    placement = place(load("nano-85k", Full(), 64), ON_CPU, [SMALL])
    assert placement == Placement(checkpoint_seconds=10)


def test_on_a_cpu_activations_beyond_the_share_of_memory_are_computed_again() -> None:
    """70m, 256 pairs: 19,968 tokens of about 210 kB are 4 GB, more than half of 8 GiB."""
    work = load("70m", Full(), 256)
    assert not place(work, ON_CPU, [Machine(num_cpus=2, memory_bytes=64 * GIB)]).recompute
    assert place(work, ON_CPU, [Machine(num_cpus=2, memory_bytes=8 * GIB)]).recompute
    # A share that holds nothing of it is exceeded rather than the trial refused: all of the machine is there.
    tight = place(work, ON_CPU, [Machine(num_cpus=8, memory_bytes=8 * GIB)])
    assert (tight.recompute, tight.num_workers, tight.zero_stage) == (True, 1, None)
    with pytest.raises(ValueError, match=r"pythia-2.8b with method full .* and has 12.8 GiB: use a larger machine"):
        place(load("2.8b", Full()), ON_CPU, [SMALL])


def test_a_small_model_on_a_t4_is_plain_and_in_float32_which_is_what_the_card_has() -> None:
    placement = place(load("14m", Full()), ON_GPU, [node("T4")])
    assert (placement.device, placement.num_workers, placement.zero_stage) == ("cuda", 1, None)
    assert (placement.dtype, placement.recompute, placement.chunk_tokens) == ("float32", False, 16384)


def test_a_large_model_on_one_gpu_is_rounded_and_computes_activations_again() -> None:
    placement = place(load("2.8b", Full()), ON_GPU, [node("NVIDIA A100-SXM4-80GB")])
    assert (placement.num_workers, placement.zero_stage, placement.dtype) == (1, None, "bfloat16")
    assert placement.recompute


def test_states_beyond_one_gpu_are_partitioned_over_several() -> None:
    """12b: weights, gradients and moments in float32 are 186 GB; adapters alone fit one GPU."""
    eight = [node("H100", 8)]
    full = place(load("12b", Full()), ON_GPU, eight)
    assert full.num_workers > 1
    assert full.zero_stage is not None and full.zero_stage >= 1
    assert not full.offload
    adapters = place(load("12b", Lora(rank=128, alpha=8)), ON_GPU, eight)
    assert adapters.num_workers < full.num_workers


def test_offload_comes_last() -> None:
    alone = place(load("12b", Full()), ON_GPU, [node("H100")])
    assert (alone.num_workers, alone.offload) == (1, True)
    with pytest.raises(ValueError, match=r"needs .* GiB on each of 1 workers with"):
        place(load("12b", Full()), replace(ON_GPU, offload=False), [node("H100")])


def test_what_fits_nowhere_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError) as refused:
        place(load("12b", Full()), ON_GPU, [node("T4", 2)])
    words = str(refused.value)
    for needed in ("pythia-12b", "method full", "fixed.batch_size 1024", "on each of 2 workers", "max_gpus_per_trial"):
        assert needed in words
    with pytest.raises(ValueError, match="memory of GPU 'Tesla K80' is not known: give it in GiB"):
        place(load("14m", Full()), ON_GPU, [node("Tesla K80")])
    given_memory = replace(ON_GPU, memory_gib_per_worker=11, dtype="float32")
    assert place(load("14m", Full()), given_memory, [node("Tesla K80")]).num_workers == 1


def test_where_the_machine_s_own_memory_is_what_lacks_it_is_named() -> None:
    """12b on four H100: offload fits the GPUs, and needs 16 bytes a parameter, above 170 GiB, beside them."""
    small = Machine(num_cpus=64, memory_bytes=100 * GIB, num_gpus=4, gpu="H100")
    for resources in (ON_GPU, replace(ON_GPU, offload=True, zero_stage=3)):
        with pytest.raises(ValueError) as refused:
            place(load("12b", Full()), resources, [small])
        words = str(refused.value)
        assert "GiB of the machine's own memory with ZeRO" in words
        assert "has 80.0 GiB: use a machine with more memory" in words
        assert place(load("12b", Full()), resources, [replace(small, memory_bytes=512 * GIB)]).offload


def test_a_share_of_memory_that_is_too_small_is_to_be_raised() -> None:
    for resources, machine in ((ON_CPU, SMALL), (ON_GPU, node("H100"))):
        given = replace(resources, memory_gib_per_worker=0.001)
        with pytest.raises(ValueError, match=r"and has 0.001 GiB: raise resources.memory_gib_per_worker, or leave"):
            place(load("nano-1k", Full(), 64), given, [machine])


def test_zero_stage_0_computes_in_float32_unless_told_otherwise() -> None:
    placement = place(load("14m", Full()), replace(ON_GPU, zero_stage=0), [node("H100")])
    assert (placement.zero_stage, placement.dtype) == (0, "float32")
    assert place(load("14m", Full()), replace(ON_GPU, zero_stage=1), [node("H100")]).dtype == "bfloat16"


def test_a_share_of_a_gpu_has_a_share_of_its_memory_and_may_become_the_whole() -> None:
    quarter = replace(ON_GPU, gpus_per_trial=0.25)
    assert place(load("14m", Full(), 64), quarter, [node("A100")]).gpus_per_worker == 0.25
    assert place(load("1b", Full()), quarter, [node("A100", 2)]).gpus_per_worker == 1


def test_several_workers_where_the_spec_asks_for_them() -> None:
    four = replace(ON_GPU, workers_per_trial=4)
    placement = place(load("160m", Full()), four, [node("H100", 8)])
    assert (placement.num_workers, placement.zero_stage) == (4, None)
    with pytest.raises(ValueError, match="workers_per_trial is 4, and the machines do not have as many times 1 CPUs"):
        place(load("160m", Full()), four, [node("H100", 2), node("H100", 1)])
    assert place(load("160m", Full()), four, [node("H100", 2), node("H100", 2)]).num_workers == 4
    on_cpu = place(load("nano-1k", Full(), 64), replace(ON_CPU, workers_per_trial=2), [SMALL])
    assert (on_cpu.num_workers, on_cpu.zero_stage) == (2, None)


def test_what_the_spec_says_of_a_placement_is_kept() -> None:
    told = replace(ON_GPU, zero_stage=2, recompute=True, chunk_tokens=2048, dtype="float32", tf32=True)
    placement = place(load("14m", Full()), told, [node("H100")])
    assert (placement.zero_stage, placement.recompute, placement.chunk_tokens) == (2, True, 2048)
    assert (placement.dtype, placement.tf32) == ("float32", True)


@settings(deadline=None)
@given(
    model=st.sampled_from([shape.name for shape in LADDERS["pythia"]]),
    method=st.sampled_from(METHODS),
    batch_size=st.sampled_from([64, 1024, 8192]),
    gib=st.tuples(st.floats(1, 200), st.floats(1, 200)),
    num_gpus=st.sampled_from([1, 2, 6, 8]),
)
def test_an_answer_fits_and_more_memory_never_takes_more_workers(
    model: str, method: Method, batch_size: int, gib: tuple[float, float], num_gpus: int
) -> None:
    work = StepLoad(shape=SHAPES[model], method=method, batch_size=batch_size, tokens=78 * batch_size)
    found = []
    for room in sorted(gib):
        try:
            placement = place(
                work, replace(ON_GPU, memory_gib_per_worker=room, dtype="bfloat16"), [node("H100", num_gpus)]
            )
        except ValueError:
            assert not found, "it fitted into less memory"
            continue
        assert estimate(work, placement).total <= room * GIB
        found.append(placement)
    if len(found) == 2:
        small, large = found
        assert large.num_workers <= small.num_workers
        if large.num_workers == small.num_workers:
            assert not (large.offload and not small.offload)


@pytest.mark.parametrize("gpu", ["A100", "A100-SXM4-80GB", "H100", "L4", "RTX-A6000", "GeForce-RTX-4090"])
def test_a_known_gpu_s_memory_bounds_the_estimate(gpu: str) -> None:
    device = find_device(gpu)
    assert device is not None
    for model in ("160m", "1b", "2.8b"):
        placement = place(load(model, Full()), ON_GPU, [node(gpu, 8)])
        assert estimate(load(model, Full()), placement).total <= DEVICE_FILL * device.memory_bytes


def test_a_large_step_is_the_mean_and_its_deviations_and_never_more_than_the_longest() -> None:
    assert largest_step_tokens(150, 1024, 150) == 150 * 1024
    assert largest_step_tokens(140, 1, 150) == 150
    # sqrt(1024 * 78 * 72) is 2398.
    assert largest_step_tokens(78, 1024, 150) == pytest.approx(78 * 1024 + 4 * 2398, abs=2)

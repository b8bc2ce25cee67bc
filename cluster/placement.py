"""Which hardware a trial gets, as a pure function of its step, of what the spec grants, and of the machines there are.

Knows the memory estimate of ``trainer/memory.py`` and what costs a trial time: recomputation, small chunks, workers
that wait for each other. Never knows Ray, or what is free now.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sweeps.spec import Resources
from trainer.devices import find_device
from trainer.memory import GIB, MemoryEstimate, StepLoad, estimate
from trainer.trial import Dtype, Placement

DEVICE_FILL = 0.92
"""Share of a GPU's memory that may be planned with: the allocator cannot use the last gaps."""
HOST_FILL = 0.8
CHUNK_TOKENS = 16384
SMALLEST_CHUNK_TOKENS = 1024
CHECKPOINT_SECONDS = {"cpu": 10.0, "cuda": 60.0}
"""Between two checkpoints: what fits a CPU is written in milliseconds, a large model on a GPU takes seconds."""
DEVIATIONS = 4
"""A step in about 30,000 has more tokens than the mean and so many standard deviations."""


_Need = tuple[Placement, MemoryEstimate]
Layout = Literal["PACK", "STRICT_PACK"]
"""Whether a trial's workers may be on several machines, as few as possible, or must be on one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One machine of the cluster."""

    num_cpus: float
    memory_bytes: int
    num_gpus: float = 0
    gpu: str = ""
    """The name of its GPUs, as torch or Ray gives it."""


def layout_of(placement: Placement, machines: Sequence[Machine]) -> Layout:
    """One machine where one has so many CPUs and GPUs: workers wait for each other at every step."""
    fits = num_on_one_machine(placement, machines) == placement.num_workers
    return "STRICT_PACK" if fits else "PACK"


def num_on_one_machine(placement: Placement, machines: Sequence[Machine]) -> int:
    """The most workers of a trial that one machine has room for."""
    return min(placement.num_workers, max(_num_that_fit(placement, machine) for machine in machines))


def num_on_all(placement: Placement, machines: Sequence[Machine]) -> int:
    """How many such workers the machines have room for together."""
    return sum(_num_that_fit(placement, machine) for machine in machines)


def _num_that_fit(placement: Placement, machine: Machine) -> int:
    by_cpus = machine.num_cpus / placement.cpus_per_worker
    return math.floor(
        min(by_cpus, machine.num_gpus / placement.gpus_per_worker) if placement.gpus_per_worker else by_cpus
    )


def size_of(placement: Placement) -> float:
    """What a trial takes of a cluster, for comparison with others of its sweep: devices, or CPUs where it has none."""
    return placement.num_workers * (placement.gpus_per_worker or placement.cpus_per_worker)


def largest_step_tokens(tokens_per_pair: float, batch_size: int, longest_pair: int) -> int:
    """Tokens of a large step: those of ``batch_size`` pairs of ``tokens_per_pair`` on average, and their deviations.

    A pair has from 0 to ``longest_pair`` tokens, so its variance is at most ``mean (longest - mean)``.
    """
    variance = max(0.0, tokens_per_pair * (longest_pair - tokens_per_pair))
    likely = batch_size * tokens_per_pair + DEVIATIONS * math.sqrt(batch_size * variance)
    return math.ceil(min(likely, batch_size * longest_pair))


def place(load: StepLoad, resources: Resources, machines: Sequence[Machine]) -> Placement:
    """The first placement whose estimated memory fits, in the order of what it costs.

    One worker; then with recomputation; then in smaller chunks; then the same with the whole of a GPU, where a share
    was granted; then with 2, 4, 8 ... workers on GPUs of one machine, each plain and with ZeRO 1, 2 and 3; then with
    twice, four times ... as many on several machines; then all that it may have of one machine, with offload. What the
    spec gives is not tried otherwise. On a CPU a worker has its
    share of the machine's memory; where nothing fits that, what takes the least may have all of it. More memory never
    gives more workers. Raises ``ValueError`` where nothing fits, and where the memory of a GPU is not known.
    """
    candidates = list(_candidates(resources, machines))
    if not candidates:
        raise ValueError(
            f"resources.workers_per_trial is {resources.workers_per_trial}, and the machines do not have as many times "
            f"{resources.cpus_per_trial:g} CPUs and {resources.gpus_per_trial:g} GPUs: ask for less, or launch on more "
            "of them"
        )
    needs = [(candidate, estimate(load, candidate)) for candidate in candidates]
    host = HOST_FILL * max(machine.memory_bytes for machine in machines)
    fitting = [need for need in needs if need[1].total <= _room(need[0], resources, machines)]
    for placement, memory in fitting:
        if memory.host * num_on_one_machine(placement, machines) <= host:
            return placement
    if not fitting and not resources.gpus_per_trial and resources.memory_gib_per_worker == "auto":
        placement, memory = min(needs, key=lambda need: need[1].total)
        if memory.total <= host / placement.num_workers:
            return placement
    lack = _lack_of_host(fitting, machines, host) if fitting else _lack(needs, resources, machines, host)
    raise ValueError(
        f"model {load.shape.name} with method {load.method.label} and fixed.batch_size {load.batch_size} needs {lack}, "
        "or leave the model out"
    )


def _lack(needs: Sequence[_Need], resources: Resources, machines: Sequence[Machine], host: float) -> str:
    """What each worker lacks, and the mend."""
    placement, memory = min(needs, key=lambda need: need[1].total)
    room = _room(placement, resources, machines)
    if resources.memory_gib_per_worker != "auto":
        mend = "raise resources.memory_gib_per_worker"
    elif placement.device == "cuda":
        mend = "give resources.max_gpus_per_trial or larger GPUs"
    else:
        room, mend = host / placement.num_workers, "use a larger machine"
    return (
        f"{_gib(memory.total)} GiB on each of {placement.num_workers} workers with {_words(placement)}, and has "
        f"{_gib(room)} GiB: {mend}"
    )


def _lack_of_host(needs: Sequence[_Need], machines: Sequence[Machine], host: float) -> str:
    """What the machine lacks for what is offloaded to it, and the mend."""

    def on_host(need: _Need) -> float:
        return need[1].host * num_on_one_machine(need[0], machines)

    need = min(needs, key=on_host)
    placement = need[0]
    return (
        f"{_gib(on_host(need))} GiB of the machine's own memory with {_words(placement)} on "
        f"{num_on_one_machine(placement, machines)} workers, and has {_gib(host)} GiB: use a machine with more memory, "
        "or more or larger GPUs"
    )


def _candidates(resources: Resources, machines: Sequence[Machine]) -> Iterator[Placement]:
    """Every placement that the spec allows, the fastest first."""
    on_gpu = resources.gpus_per_trial > 0
    base = Placement(
        device="cuda" if on_gpu else "cpu",
        cpus_per_worker=resources.cpus_per_trial,
        gpus_per_worker=resources.gpus_per_trial,
        num_threads=resources.num_threads,
        dtype=_dtype(resources, machines),
        tf32=resources.tf32,
        checkpoint_seconds=CHECKPOINT_SECONDS["cuda" if on_gpu else "cpu"],
    )
    gangs = _gangs(resources, machines)
    for num_workers, gpus in gangs:
        for stage in _stages(resources, num_workers, base.dtype):
            sized = replace(base, num_workers=num_workers, gpus_per_worker=gpus, zero_stage=stage)
            yield from _chunked(replace(sized, offload=resources.offload is True), resources)
    if on_gpu and gangs and resources.offload == "auto":
        largest = max(_num_workers_on(machine, resources) for machine in machines)
        num_workers, gpus = [gang for gang in gangs if gang[0] <= largest or gang == gangs[0]][-1]
        for stage in (2, 3):
            if resources.zero_stage in ("auto", stage) and base.dtype != "float64":
                sized = replace(base, num_workers=num_workers, gpus_per_worker=gpus, zero_stage=stage, offload=True)
                yield from _chunked(sized, resources)


def _gangs(resources: Resources, machines: Sequence[Machine]) -> list[tuple[int, float]]:
    """Numbers of workers to try, with the GPUs of each, fewest first."""
    share = resources.gpus_per_trial
    on_each = [_num_workers_on(machine, resources) for machine in machines]
    largest, most = max(on_each), sum(on_each)
    if resources.workers_per_trial != "auto":
        return [(resources.workers_per_trial, share)] if resources.workers_per_trial <= most else []
    if not share or not most:
        return [(1, share)] if most else []
    if resources.max_gpus_per_trial != "auto":
        most = min(most, resources.max_gpus_per_trial)
    # Powers of two, and what one machine has: a trial that fills it waits for no network.
    numbers = {2**i for i in range(1, most.bit_length())} | {min(largest, most), most}
    return [(1, share), *([(1, 1.0)] if share < 1 else []), *((num, 1.0) for num in sorted(numbers) if num > 1)]


def _num_workers_on(machine: Machine, resources: Resources) -> int:
    """How many workers of one trial a machine holds: on GPUs, each has one of its own."""
    num = math.floor(machine.num_cpus / resources.cpus_per_trial)
    return min(num, math.floor(machine.num_gpus)) if resources.gpus_per_trial else num


def _stages(resources: Resources, num_workers: int, dtype: Dtype) -> tuple[int | None, ...]:
    if resources.zero_stage != "auto":
        return (None if resources.zero_stage == "none" else resources.zero_stage,)
    if resources.offload is True:
        return (2, 3)
    return (None, 1, 2, 3) if num_workers > 1 and resources.gpus_per_trial and dtype != "float64" else (None,)


def _chunked(placement: Placement, resources: Resources) -> Iterator[Placement]:
    sizes = (
        [CHUNK_TOKENS >> i for i in range((CHUNK_TOKENS // SMALLEST_CHUNK_TOKENS).bit_length())]
        if resources.chunk_tokens == "auto"
        else [resources.chunk_tokens]
    )
    if resources.recompute in ("auto", False):
        yield replace(placement, chunk_tokens=sizes[0], recompute=False)
    if resources.recompute in ("auto", True):
        for size in sizes:
            yield replace(placement, chunk_tokens=size, recompute=True)


def _dtype(resources: Resources, machines: Sequence[Machine]) -> Dtype:
    """bfloat16 where every GPU has it and the spec's engine computes well in it."""
    if resources.dtype != "auto":
        return resources.dtype
    if not resources.gpus_per_trial or resources.zero_stage == 0:
        return "float32"
    devices = [find_device(machine.gpu) for machine in machines if machine.num_gpus]
    return "bfloat16" if all(device is None or device.bfloat16 for device in devices) else "float32"


def _room(placement: Placement, resources: Resources, machines: Sequence[Machine]) -> float:
    """Bytes that each worker may use: of its GPU, or its share of the machine that has the least for each CPU."""
    if resources.memory_gib_per_worker != "auto":
        return resources.memory_gib_per_worker * GIB
    if placement.device == "cuda":
        return DEVICE_FILL * placement.gpus_per_worker * min(_gpu_bytes(m) for m in machines if m.num_gpus)
    return HOST_FILL * min(m.memory_bytes / m.num_cpus for m in machines if m.num_cpus) * placement.cpus_per_worker


def _gpu_bytes(machine: Machine) -> int:
    device = find_device(machine.gpu)
    if device is None:
        raise ValueError(
            f"resources.memory_gib_per_worker is auto, and the memory of GPU {machine.gpu!r} is not known: "
            "give it in GiB"
        )
    return device.memory_bytes


def _gib(num_bytes: float) -> str:
    gib = num_bytes / GIB
    return f"{gib:.1f}" if gib >= 0.1 else f"{gib:.2g}"


def _words(placement: Placement) -> str:
    stage = "plain torch" if placement.zero_stage is None else f"ZeRO {placement.zero_stage}"
    return f"{stage}{' and offload' if placement.offload else ''}"

"""How well ``trainer/memory.py`` estimates the memory of a training step: estimated against allocated bytes.

``python -m benchmarks.memory`` measures every case, prints a table and writes it to
``benchmarks/results/memory-<device>.json``. On a CPU the bytes are torch's own allocations and releases, summed up by
its profiler; on CUDA the allocator's peak. Neither has the process itself, nor is it in the ratios.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import multiprocessing.connection
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import GPTNeoXConfig, GPTNeoXModel

from trainer import engine
from trainer.contrastive import contrastive_loss, embed
from trainer.encoder import GROUPED_CAUSAL, Encoder
from trainer.ladder import SHAPES, ModelShape
from trainer.memory import StepLoad, estimate
from trainer.methods import apply_method
from trainer.trial import Bias, Freeze, Full, Hyperparameters, Lora, Method, Placement
from trainer.world import ALONE, join

RESULTS = Path(__file__).parent / "results"
MIB = 2**20
METHODS: tuple[Method, ...] = (Full(), Freeze(active_fraction=0.5), Bias(), Lora(rank=32, alpha=8))
HYPERPARAMETERS = Hyperparameters(
    learning_rate=1e-4,
    temperature=0.05,
    weight_decay=0.1,
    batch_size=2,
    max_length=75,
    warmup_fraction=0.1,
    pooling="mean",
    gradient_clipping=0.0,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One model and method on one placement, with so many pairs in a step."""

    model: str
    method: Method
    num_pairs: int
    placement: Placement

    @property
    def shape(self) -> ModelShape:
        return SHAPES[f"EleutherAI/pythia-{self.model}"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Of the second step: the first one makes what stays."""

    tokens: int
    peak_bytes: int
    """The most that was allocated at a time."""


def cpu_cases() -> list[Case]:
    """Small enough for any machine; DeepSpeed's stages on one worker."""
    pairs = {"14m": 64, "70m": 16}
    cases = [
        Case(model=model, method=method, num_pairs=num, placement=Placement(chunk_tokens=chunk, recompute=recompute))
        for model, num in pairs.items()
        for method in METHODS
        for recompute in (False, True)
        for chunk in (512, 16384)
    ]
    rounded = partial(Placement, dtype="bfloat16", chunk_tokens=1024)
    cases += [
        Case(model="14m", method=method, num_pairs=64, placement=rounded(recompute=recompute))
        for method in (Full(), METHODS[-1])
        for recompute in (False, True)
    ]
    staged = partial(Placement, chunk_tokens=512, recompute=True)
    placements = (
        *(staged(zero_stage=stage) for stage in (0, 1, 3)),
        *(staged(zero_stage=stage, dtype="bfloat16") for stage in (2, 3)),
    )
    cases += [
        Case(model="70m", method=method, num_pairs=16, placement=placement)
        for method in (Full(), METHODS[-1])
        for placement in placements
    ]
    return cases


def cuda_cases() -> list[Case]:
    """The paper's batch, every method, with and without recomputation."""
    rounded = partial(Placement, device="cuda", gpus_per_worker=1, dtype="bfloat16")
    return [
        Case(model=model, method=method, num_pairs=1024, placement=rounded(recompute=recompute, chunk_tokens=chunk))
        for model in ("14m", "160m", "410m", "1b", "2.8b")
        for method in METHODS
        for recompute in (False, True)
        for chunk in (4096, 16384)
    ]


def texts(num_pairs: int, vocab_size: int) -> list[np.ndarray]:
    """Token ids with lengths as in BGE's pairs: 14 tokens a query, 64 a positive, at most 75."""
    random = np.random.default_rng(0)
    queries = np.clip(random.lognormal(2.5, 0.5, num_pairs), 4, 75).astype(int)
    positives = np.clip(random.lognormal(4.5, 0.6, num_pairs), 8, 75).astype(int)
    return [random.integers(2, vocab_size, length) for length in (*queries, *positives)]


def stepper(case: Case) -> Callable[[], None]:
    """A training step of the case, on the engine of its placement."""
    shape, placement = case.shape, case.placement
    torch.manual_seed(0)
    with torch.device(placement.device):
        backbone = GPTNeoXModel(
            GPTNeoXConfig(
                vocab_size=shape.vocab_size,
                hidden_size=shape.width,
                num_hidden_layers=shape.num_layers,
                num_attention_heads=shape.num_heads,
                intermediate_size=4 * shape.width,
                attn_implementation=GROUPED_CAUSAL,
            )
        )
    apply_method(backbone, case.method)
    encoder = Encoder(backbone, "mean").to(placement.device).eval()
    world = ALONE
    if placement.zero_stage is not None:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        world = join(placement, rank=0, address=f"file://{tempfile.mkdtemp()}/address")
    trained = engine.start(encoder, HYPERPARAMETERS, placement, world)
    batch = texts(case.num_pairs, shape.vocab_size)

    def step() -> None:
        embedded = embed(
            encoder, batch, chunk_tokens=placement.chunk_tokens, recompute=placement.recompute, encode=trained
        )
        queries, positives = embedded.embeddings.chunk(2)
        rows, columns = contrastive_loss(queries, positives, 20.0)
        trained.backward((rows + columns) / 2)
        trained.step(1e-4)

    return step


def measure(case: Case) -> Measured:
    """Two steps in this process, which under DeepSpeed has to be a fresh one."""
    torch.set_num_threads(1)
    tokens = sum(map(len, texts(case.num_pairs, case.shape.vocab_size)))
    peak = _cuda_peak(case) if case.placement.device == "cuda" else _cpu_peak(case)
    gc.collect()
    return Measured(tokens=tokens, peak_bytes=peak)


def _cuda_peak(case: Case) -> int:
    torch.cuda.empty_cache()
    step = stepper(case)
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated()


def _cpu_peak(case: Case) -> int:
    """The largest running sum of what the profiler saw allocated and released, from the second step on."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step = stepper(case)
        step()
        with record_function("second step"):
            step()
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    [started] = [event.start_ns() for event in events if event.name() == "second step"]
    allocated = peak = 0
    for event in events:
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peak = max(peak, allocated if event.start_ns() >= started else 0)
    return peak


def _send(case: Case, sender: multiprocessing.connection.Connection) -> None:
    sender.send(measure(case))


def in_fresh_process(case: Case) -> Measured:
    """``measure`` in a process of its own. Raises ``EOFError`` where it died, as for want of memory."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(case, sender))
    process.start()
    sender.close()
    try:
        measured: Measured = receiver.recv()
    finally:
        process.join()
    return measured


def row(case: Case, measured: Measured) -> dict[str, object]:
    """What is written of a case; ratios are estimated over measured."""
    load = StepLoad(shape=case.shape, method=case.method, batch_size=case.num_pairs, tokens=measured.tokens)
    estimated = estimate(load, case.placement)
    bytes_without_process = estimated.total - estimated.overhead
    return {
        "model": case.model,
        "method": case.method.label,
        "num_pairs": case.num_pairs,
        "zero_stage": case.placement.zero_stage,
        "dtype": case.placement.dtype,
        "chunk_tokens": case.placement.chunk_tokens,
        "recompute": case.placement.recompute,
        **asdict(measured),
        "estimate": {**asdict(estimated), "total": estimated.total},
        "ratio": bytes_without_process / measured.peak_bytes,
    }


def table_of(rows: list[dict[str, object]]) -> Table:
    """For a terminal, in MiB."""
    table = Table("model", "method", "ZeRO", "dtype", "chunk", "recompute", "estimated", "measured", "ratio")
    for r in rows:
        estimated = r["ratio"] * r["peak_bytes"]  # type: ignore[operator]  # both are numbers
        numbers = (estimated / MIB, r["peak_bytes"] / MIB)  # type: ignore[operator]
        table.add_row(
            *(str(r[key]) for key in ("model", "method", "zero_stage", "dtype", "chunk_tokens", "recompute")),
            *(f"{number:.0f}" for number in numbers),
            f"{r['ratio']:.2f}",
        )
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", type=int, help="the first so many cases")
    arguments = parser.parse_args()
    cases = (cuda_cases() if arguments.device == "cuda" else cpu_cases())[: arguments.only]
    rows = []
    for case in cases:
        rows.append(row(case, measure(case) if case.placement.zero_stage is None else in_fresh_process(case)))
        print(f"{len(rows)} of {len(cases)}: ratio {rows[-1]['ratio']:.2f}", flush=True)
    Console(width=120).print(table_of(rows))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"memory-{arguments.device}.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""How fast training steps are on a GPU: tokens a second, MFU and memory by model and method, and sentence-transformers.

``python -m benchmarks.gpu [--models 14m 2.8b] [--pairs 1024] [--chunk-tokens N]`` runs on a CUDA device, in bfloat16
with float32 weights. It skips what does not fit, prints a table for each model and method, and writes
``benchmarks/results/gpu.json``. ``--device cpu --quick`` runs a tiny model, to see that the benchmark works.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.contestants import (
    Batch,
    Contestant,
    DisagreementError,
    Shared,
    Tolerance,
    bge_batch,
    check,
    contestants,
    embed_ours,
    machine,
    share,
)
from trainer.environment import peak_flops
from trainer.flops import booked_flops_per_token, measured_flops
from trainer.ladder import SHAPES, ModelShape, parameter_counts
from trainer.trial import Bias, Freeze, Full, Lora, Method, Placement

RESULTS = Path(__file__).parent / "results" / "gpu.json"
MODELS = ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b")
METHODS: tuple[Method, ...] = (Full(), Freeze(active_fraction=0.5), Bias(), Lora(rank=32, alpha=32))
MEASURED = ("ours, recompute", "ours", "ST cached", "ST, one pass")
NUM_CHECKED_PAIRS = 16
BFLOAT16 = Tolerance(embedding=2e-2, gradient=1e-1)
"""Layouts round differently; what is wrong is off by much more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One batch of one model under one method."""

    shape: ModelShape
    method: Method
    num_pairs: int
    chunk_tokens: int
    repeats: int
    device: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write. Exit status 1 without a GPU, or where the trainers do not compute the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--chunk-tokens", type=int, default=16384, help="of a chunk, ours and sentence-transformers'")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that the benchmark runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    flags = parser.parse_args(arguments)
    if flags.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here: run this on a GPU machine, or try it with --device cpu --quick")
    if flags.device == "cpu" and not flags.quick:
        sys.exit("--device cpu only shows that the benchmark runs: give --quick too")
    names = ("nano-1k",) if flags.quick else tuple(f"EleutherAI/pythia-{size}" for size in flags.models)
    found: list[dict] = []
    for name in names:
        for method in METHODS:
            setting = Setting(
                shape=SHAPES[name],
                method=method,
                num_pairs=8 if flags.quick else flags.pairs,
                chunk_tokens=256 if flags.quick else flags.chunk_tokens,
                repeats=1 if flags.quick else flags.repeats,
                device=flags.device,
            )
            try:
                found.append(compare(setting))
            except DisagreementError as error:
                sys.exit(str(error))
            show(found[-1])
            flags.output.parent.mkdir(exist_ok=True)
            flags.output.write_text(json.dumps(found, indent=2) + "\n")


def compare(setting: Setting) -> dict:
    """The record of one setting. ``contestants`` is empty where not even the weights and moments fit."""
    record = {
        "machine": machine(setting.device),
        "peak_flops": _peak(setting.device),
        "model": setting.shape.name,
        "method": setting.method.label,
        "num_pairs": setting.num_pairs,
        "chunk_tokens": setting.chunk_tokens,
        "repeats": setting.repeats,
        "dtype": "bfloat16",
        "contestants": [],
    }
    try:
        shared = share(setting.shape, setting.method, setting.device, dtype="bfloat16")
        chunk_tokens = setting.chunk_tokens
        entrants = contestants(shared, chunk_tokens=chunk_tokens, large_chunk_tokens=chunk_tokens)
        vocab_size = setting.shape.vocab_size
        record["largest_difference"] = check(entrants, shared, bge_batch(NUM_CHECKED_PAIRS, vocab_size), BFLOAT16)
        optimizer = torch.optim.AdamW(shared.trained, lr=1e-5, weight_decay=0.1, fused=True)
        batch = bge_batch(setting.num_pairs, vocab_size)
        measured = [entrant for entrant in entrants if entrant.name in MEASURED]
        steps = measure(measured, shared, optimizer, batch, setting.repeats)
        record["contestants"] = [_row(setting, shared, batch, entrant, steps[entrant.name]) for entrant in measured]
    except torch.OutOfMemoryError:
        pass  # the record says so by its empty list
    if setting.device == "cuda":
        torch.cuda.empty_cache()
    return record


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What the steps of one contestant took; nothing where one did not fit."""

    seconds: tuple[float, ...]
    peak_memory_bytes: int | None
    """Of the device; of a CPU nothing is known for one step alone."""


def measure(
    entrants: Sequence[Contestant], shared: Shared, optimizer: torch.optim.Optimizer, batch: Batch, repeats: int
) -> dict[str, Steps]:
    """Steps of every contestant, interleaved; the first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {entrant.name: [] for entrant in entrants}
    memory: dict[str, int] = {}
    fitting = list(entrants)
    for repeat in range(repeats + 1):
        for entrant in list(fitting):
            try:
                taken = _step(entrant, shared, optimizer, batch)
            except torch.OutOfMemoryError:
                fitting.remove(entrant)
                seconds[entrant.name].clear()
                optimizer.zero_grad()
                continue
            if repeat:
                seconds[entrant.name].append(taken)
                memory[entrant.name] = max(memory.get(entrant.name, 0), _peak_memory(shared))
    on_gpu = shared.device.type == "cuda"
    return {
        name: Steps(seconds=tuple(times), peak_memory_bytes=memory[name] if times and on_gpu else None)
        for name, times in seconds.items()
    }


def _step(entrant: Contestant, shared: Shared, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """Wall seconds of one update, from an idle device to an idle device."""
    if shared.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    started = time.perf_counter()
    optimizer.zero_grad()
    entrant.backward(batch)
    optimizer.step()
    if shared.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _row(setting: Setting, shared: Shared, batch: Batch, entrant: Contestant, steps: Steps) -> dict:
    """MFU on booked FLOPs for all, since they do the same work; on measured ones for ours, whose padding we count."""
    row: dict = {"contestant": entrant.name, "words": entrant.words, "fits": bool(steps.seconds)}
    if not steps.seconds:
        return row
    seconds = statistics.median(steps.seconds)
    peak = _peak(setting.device)
    booked = batch.num_tokens * booked_flops_per_token(parameter_counts(setting.shape, setting.method), setting.method)
    row |= {
        "seconds": {"median": seconds, "low": min(steps.seconds), "high": max(steps.seconds)},
        "tokens_per_second": batch.num_tokens / seconds,
        "booked_mfu": booked / seconds / peak if peak else None,
        "measured_flops": None,
        "measured_mfu": None,
        "peak_memory_bytes": steps.peak_memory_bytes,
    }
    if entrant.name.startswith("ours"):
        recompute = entrant.name.endswith("recompute")
        with torch.no_grad():
            embedded = embed_ours(shared, batch, chunk_tokens=setting.chunk_tokens, recompute=recompute)
        flops = measured_flops(
            setting.shape,
            setting.method,
            tokens=embedded.computed_tokens,
            squared_lengths=embedded.squared_lengths,
            recomputed_tokens=embedded.recomputed_tokens,
            recomputed_squared_lengths=embedded.recomputed_squared_lengths,
        )
        row |= {"measured_flops": flops, "measured_mfu": flops / seconds / peak if peak else None}
    return row


def show(found: dict) -> None:
    """Print the table of one setting."""
    heading = f"{found['model']}, {found['method']}, {found['num_pairs']} pairs, {found['dtype']}"
    table = Table("trainer", "tokens/s", "step ms (range)", "booked MFU", "measured MFU", "memory GB", title=heading)
    for row in found["contestants"]:
        if not row["fits"]:
            table.add_row(row["contestant"], "does not fit")
            continue
        seconds, memory = row["seconds"], row["peak_memory_bytes"]
        table.add_row(
            row["contestant"],
            f"{row['tokens_per_second']:,.0f}",
            f"{seconds['median'] * 1e3:.1f} ({seconds['low'] * 1e3:.1f} to {seconds['high'] * 1e3:.1f})",
            _percent(row["booked_mfu"]),
            _percent(row["measured_mfu"]),
            "" if memory is None else f"{memory / 1e9:.1f}",
        )
    if not found["contestants"]:
        table.add_row("all", "does not fit")
    Console().print(table)


def _percent(share_of_peak: float | None) -> str:
    return "" if share_of_peak is None else f"{share_of_peak:.1%}"


def _peak(device: str) -> float | None:
    return peak_flops(Placement(device="cuda" if device == "cuda" else "cpu"))


def _peak_memory(shared: Shared) -> int:
    return torch.cuda.max_memory_allocated() if shared.device.type == "cuda" else 0


if __name__ == "__main__":
    main()

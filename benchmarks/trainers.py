"""How fast one training step is on a CPU: ours against the paper's way and against sentence-transformers.

``python -m benchmarks.trainers [--quick] [--threads N] [--repeats N]`` first checks that all trainers compute the same
embeddings and the same gradient, then interleaves their steps (forward, loss, backward, AdamW), prints a table and
writes ``benchmarks/results/trainers.json``. Quote the ratios of processor time: the machine may be busy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.contestants import (
    Batch,
    Contestant,
    DisagreementError,
    Shared,
    bge_batch,
    check,
    contestants,
    machine,
    share,
)
from trainer.ladder import SHAPES
from trainer.trial import Bias, Freeze, Full, Lora, Method

RESULTS = Path(__file__).parent / "results" / "trainers.json"
NUM_CHECKED_PAIRS = 64
RATIOS = (
    ("paper", "ours, recompute", 1.7),
    ("paper", "ours", 2.2),
    ("ST cached", "ours, recompute", 1.3),
    ("ST cached", "ours", 1.3),
    ("paper, one pass", "ours", None),
    ("ST, one pass", "ours", None),
)
"""What is divided by what, and the goal, where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One batch of one model under one method, and how often it is measured."""

    model: str
    method: Method
    num_pairs: int
    chunk_tokens: int
    """Token budget of a chunk whose activations are computed again, ours and sentence-transformers' alike."""
    repeats: int


SETTINGS = (
    Setting(model="EleutherAI/pythia-14m", method=Full(), num_pairs=256, chunk_tokens=4096, repeats=7),
    Setting(model="EleutherAI/pythia-70m", method=Full(), num_pairs=256, chunk_tokens=4096, repeats=3),
    *(
        Setting(model="EleutherAI/pythia-14m", method=method, num_pairs=256, chunk_tokens=4096, repeats=3)
        for method in (Freeze(active_fraction=0.5), Bias(), Lora(rank=8, alpha=8))
    ),
)
QUICK = (Setting(model="nano-1k", method=Full(), num_pairs=16, chunk_tokens=256, repeats=2),)

Seconds = dict[str, list[float]]
"""Seconds of each repeat, by contestant."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write. Exit status 1, and no figure, where the trainers do not compute the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that the benchmark runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, help="of every setting")
    parser.add_argument("--pairs", type=int, help="in a batch of every setting")
    parser.add_argument("--models", nargs="+", help="measure only these models of the settings")
    parser.add_argument("--methods", nargs="+", help="measure only these methods of the settings")
    parser.add_argument("--output", type=Path, default=RESULTS)
    flags = parser.parse_args(arguments)
    torch.set_num_threads(flags.threads)
    for setting in QUICK if flags.quick else SETTINGS:
        if setting.model not in (flags.models or [setting.model]):
            continue
        if setting.method.label not in (flags.methods or [setting.method.label]):
            continue
        chosen = replace(setting, repeats=flags.repeats or setting.repeats, num_pairs=flags.pairs or setting.num_pairs)
        try:
            found = compare(chosen)
        except DisagreementError as error:
            sys.exit(str(error))
        show(found)
        keep(found, flags.output)


def keep(found: dict, file: Path) -> None:
    """Write the record to ``file``, in the place of an older one of the same setting."""

    def setting(record: dict) -> tuple:
        return record["model"], record["method"], record["num_pairs"]

    older = json.loads(file.read_text()) if file.exists() else []
    kept = [record for record in older if setting(record) != setting(found)]
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps([*kept, found], indent=2) + "\n")


def compare(setting: Setting) -> dict:
    """The record of one setting: what was compared, how far apart the results are, times and ratios."""
    shape = SHAPES[setting.model]
    shared = share(shape, setting.method, "cpu")
    # A batch's longest query decides how much padding costs: each repeat draws another, so that no lucky one decides.
    batches = [bge_batch(setting.num_pairs, shape.vocab_size, seed=repeat) for repeat in range(setting.repeats)]
    entrants = contestants(shared, chunk_tokens=setting.chunk_tokens, large_chunk_tokens=16384)
    checked = bge_batch(min(setting.num_pairs, NUM_CHECKED_PAIRS), shape.vocab_size)
    differences = check(entrants, shared, checked)
    load_before = os.getloadavg()[0]
    processor, wall = measure(entrants, shared, batches)
    return {
        "machine": machine("cpu"),
        "load": {"before": load_before, "after": os.getloadavg()[0]},
        "model": setting.model,
        "method": setting.method.label,
        "num_pairs": setting.num_pairs,
        "num_tokens": sum(batch.num_tokens for batch in batches),
        "num_padded_tokens": sum(batch.num_padded_tokens for batch in batches),
        "chunk_tokens": setting.chunk_tokens,
        "repeats": setting.repeats,
        "largest_difference": differences,
        "seconds": [
            {
                "contestant": entrant.name,
                "words": entrant.words,
                "processor": _spread(processor[entrant.name]),
                "wall": _spread(wall[entrant.name]),
            }
            for entrant in entrants
        ],
        "ratios": [
            {
                "slower": slower,
                "faster": faster,
                "goal": goal,
                "processor": _ratio(processor, slower, faster),
                "wall": _ratio(wall, slower, faster),
            }
            for slower, faster, goal in RATIOS
        ],
    }


def measure(entrants: Sequence[Contestant], shared: Shared, batches: Sequence[Batch]) -> tuple[Seconds, Seconds]:
    """Processor and wall seconds of a step. On each batch every contestant takes one step, in turning order."""
    optimizer = torch.optim.AdamW(shared.trained, lr=1e-5, weight_decay=0.1, fused=True)
    entrants[-1].backward(batches[0])
    optimizer.step()  # makes its state; the check warmed up the rest
    processor: Seconds = {entrant.name: [] for entrant in entrants}
    wall: Seconds = {entrant.name: [] for entrant in entrants}
    for repeat, batch in enumerate(batches):
        turn = repeat % len(entrants)
        for entrant in (*entrants[turn:], *entrants[:turn]):
            started, started_wall = time.process_time(), time.perf_counter()
            optimizer.zero_grad()
            entrant.backward(batch)
            optimizer.step()
            processor[entrant.name].append(time.process_time() - started)
            wall[entrant.name].append(time.perf_counter() - started_wall)
    return processor, wall


def show(found: dict) -> None:
    """Print the tables of one setting."""
    console = Console()
    heading = f"{found['model']}, {found['method']}, {found['num_pairs']} pairs"
    table = Table("trainer", "processor s", "wall s", title=heading)
    for row in found["seconds"]:
        table.add_row(row["contestant"], _words(row["processor"]), _words(row["wall"]))
    ratios = Table("ratio", "processor time", "wall time", "goal", title=f"{found['repeats']} repeats: median (range)")
    for row in found["ratios"]:
        goal = "" if row["goal"] is None else f"{row['goal']:.1f}"
        ratios.add_row(f"{row['slower']} / {row['faster']}", _words(row["processor"]), _words(row["wall"]), goal)
    console.print(table, ratios)
    console.print(*(f"{row['contestant']}: {row['words']}" for row in found["seconds"]), sep="\n")


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 4), "low": round(min(values), 4), "high": round(max(values), 4)}


def _ratio(seconds: Seconds, slower: str, faster: str) -> dict[str, float]:
    """Of the steps of the same repeat: what else the machine does weighs on both."""
    return _spread([s / f for s, f in zip(seconds[slower], seconds[faster], strict=True)])


def _words(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['low']:.2f} to {spread['high']:.2f})"


if __name__ == "__main__":
    main()

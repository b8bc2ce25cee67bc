"""How fast a training step of a nano model is: one stream of tokens without padding, against right-padded rows.

``python -m benchmarks.step [--repeats N]`` interleaves the variants, prints a table of CPU milliseconds (one thread,
median over repeats) and writes it to ``benchmarks/results/step.json``. Quote the ratios: the machine may be busy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import GPTNeoXConfig, GPTNeoXModel

from trainer.contrastive import contrastive_loss, embed
from trainer.encoder import GROUPED_CAUSAL, Encoder
from trainer.ladder import LADDERS, ModelShape

PAIRS, LONGEST, STEPS = 64, 32, 8
VARIANTS = ("stream", "padded")
RESULTS = Path(__file__).parent / "results" / "step.json"


def texts() -> list[np.ndarray]:
    """Token ids with the lengths of the nano pairs: queries of 17 tokens on average, positives mostly cut at 32."""
    random = np.random.default_rng(0)
    queries = np.clip(random.lognormal(2.75, 0.55, PAIRS), 4, LONGEST).astype(int)
    positives = np.clip(random.lognormal(5.0, 0.9, PAIRS), 8, LONGEST).astype(int)
    return [random.integers(2, 4096, length) for length in (*queries, *positives)]


def stepper(shape: ModelShape, variant: str) -> Callable[[], None]:
    """One update of a model of this shape under this variant."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        intermediate_size=4 * shape.width,
        attn_implementation="sdpa" if variant == "padded" else GROUPED_CAUSAL,
    )
    encoder = Encoder(GPTNeoXModel(config), "mean").eval()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, fused=True)
    batch = texts()

    def step() -> None:
        embedded = embed(encoder, batch, chunk_tokens=16384, recompute=False)
        rows, columns = contrastive_loss(embedded.embeddings[:PAIRS], embedded.embeddings[PAIRS:], 20.0)
        optimizer.zero_grad()
        ((rows + columns) / 2).backward()
        optimizer.step()

    return step


def measure(repeats: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds a step by model and variant."""
    found: dict[str, dict[str, float]] = {}
    for shape in LADDERS["nano"]:
        steppers = {variant: stepper(shape, variant) for variant in VARIANTS}
        times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for repeat in range(repeats + 1):
            for variant, step in steppers.items():
                started = time.process_time()
                for _ in range(STEPS):
                    step()
                if repeat:  # the first round warms up
                    times[variant].append((time.process_time() - started) / STEPS * 1e3)
        found[shape.name] = {variant: statistics.median(times[variant]) for variant in VARIANTS}
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    torch.set_num_threads(1)
    found = measure(parser.parse_args().repeats)
    table = Table("model", *(f"{variant}, ms" for variant in VARIANTS), "padded / stream")
    for model, times in found.items():
        ratio = times["padded"] / times["stream"]
        table.add_row(model, *(f"{times[v]:.1f}" for v in VARIANTS), f"{ratio:.2f}")
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

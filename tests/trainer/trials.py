"""A tiny world in which whole trials take a second, and the trials that tests train in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.trainer.tiny import random_texts, tiny_decoder, write_split
from trainer.anatomy import measure_shape
from trainer.flops import booked_flops_per_token
from trainer.ladder import parameter_counts
from trainer.result import CurvePoint, TrialResult
from trainer.trial import Bias, Evaluation, Freeze, Full, Hyperparameters, Lora, Method, TrialFiles, TrialSpec

METHODS: list[Method] = [Full(), Freeze(active_fraction=0.5), Bias(), Lora(rank=2, alpha=4.0)]
NUM_STEPS = 30


def make_world(folder: Path) -> Path:
    """A tiny GPT-NeoX and pairs whose positive repeats the query's tokens: something to learn."""
    tiny_decoder("gpt_neox").save_pretrained(folder / "model")
    for split, num_pairs, seed in (("train", 300, 1), ("validation", 64, 2)):
        queries = random_texts(num_pairs, seed=seed, longest=8)
        noise = random_texts(num_pairs, seed=seed + 10, longest=8)
        positives = [np.concatenate([q, n]) for q, n in zip(queries, noise, strict=True)]
        write_split(folder / "tokens", split, queries, positives)
    return folder


def files(world: Path, checkpoints: Path) -> TrialFiles:
    return TrialFiles(tokens=str(world / "tokens"), model=str(world / "model"), checkpoints=str(checkpoints))


def spec_of(method: Method, **changed: object) -> TrialSpec:
    shape = measure_shape("tiny", tiny_decoder("gpt_neox"), 0)
    per_token = booked_flops_per_token(parameter_counts(shape, method), method)
    hyperparameters = Hyperparameters(
        learning_rate=1e-2,
        temperature=0.05,
        weight_decay=0.1,
        batch_size=16,
        max_length=12,
        warmup_fraction=0.1,
        pooling="mean",
        gradient_clipping=1.0,
    )
    settings: dict[str, object] = {
        "model": "tiny",
        "revision": "r",
        "method": method,
        "budget_flops": per_token * 16 * 13 * NUM_STEPS + per_token // 2,
        "hyperparameters": replace(hyperparameters, **{k: v for k, v in changed.items() if k in HYPERPARAMETERS}),
        "evaluation": Evaluation(num_pairs=64, num_candidates=32),
        "data": "d",
        "seed": 0,
        "number": 0,
    }
    return TrialSpec(**{**settings, **{k: v for k, v in changed.items() if k not in HYPERPARAMETERS}})


HYPERPARAMETERS = {"learning_rate", "temperature", "gradient_clipping", "batch_size", "max_length", "pooling"}


def ignore(point: CurvePoint) -> None:
    """A report that nobody reads."""


def outcome(result: TrialResult) -> dict[str, object]:
    """What must not depend on interruptions."""
    spending = replace(result.spending, seconds=0.0, peak_memory_bytes=0)
    return {"metrics": result.metrics, "spending": spending, "curve": result.curve, "train_loss": result.train_loss}

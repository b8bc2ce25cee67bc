"""Rows of a sweep that never ran: a table with the store's columns, from a known law."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trainer.flops import num_tokens
from trainer.ladder import SHAPES, ModelShape, parameter_counts
from trainer.result import TrialState
from trainer.trial import Bias, Evaluation, Freeze, Full, Hyperparameters, Lora, Method, TrialSpec

FULL, LORA, FREEZE, BIAS = Full(), Lora(rank=4, alpha=8), Freeze(active_fraction=0.5), Bias()
NANO = ("nano-1k", "nano-3k", "nano-7k", "nano-14k", "nano-25k", "nano-85k")
TOKENS_PER_PAIR = 49.2
NUM_TRAIN_PAIRS = 64_000
DATA = Path(__file__).parent / "data"

LossOf = Callable[[Method, int, ModelShape], float]


def parabola_law(
    *,
    level: Mapping[str, float] = {"full": 3.0, "lora": 3.4, "freeze": 4.2, "bias": 5.0},
    loss_exponent: float = -0.1,
    size: float = 7e3,
    size_exponent: float = 0.5,
    curvature: float = 0.6,
    pivot: float = 1e11,
) -> LossOf:
    """``level c^loss_exponent + curvature (log10 N - log10 N*)^2`` with ``N* = size c^size_exponent, c = C/pivot``."""

    def loss(method: Method, budget_flops: int, shape: ModelShape) -> float:
        best = size * (budget_flops / pivot) ** size_exponent
        distance = math.log10(shape.num_params_non_embedding / best)
        return level[method.kind] * (budget_flops / pivot) ** loss_exponent + curvature * distance**2

    return loss


def law_rows(
    loss: LossOf,
    *,
    budgets: Sequence[float] = (4e10, 1.2e11, 3.6e11),
    models: Sequence[str] = NANO,
    methods: Sequence[Method] = (FULL, LORA, FREEZE, BIAS),
    noise: float = 0.0,
    seed: int = 0,
    num_trials: int = 1,
    trial_seed: int = 0,
) -> pd.DataFrame:
    """COMPLETE rows for every cell. ``noise`` is relative; later trials of a cell are 5 % worse each."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            row(
                method,
                int(budget),
                model,
                loss(method, int(budget), SHAPES[model]) * float(np.exp(noise * z)) * (1 + 0.05 * number),
                number=number,
                seed=trial_seed,
            )
            for method in methods
            for budget in budgets
            for model in models
            for number, z in enumerate(rng.standard_normal(num_trials))
        ]
    )


def row(
    method: Method,
    budget_flops: int,
    model: str,
    loss: float,
    *,
    number: int = 0,
    seed: int = 0,
    state: TrialState = TrialState.COMPLETE,
    error: str = "",
    **hyperparameters: Any,
) -> dict[str, Any]:
    """One row with the store's columns. A trial that is not COMPLETE has no metrics."""
    shape = SHAPES.get(model) or replace(SHAPES["nano-7k"], name=model)
    counts = parameter_counts(shape, method)
    tokens = num_tokens(budget_flops, counts, method)
    pairs = int(tokens / TOKENS_PER_PAIR)
    settings: dict[str, Any] = {
        "learning_rate": 0.01 * 0.9**number,
        "temperature": 0.05,
        "weight_decay": 0.01,
        "batch_size": 64,
        "max_length": 32,
        "warmup_fraction": 0.1,
        "pooling": "mean",
        "gradient_clipping": 1.0,
    }
    spec = TrialSpec(
        model=model,
        revision="r1",
        method=method,
        budget_flops=budget_flops,
        hyperparameters=Hyperparameters(**(settings | hyperparameters)),
        evaluation=Evaluation(num_pairs=1024, num_candidates=256),
        data="d1",
        seed=seed,
        number=number,
    )
    done = state == TrialState.COMPLETE
    metric = (lambda value: value) if done else (lambda value: None)
    return {
        "trial_id": spec.trial_id,
        "state": str(state),
        "budget_flops": budget_flops,
        "model": model,
        "revision": spec.revision,
        "method": method.label,
        "method_kind": method.kind,
        "method_rank": getattr(method, "rank", None),
        "method_alpha": getattr(method, "alpha", None),
        "method_active_fraction": getattr(method, "active_fraction", None),
        **{name: getattr(spec.hyperparameters, name) for name in settings},
        "num_evaluation_pairs": 1024,
        "num_candidates": 256,
        "data": spec.data,
        "seed": seed,
        "number": number,
        "loss": metric(loss),
        "loss_rows": metric(loss),
        "loss_columns": metric(loss),
        "calibrated_scale": metric(18.0),
        "raw_loss": metric(loss + 0.05),
        "train_loss": metric(loss - 0.4),
        "accuracy": metric(math.exp(-loss / 2)),
        "mrr": metric(math.exp(-loss / 3)),
        "ndcg_at_10": metric(math.exp(-loss / 3)),
        "booked_flops": budget_flops,
        "measured_flops": int(budget_flops * 1.3),
        "tokens": tokens,
        "padded_tokens": int(tokens * 1.1),
        "pairs": pairs,
        "steps": pairs // 64,
        "epochs": pairs / NUM_TRAIN_PAIRS,
        "seconds": budget_flops / 1e10,
        "device_seconds": budget_flops / 1e10,
        "tokens_per_second": tokens / (budget_flops / 1e10),
        "peak_memory_bytes": 300_000_000,
        "mfu": None,
        "num_params_total": counts.total,
        "num_params_embedding": counts.embedding,
        "num_params_non_embedding": counts.non_embedding,
        "num_params_adapter": counts.adapter,
        "num_params_trainable": counts.trainable,
        "num_params_trainable_non_embedding": counts.trainable_non_embedding,
        "num_resumes": 0,
        "host": "h",
        "device": "cpu",
        "num_threads": 1,
        "num_workers": 1,
        "versions": "{}",
        "git_commit": "",
        "finished_at": "2026-11-22T10:00:00+00:00",
        "error": error,
        "spec": spec.to_json(),
    }


def measured_nano_rows() -> pd.DataFrame:
    """Rows with the losses of real nano trials: four methods, four budgets, one seed and learning rate a cell."""
    methods = {method.kind: method for method in (FULL, LORA, FREEZE, BIAS)}
    measured = pd.read_csv(DATA / "nano_losses.csv")
    return pd.DataFrame(
        [row(methods[kind], budget, model, loss) for kind, budget, model, loss in measured.itertuples(index=False)]
    )

"""Whether a 90 % interval holds the truth in nine of ten sweeps.

Coverage seen (four methods, six models, five budgets 3x apart, one seed a cell; exponent and size from all methods, the
crossover of full and LoRA; unseen: a budget 3x above the largest), by relative noise of a trial's loss. The figures and
how many sweeps they rest on are in docs/fits.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from analysis.fit import Interval
from analysis.frontier import fit_frontier
from tests.analysis.law_rows import BIAS, FREEZE, FULL, LORA, law_rows
from trainer.ladder import ModelShape
from trainer.trial import Method

BUDGETS = tuple(4e10 * 3.0**place for place in range(5))
UNSEEN = 1e13
LEVEL = {"full": 3.0, "lora": 3.4, "freeze": 3.3, "bias": 5.0}
LOSS_EXPONENT = {"full": -0.10, "lora": -0.15, "freeze": -0.10, "bias": -0.08}
SIZE_EXPONENT = {"full": 0.50, "lora": 0.45, "freeze": 0.50, "bias": 0.55}
CROSSOVER = 1e11 * (3.4 / 3.0) ** (1 / 0.05)


def true_size(kind: str, budget_flops: float) -> float:
    return float(7e3 * (budget_flops / 1e11) ** SIZE_EXPONENT[kind])


def true_loss(kind: str, budget_flops: float) -> float:
    return float(LEVEL[kind] * (budget_flops / 1e11) ** LOSS_EXPONENT[kind])


def measured_loss(method: Method, budget_flops: int, shape: ModelShape) -> float:
    distance = math.log10(shape.num_params_non_embedding / true_size(method.kind, budget_flops))
    return true_loss(method.kind, budget_flops) + 0.6 * distance**2


def coverage(methods: Sequence[Method], *, noise: float, num_sweeps: int, num_seeds: int = 1) -> dict[str, float]:
    """Share of simulated sweeps in which each interval holds the truth."""
    rows = pd.concat(
        [law_rows(measured_loss, methods=methods, budgets=BUDGETS, trial_seed=seed) for seed in range(num_seeds)]
    )
    held: dict[str, list[bool]] = {}

    def note(name: str, interval: Interval, truth: float) -> None:
        held.setdefault(name, []).append(interval.low <= truth <= interval.high)

    for sweep in range(num_sweeps):
        rng = np.random.default_rng(sweep)
        noisy = rows.assign(loss=rows["loss"] * np.exp(noise * rng.standard_normal(len(rows))))
        frontier = fit_frontier(noisy, num_draws=300, seed=sweep)
        for fitted in frontier.methods:
            kind = fitted.method.kind
            if fitted.size_law is not None:
                note("exponent", fitted.size_law.exponent_interval, SIZE_EXPONENT[kind])
                note("size at an unseen budget", fitted.size_law.interval_at(UNSEEN), true_size(kind, UNSEEN))
            if fitted.loss_law is not None:
                note("loss at an unseen budget", fitted.loss_law.interval_at(UNSEEN), true_loss(kind, UNSEEN))
            for profile in fitted.profiles:
                if profile.optimum is not None:
                    truth = true_size(kind, profile.budget_flops)
                    note("size of an optimum", profile.optimum.num_params_interval, truth)
                    note("loss of an optimum", profile.optimum.loss_interval, true_loss(kind, profile.budget_flops))
        for crossover in frontier.crossovers:
            if {crossover.below, crossover.above} == {"full", LORA.label}:
                right = crossover.below == "full"
                note("crossover", crossover.interval, CROSSOVER if right else math.nan)
    return {name: float(np.mean(hits)) for name, hits in held.items()}


def test_intervals_are_neither_narrow_nor_endless() -> None:
    seen = coverage([FULL, LORA], noise=0.02, num_sweeps=15)
    assert all(share >= 0.7 for share in seen.values()), seen
    assert len(seen) == 6


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("noise", [0.01, 0.02, 0.03])
def test_nine_of_ten_intervals_hold_the_truth(noise: float) -> None:
    seen = coverage([FULL, LORA, FREEZE, BIAS], noise=noise, num_sweeps=200)
    assert all(0.85 <= share <= 0.95 for share in seen.values()), seen

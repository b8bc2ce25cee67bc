"""The noise of a cell: seeds average out, luck does not, and each is found where it is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.frontier import fit_frontier
from analysis.noise import PRIOR_RELATIVE_SD, Noise, Residuals, estimate_noise
from analysis.profile import complete_trials
from tests.analysis.law_rows import BIAS, FREEZE, FULL, LORA, law_rows, parabola_law

BUDGETS = tuple(4e10 * 3.0**place for place in range(5))


def noises(num_seeds: int, *, seed_sd: float, luck_sd: float = 0.0, num_sweeps: int = 3) -> list[Noise]:
    """Of the four methods of sweeps with as many seeds a cell, and luck that a cell's seeds share."""
    law = parabola_law()
    exact = law_rows(law, budgets=BUDGETS, methods=(FULL, LORA, FREEZE, BIAS))
    found = []
    for sweep in range(num_sweeps):
        rng = np.random.default_rng(sweep)
        lucky = exact["loss"] * np.exp(luck_sd * rng.standard_normal(len(exact)))
        rows = [
            law_rows(law, budgets=BUDGETS, trial_seed=seed).assign(
                loss=lucky * np.exp(seed_sd * rng.standard_normal(len(exact)))
            )
            for seed in range(num_seeds)
        ]
        found += [method.noise for method in fit_frontier(pd.concat(rows), num_draws=20).methods]
    return found


def rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(values)))


@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_means_over_seeds_tell_the_noise_of_a_single_trial(num_seeds: int) -> None:
    found = noises(num_seeds, seed_sd=0.02)
    assert rms([noise.relative_sd**2 for noise in found]) == pytest.approx(0.02, rel=0.12)
    if num_seeds > 1:  # the residuals on their own: of means, they would be too small by the root of the seeds
        assert rms([noise.residual_variance for noise in found]) == pytest.approx(0.02, rel=0.15)
        assert rms([noise.variance(np.array([float(num_seeds)]))[0] for noise in found]) == pytest.approx(
            0.02 / num_seeds**0.5, rel=0.2
        )


def test_luck_that_seeds_share_does_not_average_out() -> None:
    found = noises(5, seed_sd=0.005, luck_sd=0.03)
    assert rms([noise.first_variance for noise in found]) == pytest.approx(0.005, rel=0.15)
    assert rms([noise.variance(np.array([5.0]))[0] for noise in found]) == pytest.approx(0.03, rel=0.15)


def test_draws_have_the_variance_that_is_known() -> None:
    trials = complete_trials(law_rows(parabola_law()).iloc[:1])[0]
    values = 0.02 * np.random.default_rng(1).standard_normal(4000)
    noise = estimate_noise(trials, [Residuals(values=values, degrees=4000, num_seeds=1.0)])
    draws = noise.draws(np.random.default_rng(0), np.array([1.0, 4.0]), 20_000)
    assert draws.std(axis=0) == pytest.approx([0.02, 0.01], rel=0.03)


def test_without_anything_known_the_prior_speaks() -> None:
    noise = estimate_noise(complete_trials(law_rows(parabola_law()).iloc[:1])[0], [])
    assert noise.relative_sd == pytest.approx(PRIOR_RELATIVE_SD)
    assert "a prior of 1.5 % worth 4 degrees of freedom" in noise.words

"""Published figures, computed again with our fits (sources in data/README.md and in each test)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.fit import fit_parabola, fit_power_law
from tests.analysis.law_rows import DATA

# Approach 2 on noise-free surfaces L = E + A/N^alpha + B/D^beta: five budgets 1e17..1e21, fifteen points each on a grid
# of D from D*/f to D* f, error of D*(1e24) in percent. Open-Athena, scaling-law-analysis.
SURFACES = {
    "symmetric": (1.69, 400.0, 400.0, 0.31, 0.31),
    "chinchilla": (1.69, 406.4, 410.7, 0.34, 0.28),
    "asymmetric": (1.69, 406.4, 410.7, 0.465, 0.155),
}
TRUE_TOKENS = {
    "symmetric": 4.082482904638630e11,
    "chinchilla": 4.035834749563681e12,
    "asymmetric": 4.510334355952566e16,
}
ERRORS = {
    "symmetric": (0.0, 0.0, 0.0, 0.0),
    "chinchilla": (-0.3269, -1.3011, -2.9029, -5.1002),
    "asymmetric": (-1.675, -6.498, -13.910, -23.116),
}
DRIFT_ERRORS = (6.071, 5.171, 3.698, 1.689)
GRIDS = (2, 4, 8, 16)


def optimal_tokens(surface: str) -> Callable[[float], float]:
    _, a, b, alpha, beta = SURFACES[surface]
    scale = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    return lambda flops: (flops / 6) / (scale * (flops / 6) ** (beta / (alpha + beta)))


def approach_2_error(surface: str, grid: float, drift: float = 1.0) -> float:
    """Percent error of the extrapolated D*(1e24). ``drift``: how far the grid's centre is off at the last budget."""
    e, a, b, alpha, beta = SURFACES[surface]
    true = optimal_tokens(surface)
    budgets = np.logspace(17, 21, 5)
    found = []
    for place, flops in enumerate(budgets):
        tokens = true(flops) * np.geomspace(1 / grid, grid, 15) * drift ** (place / 4)
        loss = e + a / (flops / 6 / tokens) ** alpha + b / tokens**beta
        found.append(10 ** fit_parabola(np.log10(tokens), loss).vertex)
    law = fit_power_law(budgets, np.array(found))
    return float(100 * (law(1e24) / true(1e24) - 1))


@pytest.mark.parametrize("surface", SURFACES)
def test_true_optima_of_the_surfaces(surface: str) -> None:
    assert optimal_tokens(surface)(1e24) == pytest.approx(TRUE_TOKENS[surface], rel=1e-9)


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("place", range(4))
def test_bias_of_parabolas_on_wide_grids(surface: str, place: int) -> None:
    error = approach_2_error(surface, GRIDS[place])
    assert error == pytest.approx(ERRORS[surface][place], abs=6e-4)
    if surface == "symmetric":
        assert abs(error) < 1e-9


@pytest.mark.parametrize("place", range(4))
def test_bias_of_parabolas_on_drifting_grids(place: int) -> None:
    assert approach_2_error("symmetric", GRIDS[place], drift=3.0) == pytest.approx(DRIFT_ERRORS[place], abs=6e-4)


# Porian et al. 2024: exponent of N*(C), weighted, by configuration.
PORIAN = {
    "rw|base|long|kaplan|kaplan|train": 0.8353,
    "rw|base|long|kaplan|standard|val": 0.7065,
    "rw|base|short|kaplan|standard|val": 0.6020,
    "rw|base|short|chinchilla|standard|val": 0.5715,
    "rw|tuned|short|const|standard|val": 0.4969,
    "owt2|base|long|kaplan|kaplan|train": 0.8635,
    "owt2|base|long|kaplan|standard|val": 0.6985,
    "owt2|base|short|kaplan|standard|val": 0.6032,
    "owt2|base|short|chinchilla|standard|val": 0.5743,
    "owt2|tuned|short|const|standard|val": 0.5185,
}


@pytest.mark.parametrize("configuration", PORIAN)
def test_porian_exponents(configuration: str) -> None:
    table = pd.read_csv(DATA / "porian_optimal_pairs.csv")
    optima = table[table["config"] == configuration].dropna()
    law = fit_power_law(optima["flops"].to_numpy(), optima["n_star"].to_numpy(), optima["n_star_std"].to_numpy())
    assert law.exponent == pytest.approx(PORIAN[configuration], abs=5e-5)

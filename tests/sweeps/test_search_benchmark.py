"""The benchmarks of the search: they run, and their law and their least spending are what a hand finds."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from benchmarks import search, search_nano
from sweeps.reading import read_spec
from tests.analysis.law_rows import BIAS, FULL, row
from trainer.ladder import SHAPES
from trainer.trial import Method

QUICKSTART = read_spec("quickstart")
LEVELS = {"full": 1.3, "bias": 1.6}
BUDGETS = (25 * 10**9, 42 * 10**9, 70 * 10**9)


def made_up(method: Method, budget: int, model: str, number: int) -> float:
    """``ln L``: best at 4,000 parameters at 4e10 FLOPs, growing with the 0.3rd power; second trials are 2 % worse."""
    over = math.log(budget / 4e10)
    off = math.log(SHAPES[model].num_params_non_embedding / 4000) - 0.3 * over
    return LEVELS[method.label] - 0.1 * over + 0.05 * off**2 + 0.02 * number


def law_of_rows() -> search_nano.Law:
    return search_nano.fit(
        pd.DataFrame(
            [
                row(method, budget, model, math.exp(made_up(method, budget, model, number)), number=number)
                for method in (FULL, BIAS)
                for budget in BUDGETS
                for model in QUICKSTART.models
                for number in range(2 if method is FULL else 1)
            ]
        )
    )


def test_the_law_is_found_again() -> None:
    law = law_of_rows()
    assert law.size_exponent == pytest.approx(0.3, abs=1e-3)
    assert law.misfit == pytest.approx(0.0, abs=1e-3)
    assert law.ratios == pytest.approx([0.02] * 12)
    for method in (FULL, BIAS):
        found = law.at(method.label, 5e10, SHAPES["nano-7k"].num_params_non_embedding)
        assert found == pytest.approx(made_up(method, 50 * 10**9, "nano-7k", 0), abs=1e-4)


def test_the_least_that_the_rule_asks_of_quickstart_is_59_percent() -> None:
    """15 trials at the smallest budget and 9 at the others, of 17 each: three models of every method, then three of
    full training, which has two trials, and a check of each of the others."""
    [measured, finer, _] = search_nano.grids(QUICKSTART, 49.0, 64_000).values()
    assert len(measured) == 39
    least = (15 * 2.5 + 9 * (4.2 + 7.0)) / (17 * (2.5 + 4.2 + 7.0))
    assert search_nano.floor(measured, "full") == pytest.approx(least) == pytest.approx(0.594, abs=1e-3)
    assert len({study.cell.model for study in finer}) == 6


def test_a_replay_accounts_for_all_that_it_spends() -> None:
    spec = read_spec("quickstart", ["budgets_flops=[2.5e10, 7e10]", "methods=[full, bias]", "trials=1"])
    [measured, *_] = search_nano.grids(spec, 49.0, 64_000).values()
    found = search_nano.replay(measured, search_nano.Surface(law=law_of_rows(), number=0))
    parts = [found[f"spent_{part}"] for part in ("smallest_budget", "checks", "brackets")]
    assert found["spent"] == pytest.approx(sum(parts)) and all(part > 0 for part in parts)
    assert search_nano.floor(measured, "full") <= found["spent"] < 1
    assert found["regret"] >= 0 and found["methods_at_target"] == 1


def test_every_way_of_the_simulated_search_runs() -> None:
    """Up to its first trials: the whole takes minutes."""
    _, studies = search.planned()
    surface = search.Surface(0)
    for way in search.WAYS.values():
        tried = next(iter(way(surface, studies)))
        assert tried.cost_flops > 0 and tried.true > 0

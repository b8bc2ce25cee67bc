"""Counting conventions: the same sweep read by other counts of parameters and FLOPs, where the answer is known."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.conventions import Convention, Reading, readings, readings_table, to_measured_flops
from analysis.frontier import fit_frontier
from analysis.report_tables import reading_sentence
from tests.analysis.law_rows import FULL, LORA, law_rows, parabola_law

BUDGETS = (4e10, 1.2e11, 3.6e11)


def read(rows: pd.DataFrame, budget: int = 10**12) -> dict[str, Reading]:
    found, notes = readings(rows, fit_frontier(rows, num_draws=200), budget, num_draws=200)
    assert not notes
    return {reading.convention.words: reading for reading in found}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return law_rows(parabola_law(), budgets=BUDGETS, methods=(FULL, LORA))


def test_the_sweep_s_own_way_is_the_frontier_itself(rows: pd.DataFrame) -> None:
    frontier = fit_frontier(rows, num_draws=200)
    found, _ = readings(rows, frontier, 10**12, num_draws=200)
    assert found[0].convention == Convention()
    assert found[0].frontier is frontier
    assert len(found) == 6


def test_a_size_counted_as_its_square_doubles_the_exponent(rows: pd.DataFrame) -> None:
    # N_total = N^2 / 1000: with N* ~ C^0.5, the total at the optimum grows as C.
    squared = rows.assign(num_params_total=rows["num_params_non_embedding"] ** 2 // 1000)
    found = read(squared)
    for method in ("full", "lora-r4"):
        own = found["non-embedding parameters, booked FLOPs"].frontier.method(method).size_law
        total = found["total parameters, booked FLOPs"].frontier.method(method).size_law
        assert own is not None and total is not None
        assert own.fit.exponent == pytest.approx(0.5, abs=0.02)
        assert total.fit.exponent == pytest.approx(2 * own.fit.exponent, rel=0.05)


def test_measured_flops_in_proportion_to_booked_ones_move_budgets_alone(rows: pd.DataFrame) -> None:
    moved = to_measured_flops(rows.assign(measured_flops=2 * rows["budget_flops"]))
    assert not isinstance(moved, str)
    table, ratio, largest = moved
    assert (ratio, largest) == (pytest.approx(2.0), pytest.approx(1.0))
    assert list(table["loss"]) == pytest.approx(list(rows["loss"]))
    found = read(rows.assign(measured_flops=2 * rows["budget_flops"]))
    booked, measured = (found[f"non-embedding parameters, {flops} FLOPs"] for flops in ("booked", "measured"))
    assert measured.budget_flops == pytest.approx(2 * booked.budget_flops)
    assert measured.frontier.budgets_flops == tuple(2 * int(budget) for budget in BUDGETS)
    assert (measured.method, measured.model) == (booked.method, booked.model)


def test_losses_move_along_their_own_model_s_line() -> None:
    # loss = C^-0.1 exactly, and measured FLOPs that differ between models by up to 4 times.
    rows = law_rows(lambda method, budget, shape: (budget / 1e11) ** -0.1, budgets=BUDGETS, methods=(FULL,))
    factor = rows["model"].map({"nano-1k": 2.0, "nano-85k": 0.5}).fillna(1.0)
    rows["measured_flops"] = (rows["budget_flops"] * factor).astype(int)
    rows["loss"] = (rows["measured_flops"] / 1e11) ** -0.1
    moved = to_measured_flops(rows)
    assert not isinstance(moved, str)
    table, _, largest = moved
    assert largest == pytest.approx(2.0, rel=1e-3)
    assert list(table["loss"]) == pytest.approx(list((table["budget_flops"] / 1e11) ** -0.1), rel=1e-6)
    assert table.groupby("budget_flops")["loss"].nunique().max() <= table["model"].nunique()
    assert (table["tokens"] / rows["tokens"]).to_numpy() == pytest.approx(
        (table["budget_flops"] / rows["measured_flops"]).to_numpy(), rel=1e-3
    )


def test_what_cannot_be_counted_is_said(rows: pd.DataFrame) -> None:
    found, notes = readings(rows.assign(measured_flops=0), fit_frontier(rows, num_draws=50), 10**12, num_draws=50)
    assert {reading.convention.flops for reading in found} == {"booked"}
    assert notes == ("Not every trial has measured FLOPs, so nothing is said under that way of counting.",)
    one = law_rows(parabola_law(), budgets=(1e11,), methods=(FULL,))
    assert "run at one budget" in str(to_measured_flops(one))


def test_budgets_beyond_64_bits(rows: pd.DataFrame) -> None:
    large = law_rows(parabola_law(pivot=1e21), budgets=(4e20, 1.2e21, 3.6e21), methods=(FULL,))
    large["measured_flops"] = large["budget_flops"].astype(float) * 1.25
    found = read(large, budget=10**22)
    assert found["total parameters, measured FLOPs"].budget_flops == pytest.approx(1.25e22)


def test_the_table_and_the_sentence_say_how_the_answer_moves(rows: pd.DataFrame) -> None:
    found, _ = readings(rows, fit_frontier(rows, num_draws=50), 10**12, num_draws=50)
    table = readings_table(found)
    assert len(table) == 6 * 2
    assert set(" ".join(table["trial_ids"]).split()) <= set(rows["trial_id"])
    assert reading_sentence(found[:1]).startswith("All 1 ways")
    other = [
        found[0],
        *(
            type(one)(**{name: getattr(one, name) for name in one.__slots__} | {"model": "nano-1k"})
            for one in found[1:2]
        ),
    ]
    assert "nano-1k by" in reading_sentence(other) and "depends on the counting" in reading_sentence(other)

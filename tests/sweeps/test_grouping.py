"""A rank that studies search is one hyperparameter of one method; a grid of ranks is as many methods."""

from __future__ import annotations

import math
from dataclasses import asdict

import pandas as pd
import pytest

from analysis.experiment_figures import draw_experiments
from analysis.frontier import MethodFrontier, fit_frontier
from analysis.recommend import recommend
from analysis.report_tables import trial_table
from sweeps.emit import one_cell
from sweeps.grouping import by_method, method_label
from sweeps.plan import DataFacts, plan
from sweeps.reading import read_spec
from tests.analysis.law_rows import FULL, NANO, NUM_TRAIN_PAIRS, TOKENS_PER_PAIR, law_rows, parabola_law, row
from trainer.ladder import LADDERS, SHAPES
from trainer.trial import Freeze, Full, Lora, Method

SPEC = """\
name: ranks
data: nano
models: [nano]
methods: [full, {lora: {rank: {low: 1, high: 64}, alpha: 8}}]
budgets_flops: [4e10, 1.2e11, 3.6e11]
trials: 4
fixed: {batch_size: 64, max_length: 32}
"""
BEST_RANK = {4 * 10**10: 4, 12 * 10**10: 9, 36 * 10**10: 21}
LAW = parabola_law(level={"full": 3.0, "lora": 2.9})


def rows_of_ranks() -> pd.DataFrame:
    """Full training, and LoRA whose best rank grows with the budget. All else is equal, as if the rank alone were
    searched; what surrounds the best rank differs from cell to cell, as TPE would have it."""
    lora = [
        row(Lora(rank=rank, alpha=8), budget, model, loss * (1 + 0.05 * abs(math.log(rank / best))), number=0)
        for budget, best in BEST_RANK.items()
        for place, model in enumerate(NANO)
        for loss in [LAW(Lora(rank=best, alpha=8), budget, SHAPES[model])]
        for rank in (best, best * 2 + place, 1 + place % 2)
    ]
    return pd.concat([law_rows(LAW, methods=(FULL,)), pd.DataFrame(lora)], ignore_index=True)


def lora_of(rows: pd.DataFrame) -> MethodFrontier:
    return fit_frontier(by_method(rows, read_spec(SPEC))).method("lora")


def test_trials_of_all_ranks_give_one_law() -> None:
    """The same as if each cell had been run with its best rank alone."""
    rows = rows_of_ranks()
    assert len(fit_frontier(rows).methods) > 10, "by their own labels they fall apart"
    found = lora_of(rows)
    assert [profile.budget_flops for profile in found.profiles] == list(BEST_RANK)
    assert found.size_law is not None and found.loss_law is not None
    assert found.size_law.at(1e11) == pytest.approx(7e3, rel=1e-4)
    assert found.size_law.fit.exponent == pytest.approx(0.5, abs=1e-4)
    assert found.loss_law.at(1e11) == pytest.approx(2.9, rel=1e-3)
    for profile in found.profiles:
        assert {point.spec.method for point in profile.points} == {Lora(rank=BEST_RANK[profile.budget_flops], alpha=8)}


def test_trials_that_differ_in_their_rank_are_no_seeds_of_each_other() -> None:
    found = lora_of(rows_of_ranks())
    assert found.noise.num_repeat_degrees == 0
    assert {point.num_seeds for profile in found.profiles for point in profile.points} == {1}
    assert {point.num_trials for profile in found.profiles for point in profile.points} == {3}


@pytest.mark.parametrize(("budget", "rank"), [(4 * 10**10, 4), (13 * 10**10, 9), (10**12, 21)])
def test_the_recommendation_names_the_rank_and_the_emitted_sweep_trains_it(budget: int, rank: int) -> None:
    spec = read_spec(SPEC)
    frontier = fit_frontier(by_method(rows_of_ranks(), spec))
    answer = recommend(frontier, budget, LADDERS["nano"], TOKENS_PER_PAIR)
    assert (answer.label, answer.method) == ("lora", Lora(rank=rank, alpha=8))
    assert f"by LoRA (rank {rank}, alpha 8)" in answer.sentences()[0]
    assert "lora is the best method" in answer.sentences()[1]
    assert answer.sentences()[2].startswith("Settings of the method, learning rate ")
    assert answer.to_dict()["method_settings"] == {"kind": "lora", "rank": rank, "alpha": 8}
    emitted = read_spec(one_cell(spec, answer, noise_relative_sd=0.01, stated_at="2026-11-22T10:00:00+00:00").to_yaml())
    facts = DataFacts(num_train_pairs=NUM_TRAIN_PAIRS, tokens_per_pair=TOKENS_PER_PAIR, measured=True)
    [cell] = plan(emitted, facts, SHAPES).cells
    assert (cell.cell.method, cell.cell.smallest, cell.num_trials) == (Lora(rank=rank, alpha=8), None, 1)


def test_a_grid_of_ranks_stays_a_method_each_and_has_its_figure() -> None:
    rows = rows_of_ranks()
    grid = read_spec("lora-rank-nano")
    assert by_method(rows, grid)["method"].tolist() == rows["method"].tolist()
    assert method_label(grid, Lora(rank=16, alpha=8)) == "lora-r16"
    [drawn, again] = [draw_experiments(by_method(rows, spec), {})["ranks"] for spec in (grid, read_spec(SPEC))]
    pd.testing.assert_frame_equal(drawn.data, again.data)


@pytest.mark.parametrize(
    ("methods", "label"),
    [
        ("[{lora: {rank: {low: 1, high: 64}, alpha: 8}}]", "lora"),
        ("[{lora: {rank: [8, 32], alpha: 8}}]", "lora"),
        ("[{lora: {rank: 37, alpha: [8, 16]}}]", "lora-r37"),
        ("[{lora: {rank: 37, alpha: 8}}]", "lora-r37"),
    ],
)
def test_the_label_says_what_is_not_searched(methods: str, label: str) -> None:
    spec = read_spec(SPEC.replace("[full, {lora: {rank: {low: 1, high: 64}, alpha: 8}}]", methods))
    assert method_label(spec, Lora(rank=37, alpha=8)) == label


@pytest.mark.parametrize("method", [Full(), Freeze(active_fraction=0.25)])
def test_other_methods_keep_their_labels(method: Method) -> None:
    assert method_label(read_spec(SPEC), method) == method.label


def test_alphas_of_one_rank_are_told_apart() -> None:
    """They share a label; the one that is better by 3 % stands for the cell, and is what is recommended."""
    rows = pd.DataFrame(
        [
            row(method, budget, model, LAW(method, budget, SHAPES[model]) * (1.0 if alpha == 16 else 1.03))
            for budget in BEST_RANK
            for model in NANO
            for alpha in (8.0, 16.0)
            for method in [Lora(rank=4, alpha=alpha)]
        ]
    )
    frontier = fit_frontier(rows)
    assert frontier.method("lora-r4").noise.num_repeat_degrees == 0
    answer = recommend(frontier, 10**12, LADDERS["nano"], TOKENS_PER_PAIR)
    assert asdict(answer.method) == {"rank": 4, "alpha": 16.0}


def test_the_table_of_trials_shows_each_one_s_rank() -> None:
    rows = by_method(rows_of_ranks(), read_spec(SPEC))
    table = trial_table(rows)
    shown = {line["cells"][table["headings"].index("Method")][0] for line in table["lines"]}
    assert shown == {"full"} | {f"lora-r{int(rank)}" for rank in rows["method_rank"].dropna()}

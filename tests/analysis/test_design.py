"""Which cells to run next: against a posterior by hand, against refits, and against cells chosen otherwise."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from analysis.design import Design, design
from analysis.fit import WINDOW_FACTOR
from analysis.frontier import Frontier, fit_frontier
from analysis.offers import CellRules
from tests.analysis.law_rows import FULL, LORA, NUM_TRAIN_PAIRS, TOKENS_PER_PAIR, law_rows, parabola_law, row
from trainer.flops import num_tokens
from trainer.ladder import LADDERS, SHAPES, parameter_counts

NOISE = 0.015
LAW = parabola_law()
ROWS = law_rows(LAW, methods=(FULL, LORA), noise=NOISE, seed=3)
RULES = CellRules(
    tokens_per_pair=TOKENS_PER_PAIR, pairs_per_epoch=NUM_TRAIN_PAIRS, batch_size=64, min_steps=50, max_epochs=50
)
TARGET = 720_000_000_000


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    return fit_frontier(ROWS)


def ask(frontier: Frontier, flops: float, rules: CellRules = RULES, quantity: str = "loss") -> Design:
    return design(frontier, flops, LADDERS["nano"], rules, quantity=quantity)


def refitted_sd(cells: Sequence[tuple[str, int, str]], quantity: str) -> float:
    """Of ln of the full method's law at the target, when the cells were run too; the median over some noise."""
    methods = {"full": FULL, "lora-r4": LORA}
    found = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        new = [
            row(
                methods[label],
                budget,
                model,
                LAW(methods[label], budget, SHAPES[model]) * math.exp(NOISE * rng.standard_normal()),
                seed=7,
            )
            for label, budget, model in cells
        ]
        full = fit_frontier(pd.concat([ROWS, pd.DataFrame(new)])).method("full")
        law = full.loss_law if quantity == "loss" else full.size_law
        assert law is not None
        low, high = np.quantile(np.log(law.draws_at(TARGET)), [0.16, 0.84])
        found.append((high - low) / 2)
    return float(np.median(found))


# A refit puts a part of what repeats and residuals differ by down to luck, which no repeat averages out. It costs the
# size more, since that rests on the cells' differences.
@pytest.mark.parametrize(("quantity", "most"), [("loss", 0.75), ("size", 0.9)])
def test_the_cells_bring_about_what_is_foretold(frontier: Frontier, quantity: str, most: float) -> None:
    found = ask(frontier, 1e12, quantity=quantity)
    after = refitted_sd([(cell.method, cell.budget_flops, cell.model) for cell in found.cells], quantity)
    assert found.relative_sd_after == pytest.approx(after, rel=0.35)
    assert after < most * refitted_sd([], quantity)


def test_the_cells_tell_more_than_as_many_flops_in_the_smallest_budget(frontier: Frontier) -> None:
    found = ask(frontier, 1e12)
    ours = refitted_sd([(cell.method, cell.budget_flops, cell.model) for cell in found.cells], "loss")
    small = [("full", 40_000_000_000, model) for model in ("nano-1k", "nano-3k", "nano-7k", "nano-14k", "nano-25k")]
    assert len(small) * 4e10 < found.flops
    assert ours < refitted_sd(small, "loss")


def test_one_cell_lowers_the_variance_as_a_posterior_by_hand(frontier: Frontier) -> None:
    """The first cell: the covariance of (ln level, slope, ln size, its slope), updated by inversion."""
    found = ask(frontier, 4e11)
    [first, *_] = found.cells
    full = frontier.method("full")
    assert first.method == frontier.ranking_by_laws(TARGET).standings[0].method == "full"
    assert frontier.ranking_by_laws(TARGET).standings[0].probability_best > 0.99
    loss, size = full.loss_law, full.size_law
    assert loss is not None and size is not None
    draws = np.stack([loss.log_levels, loss.exponents, size.log_levels, size.exponents])
    low, high = np.quantile(draws, [0.05, 0.95], axis=1)
    # A standard normal that is clipped at these quantiles has a variance of .8313.
    prior = np.cov(np.clip(draws, low[:, None], high[:, None])) / 0.831268
    point = np.array([np.log(loss.fit.level), loss.fit.exponent, np.log(size.fit.level), size.fit.exponent])
    optimum = next(p.optimum for p in full.profiles if p.budget_flops == first.budget_flops)
    assert optimum is not None

    def ln_loss(theta: np.ndarray) -> float:
        at = math.log(first.budget_flops)
        floor = math.exp(theta[0] + theta[1] * (at - math.log(loss.fit.pivot)))
        best = theta[2] + theta[3] * (at - math.log(size.fit.pivot))
        off = (math.log(SHAPES[first.model].num_params_non_embedding) - best) / math.log(10)
        return math.log(floor + optimum.parabola.curvature * off**2)

    step = 1e-6
    slopes = np.array([(ln_loss(point + step * e) - ln_loss(point - step * e)) / (2 * step) for e in np.eye(4)])
    posterior = np.linalg.inv(np.linalg.inv(prior) + np.outer(slopes, slopes) / full.noise.relative_sd**2)
    target = np.array([1.0, math.log(TARGET / loss.fit.pivot), 0.0, 0.0])
    assert first.relative_sd_after == pytest.approx(math.sqrt(target @ posterior @ target), rel=0.02)


def test_what_is_spent_stays_within_what_is_given(frontier: Frontier) -> None:
    before = math.inf
    for flops in (5e10, 4e11, 3e12):
        found = ask(frontier, flops)
        assert found.flops <= flops
        sds = [found.relative_sd_before, *(cell.relative_sd_after for cell in found.cells)]
        assert sds == sorted(sds, reverse=True)
        assert found.relative_sd_after <= before
        assert len({(cell.method, cell.budget_flops, cell.model) for cell in found.cells}) == len(found.cells)
        before = found.relative_sd_after
    assert ask(frontier, 1e10).cells == ()
    assert "would tell anything" in ask(frontier, 1e10).sentences()[0]


def test_no_cell_breaks_the_sweep_s_rules(frontier: Frontier) -> None:
    strict = CellRules(
        tokens_per_pair=TOKENS_PER_PAIR, pairs_per_epoch=NUM_TRAIN_PAIRS, batch_size=64, min_steps=200, max_epochs=1.5
    )
    found = ask(frontier, 3e12, strict)
    assert found.cells
    for cell in found.cells:
        tokens = num_tokens(cell.budget_flops, parameter_counts(SHAPES[cell.model], FULL), FULL)
        pairs = tokens / TOKENS_PER_PAIR
        assert pairs / 64 >= 200
        assert cell.method != "full" or pairs / NUM_TRAIN_PAIRS <= 1.5


def test_no_cell_is_outside_the_window_of_a_fit(frontier: Frontier) -> None:
    law = frontier.method("full").size_law
    assert law is not None
    for cell in ask(frontier, 3e12, quantity="size").cells:
        optimum = law.at(cell.budget_flops)
        sizes = {shape.name: shape.num_params_non_embedding for shape in LADDERS["nano"]}
        off = {name: abs(math.log(size / optimum)) for name, size in sizes.items()}
        assert off[cell.model] <= max(math.log(WINDOW_FACTOR), sorted(off.values())[2]) + 1e-6


def test_wild_draws_do_not_make_up_the_uncertainty() -> None:
    """A size that is all but unknown has a few draws with exponents of ten and more."""
    frontier = fit_frontier(law_rows(LAW, methods=(FULL, LORA), noise=NOISE, seed=4))
    law = frontier.method("full").loss_law
    assert law is not None
    low, high = np.nanquantile(np.log(law.draws_at(TARGET)), [0.16, 0.84])
    assert ask(frontier, 1e12).relative_sd_before == pytest.approx((high - low) / 2, rel=0.35)


def test_a_method_that_cannot_win_is_not_measured_again(frontier: Frontier) -> None:
    assert {cell.method for cell in ask(frontier, 3e12).cells} == {"full"}
    alike = fit_frontier(law_rows(parabola_law(level={"full": 3.0, "lora": 3.0}), methods=(FULL, LORA), noise=NOISE))
    assert {cell.method for cell in ask(alike, 3e12).cells} == {"full", "lora-r4"}


def test_trials_of_a_cell_are_paid_for() -> None:
    found = ask(fit_frontier(law_rows(LAW, methods=(FULL,), noise=NOISE, num_trials=3)), 3e12)
    assert {cell.num_trials for cell in found.cells} == {3}
    assert found.flops == sum(3 * cell.budget_flops for cell in found.cells) <= 3e12


def test_a_design_is_json_and_words(frontier: Frontier) -> None:
    found = ask(frontier, 1e12)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["target_budget_flops"] == TARGET
    assert len(record["cells"]) == len(found.cells) == len(found.sentences()) - 1
    measured = {cell["is_measured"] for cell in record["cells"]}
    assert all(("again with another seed" in cell.words) == cell.is_measured for cell in found.cells)
    assert measured <= {True, False}


def test_without_laws_nothing_is_designed() -> None:
    with pytest.raises(ValueError, match="no method has laws of size and loss yet"):
        ask(fit_frontier(law_rows(LAW, budgets=[1.2e11])), 1e12)


@pytest.mark.parametrize("flops", [0.0, -1.0, math.nan, math.inf])
def test_flops_must_be_an_amount(frontier: Frontier, flops: float) -> None:
    with pytest.raises(ValueError, match="--flops is"):
        ask(frontier, flops)


def test_only_loss_and_size_can_be_asked(frontier: Frontier) -> None:
    with pytest.raises(ValueError, match="--of is 'speed': give loss or size"):
        ask(frontier, 1e12, quantity="speed")

"""The frontier: laws that are recovered, methods that are ranked, and plain words where the data say nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from analysis.frontier import Frontier, fit_frontier
from analysis.profile import ProfileState
from tests.analysis.law_rows import BIAS, FREEZE, FULL, LORA, NANO, law_rows, measured_nano_rows, parabola_law, row
from trainer.result import TrialState


def assert_nothing_without_ground(frontier: Frontier) -> None:
    """What holds for any rows: optima are interior, laws rest on two budgets, probabilities sum to one, JSON works."""
    for method in frontier.methods:
        for profile in method.profiles:
            assert (profile.optimum is not None) == (profile.state == ProfileState.OPTIMUM)
            if profile.optimum is not None:
                sizes = [point.num_params for point in profile.points]
                assert sizes[0] < profile.optimum.num_params < sizes[-1]
                assert min(sizes) < profile.best.num_params < max(sizes)
        optima = {profile.budget_flops for profile in method.profiles if profile.optimum is not None}
        if method.size_law is not None:
            assert len(method.size_law.budgets_flops) >= 2
            assert set(method.size_law.budgets_flops) <= optima
        if method.loss_law is not None:
            assert len(method.loss_law.budgets_flops) >= 2
    for ranking in frontier.rankings:
        assert sum(standing.probability_best for standing in ranking.standings) == pytest.approx(1)
        assert [s.loss for s in ranking.standings] == sorted(s.loss for s in ranking.standings)
    json.dumps(frontier.to_dict(), allow_nan=False)


@pytest.mark.parametrize("size_exponent", [0.3, 0.5])
@pytest.mark.parametrize("loss_exponent", [-0.05, -0.2])
def test_a_known_law_is_recovered(size_exponent: float, loss_exponent: float) -> None:
    law = parabola_law(size_exponent=size_exponent, loss_exponent=loss_exponent)
    frontier = fit_frontier(law_rows(law, budgets=(3e10, 6e10, 1.2e11, 2.4e11)))
    assert_nothing_without_ground(frontier)
    assert frontier.notes == ()
    for method in frontier.methods:
        assert method.size_law is not None and method.loss_law is not None and method.tokens_law is not None
        assert method.size_law.fit.exponent == pytest.approx(size_exponent, abs=1e-6)
        assert method.size_law.at(1e13) == pytest.approx(7e3 * 100**size_exponent, rel=1e-5)
        assert method.loss_law.fit.exponent == pytest.approx(loss_exponent, abs=1e-6)
        assert method.size_law.interval_at(1e13).low < 7e3 * 100**size_exponent < method.size_law.interval_at(1e13).high
        if method.label == "full":
            assert method.tokens_law.fit.exponent == pytest.approx(1 - size_exponent, abs=1e-3)


def test_methods_are_ranked_by_loss() -> None:
    frontier = fit_frontier(law_rows(parabola_law(), noise=0.003))
    for ranking in frontier.rankings:
        assert [standing.method for standing in ranking.standings] == ["full", "lora-r4", "freeze-0.5", "bias"]
        assert ranking.standings[0].probability_best > 0.95
    assert [s.method for s in frontier.ranking_by_laws(10**12).standings] == ["full", "lora-r4", "freeze-0.5", "bias"]


def test_two_equal_methods_are_a_toss_up() -> None:
    law = parabola_law(level={"full": 3.0, "lora": 3.0})
    frontier = fit_frontier(law_rows(law, methods=(FULL, LORA)))
    for standing in frontier.ranking_by_laws(10**12).standings:
        assert standing.probability_best == pytest.approx(0.5, abs=0.07)


def test_a_crossover_is_seen_by_the_laws() -> None:
    """Full is better at small budgets, LoRA at large ones, as in the paper."""

    def loss(method, budget, shape):  # type: ignore[no-untyped-def]  # the signature is LossOf's
        exponent, level = (-0.05, 2.0) if method.kind == "full" else (-0.1, 2.2)
        best = 7e3 * (budget / 1e11) ** 0.5
        return (level * (budget / 1e11) ** exponent) * (
            1 + 0.2 * math.log10(shape.num_params_non_embedding / best) ** 2
        )

    frontier = fit_frontier(law_rows(loss, methods=(FULL, LORA)))
    assert frontier.rankings[0].standings[0].method == "full"
    crossover = 1e11 * (2.2 / 2.0) ** (1 / 0.05)
    below = frontier.ranking_by_laws(int(crossover / 3)).standings[0]
    above = frontier.ranking_by_laws(int(crossover * 3)).standings[0]
    assert (below.method, above.method) == ("full", "lora-r4")


def test_the_same_rows_and_seed_give_the_same_frontier() -> None:
    rows = measured_nano_rows()
    shuffled = rows.sample(frac=1, random_state=3)
    first, again, other = fit_frontier(rows), fit_frontier(shuffled), fit_frontier(rows, seed=1)
    assert first.to_dict() == again.to_dict()
    assert first.to_dict() != other.to_dict()
    # The draws weigh the optima, so another seed moves the law a little.
    for law, same in ((m.size_law, other.method(m.label).size_law) for m in first.methods):
        assert law is not None and same is not None
        assert law.fit.exponent == pytest.approx(same.fit.exponent, abs=0.05)


def test_measured_nano_losses() -> None:
    """Losses of real trials: interior optima of full fine-tuning that grow with the budget; edges that stay edges."""
    frontier = fit_frontier(measured_nano_rows())
    assert_nothing_without_ground(frontier)
    full = {profile.budget_flops: profile for profile in frontier.method("full").profiles}
    sizes = {budget: full[int(budget)].optimum.num_params for budget in (4e10, 8e10, 3.2e11)}  # type: ignore[union-attr]
    assert sizes[4e10] == pytest.approx(2.5e3, rel=0.05)
    assert sizes[8e10] == pytest.approx(3.5e3, rel=0.05)
    assert sizes[3.2e11] == pytest.approx(7.1e3, rel=0.1)
    assert full[113_000_000_000].state == ProfileState.EDGE_LOW
    law = frontier.method("full").size_law
    assert law is not None
    assert 113_000_000_000 not in law.budgets_flops
    assert 0.35 < law.fit.exponent < 0.7
    assert [standing.method for standing in frontier.rankings[-1].standings] == [
        "full",
        "lora-r4",
        "freeze-0.5",
        "bias",
    ]
    lora = {profile.budget_flops: profile.state for profile in frontier.method("lora-r4").profiles}
    assert lora[40_000_000_000] == lora[113_000_000_000] == ProfileState.EDGE_LOW
    assert any("lora-r4 at 4.0e10 and 1.1e11 FLOPs" in note and "edge" in note for note in frontier.notes)


def test_an_edge_gives_its_loss_to_the_loss_law_but_no_size() -> None:
    rows = law_rows(parabola_law(size=3e3), methods=[FULL], budgets=(1e10, 4e10, 1.6e11, 6.4e11))
    (full,) = fit_frontier(rows).methods
    assert full.profiles[0].state == ProfileState.EDGE_LOW
    assert full.size_law is not None and full.loss_law is not None
    assert 10**10 not in full.size_law.budgets_flops
    assert 10**10 in full.loss_law.budgets_flops
    assert full.size_law.fit.exponent == pytest.approx(0.5, abs=1e-6)
    assert any("upper bound" in note and "1.0e10 FLOPs" in note for note in full.notes)


def test_laws_widen_where_the_optima_do_not_follow_them() -> None:
    """Losses that are exact but bend in log-log: the misfit is in the interval."""
    straight = fit_frontier(law_rows(parabola_law(), methods=[FULL])).methods[0].loss_law

    def bent(method, budget, shape):  # type: ignore[no-untyped-def]  # the signature is LossOf's
        return parabola_law()(method, budget, shape) + 0.5 * abs(math.log10(budget / 1.2e11))

    curved = fit_frontier(law_rows(bent, methods=[FULL])).methods[0].loss_law
    assert straight is not None and curved is not None

    def width(law, budget):  # type: ignore[no-untyped-def]
        return math.log(law.interval_at(budget).high / law.interval_at(budget).low)

    assert curved.fit.misfit is not None and curved.fit.misfit > 2
    assert width(curved, 1e12) > 1.3 * width(straight, 1e12)


def test_a_single_budget_has_optima_but_no_laws() -> None:
    frontier = fit_frontier(law_rows(parabola_law(), budgets=[1e11]))
    assert_nothing_without_ground(frontier)
    assert all(method.profiles[0].optimum is not None for method in frontier.methods)
    assert all(law is None for m in frontier.methods for law in (m.size_law, m.tokens_law, m.loss_law))
    assert frontier.ranking_by_laws(10**12).standings == ()
    assert frontier.notes == (
        "Only one budget was measured (1.0e11 FLOPs), so nothing can be said about other budgets.",
    )


def test_edges_everywhere_give_no_size() -> None:
    frontier = fit_frontier(law_rows(parabola_law(size=50), methods=[FULL]))
    assert_nothing_without_ground(frontier)
    (full,) = frontier.methods
    assert full.size_law is None and full.tokens_law is None
    assert full.loss_law is not None
    assert any("no budget has an optimum" in note for note in frontier.notes)


def test_two_budgets_are_said_to_check_nothing() -> None:
    frontier = fit_frontier(law_rows(parabola_law(), budgets=(5e10, 2e11), methods=[FULL]))
    assert frontier.methods[0].size_law is not None
    assert frontier.methods[0].size_law.fit.misfit is None
    assert any("two budgets alone, so nothing checks them" in note for note in frontier.notes)


def test_a_method_that_is_missing_at_a_budget_is_named() -> None:
    rows = law_rows(parabola_law())
    rows = rows[(rows["method"] != "bias") | (rows["budget_flops"] != 36 * 10**10)]
    frontier = fit_frontier(rows)
    assert_nothing_without_ground(frontier)
    assert any(note.startswith("bias at 3.6e11 FLOPs: no complete trial") for note in frontier.notes)
    assert "bias" not in {standing.method for standing in frontier.rankings[-1].standings}


DEGENERATE = {
    "no rows": law_rows(parabola_law()).iloc[:0],
    "failures alone": pd.DataFrame([row(FULL, 10**11, m, 0, state=TrialState.FAILED, error="boom") for m in NANO]),
    "one trial": law_rows(parabola_law(), budgets=[1e11], models=["nano-3k"], methods=[FULL]),
    "two points": law_rows(parabola_law(), models=["nano-3k", "nano-7k"]),
    "equal losses": law_rows(lambda *_: 4.0),
    "zero losses": law_rows(lambda *_: 0.0),
    "nan": law_rows(parabola_law()).assign(loss=np.nan),
    "some nan": law_rows(parabola_law()).assign(loss=lambda rows: rows["loss"].where(rows["model"] != "nano-7k")),
    "infinite": law_rows(parabola_law()).assign(
        loss=lambda rows: rows["loss"].where(rows["model"] != "nano-1k", np.inf)
    ),
    "duplicates": pd.concat([law_rows(parabola_law())] * 3),
    "one method each": pd.concat(
        [law_rows(parabola_law(), budgets=[b], methods=[m]) for b, m in ((4e10, FULL), (9e10, LORA), (2e11, BIAS))]
    ),
    "huge noise": law_rows(parabola_law(), noise=0.5),
    "mixed objects": law_rows(parabola_law()).assign(loss=lambda rows: rows["loss"].astype(object)),
    "a size off the others": law_rows(parabola_law(), methods=[FREEZE], models=["nano-1k", "nano-3k", "nano-85k"]),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.filterwarnings("error")
def test_degenerate_rows_give_words_not_numbers(case: str) -> None:
    frontier = fit_frontier(DEGENERATE[case], num_draws=200)
    assert_nothing_without_ground(frontier)
    if case in ("no rows", "failures alone", "nan", "zero losses"):
        assert frontier.methods == ()
        assert "No trial is complete, so nothing can be fitted or recommended." in frontier.notes
    if case == "duplicates":
        assert frontier.to_dict() == fit_frontier(law_rows(parabola_law()), num_draws=200).to_dict()
    if case in ("one trial", "two points", "equal losses", "one method each"):
        assert all(method.size_law is None for method in frontier.methods)
        assert frontier.notes

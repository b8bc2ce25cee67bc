"""From loss to score: known links are found, intervals hold the truth, and a weak link is called weak."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from analysis.expected_score import expected_score
from analysis.link import CATEGORY_MEAN, MEAN, Link, fit_links, link_of, with_means
from analysis.link_curves import fit_exponentials, fit_steps, residual_draws
from analysis.link_figure import draw_links

FLOOR, HEIGHT, RATE = 0.1, 0.6, 1.0


def truth(loss: np.ndarray) -> np.ndarray:
    return FLOOR + HEIGHT * np.exp(-RATE * (loss - 2.5))


def made_up(
    num: int = 24, *, noise: float = 0.01, seed: int = 0, task: str = "t", lift: dict[str, float] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and scores of trials, each in a cell of its own, of two methods and three budgets in turn."""
    rng = np.random.default_rng(seed)
    loss = rng.uniform(2.5, 4.5, num)
    methods = np.array(["full", "lora-r4"])[np.arange(num) % 2]
    rows = pd.DataFrame(
        {
            "trial_id": [f"trial-{number}" for number in range(num)],
            "state": "COMPLETE",
            "method": methods,
            "model": [f"m{number}" for number in range(num)],
            "budget_flops": [[1e9, 2e9, 4e9][number % 3] for number in range(num)],
            "loss": loss,
        }
    )
    shift = np.array([(lift or {}).get(method, 0.0) for method in methods])
    score = truth(loss) + noise * rng.standard_normal(num) + shift
    return rows, pd.DataFrame({"trial_id": rows["trial_id"], "task": task, "score": score})


def the_link(rows: pd.DataFrame, scores: pd.DataFrame) -> Link:
    [link] = fit_links(rows, scores)
    return link


def test_the_parameters_of_a_link_without_noise_are_found() -> None:
    losses = np.linspace(2.5, 4.5, 12)
    fit = fit_exponentials(losses, truth(losses)[None])
    assert fit.rate[0] == pytest.approx(RATE, rel=0.05)
    assert fit.floor[0] == pytest.approx(FLOOR, abs=0.02)
    assert fit.at(np.array([2.3]))[0, 0] == pytest.approx(truth(np.array([2.3]))[0], abs=0.01)


def test_the_exponential_has_the_least_squares_of_a_search_written_differently() -> None:
    from scipy.optimize import least_squares

    rows, scores = made_up(15, noise=0.03, seed=4)
    losses, values = rows["loss"].to_numpy(), scores["score"].to_numpy()
    found = fit_exponentials(losses, values[None])
    other = least_squares(
        lambda p: p[0] + p[1] * np.exp(-p[2] * (losses - losses.min())) - values, [0.1, 0.5, 1.0], x_scale="jac"
    )
    assert found.squares[0] == pytest.approx(2 * other.cost, rel=1e-3)


def test_steps_never_rise_and_are_the_nearest_that_do_not() -> None:
    losses, scores = np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([0.9, 0.5, 0.7, 0.8, 0.1])
    values = fit_steps(losses, scores[None]).values[0]
    assert values == pytest.approx([0.9, 2 / 3, 2 / 3, 0.1]), "three pooled: (.5 + .7 + .8) / 3"
    beyond = fit_steps(losses, scores[None]).at(np.array([0.0, 9.0]))[0]
    assert beyond == pytest.approx([0.9, 0.1])


def test_a_strong_link_is_told_with_its_correlations() -> None:
    rows, scores = made_up()
    link = the_link(rows, scores)
    expected = spearmanr(rows["loss"], scores["score"]).statistic
    assert link.rank is not None and link.rank.value == pytest.approx(expected)
    assert link.rank.interval.low < expected < link.rank.interval.high < -0.9
    assert link.linear is not None and link.linear.value == pytest.approx(
        np.corrcoef(rows["loss"], scores["score"])[0, 1]
    )
    assert not link.is_weak and "WEAK" not in link.sentence
    assert link.scatter == pytest.approx(0.01, rel=0.5)
    assert link.curves[0].explained > 0.95
    assert [one.is_shared for one in link.stability] == [True, True]


@pytest.mark.parametrize(("num", "noise"), [(8, 0.02), (24, 0.02)])
def test_nine_of_ten_intervals_hold_the_true_score(num: int, noise: float) -> None:
    """120 simulated sweeps at four losses, of which one lies beyond the measured ones."""
    at = np.array([2.7, 3.5, 4.3, 4.8])
    held = np.zeros(len(at))
    for seed in range(120):
        rows, scores = made_up(num, noise=noise, seed=seed)
        losses, values = rows["loss"].to_numpy(), scores["score"].to_numpy()
        fit = fit_exponentials(losses, values[None])
        around = residual_draws(values - fit.at(losses)[0], np.arange(num), num - 3, 300, seed)
        draws = fit_exponentials(losses, fit.at(losses) + around).at(at)
        low, high = np.quantile(draws, [0.05, 0.95], axis=0)
        held += (low <= truth(at)) & (truth(at) <= high)
    # Of 120 at a coverage of .9, fewer than 96 come once in a thousand.
    assert (held >= 96).all(), held
    assert held.sum() < 4 * 119, "no interval is so wide that it always holds"


def test_repeats_within_cells_do_not_count_as_more_cells() -> None:
    """A part of the residual is the cell's own: ten repeats of six cells must not narrow the band tenfold."""
    rng = np.random.default_rng(0)
    loss, shared = np.linspace(2.5, 4.5, 6), 0.03 * rng.standard_normal(6)

    def width(repeats: int) -> float:
        cell = np.repeat(np.arange(6), repeats)
        jitter = 1e-3 * rng.standard_normal(len(cell))
        rows = pd.DataFrame(
            {
                "trial_id": [f"t{n}" for n in range(len(cell))],
                "state": "COMPLETE",
                "method": "full",
                "model": [f"m{c}" for c in cell],
                "budget_flops": 1e9,
                "loss": loss[cell] + jitter,
            }
        )
        scores = pd.DataFrame(
            {"trial_id": rows["trial_id"], "task": "t", "score": truth(loss[cell]) + shared[cell] + jitter}
        )
        found = the_link(rows, scores).curves[0].interval_at(3.5)
        return found.high - found.low

    assert width(10) > 0.6 * width(1)


def test_a_link_of_noise_is_called_weak() -> None:
    rows, scores = made_up(24, noise=2.0, seed=1)
    link = the_link(rows, scores)
    assert link.is_weak and "WEAK" in link.sentence
    assert any("includes zero" in why or "does not fall" in why for why in link.weaknesses)
    assert any("of the variance" in why for why in link.weaknesses)


def test_how_often_noise_alone_is_called_weak() -> None:
    weak = 0
    for seed in range(60):
        rows, scores = made_up(16, seed=seed)
        shuffled = scores.assign(score=np.random.default_rng(seed).permutation(scores["score"]))
        weak += the_link(rows, shuffled).is_weak
    assert weak >= 58


def test_few_cells_are_called_weak_and_one_trial_has_no_link() -> None:
    rows, scores = made_up(5, noise=0.001)
    few = the_link(rows, scores)
    assert few.curves and any("only 5 cells" in why for why in few.weaknesses)
    alone = the_link(rows.head(1), scores.head(1))
    assert alone.curves == () and alone.rank is None
    assert alone.sentence == "t: no link, since 1 scored trial is too few for a curve."
    assert fit_links(rows.head(0), scores) == ()


def test_equal_losses_or_equal_scores_are_no_crash() -> None:
    rows, scores = made_up(10)
    assert the_link(rows.assign(loss=3.0), scores).sentence == "t: no link, since all scored trials have the same loss."
    flat = the_link(rows, scores.assign(score=0.5))
    assert flat.is_weak and flat.curves[0].at(np.array([3.0]))[0] == pytest.approx(0.5)


def test_a_rising_score_is_weak_and_its_curve_is_flat() -> None:
    rows, scores = made_up(16, noise=0.0)
    link = the_link(rows, scores.assign(score=1 - scores["score"]))
    assert "the score does not fall with the loss" in link.weaknesses
    smooth = next(curve for curve in link.curves if curve.name == "power-exponential")
    assert np.ptp(smooth.at(np.array([2.6, 4.4]))) == pytest.approx(0.0, abs=1e-12)


def test_a_method_that_lies_apart_is_named_and_measured() -> None:
    rows, scores = made_up(40, noise=0.005, lift={"lora-r4": 0.04})
    by_method, by_budget = the_link(rows, scores).stability
    assert by_method.is_shared is False and by_method.p_value is not None and by_method.p_value < 0.001
    offsets = {group.name: group.offset for group in by_method.groups}
    assert offsets["lora-r4"] == pytest.approx(0.02, abs=0.005) and offsets["full"] == pytest.approx(-0.02, abs=0.005)
    assert "One curve does not serve all methods (p < 0.001)" in by_method.sentence
    assert by_budget.by == "budget_flops" and [group.num_trials for group in by_budget.groups] == [14, 13, 13]


def test_one_curve_for_all_is_seldom_denied() -> None:
    denied = sum(the_link(*made_up(24, seed=seed)).stability[0].is_shared is False for seed in range(60))
    assert denied <= 8, "5 % of 60 are 3; more than 8 come once in a hundred"


def test_steps_answer_where_the_link_is_no_exponential() -> None:
    rows, scores = made_up(40, noise=0.0)
    cliff = np.where(rows["loss"] < 3.5, 0.8, 0.2) + 0.005 * np.random.default_rng(0).standard_normal(40)
    assert the_link(rows, scores.assign(score=cliff)).curves[0].name == "isotonic"
    assert the_link(*made_up(40)).curves[0].name == "power-exponential"


def test_means_are_of_trials_that_have_every_task() -> None:
    lines = [
        ("a", "x", "S", 0.2), ("a", "y", "S", 0.4), ("a", "z", "R", 0.9),
        ("b", "x", "S", 0.1), ("b", "y", "S", 0.3), ("b", "z", "R", 0.5),
        ("c", "x", "S", 0.1), ("c", "y", "S", None), ("c", "z", "R", 0.5),
    ]  # fmt: skip
    scores = pd.DataFrame(lines, columns=["trial_id", "task", "task_type", "score"])
    means = with_means(scores).set_index(["task", "trial_id"])["score"]
    assert means[MEAN].to_dict() == pytest.approx({"a": 0.5, "b": 0.3})
    assert means[CATEGORY_MEAN].to_dict() == pytest.approx({"a": 0.6, "b": 0.35})
    assert set(with_means(scores[scores["task"] == "x"])["task"]) == {"x"}, "one task has no mean"
    assert MEAN not in set(with_means(scores[scores["task"] == "x"])["task"])


def test_the_mean_comes_first_and_speaks_for_all() -> None:
    rows, first = made_up(12, task="zebra")
    second = first.assign(task="ant", score=first["score"] / 2)
    links = fit_links(rows, pd.concat([first, second]))
    assert [link.task for link in links] == [MEAN, "ant", "zebra"]
    assert link_of(links) is links[0]
    assert link_of(fit_links(rows, first)) is not None, "an only task speaks for itself"
    assert link_of(()) is None


def test_the_expected_score_holds_what_the_loss_leaves_open() -> None:
    link = the_link(*made_up(24))
    exact = expected_score(link, 3.2)
    random = np.random.default_rng(1)
    loose = expected_score(link, 3.2, 3.2 + 0.1 * random.standard_normal(500))
    assert exact.score == loose.score == pytest.approx(truth(np.array([3.2]))[0], abs=0.01)
    # The loss moves by .1, the curve falls by .3 a nat there: a spread of .03 beside that of the curve alone.
    slope = HEIGHT * np.exp(-RATE * 0.7)
    assert np.diff(loose.interval.to_list())[0] == pytest.approx(2 * 1.645 * 0.1 * slope, rel=0.2)
    assert np.diff(exact.interval.to_list())[0] < 0.015
    assert "the loss taken as known" in exact.sentences()[0] and "taken as known" not in loose.sentences()[0]


def test_beyond_the_measured_losses_it_is_an_extrapolation_and_said() -> None:
    rows, scores = made_up(40)
    cliff = np.where(rows["loss"] < 3.5, 0.8, 0.2) + 0.005 * np.random.default_rng(0).standard_normal(40)
    link = the_link(rows, scores.assign(score=cliff))
    inside, outside = expected_score(link, 3.0), expected_score(link, 5.0)
    assert inside.curve == "isotonic" and not inside.is_outside and len(inside.sentences()) == 1
    assert outside.curve == "power-exponential" and "outside the scored ones" in outside.sentences()[1]


def test_of_a_weak_link_the_answer_warns() -> None:
    said = expected_score(the_link(*made_up(24, noise=2.0, seed=1)), 3.0).sentences()
    assert said[-1].startswith("WARNING: the link from loss to score is weak: ")


def test_nine_of_ten_expected_scores_hold_where_the_loss_is_uncertain_too() -> None:
    """The true loss is 3.2; what is foretold of it is off by what its draws say."""
    held = 0
    for seed in range(100):
        random = np.random.default_rng(seed + 1000)
        foretold = 3.2 + 0.15 * random.standard_normal()
        draws = foretold + 0.15 * random.standard_normal(400)
        within = expected_score(the_link(*made_up(12, noise=0.02, seed=seed)), foretold, draws).interval
        held += within.low <= truth(np.array([3.2]))[0] <= within.high
    assert 80 <= held <= 99


def test_the_figure_has_every_trial_both_curves_and_the_expectation() -> None:
    rows, first = made_up(12, task="zebra")
    links = fit_links(rows, pd.concat([first, first.assign(task="ant", score=first["score"] / 2)]))
    expected = expected_score(links[0], 2.2, np.array([2.1, 2.3]))
    drawing = draw_links(links, expected)
    assert drawing is not None
    data = drawing.data
    assert data.groupby(["task", "kind"]).size().to_dict() == {
        **{(task, "trial"): 12 for task in (MEAN, "ant", "zebra")},
        **{(task, name): 80 for task in (MEAN, "ant", "zebra") for name in ("power-exponential", "isotonic")},
        (MEAN, "expected"): 1,
    }
    curve = data[data["kind"] == "power-exponential"]
    assert ((curve["low"] <= curve["score"] + 1e-9) & (curve["score"] <= curve["high"] + 1e-9)).all()
    assert draw_links(()) is None


def test_the_largest_budget_is_foretold_from_the_smaller_ones() -> None:
    rows, scores = made_up(60, noise=0.01)
    ahead = the_link(rows, scores).ahead
    assert ahead is not None and ahead.budget_flops == 4e9 and ahead.num_trials == 20
    assert ahead.error < 0.02 < ahead.spread and abs(ahead.bias) < 0.01
    at_largest = np.where(rows["budget_flops"] == 4e9, 0.05, 0.0)
    lifted = the_link(rows, scores.assign(score=scores["score"] + at_largest)).ahead
    assert lifted is not None and lifted.bias == pytest.approx(-0.05, abs=0.01)
    assert "too low by 0.0" in lifted.sentence
    assert the_link(rows.assign(budget_flops=1e9), scores).ahead is None, "one budget foretells no other"

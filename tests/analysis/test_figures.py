"""The figures: files beside each other, data in them, the same bytes each time, and labels that do not collide."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from analysis.choice_figures import Served, draw_lifetime, draw_regions
from analysis.drawing import Drawing, _spread, label_ends
from analysis.figures import draw_curves, draw_frontier, draw_profiles
from analysis.fit import Interval
from analysis.frontier import Frontier, fit_frontier
from analysis.law_figures import Comparison, draw_comparisons, draw_noise, draw_residuals, draw_surface
from analysis.recommend import recommend
from analysis.surface import fit_surfaces
from tests.analysis.law_rows import FULL, LORA, TOKENS_PER_PAIR, law_rows, measured_nano_rows, parabola_law, row
from trainer.ladder import LADDERS, ModelShape
from trainer.trial import Method


def training_curves(frontier: Frontier) -> dict[str, pd.DataFrame]:
    """A curve for every point: falling from 12 to a little below the held-out loss."""
    curves = {}
    for method in frontier.methods:
        for profile in method.profiles:
            for point in profile.points:
                step = np.arange(1, min(point.steps, 300) + 1)
                share = step / step[-1]
                curves[point.trial_id] = pd.DataFrame(
                    {
                        "step": step,
                        "tokens": (share * point.tokens).astype(int),
                        "spent_flops": (share * profile.budget_flops).astype(int),
                        "learning_rate": 0.01,
                        "train_loss": point.loss - 0.4 + 8 * np.exp(-20 * share),
                        "gradient_norm": 1.0,
                    }
                )
    return curves


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    return fit_frontier(measured_nano_rows())


def drawings(frontier: Frontier) -> dict[str, Drawing]:
    answer = recommend(frontier, 10**12, LADDERS["nano"], TOKENS_PER_PAIR)
    curves = draw_curves(frontier, training_curves(frontier))
    assert curves is not None
    return {"profiles": draw_profiles(frontier), "frontier": draw_frontier(frontier, answer), "curves": curves}


def test_each_figure_is_three_files_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    frontier = fit_frontier(law_rows(parabola_law(), budgets=(5e10, 2e11), methods=[FULL]))
    written = []
    for folder in (tmp_path / "first", tmp_path / "again"):
        folder.mkdir()
        for name, drawing in drawings(frontier).items():
            svg = drawing.save(folder, name)
            assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert set(written[0]) == {
        f"{name}.{kind}" for name in ("profiles", "frontier", "curves") for kind in ("png", "svg", "csv")
    }
    assert written[0] == written[1]


def test_the_data_beside_a_figure_are_what_it_shows(frontier: Frontier) -> None:
    rows = measured_nano_rows()
    drawn = drawings(frontier)
    points = drawn["profiles"].data.query("what == 'point'")
    assert sorted(points["loss"]) == sorted(rows["loss"])
    optima = drawn["profiles"].data.query("what == 'optimum'")
    assert len(optima) == sum(p.optimum is not None for m in frontier.methods for p in m.profiles)
    measured = drawn["frontier"].data.query("what == 'measured'")
    assert measured.groupby("budget_flops")["probability_best"].sum().to_numpy() == pytest.approx(1)
    law = drawn["frontier"].data.query("what == 'law' and quantity == 'loss' and method == 'full'")
    assert (law["low"] < law["value"]).all() and (law["value"] < law["high"]).all()
    assert set(drawn["curves"].data["trial_id"]) == set(rows["trial_id"])
    assert drawn["curves"].data["share_of_budget"].max() == 1


def test_a_trial_without_a_curve_is_left_out(frontier: Frontier) -> None:
    curves = training_curves(frontier)
    gone = sorted(curves)[0]
    del curves[gone]
    curves[sorted(curves)[0]] = pd.DataFrame(columns=["step", "spent_flops", "train_loss"])
    drawing = draw_curves(frontier, curves)
    assert drawing is not None
    assert drawing.data["trial_id"].nunique() == len(measured_nano_rows()) - 2
    assert draw_curves(frontier, {}) is None


def test_a_name_is_text_and_no_formula(tmp_path: Path) -> None:
    rows = pd.DataFrame([row(FULL, 10**11, f"$x_{{{n}}} <b>&", 3.0 + 0.1 * n) for n in range(3)])
    rows["num_params_non_embedding"] = [1000, 4000, 16000]
    frontier = fit_frontier(rows)
    answer = recommend(frontier, 10**11, LADDERS["nano"], TOKENS_PER_PAIR)
    draw_profiles(frontier).save(tmp_path, "profiles")
    svg = draw_frontier(frontier, answer).save(tmp_path, "frontier")
    assert "<b>" not in svg


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(law_rows(parabola_law(), budgets=[1e11]), id="one budget"),
        pytest.param(law_rows(parabola_law(), models=["nano-7k"], methods=[FULL], budgets=[1e11]), id="one trial"),
        pytest.param(law_rows(parabola_law(size=50)), id="edges"),
        pytest.param(law_rows(lambda *_: 4.0), id="equal losses"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_little_data_can_be_drawn(rows: pd.DataFrame, tmp_path: Path) -> None:
    frontier = fit_frontier(rows)
    draw_profiles(frontier).save(tmp_path, "profiles")
    draw_frontier(frontier, None).save(tmp_path, "frontier")
    assert (tmp_path / "frontier.svg").stat().st_size > 1000


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_labels_keep_their_order_and_distance(wanted: list[float]) -> None:
    places = _spread(wanted, gap=0.1)
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    sorted_places = [places[index] for index in order]
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(sorted_places))
    if len(wanted) == 1:
        assert places == wanted


def test_of_too_many_names_every_second_or_third_stands() -> None:
    figure = Figure(figsize=(6, 3))
    panel = figure.subplots()
    panel.set_ylim(0, 1)
    label_ends(panel, [(1.0, y, f"{y:.3f}", "black") for y in np.linspace(0, 1, 100)])
    places = [(text.get_position()[1], float(text.get_text())) for text in panel.texts]
    assert 8 < len(places) < 30
    assert all(abs(at - y) < 0.15 for at, y in places), "each near the end of its line"
    assert all(above[0] - below[0] > 0.05 for below, above in pairwise(places))


def test_regions_are_probabilities_and_change_where_the_laws_cross() -> None:
    crossing = parabola_law(level={"full": 3.0, "lora": 3.0})

    def loss(method: Method, budget: int, shape: ModelShape) -> float:
        return crossing(method, budget, shape) * (budget / 1e11) ** (-0.05 if method.kind == "full" else 0.05)

    frontier = fit_frontier(law_rows(loss, budgets=(2e10, 6e10, 1.8e11, 5.4e11), methods=(FULL, LORA)))
    drawing = draw_regions(frontier)
    assert drawing is not None
    shares = drawing.data.filter(like="probability_")
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1)
    full = drawing.data["probability_full"]
    assert full.iloc[0] < 0.1 and full.iloc[-1] > 0.9
    crossed = drawing.data.loc[(full - 0.5).abs().idxmin(), "budget_flops"]
    assert crossed == pytest.approx(1e11, rel=0.3)
    assert draw_regions(fit_frontier(law_rows(loss, methods=(FULL,)))) is None


def test_the_noise_figure_s_data_are_deviations_between_seeds() -> None:
    both = [law_rows(parabola_law(), methods=(FULL,), trial_seed=seed) for seed in (0, 1)]
    both[1]["loss"] *= 1.02
    rows = pd.concat(both, ignore_index=True)
    data = draw_noise(fit_frontier(rows), rows).data.query("what == 'seed'")
    assert sorted(data["trial_id"]) == sorted(rows["trial_id"])
    assert data["deviation"].abs().to_numpy() == pytest.approx(np.log(1.02) / 2, rel=1e-6)


def test_the_surface_s_data_are_its_residuals(frontier: Frontier) -> None:
    surfaces = fit_surfaces(frontier)
    drawing = draw_surface(surfaces, frontier)
    assert drawing is not None
    data = drawing.data
    assert np.log(data["loss"] / data["fitted"]).to_numpy() == pytest.approx(data["residual"].to_numpy(), abs=1e-9)
    assert set(data["trial_id"]) <= {p.trial_id for m in frontier.methods for one in m.profiles for p in one.points}
    few = fit_surfaces(fit_frontier(law_rows(parabola_law(), budgets=[1e11])))
    assert all(surface.fit is None and "one budget" in surface.reason for surface in few)
    assert draw_surface(few, frontier) is None and draw_residuals(few) is None


def test_serving_costs_add_up_and_the_least_is_no_more_than_the_recommended(frontier: Frontier) -> None:
    answer = recommend(frontier, 10**12, LADDERS["nano"], TOKENS_PER_PAIR)
    served = Served(shapes=tuple(LADDERS["nano"]), tokens_per_query=20.0, tokens_per_document=25.0)
    drawing = draw_lifetime(frontier, answer, served)
    assert drawing is not None
    data = drawing.data
    assert (data["training_flops"] + data["serving_flops"] == data["lifetime_flops"]).all()
    ours, least = (
        data[data["what"] == what].set_index("num_queries")["lifetime_flops"] for what in ("recommended", "least")
    )
    assert (least <= ours).all() and ours.is_monotonic_increasing
    at_one = data[
        (data["what"] == "recommended") & (data["serving_flops"] / data["training_flops"]).between(0.99, 1.01)
    ]
    assert len(at_one) == 1


def test_a_comparison_shows_the_error_of_the_prediction() -> None:
    one = Comparison(
        label="full",
        predicted=2.2,
        interval=Interval(low=2.1, high=2.3),
        measured=2.0,
        noise_relative_sd=0.01,
        trial_ids=("a",),
    )
    drawing = draw_comparisons([one], "title")
    assert drawing is not None
    assert "error +10.0 %" in {text.get_text() for text in drawing.figure.axes[0].texts}
    assert draw_comparisons([], "title") is None

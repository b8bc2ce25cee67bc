"""The figures: files beside each other, data in them, the same bytes each time, and labels that do not collide."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.drawing import Drawing, _spread
from analysis.figures import draw_curves, draw_frontier, draw_profiles
from analysis.frontier import Frontier, fit_frontier
from analysis.recommend import recommend
from tests.analysis.law_rows import FULL, TOKENS_PER_PAIR, law_rows, measured_nano_rows, parabola_law, row
from trainer.ladder import LADDERS


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

"""Profiles: which trial stands for a cell, what is an optimum, and what is an edge."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.noise import PRIOR_RELATIVE_SD, estimate_noise
from analysis.profile import Profile, ProfileState, build_profile, cells, complete_trials
from tests.analysis.law_rows import FULL, LORA, NANO, law_rows, parabola_law, row
from trainer.result import TrialState


def profile(losses: dict[str, float], *, noise: float = 0.0, num_draws: int = 200) -> Profile:
    rows = pd.DataFrame([row(FULL, 10**11, model, loss) for model, loss in losses.items()])
    points = cells(complete_trials(rows)[0])["full", 10**11]
    draws = noise * np.random.default_rng(0).standard_normal((num_draws, len(points)))
    return build_profile(points, draws)[0]


def test_the_best_trial_of_each_model_is_the_point() -> None:
    rows = law_rows(parabola_law(), methods=[FULL], budgets=[1e11], num_trials=3)
    points = cells(complete_trials(rows)[0])["full", 10**11]
    assert [point.model for point in points] == list(NANO)
    best = rows.sort_values("loss").drop_duplicates("model").set_index("model")
    for point in points:
        assert point.trial_id == best.loc[point.model, "trial_id"]
        assert point.loss == best.loc[point.model, "loss"]
        assert point.num_trials == 3
        assert point.spec.hyperparameters.learning_rate == 0.01


def test_seeds_of_the_best_settings_are_averaged() -> None:
    """The luckiest of several seeds would be too good."""
    rows = pd.DataFrame(
        [row(FULL, 10**11, "nano-7k", loss, seed=seed) for seed, loss in enumerate([3.0, 3.2, 3.4])]
        + [row(FULL, 10**11, "nano-7k", 3.1, learning_rate=0.02)]
    )
    (point,) = cells(complete_trials(rows)[0])["full", 10**11]
    assert point.loss == pytest.approx(3.1), "one lucky trial of other settings is as good as the mean"
    rows = rows[rows["learning_rate"] != 0.02]
    (point,) = cells(complete_trials(rows)[0])["full", 10**11]
    assert (point.loss, point.num_seeds, point.num_trials) == (pytest.approx(3.2), 3, 3)
    assert point.spec.seed == 0


def test_an_interior_minimum_is_an_optimum() -> None:
    found = profile({"nano-3k": 3.4, "nano-7k": 3.0, "nano-14k": 3.2, "nano-25k": 3.5})
    assert found.state == ProfileState.OPTIMUM
    assert found.optimum is not None
    assert 3_312 < found.optimum.num_params < 14_496
    assert found.loss == found.optimum.loss
    assert found.best.model == "nano-7k"


def test_tokens_of_the_optimum_lie_on_the_measured_ones() -> None:
    found = profile({"nano-3k": 3.4, "nano-7k": 3.0, "nano-14k": 3.2})
    assert found.optimum is not None
    # For full fine-tuning 6 N D = C, at every size.
    assert 6 * found.optimum.num_params * found.optimum.tokens == pytest.approx(1e11, rel=1e-3)


@pytest.mark.parametrize(
    ("losses", "state"),
    [
        ({"nano-1k": 3.0, "nano-3k": 3.1, "nano-7k": 3.5}, ProfileState.EDGE_LOW),
        ({"nano-1k": 3.9, "nano-3k": 3.1, "nano-7k": 3.0}, ProfileState.EDGE_HIGH),
        ({"nano-1k": 3.0, "nano-3k": 3.0, "nano-7k": 3.5}, ProfileState.EDGE_LOW),
        ({"nano-1k": 3.0, "nano-3k": 3.0, "nano-7k": 3.0}, ProfileState.FLAT),
        ({"nano-1k": 3.0, "nano-3k": 2.0}, ProfileState.FEW),
        ({"nano-1k": 3.0}, ProfileState.FEW),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_no_optimum_where_there_is_none(losses: dict[str, float], state: ProfileState, noise: float) -> None:
    """Draws may have their own minimum inside; the profile still has none."""
    found = profile(losses, noise=noise)
    assert found.state == state
    assert found.optimum is None
    assert found.loss == min(losses.values())


def test_noise_that_moves_the_minimum_to_an_edge_opens_the_interval() -> None:
    losses = {"nano-3k": 3.001, "nano-7k": 3.0, "nano-14k": 3.3}
    quiet, loud = profile(losses, noise=1e-5), profile(losses, noise=0.02)
    assert quiet.optimum is not None and loud.optimum is not None
    assert quiet.optimum.num_params_interval.low > 3_312
    assert loud.optimum.num_params_interval.low == -np.inf
    assert loud.optimum.tokens_interval.high == np.inf


def test_rows_that_cannot_be_fitted_are_left_out_and_said() -> None:
    rows = pd.DataFrame(
        [
            row(FULL, 10**11, "nano-3k", 3.4),
            row(FULL, 10**11, "nano-7k", float("nan")),
            row(FULL, 10**11, "nano-14k", 0, state=TrialState.DIVERGED),
            row(LORA, 10**11, "nano-14k", 0, state=TrialState.FAILED),
            row(LORA, 10**11, "nano-25k", 0, state=TrialState.FAILED),
        ]
    )
    trials, notes = complete_trials(pd.concat([rows, rows]))
    assert list(trials["model"]) == ["nano-3k"]
    assert [note.split(" left out")[0] for note in notes] == [
        "1 DIVERGED trial of 5",
        "2 FAILED trials of 5",
        "1 complete trials",
    ]


def test_two_models_of_one_size_give_one_point() -> None:
    rows = pd.DataFrame([row(FULL, 10**11, name, loss) for name, loss in (("other-a", 3.2), ("other-b", 3.1))])
    points = cells(complete_trials(rows)[0])["full", 10**11]
    assert [point.model for point in points] == ["other-b"]


def test_noise_is_read_from_repeats() -> None:
    rng = np.random.default_rng(5)
    rows = pd.DataFrame(
        [
            row(FULL, 10**11, model, 3.0 * float(np.exp(0.004 * rng.standard_normal())), seed=seed)
            for model in NANO
            for seed in range(20)
        ]
    )
    noise = estimate_noise(complete_trials(rows)[0], [])
    assert noise.num_repeat_degrees == 6 * 19
    assert noise.relative_sd == pytest.approx(0.004, rel=0.25)


def test_trials_with_other_settings_are_no_repeats() -> None:
    noise = estimate_noise(complete_trials(law_rows(parabola_law(), num_trials=3))[0], [])
    assert noise.num_repeat_degrees == 0
    assert noise.relative_sd == pytest.approx(PRIOR_RELATIVE_SD)


def test_a_loss_that_does_not_choose_takes_the_place_of_the_vertex() -> None:
    rows = pd.DataFrame([row(FULL, 10**11, m, x) for m, x in (("nano-3k", 3.4), ("nano-7k", 3.0), ("nano-14k", 3.2))])
    points = cells(complete_trials(rows)[0])["full", 10**11]
    noise = 0.02 * np.random.default_rng(0).standard_normal((200, 3))
    plain, _ = build_profile(points, noise)
    own, draws = build_profile(points, noise, (3.1, np.full(200, 3.1)))
    assert plain.optimum is not None and own.optimum is not None
    assert own.optimum.loss == own.optimum.parabola.minimum == 3.1
    assert (draws.loss == 3.1).all()
    wild, _ = build_profile(points, noise, (-40.0, np.full(200, -40.0)))
    assert wild.optimum is not None and wild.optimum.loss == plain.optimum.loss

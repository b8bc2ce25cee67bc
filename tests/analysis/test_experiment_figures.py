"""What a sweep varied is drawn where it varied, with the numbers that the rows have, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import wording
from analysis.experiment_figures import CAPTIONS, best, draw_experiments
from analysis.frontier import fit_frontier
from analysis.profile import complete_trials
from analysis.report import ReportContext, write_report
from tests.analysis.law_rows import FULL, LORA, NANO, measured_nano_rows, row
from trainer.result import TrialState
from trainer.trial import Freeze, Lora, Method

BUDGET = 25 * 10**9
RATES = {"nano-3k": 0.016, "nano-7k": 0.012}


def frame(*lines: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame(list(lines))


def heat(skip: int = -1) -> pd.DataFrame:
    grid = [(t, w) for t in (0.02, 0.05, 0.1) for w in (0.01, 0.1, 1.0)]
    lines = [
        row(FULL, BUDGET, "nano-3k", 4 + abs(t - 0.05) + 0.1 * abs(np.log10(w / 0.1)), number=n, learning_rate=0.01,
            temperature=t, weight_decay=w)
        for n, (t, w) in enumerate(grid) if n != skip
    ]  # fmt: skip
    return frame(*lines)


def over(methods: list[Method], loss: dict[str, list[float]], budgets: tuple[int, ...] = (BUDGET,)) -> pd.DataFrame:
    return frame(
        *(
            row(method, budget, model, values[n] + extra, number=number, learning_rate=0.01 * (number + 1))
            for budget in budgets
            for model, values in loss.items()
            for n, method in enumerate(methods)
            for number, extra in enumerate((0.0, 0.5))
        )
    )


def test_a_sweep_of_sizes_and_methods_alone_has_none_of_them() -> None:
    assert draw_experiments(measured_nano_rows(), RATES) == {}
    assert draw_experiments(measured_nano_rows().iloc[:0], RATES) == {}


def test_a_full_grid_of_temperature_and_decay_is_a_heat_map() -> None:
    found = draw_experiments(heat(), RATES)
    assert list(found) == ["temperature-weight-decay"]
    data = found["temperature-weight-decay"].data
    least = data.loc[data["loss"].idxmin()]
    assert (len(data), least["temperature"], least["weight_decay"]) == (9, 0.05, 0.1)
    shown = [text.get_text() for text in found["temperature-weight-decay"].figure.axes[0].texts]
    assert sorted(shown) == sorted(f"{loss:.3f}" for loss in data["loss"])
    assert draw_experiments(heat(skip=4), RATES) == {}, "a hole in the grid: the search chose these, not the person"


def test_poolings_are_bars_with_intervals_over_seeds() -> None:
    losses = {"mean": [4.1, 4.2, 4.15], "last": [4.9, 4.8, 5.0], "weighted-mean": [4.3]}
    rows = frame(
        *(
            row(FULL, BUDGET, "nano-3k", loss, number=10 * place + seed, seed=seed, pooling=pooling, learning_rate=0.01)
            for place, (pooling, values) in enumerate(losses.items())
            for seed, loss in enumerate(values)
        ),
        row(FULL, BUDGET, "nano-3k", 4.0, number=40, pooling="mean", state=TrialState.DIVERGED),
    )
    drawing = draw_experiments(rows, RATES)["pooling"]
    data = drawing.data.set_index("pooling")
    for pooling, values in losses.items():
        assert data.loc[pooling, "loss"] == pytest.approx(np.mean(values))
        assert data.loc[pooling, "num_seeds"] == len(values)
    low, high = stats.t.interval(0.9, 2, np.mean(losses["mean"]), stats.sem(losses["mean"]))
    assert (data.loc["mean", "low"], data.loc["mean", "high"]) == pytest.approx((low, high))
    assert np.isnan(data.loc["weighted-mean", "low"])
    heights = [patch.get_height() for patch in drawing.figure.axes[0].patches]
    assert heights == pytest.approx(sorted(data["loss"])), "the best first"


def test_loss_over_rank_is_the_best_trial_of_each() -> None:
    ranks: list[Method] = [Lora(rank=rank, alpha=8) for rank in (2, 4, 8)]
    losses = {"nano-3k": [4.9, 4.6, 4.7], "nano-7k": [4.8, 4.7, 4.75]}
    drawing = draw_experiments(over(ranks, losses, (BUDGET, 2 * BUDGET)), RATES)["ranks"]
    assert len(drawing.figure.axes) == 2, "a panel a budget"
    small = drawing.data[(drawing.data["budget_flops"] == BUDGET) & (drawing.data["model"] == "nano-3k")]
    assert dict(zip(small["method_rank"], small["loss"], strict=True)) == {2: 4.9, 4: 4.6, 8: 4.7}


def test_learning_rates_are_in_units_of_the_pretraining_rate_where_it_is_known() -> None:
    rows = frame(
        *(
            row(method, BUDGET, model, 4 + (np.log10(unit) - 0.1) ** 2, number=n, learning_rate=unit * rate)
            for method in (FULL, LORA)
            for model, rate in RATES.items()
            for n, unit in enumerate((0.2, 0.5, 1.0, 2.0))
        )
    )
    drawing = draw_experiments(rows, RATES)["rates"]
    assert sorted(set(drawing.data["relative_rate"].round(6))) == [0.2, 0.5, 1.0, 2.0]
    assert [panel.get_title() for panel in drawing.figure.axes[:2]] == ["full", LORA.label]
    assert "pre-training rate" in drawing.figure.axes[0].get_xlabel()
    unknown = draw_experiments(rows, {"nano-3k": 0.016})["rates"]
    assert list(unknown.data["relative_rate"]) == list(unknown.data["rate"])
    searched = rows.assign(temperature=np.linspace(0.02, 0.1, len(rows)))
    assert "rates" not in draw_experiments(searched, RATES), "the temperature moves too: no curve over the rate alone"


@pytest.mark.filterwarnings("error")
def test_rates_of_many_cells_stay_readable(tmp_path: Path) -> None:
    budgets = [BUDGET * 2**step for step in range(6)]
    rows = frame(
        *(
            row(method, budget, model, 4 + place + 0.1 * step + 0.05 * n, number=n, learning_rate=0.01 * 2**n)
            for method in (FULL, LORA)
            for step, budget in enumerate(budgets)
            for place, model in enumerate(NANO)
            for n in range(4)
        )
    )
    drawing = draw_experiments(rows, {})["rates"]
    assert len(drawing.data) == len(rows), "the data have all"
    panels = [panel for panel in drawing.figure.axes if panel.get_title()]
    ends = [
        f"{label}, {wording.flops(budget)}" for label in ("full", LORA.label) for budget in (budgets[0], budgets[-1])
    ]
    assert [panel.get_title() for panel in panels] == ends
    drawing.save(tmp_path, "rates")
    for panel in panels:
        assert sorted(text.get_text() for text in panel.texts) == sorted(NANO)
        heights = sorted(text.get_position()[1] for text in panel.texts)
        assert heights[0] > -0.1 and heights[-1] < 1.1, "each name is beside its panel"


def test_shares_have_a_line_a_model_and_full_training_beside() -> None:
    shares: list[Method] = [Freeze(active_fraction=share) for share in (0.34, 0.67, 1.0)]
    rows = pd.concat([over(shares, {"nano-85k": [5.0, 4.8, 4.7]}), over([FULL], {"nano-85k": [4.2]})])
    data = draw_experiments(rows, RATES)["shares"].data
    assert list(data["method"]) == ["freeze"] * 3 + ["full"]
    assert list(data["loss"]) == [5.0, 4.8, 4.7, 4.2]


def test_the_best_is_that_of_the_mean_over_seeds() -> None:
    rows = frame(
        row(FULL, BUDGET, "nano-3k", 4.0, learning_rate=0.01),
        row(FULL, BUDGET, "nano-3k", 4.4, learning_rate=0.01, seed=1, number=1),
        row(FULL, BUDGET, "nano-3k", 4.1, learning_rate=0.02, number=2),
    )
    [least] = best(complete_trials(rows)[0], "budget_flops", "model").to_dict("records")
    assert (least["loss"], least["learning_rate"], least["num_seeds"]) == (4.1, 0.02, 1)


def test_the_report_has_them_with_their_captions_and_files(tmp_path: Path) -> None:
    rows = heat()
    page = write_report(tmp_path, rows, {}, fit_frontier(rows), None, ReportContext(sweep="heat")).read_text()
    assert "What was varied" in page
    assert CAPTIONS["temperature-weight-decay"][:40] in page
    for kind in ("png", "svg", "csv"):
        assert (tmp_path / "figures" / f"temperature-weight-decay.{kind}").exists()
    plain = measured_nano_rows()
    page = write_report(tmp_path / "plain", plain, {}, fit_frontier(plain), None, ReportContext(sweep="p")).read_text()
    assert "What was varied" not in page

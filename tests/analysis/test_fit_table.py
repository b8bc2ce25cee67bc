"""``isoflop fit`` on any table: every form, what is left out, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.compare import compare_table
from analysis.crossover import LogLossAt, find_crossover
from analysis.envelope import fit_envelope
from analysis.fit_table import fit_table, records, sentences
from analysis.rows import OFFERED, Request, read_table
from tests.analysis.published_checks import PUBLISHED

COLUMNS = {"params": "N", "tokens": "D"}


def surface_rows(level: float = 1.7, noise: float = 0.0) -> pd.DataFrame:
    """Six budgets of nine sizes each on a surface with a = b = 1/2."""
    rng = np.random.default_rng(0)
    rows = []
    for budget in np.geomspace(1e17, 1e20, 6):
        for size in np.sqrt(budget / 6 / 20) * np.geomspace(1 / 4, 4, 9):
            tokens = budget / 6 / size
            loss = level + 400 * size**-0.31 + 400 * 20**0.31 * tokens**-0.31
            rows.append((budget, size, tokens, loss * np.exp(noise * rng.standard_normal())))
    return pd.DataFrame(rows, columns=["C", "N", "D", "loss"])


@pytest.mark.parametrize("form", ["isoflop", "isoflop-window", "isoflop-akima", "parametric", "varpro", "shared"])
def test_each_form_finds_the_exponents_of_a_surface(form: str) -> None:
    (fit,), _ = fit_table(surface_rows(), Request(form=form, budget="C", num_draws=50, **COLUMNS))
    if form == "shared":
        assert fit.values["eta"] == pytest.approx(0.31, rel=1e-6)
        return
    assert fit.values["a"] == pytest.approx(0.5, abs=0.01 if form == "isoflop-akima" else 1e-6)
    if form in ("parametric", "varpro"):
        assert fit.values["E"] == pytest.approx(1.7, rel=1e-6)
        assert fit.num_points == 54
    else:
        assert fit.num_points == 6
        assert fit.intervals["a"].low < 0.5 < fit.intervals["a"].high


def test_an_envelope_of_training_curves_finds_the_exponent() -> None:
    sizes = np.geomspace(1e7, 1e11, 60).repeat(200)
    tokens = np.tile(np.geomspace(1e8, 1e13, 200), 60)
    loss = 1.69 + 406.4 / sizes**0.34 + 410.7 / tokens**0.28
    fit = fit_envelope(sizes, sizes, tokens, 6 * sizes * tokens, loss, num_draws=50)
    assert fit.values["a"] == pytest.approx(0.28 / 0.62, abs=5e-4)
    assert fit.values["b"] == pytest.approx(0.34 / 0.62, abs=5e-4)
    assert fit.num_edge > 0
    assert fit.intervals["a"].low <= fit.values["a"] <= fit.intervals["a"].high


def test_an_envelope_needs_curves() -> None:
    with pytest.raises(ValueError, match="name the column of the curves by --run"):
        fit_table(surface_rows(), Request(form="envelope", **COLUMNS))


def test_rows_that_cannot_be_used_are_counted_with_their_reason() -> None:
    rows = surface_rows()
    rows = pd.concat([rows, rows.head(2)], ignore_index=True)
    rows.loc[10, "loss"] = np.nan
    rows.loc[11, "N"] = -1.0
    (fit,), _ = fit_table(rows, Request(form="varpro", drop_worst=3, num_draws=5, **COLUMNS))
    assert fit.num_rows == 56
    assert fit.num_points == 56 - 1 - 1 - 2 - 3
    assert fit.dropped == (
        "1 rows: loss is not a positive number.",
        "1 rows: N is not a positive number.",
        "2 rows: equal to another in every column that is used.",
        "3 rows: the highest losses, as asked for.",
    )


def test_an_edge_is_no_minimum_and_said() -> None:
    rows = surface_rows()
    edge = rows[(rows["C"] < 2e17) & (rows["N"] > rows["N"].min() * 2.9)]
    kept = pd.concat([edge, rows[rows["C"] > 2e17]])
    (fit,), _ = fit_table(kept, Request(form="isoflop-window", budget="C", num_draws=50, **COLUMNS))
    assert fit.num_points == 5
    assert any("the smallest size is the best, an edge of the grid and not a minimum" in why for why in fit.dropped)


@pytest.mark.parametrize("form", ["isoflop", "isoflop-window", "isoflop-akima"])
def test_a_single_budget_gives_no_law(form: str) -> None:
    (fit,), _ = fit_table(surface_rows().head(9), Request(form=form, budget="C", num_draws=20, **COLUMNS))
    assert "a" not in fit.values
    assert any("1 budgets have a minimum, so no law can be fitted" in warning for warning in fit.warnings)
    json.dumps(fit.to_dict(), allow_nan=False)


def test_methods_are_fitted_apart_and_cross() -> None:
    # 1.7 + x and 1.5 + 1.2 x cross where x is 1.
    first, second = surface_rows(noise=0.001), surface_rows(noise=0.001)
    second["loss"] = 1.5 + 1.2 * (surface_rows()["loss"] - 1.7)
    table = pd.concat([first.assign(how="first"), second.assign(how="second")])
    fits, (crossover,) = fit_table(table, Request(form="isoflop", budget="C", method="how", num_draws=200, **COLUMNS))
    assert [fit.method for fit in fits] == ["first", "second"]
    assert (crossover.below, crossover.above) == ("first", "second")
    assert crossover.budget_flops is not None
    assert crossover.interval.low <= crossover.budget_flops <= crossover.interval.high
    record = records(fits, (crossover,))
    assert set(record["methods"]) == {"first", "second"}
    assert crossover.sentence in sentences(fits, (crossover,))


def power(level: float, exponent: float, sd: float) -> LogLossAt:
    rng = np.random.default_rng(round(1000 * level))
    levels, exponents = sd * rng.standard_normal(400), exponent + sd * rng.standard_normal(400)

    def log_loss(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        share = np.log(c / 1e11)
        return np.log(level) + exponent * share, np.log(level) + levels[:, None] + exponents[:, None] * share

    return log_loss


def test_a_crossover_is_where_the_laws_meet() -> None:
    found = find_crossover(("a", "b"), (power(3.0, -0.1, 1e-3), power(3.4, -0.15, 1e-3)), (1e10, 1e12))
    assert found.budget_flops == pytest.approx(1e11 * (3.4 / 3.0) ** 20, rel=1e-3)
    assert (found.below, found.above) == ("a", "b")
    assert found.interval.low < found.budget_flops < found.interval.high
    assert found.extrapolation == pytest.approx(found.budget_flops / 1e12)
    swapped = find_crossover(("b", "a"), (power(3.4, -0.15, 1e-3), power(3.0, -0.1, 1e-3)), (1e10, 1e12))
    assert (swapped.below, swapped.above, swapped.budget_flops) == ("a", "b", pytest.approx(found.budget_flops))


def test_a_crossover_that_is_not_there_is_said() -> None:
    found = find_crossover(("a", "b"), (power(3.0, -0.1, 1e-4), power(3.4, -0.1, 1e-4)), (1e10, 1e12))
    assert found.budget_flops is None
    assert found.interval.to_list() == [None, None] or not np.isfinite(found.interval.high)
    assert "do not cross" in found.sentence


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(form="cubic", **COLUMNS), "--form is cubic: give one of envelope"),
        (Request(params="M", tokens="D"), "--params is M, which is no column of the table: it has C, N, D, loss"),
        (Request(params="N"), "--tokens or --flops is missing"),
        (Request(tokens="D"), "--params is missing"),
        (Request(form="share", **COLUMNS), "--share is missing"),
        (Request(drop_worst=-1, **COLUMNS), "--drop-worst is -1"),
        (Request(drop_worst=54, **COLUMNS), "--drop-worst is 54: no row is left"),
        (Request(loss="name", **COLUMNS), "--loss is name, which holds no numbers"),
    ],
)
def test_a_bad_request_is_refused_in_one_sentence(request_: Request, words: str) -> None:
    rows = surface_rows()
    if request_.loss == "name":
        rows["name"] = "x"
    with pytest.raises(ValueError, match=words) as error:
        fit_table(rows, request_)
    assert "\n" not in str(error.value)


def test_csv_and_parquet_give_the_same(tmp_path: Path) -> None:
    rows = surface_rows(noise=0.01)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    rows.to_parquet(tmp_path / "rows.parquet")
    fits = [
        fit_table(read_table(tmp_path / name), Request(form="varpro", num_draws=10, **COLUMNS))[0][0].to_dict()
        for name in ("rows.csv", "rows.parquet")
    ]
    for symbol in ("E", "A", "B", "alpha", "beta", "objective"):
        assert fits[0][symbol] == pytest.approx(fits[1][symbol], rel=1e-6)
    with pytest.raises(ValueError, match="which does not exist"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"must end in \.csv"):
        read_table(_written(tmp_path / "rows.xlsx"))


def _written(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def test_the_command_prints_every_parameter_by_its_symbol() -> None:
    command = [sys.executable, "-m", "isoflop", "fit", str(PUBLISHED / "kyo_takano.csv"), "--params", "N"]
    command += ["--tokens", "D", "--form", "varpro", "--draws", "50"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["E"] == pytest.approx(1.8091, abs=1e-4)
    assert {"E", "A", "B", "alpha", "beta", "a", "b", "objective", "num_points"} <= record.keys()
    assert set(record["intervals"]) == {"E", "A", "B", "alpha", "beta", "a", "b"}
    bad = subprocess.run([*command, "--method", "nope"], capture_output=True, text=True, timeout=120)
    assert bad.returncode == 2
    assert bad.stderr.startswith("isoflop: --method is nope, which is no column of the table") and not bad.stdout
    assert "Traceback" not in bad.stderr


def test_the_help_names_every_form() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "isoflop", "fit", "--help"], capture_output=True, text=True, timeout=60
    )
    words = "".join(done.stdout.split())  # however the lines are broken
    assert all(form in words for form in OFFERED)


def test_known_noise_weighs_the_rows() -> None:
    rows = surface_rows(noise=0.001)
    rng = np.random.default_rng(7)
    rows["sd"] = np.where(np.arange(len(rows)) % 2 == 0, 0.003, 0.3)
    rows["loss"] = surface_rows()["loss"] + rows["sd"] * rng.standard_normal(len(rows))
    error = {}
    for noise in (None, "sd"):
        (fit,), _ = fit_table(rows, Request(form="varpro", noise=noise, num_draws=20, **COLUMNS))
        error[noise] = abs(fit.values["alpha"] - 0.31)
    assert error["sd"] < 0.2 * error[None]
    [words] = [words for words in fit.warnings if words.startswith("The residuals are")]
    assert float(words.split()[3]) == pytest.approx(1.0, abs=0.25)


def test_known_noise_is_what_the_minima_are_drawn_with() -> None:
    width = {}
    for noise in ("0.001", "0.01"):
        (fit,), _ = fit_table(surface_rows(), Request(form="isoflop", budget="C", noise=noise, **COLUMNS))
        width[noise] = fit.intervals["a"].high - fit.intervals["a"].low
        assert f"Noise of a loss: {noise} (one standard deviation, the median), as given." in fit.warnings
    assert width["0.01"] == pytest.approx(10 * width["0.001"], rel=0.3)


def test_forms_are_compared_by_the_largest_budget() -> None:
    rows = surface_rows(noise=0.002)
    (found,) = compare_table(rows, Request(budget="C", noise="0.006", **COLUMNS))
    best, *others = found.errors
    assert best.form in ("parametric", "shared")  # the surface has one exponent for both
    assert best.held_out < 0.004 < others[-1].held_out
    assert (found.num_fitted, found.num_held) == (45, 9)
    assert "those of the largest budget, 1.0e20 FLOPs" in found.held
    assert found.left_out == ("share: no column of the share.",)
    json.dumps(found.to_dict(), allow_nan=False)
    (fifth,) = compare_table(rows, Request(**COLUMNS))
    assert "the fifth with the most FLOPs" in fifth.held
    with pytest.raises(ValueError, match="too few to compare forms"):
        compare_table(rows.head(9), Request(budget="C", **COLUMNS))


def test_a_method_with_too_little_is_said_and_the_others_are_fitted() -> None:
    table = pd.concat([surface_rows(noise=0.002).assign(how="a"), surface_rows().head(2).assign(how="b")])
    fits, _ = fit_table(table, Request(form="varpro", method="how", num_draws=20, **COLUMNS))
    assert fits[0].values and not fits[1].values
    assert fits[1].warnings[0].startswith("Nothing can be fitted: form parametric has 5 parameters and the table 2")
    json.dumps(records(fits, ()), allow_nan=False)
    with pytest.raises(ValueError, match="--method is how: none can be fitted; b: form parametric has 5"):
        fit_table(table[table["how"] == "b"], Request(form="varpro", method="how", **COLUMNS))
    with pytest.raises(ValueError, match="--method is how, which is empty in 2 rows"):
        fit_table(table.assign(how=table["how"].where(table["how"] == "a")), Request(method="how", **COLUMNS))


def test_a_term_that_plays_no_part_is_said() -> None:
    rows = surface_rows()
    rows["loss"] = 5.0 + rows["N"].rank() / 100  # grows with the size: no surface falls that way
    (fit,), _ = fit_table(rows, Request(form="varpro", num_draws=20, **COLUMNS))
    assert any(words.startswith("A is 0 in the best fit") and "alpha" in words for words in fit.warnings)


@pytest.mark.parametrize(
    ("name", "content"), [("bad.parquet", "no"), ("none.csv", ""), ("ragged.csv", "a,b\n1,2\n1,2,3,4\n")]
)
def test_a_file_that_is_no_table_is_refused_in_one_sentence(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"TABLE is {name}, which cannot be read as") as error:
        read_table(tmp_path / name)
    assert "\n" not in str(error.value)

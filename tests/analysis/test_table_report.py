"""A report of a table that is not ours, and what the figures' data say of laws that are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import isoflop
from analysis.fit_table import fit_table
from analysis.rows import Request, groups, usable
from analysis.table_report import write_table_report
from tests.analysis.published_checks import PUBLISHED

E, A, B, ALPHA, BETA = 1.7, 400.0, 410.0, 0.34, 0.28


def table(noise: float = 0.0) -> pd.DataFrame:
    """Two methods on a grid of budgets and sizes, by the surface of Hoffmann et al.; the second has another floor."""
    rng = np.random.default_rng(0)
    lines = []
    for method, floor in (("one", E), ("two", E + 0.2)):
        for budget in (1e18, 4e18, 1.6e19, 6.4e19):
            best = (budget / 6) ** 0.45 * 0.9
            for size in best * 2.0 ** np.arange(-3, 4):
                tokens = budget / (6 * size)
                loss = floor + A / size**ALPHA + B / tokens**BETA
                lines.append((method, budget, size, tokens, loss * np.exp(noise * rng.standard_normal())))
    return pd.DataFrame(lines, columns=["kind", "C", "N", "D", "L"])


def report_of(folder: Path, rows: pd.DataFrame, request: Request) -> Path:
    columns = [(name or "all", usable(own, request)[0]) for name, own in groups(rows, request.method)]
    return write_table_report(folder, "table.csv", columns, *fit_table(rows, request))


def test_the_page_has_laws_figures_and_rows(tmp_path: Path) -> None:
    request = Request(form="isoflop", loss="L", params="N", tokens="D", budget="C", method="kind", num_draws=50)
    page = report_of(tmp_path, table(), request)
    source = page.read_text()
    assert "one, isoflop: N* = N0 C^a" in source and "two, isoflop" in source
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {
        f"{name}.{kind}" for name in ("profiles", "minima", "surface", "residuals") for kind in ("png", "svg", "csv")
    }
    rows = pd.read_csv(tmp_path / "rows.csv")
    assert len(rows) == len(table()) and rows["trial_id"].is_unique
    record = json.loads((tmp_path / "fit.json").read_text())
    assert set(record["methods"]) == {"one", "two"}


def test_the_data_beside_the_figures_follow_the_known_law(tmp_path: Path) -> None:
    request = Request(form="varpro", loss="L", params="N", tokens="D", budget="C", method="kind", num_draws=50)
    report_of(tmp_path, table(), request)
    surface = pd.read_csv(tmp_path / "figures" / "surface.csv")
    assert surface["residual"].abs().max() < 1e-6
    assert surface["fitted"].to_numpy() == pytest.approx(surface["loss"].to_numpy(), rel=1e-6)
    minima = pd.read_csv(tmp_path / "figures" / "minima.csv").query("quantity == 'num_params' and method == 'one'")
    g = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    known = g * (minima["budget_flops"] / 6) ** (BETA / (ALPHA + BETA))
    # A parabola in log size on a grid of 4 times is a few percent off the surface's own minimum.
    assert minima["value"].to_numpy() == pytest.approx(known.to_numpy(), rel=0.05)


def test_a_table_without_profiles_says_so(tmp_path: Path) -> None:
    rows = pd.read_csv(PUBLISHED / "kyo_takano.csv")
    request = Request(form="varpro", loss="loss", params="N", tokens="D", flops="C", num_draws=50)
    source = report_of(tmp_path, rows, request).read_text()
    assert "No budget has three sizes, so there are no profiles." in source
    assert not (tmp_path / "figures" / "profiles.csv").exists()
    # Nothing is known of the noise there, so none is shown.
    assert "(noise" not in source


def test_a_table_without_sizes_has_no_surface(tmp_path: Path) -> None:
    budget = np.geomspace(1e18, 1e21, 12)
    rows = pd.DataFrame({"C": budget, "L": 1.5 + 50 * budget**-0.1})
    source = report_of(tmp_path, rows, Request(form="compute", loss="L", flops="C", num_draws=50)).read_text()
    assert "No surface can be fitted to these columns." in source


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table(noise=0.01).to_csv(tmp_path / "rows.csv", index=False)
    columns = ["--loss", "L", "--params", "N", "--tokens", "D", "--budget", "C", "--form", "isoflop", "--draws", "50"]
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["isoflop", "fit", str(tmp_path / "rows.csv"), *columns, "--report", str(out), "--json"]
    )
    with pytest.raises(SystemExit) as ended:
        isoflop.main()
    said, aside = capsys.readouterr()
    assert ended.value.code == 0
    assert json.loads(said)["a"] == pytest.approx(BETA / (ALPHA + BETA), abs=0.05)
    assert f"report: {out / 'index.html'}" in aside
    assert (out / "figures" / "profiles.svg").is_file()

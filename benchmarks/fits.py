"""How fast the fits are: the parametric fit against plain scipy over the same starts, a whole sweep's analysis, the
command that answers from a saved fit, and a large table.

``python -m benchmarks.fits [--repeats N] [--share K] [--store STORE]`` interleaves the two fits, prints tables of CPU
seconds (medians; wall seconds are named so) and writes ``benchmarks/results/fits.json``. Scipy follows every K-th start
and its time is multiplied by K. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from analysis.fit_table import fit_table
from analysis.forms import SURFACE
from analysis.frontier import fit_frontier
from analysis.parametric import DELTA, fit_parametric, hoffmann_starts
from analysis.recommend import recommend
from analysis.report import ReportContext, write_report
from analysis.rows import Request, read_table
from sweeps.store import Store
from tests.analysis.law_rows import BIAS, FREEZE, FULL, LORA, row
from tests.analysis.published_checks import PUBLISHED
from trainer.ladder import SHAPES, ModelShape
from trainer.trial import Method

RESULTS = Path(__file__).parent / "results" / "fits.json"
Values = tuple[dict[str, np.ndarray], np.ndarray]


def published_points() -> Values:
    """The 234 points of kyo-takano/chinchilla."""
    table = pd.read_csv(PUBLISHED / "kyo_takano.csv")
    return {"params": table["N"].to_numpy(float), "tokens": table["D"].to_numpy(float)}, table["loss"].to_numpy()


def plain_objective(
    values: dict[str, np.ndarray], loss: np.ndarray
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Approach 3 as it is written down: Huber loss of ln loss and its gradient, for one parameter vector."""
    size, tokens, log_loss = np.log(values["params"]), np.log(values["tokens"]), np.log(loss)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        e, a, b, alpha, beta = theta
        by_size, by_tokens, floor = np.exp(a - alpha * size), np.exp(b - beta * tokens), np.exp(e)
        total = by_size + by_tokens + floor
        residual = np.log(total) - log_loss
        clipped = np.clip(residual, -DELTA, DELTA)
        share = clipped / total
        gradient = [share.sum() * floor, share @ by_size, share @ by_tokens]
        gradient += [-(share * by_size) @ size, -(share * by_tokens) @ tokens]
        return float(clipped @ (residual - clipped / 2)), np.array(gradient)

    return objective


def measure_fits(repeats: int, share: int) -> dict[str, float]:
    """CPU seconds and objectives of both fits, interleaved."""
    values, loss = published_points()
    objective, starts = plain_objective(values, loss), hoffmann_starts(SURFACE)[::share]
    ours, scipys, numerical = [], [], []
    best, lowest = math.inf, math.inf
    for _ in range(repeats):
        started = time.process_time()
        fit = fit_parametric(SURFACE, values, loss, num_draws=1)
        ours.append(time.process_time() - started)
        best = min(best, fit.objective)
        started = time.process_time()
        with np.errstate(all="ignore"):
            ended = [minimize(objective, start, jac=True, method="L-BFGS-B") for start in starts]
        scipys.append((time.process_time() - started) * share)
        lowest = min(lowest, *(float(one.fun) for one in ended if np.isfinite(one.fun)))
        started = time.process_time()
        with np.errstate(all="ignore"):
            for start in starts[::4]:
                minimize(lambda theta: objective(theta)[0], start, method="L-BFGS-B")
        numerical.append((time.process_time() - started) * share * 4)
    return {
        "num_starts": len(hoffmann_starts(SURFACE)),
        "ours_seconds": statistics.median(ours),
        "scipy_analytic_gradient_seconds": statistics.median(scipys),
        "scipy_numerical_gradient_seconds": statistics.median(numerical),
        "ratio_analytic": statistics.median(s / o for s, o in zip(scipys, ours, strict=True)),
        "ratio_numerical": statistics.median(s / o for s, o in zip(numerical, ours, strict=True)),
        "ours_objective": best,
        "scipy_objective": lowest,
    }


def sweep_rows() -> pd.DataFrame:
    """4 methods x 6 budgets x 8 Pythia models x 4 trials, from a known law with 1 % noise."""
    rng = np.random.default_rng(0)
    models = [name for name in SHAPES if name.startswith("EleutherAI/pythia")][:8]
    level = {"full": 2.0, "lora": 2.2, "freeze": 2.3, "bias": 3.0}
    slope = {"full": -0.05, "lora": -0.07, "freeze": -0.05, "bias": -0.03}

    def loss(method: Method, budget: float, shape: ModelShape) -> float:
        off = math.log10(shape.num_params_non_embedding / (6e7 * (budget / 1e17) ** 0.4))
        return level[method.kind] * (budget / 1e17) ** slope[method.kind] + 0.2 * off**2

    rows = []
    for method in (FULL, LORA, FREEZE, BIAS):
        for budget in 1.5e15 * 4.0 ** np.arange(6):
            for model in models:
                for number in range(4):
                    noisy = (
                        loss(method, budget, SHAPES[model])
                        * math.exp(0.01 * rng.standard_normal())
                        * (1 + 0.03 * number)
                    )
                    rows.append(row(method, round(budget), model, noisy, number=number))
    return pd.DataFrame(rows)


def measure_sweep() -> dict[str, float]:
    """CPU seconds of every stage of one sweep's analysis with 1,000 draws, and wall seconds of all of them."""
    rows = sweep_rows()
    found: dict[str, float] = {"num_rows": len(rows)}
    wall = 0.0

    def timed(name: str, act: Callable[[], object]) -> None:
        nonlocal wall
        begun, started = time.perf_counter(), time.process_time()
        act()
        found[f"{name}_seconds"] = time.process_time() - started
        wall += time.perf_counter() - begun

    frontier = fit_frontier(rows, num_draws=1000)
    shapes = [shape for name, shape in SHAPES.items() if name in set(rows["model"])]
    columns = {"params": "num_params_non_embedding", "tokens": "tokens", "budget": "budget_flops", "method": "method"}
    timed("frontier", lambda: fit_frontier(rows, num_draws=1000))
    for form in ("parametric", "varpro", "shared", "multiplicative", "isoflop", "isoflop-akima"):
        timed(form, lambda form=form: fit_table(rows, Request(form=form, **columns)))
    answer = recommend(frontier, 10**19, shapes, 78.0)
    timed("recommend", lambda: recommend(frontier, 10**19, shapes, 78.0))
    with tempfile.TemporaryDirectory() as folder:
        timed(
            "report", lambda: write_report(Path(folder), rows, {}, frontier, answer, ReportContext(sweep="benchmark"))
        )
    found["total_seconds"] = sum(value for name, value in found.items() if name.endswith("_seconds"))
    found["total_wall_seconds"] = wall
    return found


def measure_large(num_rows: int = 100_000) -> dict[str, float]:
    """Seconds to read a CSV of ``num_rows`` rows and to fit the parametric form to them."""
    rng = np.random.default_rng(0)
    params, tokens = 10 ** rng.uniform(7, 10, num_rows), 10 ** rng.uniform(9, 12, num_rows)
    loss = (1.69 + 406.4 / params**0.34 + 410.7 / tokens**0.28) * np.exp(0.01 * rng.standard_normal(num_rows))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        pd.DataFrame({"params": params, "tokens": tokens, "loss": loss}).to_csv(path, index=False)
        begun, started = time.perf_counter(), time.process_time()
        rows = read_table(path)
        read = time.process_time() - started
        fit_table(rows, Request(form="parametric", params="params", tokens="tokens"))
    return {
        "num_rows": num_rows,
        "read_seconds": read,
        "read_and_fit_seconds": time.process_time() - started,
        "read_and_fit_wall_seconds": time.perf_counter() - begun,
    }


def measure_command(store: Path, repeats: int) -> dict[str, float]:
    """Wall seconds of ``isoflop recommend`` in fresh processes, at twice the largest budget of a copy of ``store``."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "store"
        shutil.copytree(store, copy, ignore=shutil.ignore_patterns("weights", "checkpoints", "fits", "curves"))
        budget = 2 * Store.open(copy).read_trials()["budget_flops"].max()
        seconds = []
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            command = [sys.executable, "-m", "isoflop", "recommend", str(copy), "--budget", f"{budget:g}"]
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - begun)
    return {"first_wall_seconds": seconds[0], "from_saved_fit_wall_seconds": statistics.median(seconds[1:])}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--share", type=int, default=10)
    parser.add_argument("--store", type=Path, help="a finished sweep's store, for the time of `isoflop recommend`")
    flags = parser.parse_args()
    found = {"sweep": measure_sweep(), "large": measure_large()}
    if flags.store is not None:
        found["recommend"] = measure_command(flags.store, flags.repeats)
    found["parametric"] = measure_fits(flags.repeats, flags.share)
    for title, values in found.items():
        table = Table("", title, title="")
        for name, value in values.items():
            table.add_row(name, f"{value:.10g}" if "objective" in name else f"{value:.3g}")
        Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

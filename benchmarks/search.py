"""What a recommendation costs: FLOPs of the grid, chance, successive halving and the adaptive sweep on known laws.

``python -m benchmarks.search [--surfaces N]`` draws surfaces (losses over size, data, method and learning rate, with
seed noise), lets each way of spending FLOPs search for the best trial at the largest budget, prints a table and writes
``benchmarks/results/search.json``. Nothing is trained. Each way recommends the trial of least measured loss at the
largest budget; what counts is the true loss of that trial, against the truly best trial of the whole grid.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sweeps.agenda import Agenda
from sweeps.plan import Cell, DataFacts, Plan, Study, plan, studies
from sweeps.points import at
from sweeps.reading import read_spec
from sweeps.search import Finished
from sweeps.space import Range
from trainer.flops import num_tokens
from trainer.ladder import SHAPES, parameter_counts
from trainer.result import TrialState

RESULTS = Path(__file__).parent / "results" / "search.json"
TRIALS, ETA = 5, 4
SPEC = f"""
name: simulated
data: nano
models: [pythia-14m, pythia-31m, pythia-70m, pythia-160m, pythia-410m, pythia-1b, pythia-1.4b, pythia-2.8b]
methods: [full, freeze: {{active_fraction: 0.5}}, bias, lora: {{rank: 128, alpha: 8}}]
budgets_flops: [1.5e15, 6e15, 2.4e16, 9.6e16, 3.84e17, 1.536e18]
trials: {TRIALS}
search: {{learning_rate: {{of: pretraining, low: 0.02, high: 0.5, start: 0.1}}, warm_start: true}}
allocation: adaptive
limits: {{min_steps: 50, max_epochs: 8}}
"""
FACTS = DataFacts(num_train_pairs=200_000_000, tokens_per_pair=78, measured=False)
CHANCE = math.log(1024)
CLOSE, FAR = 0.01, 0.02
KINDS = ("sum", "joint", "bowl")
# ln loss of the methods above that of full training at the middle budget, in the mean.
LEVELS = {"full": 0.0, "freeze": 0.025, "bias": 0.12, "lora": 0.02}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """One simulated trial."""

    cost_flops: float
    at_target: bool
    measured: float
    true: float


class Surface:
    """A law of the loss, drawn from a seed; every third one has each shape, every second one a crossover."""

    def __init__(self, number: int) -> None:
        rng = np.random.default_rng(number)
        self.number, self.kind, self.crosses = number, KINDS[number % 3], number % 2 == 0
        self.noise = (0.002, 0.005, 0.01)[number // 2 % 3]
        self.alpha, self.beta = float(rng.uniform(0.22, 0.45)), float(rng.uniform(0.22, 0.4))
        self.floor, self.size_part = float(rng.uniform(0.05, 0.4)), float(rng.uniform(0.5, 1.5))
        self.budgets = sorted(read_spec(SPEC).budgets_flops)
        middle = math.sqrt(self.budgets[0] * self.budgets[-1])
        # The optimal size at the middle budget lies somewhere in the ladder.
        self.best_size = math.exp(rng.uniform(math.log(2e7), math.log(4e8)))
        self.tokens_there = middle / (6 * self.best_size)
        self.middle = middle
        self.levels = {kind: level * rng.uniform(0.6, 1.6) for kind, level in LEVELS.items()}
        self.slopes = {kind: rng.normal(0, 0.003) if level else 0.0 for kind, level in LEVELS.items()}
        if self.crosses:
            where = math.exp(rng.uniform(math.log(self.budgets[2]), math.log(self.budgets[4])))
            self.slopes["lora"] = -rng.uniform(0.008, 0.03)
            self.levels["lora"] = -self.slopes["lora"] * math.log(where / middle)
        self.rate = {kind: rng.normal(0, 0.4) for kind in LEVELS}
        self.rate_over_budget, self.rate_over_size = rng.normal(-0.05, 0.08), rng.normal(-0.05, 0.1)
        self._tokens: dict[Cell, int] = {}
        self.rise, self.cliff = rng.uniform(0.02, 0.06), rng.uniform(1.2, 2.2)

    def _law(self, size: float, tokens: float) -> float:
        small, few = (self.best_size / size) ** self.alpha, (self.tokens_there / tokens) ** self.beta
        match self.kind:
            case "sum":
                # Balanced at the middle budget: there the optimum is where both parts fall equally fast.
                return self.floor + self.size_part * (self.beta * small + self.alpha * few)
            case "joint":
                return self.floor + self.size_part * (small ** (1 / self.beta) + few ** (1 / self.beta)) ** self.beta
            case _:
                spent = size * tokens / (self.best_size * self.tokens_there)
                far = math.log(size / self.best_size) - 0.5 * math.log(spent)
                width = 0.012 if far < 0 else 0.02
                return float(self.floor + self.size_part * spent ** (-self.alpha / 4)) * math.exp(width * far**2)

    def true(self, cell: Cell, learning_rate: float) -> float | None:
        """The loss without noise; ``None`` over the cliff."""
        shape, kind = SHAPES[cell.model], cell.method.kind
        size = shape.num_params_non_embedding
        if cell not in self._tokens:
            self._tokens[cell] = num_tokens(cell.budget_flops, parameter_counts(shape, cell.method), cell.method)
        tokens = self._tokens[cell]
        over = math.log(cell.budget_flops / self.middle)
        best = (
            math.log(0.1 * shape.pretraining_learning_rate)
            + self.rate[kind]
            + self.rate_over_budget * over
            + self.rate_over_size * math.log(size / self.best_size)
        )
        off = math.log(learning_rate) - best
        if off > self.cliff:
            return None
        penalty = self.rise * (2 if off > 0 else 1) * off**2
        method = self.levels[kind] + self.slopes[kind] * over
        return min(CHANCE, self._law(size, max(tokens, 1.0)) * math.exp(method + penalty))

    def measured(self, true: float, *names: object) -> float:
        """With the noise of one training, the same whenever it is asked for."""
        return true * math.exp(self.noise * random.Random(repr((self.number, *names))).gauss())

    def tried(self, cell: Cell, learning_rate: float, name: object, cost: float | None = None) -> Tried:
        true = self.true(cell, learning_rate)
        return Tried(
            cost_flops=cell.budget_flops if cost is None else cost,
            at_target=cell.budget_flops == self.budgets[-1],
            measured=math.inf if true is None else self.measured(true, name),
            true=CHANCE if true is None else true,
        )


def planned() -> tuple[Plan, tuple[Study, ...]]:
    spec = read_spec(SPEC)
    made = plan(spec, FACTS, SHAPES)
    return made, studies(spec, made, data="d", revisions=dict.fromkeys(spec.models, "r"), shapes=SHAPES)


def _rates(study: Study) -> Range:
    rate = study.space.learning_rate
    assert isinstance(rate, Range)
    return rate


def grid(surface: Surface, all_studies: tuple[Study, ...]) -> Iterator[Tried]:
    """Every cell, at even steps of the learning rate, cheapest budget first."""
    for study in all_studies:
        for n in range(TRIALS):
            yield surface.tried(study.cell, at(_rates(study), n / (TRIALS - 1)), (study.key, n))


def chance(surface: Surface, all_studies: tuple[Study, ...]) -> Iterator[Tried]:
    """Cells of the largest budget and learning rates by chance."""
    rng = np.random.default_rng([surface.number, 1])
    target = [study for study in all_studies if study.cell.budget_flops == surface.budgets[-1]]
    while True:
        study = target[rng.integers(len(target))]
        yield surface.tried(study.cell, at(_rates(study), rng.random()), ("chance", rng.random()))


def halving(surface: Surface, all_studies: tuple[Study, ...], num_rungs: int) -> Iterator[Tried]:
    """ASHA (Li et al. 2020) over cells and learning rates: a quarter of each budget's trials goes on to the next one.

    Over the ``num_rungs`` largest budgets. It pays for what a larger budget adds only, as if a trial could go on
    although its schedule has ended.
    """
    budgets = surface.budgets[-num_rungs:]
    rng = np.random.default_rng([surface.number, 2, num_rungs])
    target = [study for study in all_studies if study.cell.budget_flops == budgets[-1]]
    waiting: list[list[tuple[float, int]]] = [[] for _ in budgets]
    num_there, num_promoted = [0] * len(waiting), [0] * len(waiting)
    drawn: list[tuple[Study, float]] = []
    while True:
        rung, which = 0, len(drawn)
        for lower in reversed(range(len(waiting) - 1)):
            if num_promoted[lower] < num_there[lower] // ETA:
                num_promoted[lower] += 1
                rung, (_, which) = lower + 1, heappop(waiting[lower])
                break
        else:
            study = target[rng.integers(len(target))]
            drawn.append((study, at(_rates(study), rng.random())))
        study, rate = drawn[which]
        budget = budgets[rung]
        cell = Cell(budget_flops=budget, model=study.cell.model, method=study.cell.method)
        cost = budget - (budgets[rung - 1] if rung else 0)
        tried = surface.tried(cell, rate, ("halving", num_rungs, which, rung), cost)
        heappush(waiting[rung], (tried.measured, which))
        num_there[rung] += 1
        yield tried


def adaptive(surface: Surface, all_studies: tuple[Study, ...]) -> Iterator[Tried]:
    """What ``allocation: adaptive`` with warm starts runs, one trial after the other."""
    agenda = Agenda(all_studies)
    while item := next(agenda.ready(), None):
        study, number = item
        spec = agenda.trial(study, number)
        tried = surface.tried(study.cell, spec.hyperparameters.learning_rate, (study.key, "adaptive", number))
        complete = math.isfinite(tried.measured)
        state = TrialState.COMPLETE if complete else TrialState.DIVERGED
        agenda.tell(Finished(spec=spec, state=state, loss=tried.measured if complete else None))
        yield tried


def follow(tries: Iterator[Tried], best: float, most: float, *, stop: float) -> dict[str, float | None]:
    """Spend up to ``most`` FLOPs: what was spent, how far off the recommendation is, when it was close for good.

    ``regret_at_stop`` is how far off it was once ``stop`` FLOPs were spent.
    """
    spent, least, off, close_since, off_at_stop = 0.0, math.inf, math.inf, None, math.inf
    for tried in tries:
        if spent + tried.cost_flops > most * (1 + 1e-9):
            break
        spent += tried.cost_flops
        if tried.at_target and tried.measured < least:
            least, off = tried.measured, tried.true / best - 1
            close_since = None if off > CLOSE else close_since or spent
        if spent <= stop * (1 + 1e-9):
            off_at_stop = off
    return {
        "spent": spent / most,
        "regret": off if math.isfinite(off) else None,
        "regret_at_stop": off_at_stop if math.isfinite(off_at_stop) else None,
        "close_at": close_since / most if close_since else None,
    }


WAYS: dict[str, Callable[[Surface, tuple[Study, ...]], Iterator[Tried]]] = {
    "grid": grid,
    "random at the target": chance,
    "ASHA, six budgets": partial(halving, num_rungs=6),
    "ASHA, three budgets": partial(halving, num_rungs=3),
    "adaptive": adaptive,
}


def simulate(number: int, all_studies: tuple[Study, ...]) -> dict[str, Any]:
    """Every way on one surface."""
    surface = Surface(number)
    whole = list(grid(surface, all_studies))
    total = sum(tried.cost_flops for tried in whole)
    best = min(tried.true for tried in whole if tried.at_target)
    facts = {"surface": number, "shape": surface.kind, "crossover": surface.crosses, "noise": surface.noise}
    stop = sum(tried.cost_flops for tried in adaptive(surface, all_studies))
    ways = {way: follow(search(surface, all_studies), best, total, stop=stop) for way, search in WAYS.items()}
    return facts | ways


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each way over all surfaces: shares of the grid's FLOPs, and regrets."""
    found = {}
    for way in WAYS:
        results = [row[way] for row in rows]
        regrets = np.array([math.inf if r["regret"] is None else r["regret"] for r in results])
        close = np.array([math.inf if r["close_at"] is None else r["close_at"] for r in results])
        at_stop = np.array([math.inf if r["regret_at_stop"] is None else r["regret_at_stop"] for r in results])
        spent = np.array([r["spent"] for r in results])
        found[way] = {
            "spent_median": float(np.median(spent)),
            "spent_90": float(np.quantile(spent, 0.9)),
            "spent_max": float(spent.max()),
            "close_at_median": float(np.median(close)),
            "close_at_90": float(np.quantile(close, 0.9, method="higher")),
            "never_close": int(np.isinf(close).sum()),
            "regret_median": float(np.median(regrets)),
            "regret_90": float(np.quantile(regrets, 0.9, method="higher")),
            "regret_max": float(regrets.max()),
            "far": int((regrets > FAR).sum()),
            "stop_median": float(np.median(at_stop)),
            "stop_90": float(np.quantile(at_stop, 0.9, method="higher")),
            "stop_far": int((at_stop > FAR).sum()),
        }
    return found


def main() -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--surfaces", type=int, default=60)
    parser.add_argument("--first", type=int, default=1000, help="the settings were chosen on surfaces 0 to 59")
    flags = parser.parse_args()
    made, all_studies = planned()
    rows = [simulate(number, all_studies) for number in range(flags.first, flags.first + flags.surfaces)]
    table = Table(title=f"{len(rows)} surfaces; a grid of {made.total.num_trials} trials; shares of its FLOPs")
    for column in (
        "way",
        "spent: median, 90 %, most",
        "within 1 % for good: median, 90 %, never",
        "regret: median, 90 %, most",
        "above 2 %",
    ):
        table.add_column(column)
    whole = summary(rows)
    for way, s in whole.items():
        table.add_row(
            way,
            f"{s['spent_median']:.3f}  {s['spent_90']:.3f}  {s['spent_max']:.3f}",
            f"{s['close_at_median']:.3f}  {s['close_at_90']:.3f}  {s['never_close']}",
            f"{100 * s['regret_median']:.2f} %  {100 * s['regret_90']:.2f} %  {100 * s['regret_max']:.2f} %",
            str(s["far"]),
            f"{100 * s['stop_median']:.2f} %  {100 * s['stop_90']:.2f} %  {s['stop_far']}",
        )
    Console(width=190).print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    nano = json.loads(RESULTS.read_text()).get("nano") if RESULTS.exists() else None  # of benchmarks/search_nano.py
    RESULTS.write_text(json.dumps({"summary": whole, "surfaces": rows, "nano": nano}, indent=1) + "\n")


if __name__ == "__main__":
    main()

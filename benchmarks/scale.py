"""The service with thousands of trials on one machine: the true driver, search, store and Ray with a simulated trainer.

Knows a law of the loss with noise, how long a trial lasts, and which processes die; everything else is what a sweep
uses. Prints JSON: trials a second, how busy the slots are, the driver's memory over time, and whether each trial has
one row and was finished once. ``--check-status`` times ``isoflop status`` on the store that is left.

    python -m benchmarks.scale --trials 10000                          no-op trials: how many a second
    python -m benchmarks.scale --trials 200 --studies 40 --seconds 5   how busy the slots are
    python -m benchmarks.scale --trials 1000 --preempt 0.05            one process in twenty dies in the middle
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.local import local_ray
from cluster.progress import SweepProgress
from sweeps.plan import DataFacts, Study, plan, studies
from sweeps.reading import read_spec
from sweeps.spec import SweepSpec
from sweeps.store import Store
from trainer.data import DataManifest, DataSource, SideStatistics, TokenStatistics
from trainer.ladder import SHAPES, parameter_counts
from trainer.prepare import Prepared, PreparedModel
from trainer.result import CurvePoint, Environment, Metrics, Spending, TrialResult, TrialState
from trainer.trial import Placement, TrialFiles, TrialSpec

MODELS = ("nano-1k", "nano-3k", "nano-14k", "nano-25k", "nano-85k")
METHODS = "[full, bias, {lora: {rank: 4, alpha: 8}}, {freeze: {active_fraction: 0.5}}]"
NUM_STEPS = 4
NOISE = 0.01


def train(
    spec: TrialSpec, placement: Placement, files: TrialFiles, report: Callable[[CurvePoint], None]
) -> TrialResult:
    """Spend the seconds, report as training does, die where the draw says so, and give the loss of the law."""
    world = json.loads(Path(files.tokens, "world.json").read_text())
    draw = random.Random(spec.trial_id)
    folder = Path(files.checkpoints)
    begun = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    dies = draw.random() < world["preempt"] and not begun
    curve = []
    started = time.monotonic()
    for step in range(1, NUM_STEPS + 1):
        time.sleep(world["seconds"] / NUM_STEPS)
        if dies and step == NUM_STEPS // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        curve.append(
            CurvePoint(
                step=step,
                tokens=step * 1000,
                spent_flops=spec.budget_flops * step // NUM_STEPS,
                learning_rate=1e-3,
                train_loss=5 - step / NUM_STEPS,
                gradient_norm=1.0,
            )
        )
        report(curve[-1])
    with (Path(files.tokens) / "ended" / f"{os.getpid()}").open("a") as log:
        log.write(f"{spec.trial_id} {time.monotonic() - started} {time.time()}\n")
    loss = law(spec) + draw.gauss(0, NOISE)
    parts = dict.fromkeys(("loss", "loss_rows", "loss_columns", "raw_loss"), loss)
    return TrialResult(
        spec=spec,
        state=TrialState.COMPLETE,
        metrics=Metrics(**parts, calibrated_scale=10.0, accuracy=0.5, mrr=0.5, ndcg_at_10=0.5),
        spending=Spending(booked_flops=spec.budget_flops, tokens=1000 * NUM_STEPS, steps=NUM_STEPS, seconds=1.0),
        counts=parameter_counts(SHAPES[spec.model], spec.method),
        environment=Environment(host="simulated", device="cpu", versions="{}", git_commit=""),
        placement=placement,
        epochs=1.0,
        train_loss=loss,
        mfu=None,
        num_resumes=int(begun),
        num_out_of_memory=0,
        finished_at="2026-01-01T00:00:00+00:00",
        error="",
        curve=tuple(curve),
    )


def law(spec: TrialSpec) -> float:
    """A bowl in the learning rate and in the size, lower for larger budgets."""
    size = SHAPES[spec.model].num_params_non_embedding
    rate = math.log10(spec.hyperparameters.learning_rate / 3e-3)
    return 2 + rate**2 + 0.2 * math.log10(size / math.sqrt(spec.budget_flops)) ** 2 + 1e9 / spec.budget_flops


def spec_of(num_trials: int, num_studies: int) -> SweepSpec:
    """A sweep of so many trials: 5 models, 4 methods, and as many budgets as the studies need."""
    num_budgets = max(1, num_studies // 20)
    budgets = ", ".join(f"{1e9 * 2**n:g}" for n in range(num_budgets))
    trials = num_trials // (20 * num_budgets)
    return read_spec(
        f"name: scale\ndata: nano\nmodels: [{', '.join(MODELS)}]\nmethods: {METHODS}\nbudgets_flops: [{budgets}]\n"
        f"trials: {trials}\nfixed: {{batch_size: 8}}\nsearch: {{learning_rate: {{low: 1e-4, high: 1e-1}}}}\n"
        "limits: {min_steps: 0, max_epochs: 1e9}\n"
    )


def prepared_of(spec: SweepSpec, world: Path) -> tuple[Prepared, tuple[Study, ...]]:
    """The models' shapes, and the world of the simulation in place of token files."""
    side = SideStatistics(mean=25.0, percentiles={}, histogram={}, mean_at_max_length=25.0, truncated_share=0.0)
    num_pairs = {"train": 10**9, "validation": 1, "test": 1}
    manifest = DataManifest(
        source=DataSource(source="nano"), fingerprint="f", num_pairs=num_pairs, dropped={}, split_rule="", content={}
    )
    models = {n: PreparedModel(name=n, path=n, revision="r", shape=SHAPES[n], tokens=str(world)) for n in spec.models}
    statistics = TokenStatistics(max_length=32, query=side, positive=side)
    facts = DataFacts(num_train_pairs=10**9, tokens_per_pair=50.0, measured=True)
    revisions = dict.fromkeys(spec.models, "r")
    found = studies(spec, plan(spec, facts, SHAPES), data=manifest.hash, revisions=revisions, shapes=SHAPES)
    return Prepared(manifest=manifest, statistics=statistics, models=models), found


@dataclass(kw_only=True)
class Watch:
    """What is noted as the sweep goes on."""

    started: float = field(default_factory=time.monotonic)
    first_row: float = 0.0
    rows_at_first: int = 0
    memory_mib: list[tuple[int, float]] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    last_row: float = 0.0

    def __call__(self, progress: SweepProgress) -> None:
        now = time.monotonic()
        if progress.num_rows and not self.first_row:
            self.first_row, self.rows_at_first = now, progress.num_rows
        if progress.num_rows < progress.num_trials:
            self.busy.append(len(progress.running))
            self.last_row = now
        if not self.memory_mib or progress.num_rows - self.memory_mib[-1][0] >= progress.num_trials // 10:
            self.memory_mib.append((progress.num_rows, round(_memory_mib(), 1)))


def _memory_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run(root: Path, num_trials: int, num_studies: int, seconds: float, preempt: float) -> dict[str, Any]:
    """Run the sweep; what was measured."""
    world = root / "world"
    (world / "ended").mkdir(parents=True, exist_ok=True)
    (world / "world.json").write_text(json.dumps({"seconds": seconds, "preempt": preempt}))
    spec = spec_of(num_trials, num_studies)
    prepared, found = prepared_of(spec, world)
    store = Store.create(root / "store", spec, prepared.to_json())
    watch = Watch()
    with local_ray(root / "cache") as ray:
        from cluster.tune import run as run_sweep

        outcome = run_sweep(found, prepared, store, spec.resources, watch, train="benchmarks.scale:train")
        ended = time.monotonic()
        num_slots = ray.num_cpus
    lines = [line.split() for path in (world / "ended").iterdir() for line in path.read_text().splitlines()]
    rows, _ = store.read_table(("trial_id",))
    wall = ended - watch.first_row
    # Trials of an earlier driver in the same folder, and those before the first row was seen, count for nothing.
    begun_at = time.time() - (time.monotonic() - watch.first_row)
    busy = sum(float(seconds) for _, seconds, at in lines if float(at) > begun_at)
    return {
        "trials": outcome.progress.num_trials,
        "studies": len(found),
        "slots": num_slots,
        "seconds_a_trial": seconds,
        "rows": len(rows),
        "distinct": len(set(rows["trial_id"].to_pylist())),
        "finished_twice": len(lines) - len({line[0] for line in lines}),
        "seconds_to_first_row": round(watch.first_row - watch.started, 1),
        "wall_seconds": round(ended - watch.started, 1),
        "trials_per_second": round((len(rows) - watch.rows_at_first) / wall, 2),
        "slots_busy_after_first_row": round(busy / wall / num_slots, 3),
        "driver_memory_mib": watch.memory_mib,
        "load_average": os.getloadavg()[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--preempt", type=float, default=0.0)
    parser.add_argument("--folder", type=Path, help="Kept, and gone on with where it is there.")
    parser.add_argument("--check-status", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = (given.folder or Path(scratch)).resolve()
        found = run(root, given.trials, given.studies, given.seconds, given.preempt)
        if given.check_status:
            command = [sys.executable, "isoflop.py", "status", str(root / "store"), "--json"]
            started = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found["status_seconds"] = round(time.monotonic() - started, 2)
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

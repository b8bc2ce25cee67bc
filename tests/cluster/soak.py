"""A longer trial of the whole: a sweep of some hundred short trials on several hosts, through random faults.

``python -m tests.cluster.soak [FAULTS] [SEED] [TRIALS]`` (20 faults, seed 1, 8 trials in each of 20 studies) prints a
table of what happened, and ends with status 1 unless the rows are those of an undisturbed sweep and no finished trial
was run again. Needs root.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from sweeps.reading import read_spec
from sweeps.store import Store
from tests.cluster import fake
from tests.cluster.hosts import Host, Hosts, several_hosts, why_not
from tests.cluster.sweep import SPEC, expected_rows, make_world, same_rows, studies_of
from tests.cluster.test_hosts import Driver

DEFAULTS = ("20", "1", "8")
BUDGETS = SPEC.replace("[1e9, 4e9]", "[1e9, 2e9, 4e9, 8e9, 1.6e10]")
STEP_SECONDS = 0.7
PAUSE_SECONDS = 4.0
"""At most, between the first row after a fault and the next fault."""
FAULTS = ("node SIGKILL", "node link down", "node drain", "driver SIGKILL", "head SIGKILL")


def main() -> int:
    given = sys.argv[1:]
    num_faults, seed, num_trials = (int(argument) for argument in (*given, *DEFAULTS[len(given) :]))
    text = BUDGETS.replace("[nano-1k]", "[nano-1k, nano-3k]").replace("trials: 3", f"trials: {num_trials}")
    if reason := why_not():
        print(f"no soak here: {reason}")
        return 2
    with tempfile.TemporaryDirectory(prefix="isoflop-soak-") as folder, several_hosts() as hosts:
        root, world = Path(folder) / "store", make_world(Path(folder) / "world", seconds=STEP_SECONDS)
        began = time.monotonic()
        happened, again = _suffer(hosts, root, world, text, random.Random(seed), num_faults)
        return _tell(root, world, text, happened, again, time.monotonic() - began)


def _suffer(
    hosts: Hosts, root: Path, world: Path, text: str, moment: random.Random, num_faults: int
) -> tuple[Counter[str], set[str]]:
    """Faults until there were enough of them, then the rest of the sweep; also the trials that ran after their row."""
    happened: Counter[str] = Counter()
    finished: dict[str, int] = {}
    driver = Driver(hosts, root, world, text)
    victim: Host | None = None
    for number in range(num_faults):
        before = len(_recorded(root))
        while len(_recorded(root)) == before and driver.process.poll() is None:
            time.sleep(0.2)
        time.sleep(moment.uniform(0.0, PAUSE_SECONDS))
        fault = FAULTS[number % len(FAULTS)] if number < len(FAULTS) else moment.choice(FAULTS)
        if driver.process.poll() is not None:
            break
        if victim is not None and fault.startswith("node"):
            hosts.start_worker(victim)
        # By now the cluster has all its hosts, or the driver or the head is the victim.
        finished = {**_starts(root, world), **finished}
        if fault == "driver SIGKILL":
            driver.kill()
            driver = Driver(hosts, root, world, text)
        elif fault == "head SIGKILL":
            hosts.lose_head()
            victim = None
            driver = Driver(hosts, root, world, text)
        else:
            victim = moment.choice(hosts.workers)
            {"node SIGKILL": victim.cut_power, "node link down": victim.cut_link, "node drain": victim.notice}[fault]()
        happened[fault] += 1
        print(f"{number + 1}: {fault}, {len(finished)} rows", flush=True)
    if victim is not None:
        hosts.start_worker(victim)
    finished = {**_starts(root, world), **finished}
    driver.end()
    return happened, {trial for trial, starts in finished.items() if fake.starts(world, trial) != starts}


def _starts(root: Path, world: Path) -> dict[str, int]:
    """How often each trial that has a row was started."""
    return {trial: fake.starts(world, trial) for trial in _recorded(root)}


def _recorded(root: Path) -> frozenset[str]:
    return Store(root).trial_ids()


def _tell(root: Path, world: Path, text: str, happened: Counter[str], again: set[str], seconds: float) -> int:
    rows = Store.open(root).read_trials()
    planned = set(expected_rows(text)["trial_id"])
    steps = Counter(event for trial in planned for event in (f"{trial} {line}" for line in _steps(world, trial)))
    repeated = sum(number - 1 for number in steps.values())
    table = {
        "trials": sum(study.num_trials for study in studies_of(read_spec(text))),
        **{f"faults: {fault}": happened[fault] for fault in FAULTS},
        "faults": happened.total(),
        "rows lost": len(planned - set(rows["trial_id"])),
        "trials run twice": len(again),
        "trials gone on from a checkpoint": int((rows["num_resumes"] > 0).sum()),
        "steps": len(steps),
        "steps repeated": repeated,
        "seconds": round(seconds),
    }
    for what, number in table.items():
        print(f"{what:34} {number}")
    same_rows(rows, text)
    print("the rows are those of an undisturbed sweep")
    return int(bool(table["rows lost"] or table["trials run twice"]))


def _steps(world: Path, trial: str) -> list[str]:
    return [event for event in fake.events(world, trial) if event.startswith("step")]


if __name__ == "__main__":
    sys.exit(main())

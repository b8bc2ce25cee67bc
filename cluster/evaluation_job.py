"""An evaluation as a Ray job: sent to a cluster from here, carried out there by ``python -m cluster.evaluation_job``.

Knows the file that carries what is asked for, and what a job needs around it. Never knows how a task is evaluated.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from rich.console import Console

from cluster import evaluation
from cluster.answers import prepared_of, say
from cluster.dispatch import shared_place
from cluster.jobs import connect, follow
from cluster.join import joined_ray
from cluster.local import ENVIRONMENT
from cluster.order import packages_in
from cluster.reach import reached
from cluster.score_tables import score_table
from sweeps.remote import place
from sweeps.store import Store
from sweeps.weights import Which
from trainer.prepare import cache_of, default_cache
from trainer.refusal import is_ours

FILE = "evaluation.json"
WIDTH = 200
_GO_ALONG = ("HF_HUB_OFFLINE", "HF_HOME", "HF_ENDPOINT")
"""Of this machine's environment: where data sets come from is no secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationOrder:
    """What a person asks for, in words that travel."""

    store: str
    """Absolute, and the same folder on every node; or a URI."""
    trial: str
    which: Which
    tasks: str
    prefetch: bool

    def __post_init__(self) -> None:
        assert self.which in get_args(Which)


def evaluate_on(on: str, order: EvaluationOrder, console: Console) -> int:
    """Submit the order as a job and follow it; the exit status for the command line.

    Raises ``ValueError`` where the target is none, or the store would be another folder there.
    """
    with reached(on) as address:
        if not address.is_here:
            shared_place("STORE", order.store, "/shared/stores/quickstart")
        client = connect(address, default_cache())
        python = sys.executable if address.is_here else "python"
        own = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_AUTH")}
        own |= {name: os.environ[name] for name in _GO_ALONG if name in os.environ}
        with TemporaryDirectory(prefix="isoflop-job-") as name:
            packages_in(Path(name))
            (Path(name) / FILE).write_text(json.dumps(asdict(order)))
            job_id = client.submit_job(
                entrypoint=shlex.join([python, "-m", "cluster.evaluation_job"]),
                runtime_env={"working_dir": name, "env_vars": own},
                metadata={"job_name": f"scores of {order.store}"},
            )
        say(console, f"submitted: job {job_id}")
        ended = follow(client, job_id, lambda text: console.out(text, end="", highlight=False))
    if ended is None:
        say(console, f"the head was started again and does not know job {job_id}: the same command goes on")
        return 1
    return 1 if ended.exit_status is None else ended.exit_status


def carry_out(order: EvaluationOrder, console: Console) -> bool:
    """Evaluate on the cluster that this process is a job of; whether all of it has a score now."""
    store = Store.open(place(order.store))
    tasks = evaluation.tasks_of(order.tasks, store.spec)
    cache = cache_of(prepared_of(store))
    if order.prefetch:
        evaluation.prefetch(store, tasks, cache, console)
        return True
    found = evaluation.chosen(store, order.trial, order.which, console)
    asked, is_whole = evaluation.evaluate_chosen(store, found, tasks, cache, console, joined_ray)
    console.print(score_table(found.results, *evaluation.scores_asked(store, asked)))
    return is_whole


def main() -> None:
    """Read the order, carry it out, and end with 0 where all is scored, 1 where something failed, 2 where refused."""
    order = EvaluationOrder(**json.loads(Path(FILE).read_text()))
    try:
        is_whole = carry_out(order, Console(width=WIDTH))
    except ValueError as error:
        if not is_ours(error):
            raise
        print(f"isoflop: {error}", flush=True)
        sys.exit(2)
    sys.exit(0 if is_whole else 1)


if __name__ == "__main__":
    main()

"""What a trial's process has written, found by the trial's name; or, once the trial has ended, how.

Knows where Ray keeps what its actors write, and the lines by which an actor that is used again tells its trials apart
(``cluster/actor.py``). Never changes anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from rich.console import Console

from cluster.answers import say
from cluster.driver import driver_of
from cluster.reach import reached
from cluster.target import RayAddress
from sweeps.store import Store
from trainer.prepare import default_cache

if TYPE_CHECKING:
    from cluster.jobs import Client

MOST_ACTORS = 10_000
TAIL_LINES = 2_000


def show(store: Store, trial: str, on: str | None, console: Console) -> None:
    """Print the log of the trial whose id starts with ``trial``, or its ending where it has a row.

    Raises ``ValueError`` where the name fits no trial or several, and where nothing runs that could have a log.
    """
    ended = sorted(trial_id for trial_id in store.trial_ids() if trial_id.startswith(trial))
    if len(ended) > 1 and trial not in ended:
        raise ValueError(f"TRIAL is {trial!r}, and {len(ended)} trials of {store.root} start so: give more of it")
    if ended:
        row = store.read_trial(trial if trial in ended else ended[0])
        where = f"{row.environment.host}, {row.environment.device}"
        say(console, f"{row.spec.trial_id}: {row.state}, ended {row.finished_at} on {where}")
        if row.error:
            say(console, row.error)
        return
    with reached(on or _dashboard(store)) as address:
        found = list(log_of(address, trial))
    if not found:
        raise ValueError(
            f"TRIAL is {trial!r}, which has no row and does not run at {address.address}: see isoflop status"
        )
    for name, lines in found:
        say(console, f"--- {name}")
        say(console, "\n".join(lines))


def log_of(address: RayAddress, trial: str) -> Iterator[tuple[str, list[str]]]:
    """Trial and lines of each process that works on a trial whose id starts with ``trial``.

    An actor that bears its trial's name is asked first; where actors are used again, the others are looked through.
    Then the workers of a trial that has several, each a process of its own.
    """
    from cluster.jobs import connect

    client = connect(address, default_cache())
    actors = _alive(client, "Trial")
    named = [actor for actor in actors if str(actor.repr_name).startswith(trial)]
    for actor in (*named, *(actor for actor in actors if actor not in named)):
        own = list(_part_of(_lines(client, actor), trial))
        if own:
            yield f"{trial} on node {actor.node_id[:12]}, process {actor.pid}", own
    workers = [actor for actor in _alive(client, "Rank") if actor.name.startswith(trial)]
    for actor in sorted(workers, key=lambda actor: str(actor.name)):
        yield f"{actor.name} on node {actor.node_id[:12]}, process {actor.pid}", list(_lines(client, actor))


def _alive(client: Client, class_name: str) -> list[Any]:
    from ray.util.state import list_actors

    filters = [("class_name", "=", class_name), ("state", "=", "ALIVE")]
    return list(list_actors(address=client.get_address(), filters=filters, limit=MOST_ACTORS, detail=True))


def _lines(client: Client, actor: Any) -> Iterable[str]:
    """The last lines that the actor's process has written, its errors after its output."""
    for suffix in ("out", "err"):
        asked = urlencode({"actor_id": actor.actor_id, "suffix": suffix, "lines": TAIL_LINES})
        # Ray's own get_log takes no web address of a dashboard, which is all that a tunnel gives.
        answer = client._do_request("GET", f"/api/v0/logs/file?{asked}")
        if answer.ok:
            yield from answer.text.splitlines()


def _part_of(lines: Iterable[str], trial: str) -> Iterator[str]:
    """What was written from the line at which the trial begins to the one at which it leaves the process."""
    from cluster.actor import BEGINS, LEAVES  # brings Ray, which the end of a trial is told without

    inside = False
    for line in lines:
        if line.startswith(BEGINS):
            inside = line.startswith(f"{BEGINS} {trial}")
        if inside:
            yield line
        if line.startswith(LEAVES):
            inside = False


def _dashboard(store: Store) -> str:
    driver = driver_of(store.root)
    if driver is None or not driver.dashboard:
        raise ValueError(f"store {store.root} is not being filled by a process this machine can see: give --on")
    return driver.dashboard

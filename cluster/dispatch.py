"""A launch, from a person's options to the Ray it runs on: this machine's own, one that is up, or one to be brought up.

Knows what is said and refused before anything is spent, and which paths mean something where. Never knows how a job is
followed or a sweep driven.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from rich.console import Console

from cluster import plan_tables
from cluster.answers import cost_of, find_prepared, plan_of, say
from cluster.bounds import Bounds
from cluster.local import access_token
from cluster.target import ClusterFile, Here, Kubernetes, RayAddress, read_target, tunnel
from sweeps.cost import Cost, Rates
from sweeps.remote import SCHEMES, place
from sweeps.spec import SweepSpec
from sweeps.store import Root, Store
from trainer.prepare import default_cache

DATA_FILES = (".jsonl", ".jsonl.gz", ".parquet")
WAIT_SECONDS = 300.0
"""For a machine that an autoscaler of a running cluster may bring."""
UP_WAIT_SECONDS = 1800.0
"""For the first machine of a cluster that was just brought up: GPUs are scarce."""
HEAD_SECONDS = 120.0
"""For the head of a cluster that was just brought up to answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """The options of a launch, as a person gave them."""

    on: str | None = None
    store: str | None = None
    cache: str | None = None
    detach: bool = False
    down: bool = False
    dry_run: bool = False
    names: tuple[str, ...] = ()
    """Variables of this environment that go along with a job."""
    python: str | None = None
    """Interpreter on a cluster's head."""
    image: str | None = None
    """Container image, where Kubernetes runs the sweep."""
    rates: Rates = field(default_factory=Rates)
    max_gpu_hours: float | None = None
    max_cost: float | None = None

    @property
    def bounds(self) -> Bounds:
        price = self.rates.known_price if self.max_cost is not None else None
        return Bounds(max_gpu_hours=self.max_gpu_hours, max_cost=self.max_cost, price_per_hour=price)


def launch(spec: SweepSpec, wish: Wish, console: Console) -> int:
    """Say what the sweep costs, and see it run on its target; the exit status.

    Raises ``ValueError`` for options that do not fit the target, before anything is started.
    """
    target, bounds = read_target(wish.on), wish.bounds
    _refuse_strange(wish, target)
    if isinstance(target, Here):
        return _launch_here(spec, wish, bounds, console)
    _refuse_local_paths(spec)
    if isinstance(target, RayAddress):
        return _launch_at(target, spec, wish, console)
    _say_cost(spec, None, wish, console)
    if isinstance(target, ClusterFile):
        return _launch_in(target, spec, wish, console)
    from cluster.kuberay import launch_with

    return launch_with(spec, wish, *shared_places(wish, spec), console)


def _launch_here(spec: SweepSpec, wish: Wish, bounds: Bounds, console: Console) -> int:
    from cluster.drive import drive

    root = place(wish.store or Path("stores") / spec.name)
    _say_cost(spec, root, wish, console)
    drive(spec, root, console, bounds=bounds)
    return 0


def _launch_at(target: RayAddress, spec: SweepSpec, wish: Wish, console: Console) -> int:
    _say_cost(spec, None, wish, console)
    if target.crosses_a_network:
        say(
            console,
            f"the access token goes to {target.host} unencrypted: on a network that others use, open a tunnel with "
            f"'{tunnel(target.address, target.host)}' and give --on http:// at the port that it opens here",
        )
    if target.is_here:
        store = str(place(wish.store or Path("stores") / spec.name).resolve())
        places, wait_seconds, python = (store, str(Path(wish.cache or default_cache()).resolve())), 0.0, sys.executable
    else:
        places, wait_seconds, python = shared_places(wish, spec), WAIT_SECONDS, "python"
    status = _submit(target, spec, wish, places, wait_seconds, python, console)
    return status or 0


def _launch_in(target: ClusterFile, spec: SweepSpec, wish: Wish, console: Console) -> int:
    from cluster.clouds import ClusterOfFile

    places = shared_places(wish, spec)
    cluster = ClusterOfFile(target.path, default_cache())
    if wish.dry_run:
        say(
            console,
            f"{target.path} is well-formed, as far as can be told without asking the cloud; nothing was started",
        )
        return 0
    cluster.bring_up(lambda words: say(console, words))
    with cluster.reached() as address:
        say(console, f"dashboard: {address.address} while this runs (its token: {access_token(default_cache())})")
        status = _submit(address, spec, wish, places, UP_WAIT_SECONDS, cluster.python, console, HEAD_SECONDS)
    if wish.down and status is not None:
        cluster.take_down(lambda words: say(console, words))
    return status or 0


def _submit(
    target: RayAddress,
    spec: SweepSpec,
    wish: Wish,
    places: tuple[str, str],
    wait_seconds: float,
    python: str,
    console: Console,
    patience_seconds: float = 0.0,
) -> int | None:
    from cluster.jobs import connect
    from cluster.launch import Way, launch_on
    from cluster.order import Order

    store, cache = places
    order = Order(spec=spec.to_yaml(), store=store, cache=cache, bounds=wish.bounds, wait_seconds=wait_seconds)
    way = Way(on=wish.on or "", names=wish.names, python=wish.python or python)
    client = connect(target, default_cache(), patience_seconds=patience_seconds)
    return launch_on(client, spec, order, way, detach=wish.detach, console=console)


def shared_places(wish: Wish, spec: SweepSpec) -> tuple[str, str]:
    """Store and cache of a sweep on a cluster: folders, or for the store a URI, that all of its nodes see.

    Raises ``ValueError`` where one is missing or would mean another place on each node.
    """
    store = shared_place("--store", wish.store, f"/shared/stores/{spec.name}")
    if wish.cache is None and not urlsplit(store).scheme:
        return store, str(PurePosixPath(store).parent / "cache")
    cache = shared_place("--cache", wish.cache, "/shared/cache")
    if urlsplit(cache).scheme:
        raise ValueError(f"--cache is {cache!r}, and data and models are read as files: give a folder all nodes see")
    return store, cache


def shared_place(option: str, place: str | None, example: str) -> str:
    """A folder or URI that every node of a cluster sees.

    Raises ``ValueError`` where none is given or it would mean another folder on each node.
    """
    mend = f"give a folder that all nodes of the cluster see, such as {example}"
    if place is None:
        raise ValueError(f"{option} is missing, and a cluster does not see this machine's folders: {mend}")
    scheme = urlsplit(place).scheme
    if scheme in SCHEMES:
        return place.rstrip("/")
    if scheme or not PurePosixPath(place).is_absolute():
        raise ValueError(f"{option} is {place!r}, which is no path or URI that is the same on all nodes: {mend}")
    return str(PurePosixPath(place))


def _refuse_strange(wish: Wish, target: Here | RayAddress | ClusterFile | Kubernetes) -> None:
    """Options that mean nothing on this target would be a silent surprise."""
    given = {
        "--detach": (wish.detach, not isinstance(target, Here)),
        "--env": (wish.names, not isinstance(target, Here)),
        "--python": (wish.python, not isinstance(target, Here | Kubernetes)),
        "--cache": (wish.cache, not isinstance(target, Here)),
        "--down": (wish.down, isinstance(target, ClusterFile)),
        "--dry-run": (wish.dry_run, isinstance(target, ClusterFile | Kubernetes)),
        "--image": (wish.image, isinstance(target, Kubernetes)),
    }
    for option, (value, fits) in given.items():
        if value and not fits:
            on = f"--on {wish.on}" if wish.on else "a launch on this machine"
            raise ValueError(f"{option} is given, and means nothing for {on}: leave it out, or give another --on")
    if wish.down and wish.detach:
        raise ValueError("--down and --detach are given, and nobody would be there to take the cluster down: give one")


def _refuse_local_paths(spec: SweepSpec) -> None:
    """A relative path would be looked for in the folder of a job."""
    sources = [("data.source", name) for name in _sources(spec) if name.endswith(DATA_FILES)]
    models = [("models", name) for name in spec.models if Path(name).is_dir() or name.startswith((".", "~"))]
    for where, name in [*sources, *models]:
        if not PurePosixPath(name).is_absolute() and "://" not in name:
            raise ValueError(
                f"{where} has {name!r}, which is relative to a folder of this machine: give the absolute path at which "
                "all nodes of the cluster see it"
            )


def _sources(spec: SweepSpec) -> Iterable[str]:
    return (spec.data.source, *(origin.source for origin in spec.data.sources))


def _say_cost(spec: SweepSpec, root: Root | None, wish: Wish, console: Console) -> None:
    """The plan in a sentence, what it costs, and which cap it would meet."""
    if wish.dry_run:
        console = Console(
            stderr=True, width=console.width
        )  # standard output is for what is printed in place of started
    planned = plan_of(spec, find_prepared(spec))
    store = Store.open(root) if root and (root / "sweep.yaml").exists() else None
    cost = cost_of(spec, planned, wish.rates, store)
    if root is None:
        console.print(plan_tables.plan_summary(spec.name, planned, cost))
    elif cost:
        say(console, cost.sentence())
    if cost and (cap := _cap_below(cost, wish)):
        say(console, f"the whole sweep asks for more than {cap}: it will end there, with every row kept")


def _cap_below(cost: Cost, wish: Wish) -> str:
    if wish.max_gpu_hours is not None and cost.gpu_hours > wish.max_gpu_hours:
        return f"--max-gpu-hours {wish.max_gpu_hours:g}"
    if wish.max_cost is not None and cost.money is not None and cost.money > wish.max_cost:
        return f"--max-cost {wish.max_cost:g}"
    return ""

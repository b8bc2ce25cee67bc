"""Sweeps from the command line: planned, launched, resumed, found, stopped and looked at.

Knows what a person types and reads, and calls the packages. Computes nothing itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.answers import added_to, agenda_of, asked_plan, find_prepared, outlook_of, plan_of, say, tell
from commands.terminal import (
    DeviceOption,
    JsonOption,
    MaxCostOption,
    MaxHoursOption,
    MfuOption,
    OnOption,
    OverridesArgument,
    PriceOption,
    SpecArgument,
    StoreArgument,
    StoreOption,
    console,
    open_store,
    print_json,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer()


@app.command(no_args_is_help=True)
def plan(
    spec: SpecArgument,
    overrides: OverridesArgument = None,
    diff: Annotated[
        str | None, typer.Option("--diff", metavar="STORE", help="Show what the spec would add to this store.")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="STORE", help="Take measured speeds from this store's rows.")
    ] = None,
    device: DeviceOption = None,
    price: PriceOption = None,
    mfu: MfuOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a sweep would run and cost, and what it leaves out and why."""
    from cluster import plan_tables
    from cluster.answers import cost_of
    from sweeps.cost import Rates
    from sweeps.reading import read_spec

    read = read_spec(spec, overrides or ())
    if diff is not None:
        from sweeps import extension

        found = added_to(open_store(diff), read)
        if as_json:
            print_json(extension.record(found))
        else:
            tell(console(), extension.sentences(found))
        return
    prepared = find_prepared(read)
    planned = plan_of(read, prepared)
    seats, proposals = outlook_of(read, planned, prepared, device)
    rates = Rates(device=device, price_per_hour=price, mfu=mfu)
    cost = cost_of(read, planned, rates, open_store(store) if store else None)
    if as_json:
        print_json(plan_tables.plan_record(read.name, planned, cost, proposals, seats))
    else:
        console().print(plan_tables.plan_view(read.name, planned, cost, proposals, seats))


@app.command(no_args_is_help=True)
def launch(
    spec: SpecArgument,
    overrides: OverridesArgument = None,
    store: StoreOption = None,
    on: OnOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="On a cluster: do not follow the log.")] = False,
    max_gpu_hours: MaxHoursOption = None,
    max_cost: MaxCostOption = None,
    device: DeviceOption = None,
    price: PriceOption = None,
    mfu: MfuOption = None,
    cache: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="On a cluster: data and models (default: cache, beside the store)."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="On a cluster: send this variable along; repeatable."),
    ] = None,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="On a cluster: interpreter on its head (default: python).")
    ] = None,
    image: Annotated[str | None, typer.Option(metavar="NAME", help="For kuberay: container image of all pods.")] = None,
    down: Annotated[
        bool, typer.Option("--down", help="Of a cluster file: take the cluster away when the sweep has ended.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Of kuberay or a cluster file: check and print, start nothing.")
    ] = False,
) -> None:
    """Run a sweep, here or on a cluster, and say what it means."""
    from cluster import dispatch
    from sweeps.cost import Rates
    from sweeps.reading import read_spec

    wish = dispatch.Wish(
        on=on,
        store=store,
        cache=cache,
        detach=detach,
        down=down,
        dry_run=dry_run,
        names=tuple(env or ()),
        python=python,
        image=image,
        rates=Rates(device=device, price_per_hour=price, mfu=mfu),
        max_gpu_hours=max_gpu_hours,
        max_cost=max_cost,
    )
    sys.exit(dispatch.launch(read_spec(spec, overrides or ()), wish, console()))


@app.command(no_args_is_help=True)
def resume(
    store: StoreArgument,
    max_gpu_hours: MaxHoursOption = None,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
) -> None:
    """Go on, on this machine, with a sweep that was stopped, died or reached a cap."""
    from cluster.bounds import Bounds
    from cluster.drive import drive

    opened = open_store(store)
    bounds = Bounds(max_gpu_hours=max_gpu_hours, max_cost=max_cost, price_per_hour=price)
    drive(opened.spec, opened.root, console(), bounds=bounds)


@app.command("list")
def list_sweeps(
    on: OnOption = None,
    root: Annotated[
        Path | None, typer.Option("--root", metavar="PATH", help="A folder of stores (default: ./stores).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the sweeps of a cluster, and those whose stores lie in a folder."""
    from cluster import listing

    jobs = listing.jobs_on(on) if on else None
    stores = listing.stores_in(root or Path("stores")) if root or not on else None
    if as_json:
        print_json(listing.record(jobs, stores))
    else:
        console().print(listing.view(jobs, stores))


@app.command(no_args_is_help=True)
def stop(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name, its store, or a job's id.")],
    on: OnOption = None,
) -> None:
    """Stop a sweep that runs; nothing is lost."""
    from cluster import stopping

    say(console(), stopping.stop(sweep, on))


@app.command(no_args_is_help=True)
def logs(
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's id, or the start of it.")],
    store: Annotated[str, typer.Option("--store", metavar="STORE", help="The store it belongs to.")],
    on: OnOption = None,
) -> None:
    """Show what a trial's process has written, while it runs, or how the trial ended."""
    from cluster import logs as trial_logs

    trial_logs.show(open_store(store), trial, on, console())


@app.command()
def doctor(
    on: OnOption = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="PATH", help="The store of a sweep to come, on this target.")
    ] = None,
    spec: Annotated[
        str | None,
        typer.Option("--spec", metavar="SPEC", help="Also ask whether this sweep's data and models are there."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a Ray, its machines and its storage are fit for a sweep."""
    from cluster.doctor import examine, is_well, record, view
    from sweeps.reading import read_spec

    said = console(err=as_json)
    findings = examine(on, store, read_spec(spec) if spec else None, said)
    if as_json:
        print_json(record(findings))
    else:
        said.print(view(findings))
    sys.exit(0 if is_well(findings) else 1)


@app.command(no_args_is_help=True)
def status(
    store: StoreArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and show it again every other second.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far a sweep is, while it runs or after it died."""
    from cluster import tables
    from cluster.status import read_status

    opened = open_store(store)
    if watch and not as_json:
        from cluster import view

        def look() -> tuple[RenderableType, bool]:
            found = read_status(opened, asked_plan(opened))
            return tables.status_view(found), found.num_rows == found.num_trials

        view.watch(console(), look)
        return
    found = read_status(opened, asked_plan(opened))
    if as_json:
        print_json(found.to_dict())
    else:
        console().print(tables.status_view(found))


@app.command(no_args_is_help=True)
def decisions(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Say which cells an adaptive sweep runs and leaves, which studies ended early, and why."""
    from sweeps import account

    agenda = agenda_of(open_store(store))
    if as_json:
        print_json(account.record(agenda))
    else:
        tell(console(), account.sentences(agenda) or ("Nothing was decided: every planned trial is run.",))


@app.command(no_args_is_help=True)
def optuna(
    store: StoreArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to write (default: optuna.db in the store).")
    ] = None,
) -> None:
    """Copy a sweep's studies into an SQLite file, for optuna-dashboard."""
    from sweeps.search import write_sqlite

    opened = open_store(store)
    beside = opened.root / "optuna.db"
    path = out or (beside if isinstance(beside, Path) else Path(f"{opened.spec.name}-optuna.db"))
    if out is not None and out.exists():
        raise ValueError(f"--out is {str(out)!r}, which is there already: give another file")
    path.unlink(missing_ok=True)
    write_sqlite(path.absolute(), agenda_of(opened).searched)
    say(console(), f"look at it with: optuna-dashboard sqlite:///{path.absolute()}")

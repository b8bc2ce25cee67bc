"""The front door: the command line.

Knows every package, and what a person types and reads. Each command imports what it needs when it runs, so that help
and status answer at once. Bad input becomes one sentence and exit status 2; a failed trial, exit status 1.
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cluster.answers import (
    added_to,
    agenda_of,
    asked_plan,
    emit_sweep,
    find_prepared,
    fits_of,
    plan_of,
    prepare_for,
    prepare_source,
    prepared_of,
    say,
    service_of,
    tell,
    write_report_of,
)
from trainer.refusal import is_of_a_new_folder, is_ours

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from sweeps.store import Store

app = typer.Typer(
    help="How to spend a GPU budget on turning a decoder language model into a text-embedding model.",
    epilog="SPEC is a YAML file, or a preset: quickstart, smoke, pythia. STORE is a store's folder or URI, or a "
    "sweep's name.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help answers in half the time of rich help.
    rich_markup_mode=None,
)

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or a preset's name.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Changes of the spec, such as search.lag=1.")
]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A store's folder, or a sweep's name.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="PATH|URI", help="Where results go, also s3:// (default: ./stores/<sweep name>)."),
]
OnOption = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="TARGET",
        help="http://HEAD:8265, ray://HEAD:10001, auto (a Ray on this machine), a cluster file, or kuberay.",
    ),
]
DeviceOption = Annotated[str | None, typer.Option(metavar="GPU", help="Such as H100: what hours and money are of.")]
PriceOption = Annotated[float | None, typer.Option(metavar="P", help="Of an hour of one device.")]
MfuOption = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Of the device's peak (default: as measured, else 0.35).")
]
MaxHoursOption = Annotated[float | None, typer.Option(metavar="H", help="End the sweep at so many GPU-hours.")]
MaxCostOption = Annotated[float | None, typer.Option(metavar="M", help="End the sweep at this cost of GPU-hours.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Machine-readable on standard output, everything else on standard error.")
]


@app.command(no_args_is_help=True)
def data(
    source: Annotated[
        str, typer.Argument(metavar="SPEC|SOURCE", help="A spec; or nano, a JSONL or Parquet file, a Hub data set.")
    ],
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="For a SOURCE: whose tokenizer counts (default: the nano ladder)."),
    ] = None,
    max_length: Annotated[int, typer.Option(help="For a SOURCE: tokens a text is cut to.")] = 75,
    as_json: JsonOption = False,
) -> None:
    """Prepare pairs and models, and show what they are."""
    from sweeps.spec import preset_names, read_spec
    from trainer.data import DataSource
    from trainer.ladder import LADDERS

    if max_length < 2:
        raise ValueError(f"--max-length is {max_length}: give at least 2 tokens")
    console = _console(err=as_json)
    if source in preset_names() or Path(source).suffix in (".yaml", ".yml"):
        prepared = prepare_for(read_spec(source), console)
    else:
        names = models or [shape.name for shape in LADDERS["nano"]]
        prepared = prepare_source(DataSource(source=source), names, max_length, console)
    if as_json:
        _print_json(json.loads(prepared.to_json()))
    else:
        from cluster import tables

        console.print(tables.data_view(prepared))


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
    from cluster import tables
    from cluster.answers import cost_of
    from sweeps.cost import Rates
    from sweeps.spec import read_spec

    read = read_spec(spec, overrides or ())
    if diff is not None:
        from sweeps import extension

        found = added_to(_open(diff), read)
        if as_json:
            _print_json(extension.record(found))
        else:
            tell(_console(), extension.sentences(found))
        return
    planned = plan_of(read, find_prepared(read))
    rates = Rates(device=device, price_per_hour=price, mfu=mfu)
    cost = cost_of(read, planned, rates, _open(store) if store else None)
    if as_json:
        _print_json(tables.plan_record(read.name, planned, cost))
    else:
        _console().print(tables.plan_view(read.name, planned, cost))


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
    from sweeps.spec import read_spec

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
    sys.exit(dispatch.launch(read_spec(spec, overrides or ()), wish, _console()))


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

    opened = _open(store)
    bounds = Bounds(max_gpu_hours=max_gpu_hours, max_cost=max_cost, price_per_hour=price)
    drive(opened.spec, opened.root, _console(), bounds=bounds)


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
        _print_json(listing.record(jobs, stores))
    else:
        _console().print(listing.view(jobs, stores))


@app.command(no_args_is_help=True)
def stop(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name, its store, or a job's id.")],
    on: OnOption = None,
) -> None:
    """Stop a sweep that runs; nothing is lost."""
    from cluster import stopping

    say(_console(), stopping.stop(sweep, on))


@app.command(no_args_is_help=True)
def logs(
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's id, or the start of it.")],
    store: Annotated[str, typer.Option("--store", metavar="STORE", help="The store it belongs to.")],
    on: OnOption = None,
) -> None:
    """Show what a trial's process has written, while it runs, or how the trial ended."""
    from cluster import logs as trial_logs

    trial_logs.show(_open(store), trial, on, _console())


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
    from sweeps.spec import read_spec

    console = _console(err=as_json)
    findings = examine(on, store, read_spec(spec) if spec else None, console)
    if as_json:
        _print_json(record(findings))
    else:
        console.print(view(findings))
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

    opened = _open(store)
    if watch and not as_json:
        from cluster import view

        def look() -> tuple[RenderableType, bool]:
            found = read_status(opened, asked_plan(opened))
            return tables.status_view(found), found.num_rows == found.num_trials

        view.watch(_console(), look)
        return
    found = read_status(opened, asked_plan(opened))
    if as_json:
        _print_json(found.to_dict())
    else:
        _console().print(tables.status_view(found))


@app.command(no_args_is_help=True)
def decisions(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Say which cells an adaptive sweep runs and leaves, which studies ended early, and why."""
    agenda = agenda_of(_open(store))
    if as_json:
        _print_json(agenda.to_dict())
    else:
        tell(_console(), agenda.sentences() or ("Nothing was decided: every planned trial is run.",))


@app.command(no_args_is_help=True)
def optuna(
    store: StoreArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to write (default: optuna.db in the store).")
    ] = None,
) -> None:
    """Copy a sweep's studies into an SQLite file, for optuna-dashboard."""
    from sweeps.search import write_sqlite

    opened = _open(store)
    beside = opened.root / "optuna.db"
    path = out or (beside if isinstance(beside, Path) else Path(f"{opened.spec.name}-optuna.db"))
    if out is not None and out.exists():
        raise ValueError(f"--out is {str(out)!r}, which is there already: give another file")
    path.unlink(missing_ok=True)
    write_sqlite(path.absolute(), agenda_of(opened).searched)
    say(_console(), f"look at it with: optuna-dashboard sqlite:///{path.absolute()}")


@app.command(no_args_is_help=True)
def fit(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A CSV or Parquet file, or a folder of Parquet.")],
    loss: Annotated[str, typer.Option(metavar="COL", help="Column of the loss.")] = "loss",
    params: Annotated[str | None, typer.Option(metavar="COL", help="Column of the model size N.")] = None,
    tokens: Annotated[str | None, typer.Option(metavar="COL", help="Column of the tokens D.")] = None,
    flops: Annotated[str | None, typer.Option(metavar="COL", help="Column of the FLOPs C (else C = 6ND).")] = None,
    budget: Annotated[str | None, typer.Option(metavar="COL", help="Column of the IsoFLOP budget (else C).")] = None,
    method: Annotated[str | None, typer.Option(metavar="COL", help="Column by which to fit separately.")] = None,
    run: Annotated[str | None, typer.Option(metavar="COL", help="Column that tells training curves apart.")] = None,
    share: Annotated[str | None, typer.Option(metavar="COL", help="Column of the trained share S.")] = None,
    epochs: Annotated[str | None, typer.Option(metavar="COL", help="Column of the passes over the data.")] = None,
    drop_worst: Annotated[int, typer.Option(metavar="K", help="Leave out the K highest losses.")] = 0,
    form: Annotated[
        str,
        typer.Option(
            metavar="FORM",
            help="envelope, isoflop, isoflop-window, isoflop-akima, parametric, varpro, shared, compute, "
            "multiplicative, share or joint.",
        ),
    ] = "parametric",
    noise: Annotated[
        str | None,
        typer.Option(metavar="COL|SD", help="Standard deviation of a loss: weighs the rows (default: all alike)."),
    ] = None,
    at: Annotated[
        float | None,
        typer.Option(metavar="FLOPS", help="Name the best size and tokens there, at the rows' own cost of a token."),
    ] = None,
    draws: Annotated[int, typer.Option(metavar="K", help="Bootstrap draws behind the intervals.")] = 1000,
    compare: Annotated[
        bool, typer.Option("--compare", help="Instead: every form by its error at the largest FLOPs, held back.")
    ] = False,
    report_to: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write a page with figures into this folder, too.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a scaling law to any table of rows, and say how sure its parameters are."""
    from analysis.compare import compare_table
    from analysis.fit_table import fit_table, records, sentences
    from analysis.rows import Request, groups, read_table, usable

    request = Request(
        form=form,
        loss=loss,
        params=params,
        tokens=tokens,
        flops=flops,
        budget=budget,
        method=method,
        run=run,
        share=share,
        epochs=epochs,
        noise=noise,
        at=at,
        drop_worst=drop_worst,
        num_draws=draws,
    )
    rows = read_table(table)
    if compare:
        compared = compare_table(rows, request)
        if as_json:
            _print_json([one.to_dict() for one in compared])
        else:
            say(_console(), "\n".join(line for one in compared for line in one.sentences()))
        return
    found = fit_table(rows, request)
    if report_to is not None:
        from analysis.table_report import write_table_report

        columns = [(name or "all", usable(own, request)[0]) for name, own in groups(rows, method)]
        page = write_table_report(report_to, table.name, columns, *found)
        say(_console(err=as_json), f"report: {page}")
    if as_json:
        _print_json(records(*found))
    else:
        say(_console(), "\n".join(sentences(*found)))


@app.command(no_args_is_help=True)
def recommend(
    store: StoreArgument,
    budget: Annotated[float | None, typer.Option(metavar="FLOPS", help="Training FLOPs, such as 1e12.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(metavar="H", help="Instead: hours of one --device.")] = None,
    money: Annotated[float | None, typer.Option(metavar="M", help="Instead: what --price is paid from.")] = None,
    device: Annotated[str | None, typer.Option(metavar="GPU", help="Such as H100: for hours, memory, latency.")] = None,
    price: Annotated[float | None, typer.Option(metavar="P", help="Of an hour of the device.")] = None,
    mfu: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of the device's peak (default: as measured, else 0.35).")
    ] = None,
    max_params: Annotated[float | None, typer.Option(metavar="N", help="All parameters of the model.")] = None,
    max_latency: Annotated[float | None, typer.Option(metavar="MS", help="Of a query, estimated.")] = None,
    max_width: Annotated[float | None, typer.Option(metavar="W", help="Numbers in an embedding.")] = None,
    queries: Annotated[float | None, typer.Option(metavar="Q", help="Serve so many a month.")] = None,
    documents: Annotated[float | None, typer.Option(metavar="N", help="Embed so many for the index.")] = None,
    reembed: Annotated[float | None, typer.Option(metavar="R", help="Embed them R times more (default: 0).")] = None,
    months: Annotated[float | None, typer.Option(metavar="M", help="Months of service (default: 12).")] = None,
    emit: Annotated[
        Path | None, typer.Option(metavar="SPEC", help="Write the sweep that trains it; the file must not be there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what to train for a budget, hours or money, what loss to expect, and what it costs to serve."""
    from analysis.constraints import Constraints
    from analysis.hardware import budget_from, hardware
    from analysis.lifetime import lifetime
    from analysis.recommend import recommend as recommend_at
    from analysis.saved import saved_frontier

    opened = _open(store)
    rows, prepared = opened.read_trials(), prepared_of(opened)
    tokens, shapes = prepared.statistics, [model.shape for model in prepared.models.values()]
    if device is None and (price is not None or mfu is not None):
        raise ValueError("--price or --mfu is given without a device: give --device, such as --device H100")
    machine = None if device is None else hardware(rows, device, mfu=mfu, price_per_hour=price)
    constraints = Constraints(
        max_params=max_params,
        max_width=max_width,
        max_latency_ms=max_latency,
        tokens_per_query=tokens.query.mean_at_max_length,
        hardware=machine,
    )
    flops = budget_from(budget, gpu_hours, money, machine)
    frontier = saved_frontier(rows, fits_of(opened))
    answer = recommend_at(frontier, flops, shapes, tokens.tokens_per_pair, constraints)
    service = service_of(tokens, queries_per_month=queries, documents=documents, reembeddings=reembed, months=months)
    life = None if service is None else lifetime(frontier, answer, constraints.allowed(shapes), service)
    if emit is not None:
        emit_sweep(emit, opened.spec, frontier, answer)
    if as_json:
        _print_json(answer.to_dict() | {"lifetime": None if life is None else life.to_dict()})
        return
    tell(_console(), (*answer.sentences(), *(life.sentences() if life else ())))
    if emit is not None:
        say(_console(), f"sweep: {emit}")


@app.command("next", no_args_is_help=True)
def next_cells(
    store: StoreArgument,
    flops: Annotated[float, typer.Option(metavar="FLOPS", help="Training FLOPs to spend on more cells.")],
    budget: Annotated[
        float | None,
        typer.Option(metavar="FLOPS", help="The budget to know more about (default: twice the largest measured)."),
    ] = None,
    of: Annotated[str, typer.Option("--of", metavar="WHAT", help="loss, or size: the optimal one.")] = "loss",
    as_json: JsonOption = False,
) -> None:
    """Say which cells to run next, to know the most about a budget."""
    from analysis.design import CellRules, design
    from analysis.saved import saved_frontier

    opened = _open(store)
    spec, prepared = opened.spec, prepared_of(opened)
    manifest = prepared.manifest
    rules = CellRules(
        tokens_per_pair=prepared.statistics.tokens_per_pair,
        pairs_per_epoch=manifest.pairs_per_epoch or manifest.num_pairs["train"],
        batch_size=spec.fixed.batch_size,
        min_steps=spec.limits.min_steps,
        max_epochs=spec.limits.max_epochs,
    )
    found = design(
        saved_frontier(opened.read_trials(), fits_of(opened)),
        flops,
        [model.shape for model in prepared.models.values()],
        rules,
        target_budget_flops=None if budget is None else _whole_flops(budget),
        quantity=of,
    )
    if as_json:
        _print_json(found.to_dict())
    else:
        tell(_console(), found.sentences())


@app.command(no_args_is_help=True)
def report(
    store: StoreArgument,
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="FLOPS", help="What it recommends for (default: twice the largest measured)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a sweep's report: one HTML page, and its figures."""
    page = write_report_of(_open(store), None if budget is None else _whole_flops(budget))
    if as_json:
        _print_json({"report": str(page)})
    else:
        say(_console(), f"report: {page}")


@app.command(no_args_is_help=True)
def export(
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write; it must not be there yet.")],
    trial: Annotated[
        str, typer.Option("--trial", metavar="ID", help="Whose model, by the start of its id (default: the best).")
    ] = "",
) -> None:
    """Write a trained model as a folder that sentence-transformers loads."""
    from sweeps.weights import find_trial

    opened = _open(store)
    result = find_trial(opened, trial)
    prepared = prepared_of(opened)
    from cluster.carry import fetched_weights
    from trainer.export import export as export_model
    from trainer.prepare import default_cache

    with TemporaryDirectory(prefix="isoflop-weights-") as here:
        export_model(
            out.resolve(),
            result=result,
            weights=fetched_weights(opened.weights(result.spec.trial_id), Path(here)),
            base=Path(prepared.models[result.spec.model].path),
            manifest=prepared.manifest,
            cache=default_cache(),
        )
    assert result.metrics is not None
    which = "" if trial else ", the least of all trials with weights"
    say(_console(), f"trial {result.spec.trial_id} with a loss of {result.metrics.loss:.4f}{which}: {out}")


def main() -> None:
    """Entry point of the console script."""
    try:
        app(prog_name="isoflop")
    except ValueError as error:
        if not is_ours(error):
            raise
        _refuse(str(error))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        nowhere = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST) and is_of_a_new_folder(error)
        if not (full or nowhere or error.errno in (errno.EACCES, errno.EROFS)):
            raise
        mend = "make room, or give another folder" if full else "give another folder"
        _refuse(f"{error.filename or 'a file'} cannot be written ({error.strerror}): {mend}")


def _refuse(sentence: str) -> NoReturn:
    print(f"isoflop: {sentence}", file=sys.stderr)
    sys.exit(2)


def _console(*, err: bool = False) -> Console:
    from rich.console import Console

    terminal = (sys.stderr if err else sys.stdout).isatty()
    # Where nobody looks at a screen, tables keep their lines whole.
    return Console(stderr=err, width=None if terminal else 200)


def _print_json(record: object) -> None:
    print(json.dumps(record, indent=2))


def _whole_flops(budget: float) -> int:
    if not 1 <= budget <= 1e30:
        raise ValueError(f"--budget is {budget:g}: give FLOPs from 1 to 1e30, such as 1e12")
    return round(budget)


def _open(name: str) -> Store:
    from sweeps.store import Store

    if "://" in name:
        return Store.open(name)
    named = Path("stores") / name
    is_name = not Path(name).exists() and Path(name).name == name and named.exists()
    return Store.open((named if is_name else Path(name)).resolve())


if __name__ == "__main__":
    main()

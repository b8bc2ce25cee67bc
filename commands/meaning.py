"""What a sweep or a table of rows means, from the command line: laws, recommendations, the next cells, the report.

Knows what a person types and reads, and calls the packages. Computes nothing itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.answers import (
    emit_sweep,
    fits_of,
    foretold_score,
    prepared_of,
    rows_of,
    say,
    service_of,
    tell,
    write_report_of,
)
from commands.terminal import JsonOption, StoreArgument, console, open_store, print_json, whole_flops

app = typer.Typer()


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
            print_json([one.to_dict() for one in compared])
        else:
            say(console(), "\n".join(line for one in compared for line in one.sentences()))
        return
    found = fit_table(rows, request)
    if report_to is not None:
        from analysis.table_report import write_table_report

        columns = [(name or "all", usable(own, request)[0]) for name, own in groups(rows, method)]
        page = write_table_report(report_to, table.name, columns, *found)
        say(console(err=as_json), f"report: {page}")
    if as_json:
        print_json(records(*found))
    else:
        say(console(), "\n".join(sentences(*found)))


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
    gpus: Annotated[int | None, typer.Option(metavar="K", help="Of the device, at most: a step must fit them.")] = None,
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

    opened = open_store(store)
    rows, prepared = rows_of(opened), prepared_of(opened)
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
        num_gpus=gpus,
    )
    flops = budget_from(budget, gpu_hours, money, machine)
    frontier = saved_frontier(rows, fits_of(opened))
    answer = recommend_at(frontier, flops, shapes, tokens.tokens_per_pair, constraints)
    service = service_of(tokens, queries_per_month=queries, documents=documents, reembeddings=reembed, months=months)
    life = None if service is None else lifetime(frontier, answer, constraints.allowed(shapes), service)
    score, said = foretold_score(opened, rows, frontier, answer)
    if emit is not None:
        emit_sweep(emit, opened.spec, frontier, answer)
    if as_json:
        beside = {"lifetime": None if life is None else life.to_dict()}
        print_json(answer.to_dict() | beside | {"expected_score": None if score is None else score.to_dict()})
        return
    tell(console(), (*answer.sentences(), *said, *(life.sentences() if life else ())))
    if emit is not None:
        say(console(), f"sweep: {emit}")


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
    from analysis.design import design
    from analysis.offers import CellRules
    from analysis.saved import saved_frontier

    opened = open_store(store)
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
        saved_frontier(rows_of(opened), fits_of(opened)),
        flops,
        [model.shape for model in prepared.models.values()],
        rules,
        target_budget_flops=None if budget is None else whole_flops(budget),
        quantity=of,
    )
    if as_json:
        print_json(found.to_dict())
    else:
        tell(console(), found.sentences())


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
    page = write_report_of(open_store(store), None if budget is None else whole_flops(budget))
    if as_json:
        print_json({"report": str(page)})
    else:
        say(console(), f"report: {page}")

"""Trained models, from the command line.

Knows what a person types and reads, and calls the packages. Computes nothing itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.answers import prepared_of, say
from commands.terminal import JsonOption, OnOption, StoreArgument, console, open_store, print_json

if TYPE_CHECKING:
    from sweeps.weights import Which

app = typer.Typer()


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

    opened = open_store(store)
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
    say(console(), f"trial {result.spec.trial_id} with a loss of {result.metrics.loss:.4f}{which}: {out}")


@app.command(no_args_is_help=True)
def evaluate(
    store: Annotated[
        str | None, typer.Argument(metavar="STORE", help="A store's folder, or a sweep's name; with --prefetch, any.")
    ] = None,
    trial: Annotated[str, typer.Option("--trial", metavar="ID", help="One trial, by the start of its id.")] = "",
    best: Annotated[bool, typer.Option("--best", help="The trial of least loss (the default).")] = False,
    frontier: Annotated[bool, typer.Option("--frontier", help="The best of each budget and method.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Every complete trial whose weights are kept.")] = False,
    tasks: Annotated[
        str, typer.Option(metavar="LIST", help="paper15, nano, or names of mteb's tasks, with commas between.")
    ] = "",
    prefetch: Annotated[
        bool, typer.Option("--prefetch", help="Only fetch the tasks' data, to evaluate offline later.")
    ] = False,
    on: OnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate trained models on mteb's tasks; scores go to the store, and what is there is not done again."""
    which: Which = "all" if every else "frontier" if frontier else "best"
    if bool(trial) + best + frontier + every > 1:
        raise ValueError("--trial, --best, --frontier and --all are given together: give one of them")
    from cluster import evaluation, score_tables
    from trainer.prepare import default_cache

    said = console(err=as_json)
    if store is None:
        if not prefetch or on is not None:
            raise ValueError("STORE is missing: give the store whose models are to be evaluated")
        return evaluation.prefetch(None, evaluation.tasks_of(tasks, None), default_cache(), said)
    if on is not None:
        from cluster.evaluation_job import EvaluationOrder, evaluate_on

        if as_json:
            raise ValueError("--json and --on are given: leave one out, the scores are in the store either way")
        place = str(open_store(store).root) if on == "auto" else store
        order = EvaluationOrder(store=place, trial=trial, which=which, tasks=tasks, prefetch=prefetch)
        sys.exit(evaluate_on(on, order, said))
    opened = open_store(store)
    names = evaluation.tasks_of(tasks, opened.spec)
    if prefetch:
        return evaluation.prefetch(opened, names, default_cache(), said)
    found = evaluation.chosen(opened, trial, which, said)
    asked, is_whole = evaluation.evaluate_chosen(opened, found, names, default_cache(), said, evaluation.own_ray)
    tables = evaluation.scores_asked(opened, asked)
    if as_json:
        print_json(score_tables.score_record(found.results, *tables))
    else:
        said.print(score_tables.score_table(found.results, *tables))
    sys.exit(0 if is_whole else 1)

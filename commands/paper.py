"""What a paper needs, from the command line: a sheet that says all of a sweep, a trial trained again, tasks chosen.

Knows what a person types and reads, and calls the packages. Computes nothing itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.answers import say, tell
from commands.terminal import JsonOption, StoreArgument, console, open_store, print_json

app = typer.Typer()


@app.command(no_args_is_help=True)
def card(
    store: StoreArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="A .md or .tex file to write (default: Markdown, printed)."),
    ] = None,
) -> None:
    """Write a sweep's reproducibility sheet: data, search space, best trials, failures, compute, software."""
    from cluster.paper import card_of

    opened = open_store(store)
    if out is None:
        print(card_of(opened, latex=False), end="")
        return
    if out.suffix not in (".md", ".tex"):
        raise ValueError(f"--out is {str(out)!r}: give a file that ends in .md or .tex")
    out.write_text(card_of(opened, latex=out.suffix == ".tex"), encoding="utf-8")
    say(console(), f"sheet: {out}")


@app.command(no_args_is_help=True)
def reproduce(
    store: StoreArgument,
    trial: Annotated[str, typer.Option("--trial", metavar="ID", help="The trial, by the start of its id.")],
    as_json: JsonOption = False,
) -> None:
    """Train a recorded trial again from its row, and say whether the same comes out; exit status 1 where not."""
    from cluster.reproduce import reproduce as reproduce_trial
    from cluster.view import training
    from sweeps.reproduction import Verdict
    from sweeps.weights import find_id

    opened = open_store(store)
    trial_id = find_id(opened, trial)
    with training(console(err=as_json), opened.read_trial(trial_id)) as report:
        found = reproduce_trial(opened, trial_id, report)
    if as_json:
        print_json(found.to_dict())
    else:
        from cluster.tables import reproduction_view

        console().print(reproduction_view(found))
        tell(console(), found.sentences())
    sys.exit(1 if found.verdict is Verdict.DIFFERENT else 0)


@app.command(no_args_is_help=True)
def tasks(
    table: Annotated[
        str,
        typer.Argument(metavar="TABLE|STORE", help="A CSV or Parquet file of many models' scores, or a scored store."),
    ],
    k: Annotated[int, typer.Option("-k", metavar="K", help="How many tasks to choose.")] = 5,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="COL", help="A column that is no task, such as an average; repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the few evaluation tasks that best foretell the average over all, and say how stable the choice is."""
    from dataclasses import replace

    from analysis.score_table import models_by_tasks
    from analysis.subset import choose_tasks
    from cluster.paper import score_table_of

    scores, notes = models_by_tasks(score_table_of(table, open_store), without or ())
    found = choose_tasks(scores, k)
    found = replace(found, notes=(*notes, *found.notes))
    if as_json:
        print_json(found.to_dict())
    else:
        tell(console(), found.sentences())

"""What a paper needs of a sweep, from the command line: a sheet that says all of it, and a trial trained again.

Knows what a person types and reads, and calls the packages. Computes nothing itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.answers import card_of, say, tell
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

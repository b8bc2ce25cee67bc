"""Trained models, from the command line.

Knows what a person types and reads, and calls the packages. Computes nothing itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from cluster.answers import prepared_of, say, tell
from commands.terminal import JsonOption, StoreArgument, console, open_store, print_json

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

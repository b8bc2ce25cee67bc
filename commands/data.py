"""What a sweep trains on, from the command line: pairs, tokens, models.

Knows what a person types and reads, and calls the packages. Computes nothing itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cluster.answers import prepare_for, prepare_source
from commands.terminal import JsonOption, console, print_json

app = typer.Typer()


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
    said = console(err=as_json)
    if source in preset_names() or Path(source).suffix in (".yaml", ".yml"):
        prepared = prepare_for(read_spec(source), said)
    else:
        names = models or [shape.name for shape in LADDERS["nano"]]
        prepared = prepare_source(DataSource(source=source), names, max_length, said)
    if as_json:
        print_json(json.loads(prepared.to_json()))
    else:
        from cluster import tables

        said.print(tables.data_view(prepared))

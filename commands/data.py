"""What a sweep trains on, from the command line: pairs prepared, measured and checked.

Knows what a person types and reads, and calls the packages. Computes nothing itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.answers import say, tell
from commands.terminal import JsonOption, console, print_json

if TYPE_CHECKING:
    from trainer.data import Origin

app = typer.Typer()
data = typer.Typer(no_args_is_help=True, help="Prepare, measure and check the pairs that are trained on.")
app.add_typer(data, name="data")

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A spec or preset; or nano, a JSONL or Parquet file, a folder of them, a Hub data set."
    ),
]
NameOption = Annotated[
    str, typer.Option("--name", help="Of a Hub data set: its configuration. Of nano: the packages to read.")
]
ColumnsOption = Annotated[
    str, typer.Option("--columns", metavar="A,B", help="Columns of query and positive, if they have unusual names.")
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="Whose tokenizer counts; repeatable (default: the nano ladder, or the spec's)."),
]
LengthOption = Annotated[
    int | None, typer.Option("--max-length", help="Tokens a text is cut to (default: 75, or the spec's).")
]


@data.command(no_args_is_help=True)
def prepare(
    source: SourceArgument,
    name: NameOption = "",
    columns: ColumnsOption = "",
    models: ModelsOption = None,
    max_length: LengthOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prepare pairs, tokens and models, and show what they are."""
    from cluster.data_answers import asked_data, prepare_asked

    said = console(err=as_json)
    prepared = prepare_asked(asked_data(source, _origin(source, name, columns), models, max_length), said)
    if as_json:
        print_json(json.loads(prepared.to_json()))
    else:
        from cluster.data_tables import data_view

        said.print(data_view(prepared))


@data.command(no_args_is_help=True)
def stats(
    source: SourceArgument,
    name: NameOption = "",
    columns: ColumnsOption = "",
    models: ModelsOption = None,
    max_length: LengthOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write a page with figures and their data there, too.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is in the pairs: lengths, repeats, near-duplicates, languages, licences."""
    from cluster.data_answers import asked_data, measure_asked

    said = console(err=as_json)
    asked = asked_data(source, _origin(source, name, columns), models, max_length)
    manifest, statistics = measure_asked(asked, said)
    if as_json:
        print_json(json.loads(statistics.to_json()))
    else:
        from cluster.data_tables import statistics_view

        said.print(statistics_view(manifest, statistics))
    if out is not None:
        from cluster.data_sheet import write_page_of

        say(said, f"page: {write_page_of(out, asked.name, manifest, statistics)}")


@data.command(no_args_is_help=True)
def check(
    source: SourceArgument,
    name: NameOption = "",
    columns: ColumnsOption = "",
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="NAME,...", help="Also look for their texts: paper15, nano, mteb's tasks.")
    ] = "",
    bound: Annotated[
        float, typer.Option("--bound", metavar="SHARE", help="Of a split's or a task's texts that may be seen.")
    ] = 0.01,
    as_json: JsonOption = False,
) -> None:
    """Look for what a split has seen of another, and for texts of evaluation tasks; exit status 1 if over the bound."""
    from cluster.data_answers import asked_data, check_asked

    said = console(err=as_json)
    given = tuple(task for task in tasks.split(",") if task)
    checked = check_asked(asked_data(source, _origin(source, name, columns)), given, bound, said)
    if as_json:
        print_json(checked.to_dict())
    else:
        from cluster.data_tables import check_view

        said.print(check_view(checked.manifest, checked.leakage, checked.contamination))
    tell(said, checked.problems or (f"Nothing is over the bound of {bound:.2%}.",))
    sys.exit(1 if checked.problems else 0)


def _origin(source: str, name: str, columns: str) -> Origin:
    from trainer.data import Origin

    named = tuple(column for column in columns.split(",") if column)
    if columns and len(named) != 2:
        raise ValueError(f"--columns is {columns!r}: give two names, of the query and of the positive: A,B")
    return Origin(source=source, name=name, columns=named)

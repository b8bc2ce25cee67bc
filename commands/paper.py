"""What a paper needs of a sweep, from the command line: its reproducibility sheet.

Knows what a person types and reads, and calls the packages. Computes nothing itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.answers import card_of, say
from commands.terminal import StoreArgument, console, open_store

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

"""Plain tables for a terminal: words on the left, numbers on the right, no lines.

Knows which headings stand over words. Never knows what is shown.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text


def facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    """Labels with their values."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for label, value in facts:
        table.add_row(label, Text(value))
    return table


def plain_table(title: str, *headings: str) -> Table:
    """A plain table, words on the left and numbers on the right."""
    table = Table(title=title or None, title_justify="left", title_style="", box=None, padding=(0, 2, 0, 0))
    words = {
        "model",
        "method",
        "why",
        "runs on",
        "side",
        "source",
        "trial",
        "quantity",
        "task",
        "tokenizer",
        "held out",
        "seen in",
        "languages",
    }
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right", no_wrap=heading != "why")
    return table

"""The page of a data set: one HTML file that needs no network, with its figures and their numbers beside it.

Knows the tables of a ``DataSheet`` and how a page is made. Never knows a sweep or a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.data_figures import SIDES, drawings_of
from analysis.data_sheet import DataSheet
from analysis.page import write_json, write_page


def write_data_page(
    folder: Path, name: str, sheet: DataSheet, manifest: Sequence[tuple[str, str]], record: Mapping[str, Any]
) -> Path:
    """Write the page of the data set ``name`` into ``folder`` and return the path of its ``index.html``.

    ``manifest`` are facts beside the figures, (label, value); ``record`` goes to ``statistics.json`` as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = write_page(
        folder,
        "data.html.jinja",
        drawings_of(sheet),
        None,
        name=name,
        sentences=data_sentences(sheet),
        lines=source_lines(sheet),
        manifest=manifest,
    )
    write_json(folder / "statistics.json", record)
    return path


def data_sentences(sheet: DataSheet) -> list[str]:
    """The most important of it: how many pairs, what the cut costs, what is repeated."""
    train, read = int(sheet.sources["train"].sum()), int(sheet.sources["read"].sum())
    sources = "one source" if len(sheet.sources) == 1 else f"{len(sheet.sources)} sources"
    sentences = [
        f"{train:,} pairs to train on from {sources}, {int(sheet.sources['validation'].sum()):,} for validation and "
        f"{int(sheet.sources['test'].sum()):,} for tests, of {read:,} candidates that were read."
    ]
    drawn = sheet.sources.set_index("source")["share_drawn"]
    for tokenizer, own in sheet.cuts.groupby("tokenizer", sort=False):
        parts = []
        for side in SIDES:
            cut = own[own["side"] == side].set_index("source")
            weights = drawn.loc[cut.index]
            mean, kept, lost = (
                float((cut[column] * weights).sum() / weights.sum())
                for column in ("mean", "mean_at_max_length", "truncated_share")
            )
            parts.append(
                f"a {side} has {mean:.1f} tokens, {kept:.1f} after the cut, which {100 * lost:.1f} % lose some to"
            )
        sentences.append(f"With the tokenizer of {tokenizer}, cut at {sheet.max_length}: {'; '.join(parts)}.")
    near = sheet.repeats[sheet.repeats["kind"].str.startswith("near-duplicate")]
    worst = near.sort_values("share").iloc[-1]
    of = "" if len(sheet.sources) == 1 else f" of {worst['source']}"
    sentences.append(
        f"At most {100 * worst['share']:.1f} % of texts have a near-duplicate in train ({worst['kind']}{of}; "
        f"similarity {sheet.near_duplicate:g} or above)."
    )
    return sentences


def source_lines(sheet: DataSheet) -> list[list[str]]:
    """The table of sources, as text."""
    return [
        [
            row["source"],
            *(f"{row[column]:,}" for column in ("read", "train", "validation", "test", "sampled")),
            row["licences"],
            row["content"][:16],
        ]
        for row in sheet.sources.to_dict("records")
    ]

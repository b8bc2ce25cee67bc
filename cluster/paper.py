"""What a paper asks of a store: its reproducibility sheet, a table of scores, and how a trial trained again looks.

Knows how the packages' answers are put together. Never knows Ray or a command's options, and loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from analysis.link import with_means
from analysis.rows import read_table
from cluster import tables
from cluster.answers import agenda_of, plan_of, prepared_of, scores_of
from sweeps.card import CardFacts, ModelFacts, card
from sweeps.document import Table
from sweeps.reproduction import Reproduction
from sweeps.store import Store
from trainer.data import DataManifest


def card_of(store: Store, *, latex: bool) -> str:
    """A store's reproducibility sheet, in Markdown or LaTeX."""
    spec, prepared, rows = store.spec, prepared_of(store), store.read_trials()
    scores = scores_of(store)
    recorded, unrecorded = store.trial_ids(), store.read_unrecorded()
    known = CardFacts(
        spec=spec,
        plan=plan_of(spec, prepared),
        rows=rows,
        data=tuple(tables.data_facts(prepared)),
        sources=_sources(prepared.manifest),
        packages=prepared.manifest.versions,
        models=tuple(
            ModelFacts(
                name=model.name,
                revision=model.revision,
                num_layers=model.shape.num_layers,
                width=model.shape.width,
                num_params_non_embedding=model.shape.num_params_non_embedding,
                num_params_embedding=model.shape.num_params_embedding,
            )
            for model in prepared.models.values()
        ),
        decisions=tuple(agenda_of(store).sentences()),
        unrecorded_seconds=sum(seconds for trial_id, seconds in unrecorded.items() if trial_id not in recorded),
        scores=None if scores is None else with_means(scores),
    )
    return card(known, latex=latex)


def score_table_of(name: str, open_store: Callable[[str], Store]) -> pd.DataFrame:
    """The scores in a table of this path, or of a store's trials. Raises ``ValueError`` for a store without scores."""
    if "://" not in name and Path(name).suffix:
        return read_table(Path(name))
    store = open_store(name)
    scores = scores_of(store)
    if scores is None:
        raise ValueError(f"store {name!r} has no scores: make some with 'isoflop evaluate {name} --all'")
    return scores


def reproduction_view(found: Reproduction) -> RenderableType:
    """Every compared quantity, in the row and again."""
    table = RichTable(box=None, padding=(0, 2, 0, 0))
    for heading in ("quantity", "in the row", "again", "difference"):
        table.add_column(heading, justify="left" if heading == "quantity" else "right", no_wrap=True)
    for line in found.lines:
        far = "" if line.difference is None else "none" if line.is_same else f"{line.difference:.1e}"
        table.add_row(line.name, _short(line.recorded), _short(line.again), far)
    return Group(table, Text(""))


def _short(value: object) -> str:
    """A value in full, but for a hash."""
    return "none" if value is None else str(value)[:20]


def _sources(manifest: DataManifest) -> Table:
    """A line for each source: what it gave, and the hash of its texts."""
    splits = list(manifest.num_pairs)
    lines = tuple(
        (
            " ".join(filter(None, (facts.origin.source, facts.origin.name))),
            facts.origin.split,
            facts.content[:16],
            str(facts.origin.weight or ""),
            *(f"{facts.num_pairs[split]:,}" for split in splits),
            f"{sum(facts.dropped.values()):,}",
        )
        for facts in manifest.origins
    )
    return Table(headings=("source", "read split", "content", "weight", *splits, "left out"), lines=lines,
                          num_words=3)  # fmt: skip

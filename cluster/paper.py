"""What a paper asks of a store: its reproducibility sheet, and a table of scores to choose tasks from.

Knows how the packages' answers are put together. Never knows Ray or a command's options, and loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis.link import with_means
from analysis.rows import read_table
from cluster import data_tables
from cluster.answers import agenda_of, plan_of, prepared_of, rows_of, scores_of
from sweeps.account import sentences
from sweeps.card import CardFacts, ModelFacts, card
from sweeps.store import Store

TABLES = (".csv", ".tsv", ".gz", ".parquet", ".pq")


def card_of(store: Store, *, latex: bool) -> str:
    """A store's reproducibility sheet, in Markdown or LaTeX."""
    spec, prepared, rows = store.spec, prepared_of(store), rows_of(store)
    scores = scores_of(store)
    recorded, unrecorded = store.trial_ids(), store.read_unrecorded()
    known = CardFacts(
        spec=spec,
        plan=plan_of(spec, prepared),
        rows=rows,
        data=tuple(data_tables.data_facts(prepared)),
        sources=data_tables.source_facts(prepared.manifest),
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
        decisions=sentences(agenda_of(store)),
        unrecorded_seconds=sum(seconds for trial_id, seconds in unrecorded.items() if trial_id not in recorded),
        scores=None if scores is None else with_means(scores),
    )
    return card(known, latex=latex)


def score_table_of(name: str, open_store: Callable[[str], Store]) -> pd.DataFrame:
    """The scores in a table of this path, or of a store's trials. Raises ``ValueError`` for a store without scores."""
    if "://" not in name and (Path(name).is_file() or Path(name).suffix in TABLES):
        return read_table(Path(name))
    store = open_store(name)
    scores = scores_of(store)
    if scores is None:
        raise ValueError(f"store {name!r} has no scores: make some with 'isoflop evaluate {name} --all'")
    return scores

"""Statistics of pairs as the tables of a report.

Knows the trainer's statistics and what a page takes. Computes nothing itself.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from analysis.data_page import write_data_page
from analysis.data_sheet import DataSheet
from cluster.data_tables import licence_words
from trainer.data import SIDES, DataManifest
from trainer.statistics import DataStatistics, SourceStatistics


def sheet_of(statistics: DataStatistics) -> DataSheet:
    """The tables of these statistics."""
    sources = statistics.sources
    total = max(1, sum(one.num_pairs["train"] for one in sources))
    return DataSheet(
        max_length=statistics.max_length,
        near_duplicate=statistics.near_duplicate,
        sources=pd.DataFrame(
            {
                "source": one.name,
                "read": one.num_read,
                **one.num_pairs,
                "share_of_pairs": one.num_pairs["train"] / total,
                "share_drawn": one.drawn_share,
                "sampled": one.num_sampled,
                "licences": licence_words(one.licences),
                "content": one.content,
            }
            for one in sources
        ),
        lengths=pd.DataFrame(
            {
                "source": one.name,
                "tokenizer": length.tokenizer,
                "side": length.side,
                "tokens_from": int(tokens),
                "share": share,
            }
            for one in sources
            for length in one.lengths
            for tokens, share in length.histogram.items()
        ),
        cuts=pd.DataFrame(
            {
                "source": one.name,
                "tokenizer": length.tokenizer,
                "side": length.side,
                "mean": length.mean,
                "mean_at_max_length": length.mean_at_max_length,
                "truncated_share": length.truncated_share,
            }
            for one in sources
            for length in one.lengths
        ),
        repeats=pd.DataFrame(
            {"source": one.name, "kind": kind, "share": share} for one in sources for kind, share in _repeats(one)
        ),
        overlap=pd.DataFrame(
            {"source": one.name, "side": side, "seen_in": other.name, "share": share}
            for one in sources
            for side in SIDES
            for other, share in zip(sources, one.near_in[side], strict=True)
        ),
        languages=pd.DataFrame(
            {
                "source": one.name,
                "side": side,
                "language": language,
                "share": share,
                "doubtful": one.languages[side].doubtful,
            }
            for one in sources
            for side in SIDES
            for language, share in one.languages[side].shares.items()
        ),
    )


def _repeats(one: SourceStatistics) -> list[tuple[str, float]]:
    return [
        ("empty pairs, left out", one.empty_share),
        ("repeated pairs, left out", one.repeated_pair_share),
        ("pairs of two equal texts", one.identical_share),
        *((f"repeated {side} texts", one.repeated_share[side]) for side in SIDES),
        *((f"near-duplicate {side} texts", one.near_share[side]) for side in SIDES),
    ]


def write_page_of(folder: Path, name: str, manifest: DataManifest, statistics: DataStatistics) -> Path:
    """Write the page of these pairs into ``folder`` and return the path of its ``index.html``."""
    facts = [
        ("Manifest", manifest.hash),
        ("Split", manifest.split_rule),
        ("Left out", ", ".join(f"{number:,} {reason}" for reason, number in manifest.dropped.items()) or "nothing"),
        *((f"SHA-256 of {split}", digest) for split, digest in manifest.content.items()),
    ]
    return write_data_page(folder, name, sheet_of(statistics), facts, json.loads(statistics.to_json()))

"""What is known of a sweep's pairs, as the tables that figures and pages are made of.

Knows names of sources and numbers about them. Never knows a text, or how anything was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataSheet:
    """Tables about prepared pairs. Shares are from 0 to 1."""

    max_length: int
    """Tokens a text is cut to."""
    near_duplicate: float
    """Similarity from which a text counts as a near-duplicate."""
    sources: pd.DataFrame
    """A row a source: ``source``, ``read``, ``train``, ``validation``, ``test``, ``share_of_pairs``, ``share_drawn``,
    ``sampled``, ``licences``, ``content``."""
    lengths: pd.DataFrame
    """A row a bar: ``source``, ``tokenizer``, ``side``, ``tokens_from``, ``share``."""
    cuts: pd.DataFrame
    """A row for each source, tokenizer and side: ``mean``, ``mean_at_max_length``, ``truncated_share``."""
    repeats: pd.DataFrame
    """A row a bar: ``source``, ``kind``, ``share``."""
    overlap: pd.DataFrame
    """A row a pair of sources and a side: ``source``, ``seen_in``, ``side``, ``share``."""
    languages: pd.DataFrame
    """A row a bar: ``source``, ``side``, ``language`` (ISO 639-1), ``share``, ``doubtful``."""

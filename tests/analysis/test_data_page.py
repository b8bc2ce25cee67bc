"""The page about pairs: what it says, its files, and names from outside as text."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.data_figures import drawings_of
from analysis.data_page import data_sentences, write_data_page
from analysis.data_sheet import DataSheet

SIDES = ("query", "positive")


def sheet(names: tuple[str, ...]) -> DataSheet:
    edges = (0, 8, 16, 32, 64)
    both = [(name, side) for name in names for side in SIDES]
    return DataSheet(
        max_length=32,
        near_duplicate=0.5,
        sources=pd.DataFrame(
            {
                "source": name,
                "read": 1000,
                "train": 800 // len(names),
                "validation": 50,
                "test": 50,
                "share_of_pairs": 1 / len(names),
                "share_drawn": (place + 1) / sum(range(1, len(names) + 1)),
                "sampled": 400,
                "licences": "MIT",
                "content": "ab" * 32,
            }
            for place, name in enumerate(names)
        ),
        lengths=pd.DataFrame(
            {"source": name, "tokenizer": "tiny", "side": side, "tokens_from": edge, "share": share}
            for name, side in both
            for edge, share in zip(edges, (0.1, 0.2, 0.4, 0.3, 0.0), strict=True)
        ),
        cuts=pd.DataFrame(
            {"source": name, "tokenizer": "tiny", "side": side}
            | {"mean": 20.0 + 20 * place, "mean_at_max_length": 15.0, "truncated_share": 0.3}
            for place, name in enumerate(names)
            for side in SIDES
        ),
        repeats=pd.DataFrame(
            {"source": name, "kind": kind, "share": share}
            for name in names
            for kind, share in (("empty pairs, left out", 0.0), ("near-duplicate positive texts", 0.125))
        ),
        overlap=pd.DataFrame(
            {"source": name, "side": side, "seen_in": other, "share": 0.25 if name == other else 0.0}
            for name, side in both
            for other in names
        ),
        languages=pd.DataFrame(
            {"source": name, "side": side, "language": language, "share": share, "doubtful": 0.2}
            for name, side in both
            for language, share in (("en", 0.9), ("de", 0.1))
        ),
    )


def test_every_figure_has_its_numbers_beside_it(tmp_path: Path) -> None:
    two = sheet(("first", "org/second"))
    path = write_data_page(tmp_path, "mixed", two, [("Manifest", "0123")], {"data": "0123"})
    page = path.read_text()
    names = {"data-lengths", "data-repeats", "data-overlap", "data-languages", "data-sources"}
    assert {file.stem for file in (tmp_path / "figures").glob("*.csv")} == names
    assert all(f'id="figure-{name}"' in page and f"figures/{name}.csv" in page for name in names)
    lengths = pd.read_csv(tmp_path / "figures" / "data-lengths.csv")
    assert lengths.groupby(["source", "side"])["share"].sum().tolist() == pytest.approx([1.0] * 4)
    assert set(lengths["max_length"]) == {32}
    assert "0123" in page and "statistics.json" in page


def test_one_source_has_no_figure_of_several(tmp_path: Path) -> None:
    drawings = drawings_of(sheet(("only",)))
    assert [name for name, drawing in drawings.items() if drawing is None] == ["data-overlap", "data-sources"]


def test_sentences_weigh_sources_as_they_are_drawn() -> None:
    said = data_sentences(sheet(("first", "org/second")))
    assert said[0].startswith("800 pairs to train on from 2 sources, 100 for validation and 100 for tests, of 2,000")
    # A third of the pairs has 20 tokens, two thirds have 40.
    assert "a query has 33.3 tokens, 15.0 after the cut, which 30.0 % lose some to" in said[1]
    assert said[2].startswith("At most 12.5 % of texts have a near-duplicate")


def test_a_name_is_text_and_not_markup(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    page = write_data_page(tmp_path, name, sheet((name,)), [(name, name)], {}).read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page

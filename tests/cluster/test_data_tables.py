from __future__ import annotations

from rich.console import Console

from cluster.data_tables import data_facts, data_view
from trainer.data import DataManifest, DataSource, Origin, OriginFacts, SideStatistics, TokenStatistics
from trainer.prepare import Prepared


def prepared(source: DataSource) -> Prepared:
    train = (300, 50)
    side = SideStatistics(
        mean=9.0,
        percentiles={"10": 4, "50": 8, "90": 15, "99": 30},
        histogram={"0": 0.25, "8": 0.75},
        mean_at_max_length=8.5,
        truncated_share=0.02,
    )
    return Prepared(
        manifest=DataManifest(
            source=source,
            fingerprint="f",
            num_pairs={"train": 350, "validation": 40, "test": 40},
            dropped={"pair repeated": 7},
            split_rule="by query",
            content={},
            origins=tuple(
                OriginFacts(
                    origin=origin,
                    num_pairs={"train": number, "validation": 20, "test": 20},
                    dropped={"pair repeated": 7} if number == 50 else {},
                    content="0123456789abcdef" * 4,
                )
                for origin, number in zip(source.origins, train, strict=False)
            ),
            num_negatives=500,
        ),
        statistics=TokenStatistics(
            max_length=16,
            query=side,
            positive=side,
            negative=side if source.num_negatives else None,
            negative_tokens_per_pair=12.1 if source.num_negatives else 0.0,
        ),
        models={},
    )


def text(source: DataSource) -> list[str]:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(data_view(prepared(source)))
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def test_a_mixture_shows_its_sources_prefixes_and_negatives() -> None:
    mixed = DataSource(
        sources=(Origin(source="a.jsonl", weight=3), Origin(source="org/b", name="pair", weight=1)),
        query_prefix="query: ",
        num_negatives=2,
    )
    lines = text(mixed)
    assert "source a.jsonl + org/b pair" in lines
    assert "tokens 29.1 a pair, as trained on" in lines
    # Of 200 pairs the weights give 50 to the second source, which is then through, and 150 to the first.
    assert "epoch 200 pairs, until the most repeated source begins again" in lines
    assert "query prefix 'query: '" in lines
    assert "negatives 500, up to 2 a pair, 12.1 tokens a pair" in lines
    assert "a.jsonl 3 300 20 20 50% 0 0123456789abcdef" in lines
    assert "org/b pair 1 50 20 20 100% 7 0123456789abcdef" in lines
    assert lines.count("negative 8.5 4 8 15 30 2.0%") == 1 and lines.count("negative 25.0% 75.0%") == 1


def test_one_source_shows_no_more_than_it_has() -> None:
    plain = DataSource(source="a.jsonl")
    labels = [label for label, _ in data_facts(prepared(plain))]
    assert labels == ["source", "manifest", "pairs", "tokens", "split", "left out", "packages", "models"]
    lines = text(plain)
    assert "positive 8.5 4 8 15 30 2.0%" in lines and not any(line.startswith("negative") for line in lines)

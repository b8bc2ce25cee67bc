"""What prepared pairs, their statistics and their checks look like in a terminal, and in a report's list of facts.

Knows how to show the values that the trainer returns. Never computes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.plain import facts_table, plain_table
from sweeps import document
from trainer.contamination import SHARE, SIZES, TaskContamination
from trainer.data import SIDES, DataManifest, Origin, SideStatistics
from trainer.leakage import LEVELS, Leakage
from trainer.prepare import Prepared
from trainer.statistics import DataStatistics

_MOST_LANGUAGES, _MOST_LICENCES = 4, 6
_EXCERPT = 110


def data_facts(prepared: Prepared) -> list[tuple[str, str]]:
    """The manifest and the models, labelled."""
    manifest, statistics = prepared.manifest, prepared.statistics
    source = manifest.source
    facts = [
        ("source", " + ".join(_origin_words(origin) for origin in source.origins)),
        ("manifest", manifest.hash),
        ("pairs", ", ".join(f"{number:,} {split}" for split, number in manifest.num_pairs.items())),
        ("tokens", f"{statistics.tokens_per_pair:.1f} a pair, as trained on"),
    ]
    if source.weights:
        facts.append(("epoch", f"{manifest.pairs_per_epoch:,} pairs, until the most repeated source begins again"))
    prefixes = {"query": source.query_prefix, "positive": source.positive_prefix}
    facts += [(f"{side} prefix", repr(prefix)) for side, prefix in prefixes.items() if prefix]
    if source.num_negatives:
        words = f"{manifest.num_negatives:,}, up to {source.num_negatives} a pair"
        facts.append(("negatives", f"{words}, {statistics.negative_tokens_per_pair:.1f} tokens a pair"))
    return [
        *facts,
        ("split", manifest.split_rule),
        ("left out", ", ".join(f"{number:,} {reason}" for reason, number in manifest.dropped.items()) or "nothing"),
        (
            "packages",
            f"{len(manifest.versions)} (isoflop data prepare --json lists them)" if manifest.versions else "none",
        ),
        ("models", ", ".join(f"{model.name} ({model.revision})" for model in prepared.models.values())),
    ]


def data_view(prepared: Prepared) -> RenderableType:
    """The manifest, the models, what each source gave, and how long the texts are."""
    statistics = prepared.statistics
    parts: list[RenderableType] = [facts_table(data_facts(prepared)), Text("")]
    if prepared.manifest.source.sources:
        parts += [_origins_table(prepared.manifest), Text("")]
    lengths = plain_table(
        f"tokens a text, cut to {statistics.max_length}", "side", "mean", "10 %", "50 %", "90 %", "99 %", "cut"
    )
    histogram = plain_table("share of whole texts by tokens, from", "side", *statistics.query.histogram)
    for side, of in (("query", statistics.query), ("positive", statistics.positive), ("negative", statistics.negative)):
        if of:
            lengths.add_row(side, *_length_words(of))
            histogram.add_row(side, *(f"{share:.1%}" for share in of.histogram.values()))
    return Group(*parts, lengths, Text(""), histogram)


def _origins_table(manifest: DataManifest) -> Table:
    table = plain_table("sources", "source", "weight", *manifest.num_pairs, "seen an epoch", "left out", "content")
    total = manifest.pairs_per_epoch
    weights = manifest.source.weights
    for number, facts in enumerate(manifest.origins):
        drawn = total * weights[number] / sum(weights) if weights else facts.num_pairs["train"]
        table.add_row(
            _origin_words(facts.origin),
            str(facts.origin.weight or ""),
            *(f"{pairs:,}" for pairs in facts.num_pairs.values()),
            f"{drawn / facts.num_pairs['train']:.0%}" if facts.num_pairs["train"] else "",
            f"{sum(facts.dropped.values()):,}",
            facts.content[:16],
        )
    return table


def source_facts(manifest: DataManifest) -> document.Table:
    """A line for each source: what it gave, and the hash of its texts."""
    splits = list(manifest.num_pairs)
    lines = tuple(
        (
            _origin_words(facts.origin),
            facts.origin.split,
            facts.content[:16],
            str(facts.origin.weight or ""),
            *(f"{facts.num_pairs[split]:,}" for split in splits),
            f"{sum(facts.dropped.values()):,}",
        )
        for facts in manifest.origins
    )
    return document.Table(headings=("source", "read split", "content", "weight", *splits, "left out"), lines=lines,
                          num_words=3)  # fmt: skip


def _origin_words(origin: Origin) -> str:
    return " ".join(filter(None, (origin.source, origin.name)))


def _percentile_words(side: SideStatistics) -> list[str]:
    return [f"{side.percentiles[p]:.0f}" for p in ("10", "50", "90", "99")]


def _length_words(side: SideStatistics) -> list[str]:
    return [f"{side.mean_at_max_length:.1f}", *_percentile_words(side), f"{side.truncated_share:.1%}"]


def statistics_view(manifest: DataManifest, statistics: DataStatistics) -> RenderableType:
    """Each source: pairs, repeats, near-duplicates, languages, licences; and lengths by tokenizer."""
    pairs = plain_table("pairs", "source", "read", *manifest.num_pairs, "empty", "repeated", "identical", "drawn")
    texts = plain_table(
        f"texts of train, near-duplicates on a sample at similarity {statistics.near_duplicate} or above",
        *("source", "side", "words", "repeated", "near-duplicates", "languages"),
        "in doubt",
    )
    lengths = plain_table(
        f"tokens of a sample's whole texts, and the share longer than {statistics.max_length}",
        *("source", "side", "tokenizer", "mean", "10 %", "50 %", "90 %", "99 %", "cut"),
    )
    facts = [("manifest", manifest.hash), ("split", manifest.split_rule)]
    for one in statistics.sources:
        pairs.add_row(
            one.name,
            f"{one.num_read:,}",
            *(f"{number:,}" for number in one.num_pairs.values()),
            *(f"{share:.2%}" for share in (one.empty_share, one.repeated_pair_share, one.identical_share)),
            f"{one.drawn_share:.1%}",
        )
        for side in SIDES:
            found = one.languages[side]
            shares = list(found.shares.items())[:_MOST_LANGUAGES]
            texts.add_row(
                one.name,
                side,
                f"{one.mean_words[side]:.1f}",
                f"{one.repeated_share[side]:.2%}",
                f"{one.near_share[side]:.2%}",
                ", ".join(f"{code} {share:.1%}" for code, share in shares),
                f"{found.doubtful:.1%}",
            )
        for length in one.lengths:
            lengths.add_row(
                one.name,
                length.side,
                length.tokenizer,
                f"{length.mean:.1f}",
                *_percentile_words(length),
                f"{length.truncated_share:.1%}",
            )
        facts.append((f"licences of {one.name}", licence_words(one.licences)))
        facts.append((f"content of {one.name}", one.content))
    return Group(facts_table(facts), Text(""), pairs, Text(""), texts, Text(""), lengths)


def licence_words(licences: Mapping[str, int]) -> str:
    """The most frequent licences, with the packages that state each where there are several."""
    shown = list(licences.items())[:_MOST_LICENCES]
    words = [f"{name} ({number})" if number > 1 else name for name, number in shown]
    rest = len(licences) - len(shown)
    return ", ".join(words + ([f"{rest} others"] if rest else [])) or "not stated: files have no place for one"


def check_view(manifest: DataManifest, leakage: Leakage, contamination: Sequence[TaskContamination]) -> RenderableType:
    """What each split has seen of another, what train has of the tasks' texts, and some of what was found."""
    leaks = plain_table(
        "share of held-out texts with a text in the other split, by Jaccard similarity of word 4-grams",
        *("held out", "seen in", "side", "texts", "equal", *(f"{level:g} or more" for level in LEVELS)),
    )
    evidence: list[RenderableType] = []
    for leak in leakage.leaks:
        leaks.add_row(
            leak.held_out,
            leak.seen_in,
            leak.side,
            f"{leak.num:,}",
            f"{leak.exact:.2%}",
            *(f"{leak.near[str(level)]:.2%}" for level in LEVELS),
        )
        evidence += [
            Text(
                f"{one.similarity:.2f} {leak.held_out}: {excerpt(one.held_out)}\n"
                f"     {leak.seen_in}: {excerpt(one.seen)}"
            )
            for one in leak.evidence[:1]
        ]
    equal = ", ".join(f"{number} of {way}" for way, number in leakage.num_equal_pairs.items())
    facts = [("manifest", manifest.hash), ("split", manifest.split_rule), ("equal pairs", equal)]
    parts = [facts_table(facts), Text(""), leaks, Text(""), Text("the nearest of each:"), *evidence]
    if not contamination:
        return Group(*parts)
    table = plain_table(
        f"share of a task's texts in train; contaminated: whole, or {SHARE:.0%} of its word {SIZES[0]}-grams",
        *("task", "texts", "looked for", "short", "whole", f"{SIZES[0]}-grams", f"one {SIZES[1]}-gram", "contaminated"),
    )
    hits: list[RenderableType] = []
    for found in contamination:
        shares = (found.short, found.exact, found.eight_grams, found.thirteen_grams, found.contaminated)
        table.add_row(
            found.task, f"{found.num_texts:,}", f"{found.num_looked_for:,}", *(f"{share:.2%}" for share in shares)
        )
        hits += [
            Text(f"{hit.share:.0%} {found.task}: {excerpt(hit.text)}\n     train: {excerpt(hit.train)}")
            for hit in found.evidence[:1]
        ]
    return Group(*parts, Text(""), table, Text(""), Text("what is found first of each:"), *hits)


def excerpt(text: str) -> str:
    """The start of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _EXCERPT else f"{line[:_EXCERPT]} ..."

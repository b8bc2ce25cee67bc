"""A sweep's reproducibility sheet: what a reader needs to repeat it, from its store alone, the same text every time.

Knows the spec, the plan, the rows, and facts of data and models that the caller hands over. Never knows a clock, a
file, or what the numbers mean: laws and recommendations are the report's.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from sweeps import card_rows
from sweeps.document import Block, Code, Section, Table, facts, to_latex, to_markdown
from sweeps.plan import Plan
from sweeps.space import Choices, Range
from sweeps.spec import MethodSpec, SweepSpec
from trainer.trial import format_flops

CODE_WIDTH = 110
LOSS = (
    "The loss of a trial is measured on held-out pairs of the validation split that no trial trains on: {num_pairs} "
    "pairs in sets of {num_candidates}. It is the mean cross-entropy of finding each query's positive among the "
    "{num_candidates} positives of its set and each positive's query among the queries, in nats, of cosine "
    "similarities times the logit scale that minimises it. Guessing gives {chance}. The same pairs in the same sets "
    "are used for every trial. The test split is used for nothing here."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """A base model as it was prepared."""

    name: str
    revision: str
    num_layers: int
    width: int
    num_params_non_embedding: int
    num_params_embedding: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CardFacts:
    """All that the sheet says."""

    spec: SweepSpec
    plan: Plan
    rows: pd.DataFrame
    """The store's columns."""
    data: tuple[tuple[str, str], ...]
    """Facts of the data: (label, value)."""
    sources: Table
    """A line a source."""
    packages: Mapping[str, str]
    """Versions of the packages that the pairs came from, where they did."""
    models: tuple[ModelFacts, ...]
    decisions: tuple[str, ...] = ()
    """What an adaptive sweep has left, and why, in sentences."""
    unrecorded_seconds: float = 0.0
    """Device seconds of trials that have no row."""
    scores: pd.DataFrame | None = None
    """Scores on evaluation tasks: ``trial_id``, ``task``, ``score``, and what else is known of each."""


def card(known: CardFacts, *, latex: bool = False) -> str:
    """The sheet in Markdown, or in LaTeX."""
    sections = (
        _sweep(known),
        _data(known),
        _models(known),
        _space(known),
        _evaluation(known),
        card_rows.trials(known.rows),
        card_rows.best(known.rows),
        card_rows.failures(known.rows),
        _left_out(known),
        card_rows.compute(known.rows, known.unrecorded_seconds),
        card_rows.software(known.rows),
        *([] if known.scores is None else [card_rows.scored(known.scores)]),
        _commands(known),
    )
    write = to_latex if latex else to_markdown
    return write(f"Reproducibility sheet of the sweep {known.spec.name}", sections)


def _sweep(known: CardFacts) -> Section:
    spec, rows = known.spec, known.rows
    ends = sorted(rows["finished_at"])
    said = [
        ("spec", f"{spec.hash} (hash of all that decides what is tried and measured)"),
        ("budgets", f"{', '.join(map(format_flops, spec.budgets_flops))} booked training FLOPs a trial"),
        ("methods", ", ".join(method.label for method in spec.methods)),
        ("models", f"{len(spec.models)}: {', '.join(spec.models)}"),
        ("planned", f"{'at most ' if known.plan.at_most else ''}{known.plan.total.num_trials} trials in "
                    f"{known.plan.total.num_cells} cells (a cell is a budget, a model and a method)"),
        ("seeds", f"sweep seed {spec.seed}; {spec.seeds} training(s) of each cell's best hyperparameters; "
                  f"seeds of data order and adapters in use: {card_rows.values(rows['seed'])}"),
        ("first and last row", f"{ends[0]} and {ends[-1]}" if ends else "none"),
    ]  # fmt: skip
    return Section(heading="Sweep", blocks=(facts(said),))


def _data(known: CardFacts) -> Section:
    hashes = card_rows.values(known.rows["data"])
    blocks: tuple[Block, ...] = (
        facts([*known.data, ("data hash in the rows", hashes or "none")]),
        "The hash covers the texts of every split, their numbers, the rule of the split and what is set of their use. "
        "A pair's split follows from a hash of its content, so the same texts are always split the same way.",
        known.sources,
    )
    if known.packages:
        listed = " ".join(f"{name}=={version}" for name, version in sorted(known.packages.items()))
        blocks += ("The pairs were read from these installed packages:", Code(text=textwrap.fill(listed, CODE_WIDTH)))
    return Section(heading="Data", blocks=blocks)


def _models(known: CardFacts) -> Section:
    lines = tuple(
        (
            model.name,
            model.revision,
            str(model.num_layers),
            str(model.width),
            f"{model.num_params_non_embedding:,}",
            f"{model.num_params_embedding:,}",
        )
        for model in known.models
    )
    headings = ("model", "revision", "layers", "width", "non-embedding", "embedding")
    note = (
        "Non-embedding parameters are those of the blocks and the final norm. A revision is a commit or a content hash."
    )
    return Section(heading="Models", blocks=(Table(headings=headings, lines=lines, num_words=2), note))


def _space(known: CardFacts) -> Section:
    """The spec's own words for what was searched and what was held fixed."""
    fields = known.spec.identity()
    names = sorted({name for method in fields["methods"] for name in method["search"]})
    lines = tuple(
        (
            _method(label),
            str(method["trials"]),
            ", ".join(method["models"]) if len(method["models"]) < len(known.spec.models) else "all",
            *(_dimension(method["search"].get(name)) for name in names),
        )
        for label, method in zip(known.spec.methods, fields["methods"], strict=True)
    )
    held = [(_spaced(name), _said(value)) for name, value in fields["fixed"].items()]
    search = [(f"search, {name.replace('_', ' ')}", _said(value)) for name, value in fields["search"].items()]
    cells = [(f"cells, {name.replace('_', ' ')}", _said(value)) for name, value in fields["allocation"].items()]
    limits = [(f"limits, {name.replace('_', ' ')}", _said(value)) for name, value in fields["limits"].items()]
    ranges = Table(
        headings=("method", "trials a cell", "models", *map(_spaced, names)), lines=lines, num_words=3 + len(names)
    )
    said = (
        "Ranges are searched in log space unless said otherwise, both ends included; the start is the first trial's "
        "value. 'x pretraining' is in units of the rate that the model was pre-trained with."
    )
    return Section(
        heading="Search space and fixed hyperparameters",
        blocks=(ranges, said, facts([*held, *search, *cells, *limits]), *known.decisions),
    )


def _method(method: MethodSpec) -> str:
    """The label, and the settings where some are searched."""
    if method.smallest is None:
        return method.label
    said = []
    for name, held in asdict(method.method).items():
        match method.space.searched.get(name):
            case Range(low=low, high=high):
                words = f"{low:g} to {high:g}"
            case Choices(values=values):
                words = " or ".join(f"{value:g}" for value in values)
            case None:
                words = f"{held:g}"
        said.append(f"{_spaced(name)} {words}")
    return f"{method.label} ({', '.join(said)})"


def _dimension(value: Any) -> str:
    if not isinstance(value, dict):
        return "" if value is None else _said(value)
    unit = " x pretraining" if value.get("of", "absolute") == "pretraining" else ""
    if "value" in value:
        return f"{_said(value['value'])}{unit}"
    start = "" if value.get("start") is None else f", start {_said(value['start'])}"
    space = "" if value.get("log", True) else ", linear"
    return f"{_said(value['low'])} to {_said(value['high'])}{start}{space}{unit}"


def _evaluation(known: CardFacts) -> Section:
    evaluation = known.spec.evaluation
    words = LOSS.format(
        num_pairs=f"{evaluation.num_pairs:,}",
        num_candidates=f"{evaluation.num_candidates:,}",
        chance=f"{math.log(evaluation.num_candidates):.3f}",
    )
    return Section(heading="How the loss is measured", blocks=(words,))


def _left_out(known: CardFacts) -> Section:
    if not known.plan.left_out:
        return Section(heading="What was left out", blocks=("Every cell of the grid was planned.",))
    lines = tuple((out.cell.words, out.reason) for out in known.plan.left_out)
    return Section(heading="What was left out", blocks=(Table(headings=("cell", "why"), lines=lines, num_words=2),))


def _commands(known: CardFacts) -> Section:
    done = card_rows.complete(known.rows)
    trial = done["trial_id"].iloc[0] if len(done) else "ID"
    commands = (
        "isoflop data sweep.yaml         # prepares the data and the models; compare the data hash\n"
        "isoflop launch sweep.yaml --store STORE\n"
        "isoflop report STORE\n"
        f"isoflop reproduce STORE --trial {trial}   # one trial again, compared with its row\n"
        "isoflop card STORE              # this sheet"
    )
    return Section(
        heading="To repeat it",
        blocks=(
            "With the packages above, and the spec below as sweep.yaml:",
            Code(text=commands, language="sh"),
            Code(text=known.spec.to_yaml(), language="yaml"),
        ),
    )


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _said(value: Any) -> str:
    """``1e-3`` and ``64`` as a person writes them, with all their digits."""
    return repr(value).replace("e-0", "e-") if isinstance(value, float) else str(value)

"""The report of a sweep: one HTML page that needs no network, with its figures, tables and data beside it.

Knows the frontier, the recommendation, the rows and what the caller wants said (``ReportContext``). Never knows where
the rows came from or how the sweep ran.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import wording
from analysis.cautions import MAX_EXTRAPOLATION
from analysis.choice_figures import Served, draw_exponents, draw_lifetime, draw_regions
from analysis.conventions import Reading, readings
from analysis.data_figures import drawings_of
from analysis.data_page import data_sentences, source_lines
from analysis.data_sheet import DataSheet
from analysis.drawing import Drawing
from analysis.expectation import ExpectedLoss
from analysis.expected_score import ExpectedScore, foretell_score
from analysis.experiment_figures import CAPTIONS, draw_experiments
from analysis.explore import Explorer, explore
from analysis.figures import draw_curves, draw_frontier, draw_profiles
from analysis.fit import Interval
from analysis.frontier import Frontier
from analysis.law_figures import Comparison, draw_comparisons, draw_noise, draw_residuals, draw_surface
from analysis.link import Link, fit_links, link_of
from analysis.link_figure import draw_links
from analysis.page import write_json, write_page
from analysis.recommend import Recommendation, describe
from analysis.report_tables import (
    failures,
    law_table,
    link_table,
    ranking_table,
    reading_sentence,
    reading_table,
    state_counts,
    surface_table,
    trial_table,
    with_interval,
)
from analysis.surface import Surface, fit_surfaces
from analysis.tables import numbers_table
from analysis.validation import Foretold, foretell_largest
from trainer.result import TrialState
from trainer.trial import format_flops

EXPECTED_ORDER = ("full", "lora", "freeze", "bias")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContext:
    """What the page says beside the rows and the fits."""

    sweep: str
    """The sweep's name."""
    manifest: tuple[tuple[str, str], ...] = ()
    """Facts of the data: (label, value)."""
    plan: tuple[tuple[str, str], ...] = ()
    """Facts of the plan: (label, value)."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Cells that were not run: (cell in words, reason)."""
    notes: tuple[str, ...] = ()
    """What a reader must know about this sweep, in sentences."""
    served: Served | None = None
    """What a text is and which models there are, for the cost to serve; without it that figure is left out."""
    expected: ExpectedLoss | None = None
    """What was foretold of this sweep's one cell, where a recommendation wrote the sweep."""
    data: DataSheet | None = None
    """What is in the pairs, where it was measured."""
    scores: pd.DataFrame | None = None
    """Scores of trials on tasks: ``trial_id``, ``task``, ``score`` and, where it is known, ``task_type``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Findings:
    """What the report finds out beside the frontier."""

    readings: tuple[Reading, ...]
    notes: tuple[str, ...]
    """Which ways of counting cannot be had."""
    surfaces: tuple[Surface, ...]
    foretold: tuple[Foretold, ...]
    kept: tuple[Comparison, ...]
    """What was foretold of this sweep against what it measured."""
    links: tuple[Link, ...]
    """From loss to score, where trials have scores."""
    expected_score: ExpectedScore | None
    no_score: str
    """Why no score is expected, where trials have scores and none is."""


def write_report(
    folder: Path,
    rows: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame],
    frontier: Frontier,
    recommendation: Recommendation | None,
    context: ReportContext,
) -> Path:
    """Write the report into ``folder`` and return the path of its ``index.html``.

    ``rows`` has the store's columns, ``curves`` maps trial ids to curve tables. ``recommendation`` is ``None`` where
    nothing can be recommended; the page then says so. Beside the page: ``figures/`` with PNG, SVG and CSV of each,
    ``trials.csv``, ``numbers.csv`` (each number with the trials behind it), ``frontier.json``, ``recommendation.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = _find(rows, frontier, recommendation, context)
    speaks = link_of(found.links)
    explorer: Explorer | None = explore(rows, found.readings) if found.readings else None
    path = write_page(
        folder,
        "report.html.jinja",
        _drawings(rows, curves, frontier, recommendation, context, found)
        | ({} if context.data is None else drawings_of(context.data)),
        explorer,
        context=context,
        answer=None if recommendation is None else _answer(recommendation),
        kept=[] if context.expected is None else _kept_sentences(context.expected, found.kept),
        experiments=CAPTIONS,
        order=order_sentence(frontier),
        rankings=ranking_table(frontier),
        laws=law_table(frontier),
        crossovers=[crossover.sentence for crossover in frontier.crossovers],
        readings=reading_table(found.readings),
        reading_sentence=reading_sentence(found.readings) if found.readings else "",
        reading_budget="" if recommendation is None else wording.flops(recommendation.budget_flops),
        reading_notes=found.notes,
        moved=max((reading.moved for reading in found.readings), default=1.0),
        surfaces=surface_table(found.surfaces),
        foretold=[one.sentence for one in found.foretold],
        links=[link.sentence for link in found.links],
        link_groups=link_table(found.links),
        link_task="" if speaks is None else speaks.task,
        expected_score=_score_sentences(found),
        notes=frontier.notes,
        counts=state_counts(rows),
        failures=failures(rows),
        trials=trial_table(rows),
        num_trials=len(rows),
        data_sentences=[] if context.data is None else data_sentences(context.data),
        data_lines=[] if context.data is None else source_lines(context.data),
    )
    rows.to_csv(folder / "trials.csv", index=False)
    numbers_table(frontier).to_csv(folder / "numbers.csv", index=False)
    write_json(folder / "frontier.json", frontier.to_dict())
    if found.links:
        write_json(folder / "links.json", {"links": [link.to_dict() for link in found.links]})
    if recommendation is not None:
        write_json(folder / "recommendation.json", recommendation.to_dict())
    return path


def _find(
    rows: pd.DataFrame, frontier: Frontier, recommendation: Recommendation | None, context: ReportContext
) -> _Findings:
    links = () if context.scores is None else fit_links(rows, context.scores)
    score, no_score = None, ""
    if links and recommendation is not None:
        score, no_score = foretell_score(links, frontier, recommendation)
    if not frontier.methods:
        return _Findings(
            readings=(), notes=(), surfaces=(), foretold=(), kept=(), links=links, expected_score=None, no_score=""
        )
    budget = max(frontier.budgets_flops) if recommendation is None else recommendation.budget_flops
    found, notes = readings(rows, frontier, budget)
    return _Findings(
        readings=found,
        notes=notes,
        surfaces=fit_surfaces(frontier),
        foretold=foretell_largest(rows, frontier),
        kept=() if context.expected is None else _kept(context.expected, rows),
        links=links,
        expected_score=score,
        no_score=no_score,
    )


def _kept(expected: ExpectedLoss, rows: pd.DataFrame) -> tuple[Comparison, ...]:
    """The foretold loss beside that of each complete trial: one, unless the sweep was given more by hand."""
    done = rows[(rows["state"] == TrialState.COMPLETE) & rows["loss"].notna()]
    low, high = expected.low, expected.high
    return tuple(
        Comparison(
            label=f"{row['model']} by {row['method']}\nat {format_flops(int(row['budget_flops']))} FLOPs",
            predicted=expected.loss,
            interval=Interval(low=expected.loss if low is None else low, high=expected.loss if high is None else high),
            measured=float(row["loss"]),
            noise_relative_sd=expected.noise_relative_sd,
            trial_ids=(str(row["trial_id"]),),
        )
        for row in done.to_dict("records")
    )


def _kept_sentences(expected: ExpectedLoss, kept: Sequence[Comparison]) -> list[str]:
    if not kept:
        return [f"Sweep {expected.sweep} foretold a loss of {expected.loss:.3f}; no trial is complete yet."]
    return [expected.sentence(one.measured, one.trial_ids[0]) for one in kept]


def _score_sentences(found: _Findings) -> list[str]:
    if found.expected_score is not None:
        return list(found.expected_score.sentences())
    return [found.no_score] if found.no_score else []


def order_sentence(frontier: Frontier) -> str:
    """How the methods order by loss at the largest budget, and whether that is the order that was expected."""
    if not frontier.rankings:
        return ""
    ranking = frontier.rankings[-1]
    seen = " < ".join(f"{standing.method} ({wording.loss(standing.loss)})" for standing in ranking.standings)
    # A kind may come with several settings: its best one stands for it.
    kinds = list(dict.fromkeys(frontier.method(standing.method).method.kind for standing in ranking.standings))
    expected = [kind for kind in EXPECTED_ORDER if kind in kinds]
    sentence = f"Held-out loss at the largest budget ({wording.flops(ranking.budget_flops)}): {seen}"
    if len(kinds) < 2:
        return f"{sentence}. With one kind of method there is no order to compare."
    words = " < ".join(expected)
    if kinds == expected:
        return f"{sentence}. This is the order that was expected: {words}."
    return f"{sentence}. The expected order was {words}, so this sweep saw another one."


def _drawings(
    rows: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame],
    frontier: Frontier,
    recommendation: Recommendation | None,
    context: ReportContext,
    found: _Findings,
) -> dict[str, Drawing | None]:
    if not frontier.methods:
        return {}
    foretold = [
        Comparison(
            label=one.method,
            predicted=one.predicted,
            interval=one.interval,
            measured=one.measured,
            noise_relative_sd=one.noise_relative_sd,
            trial_ids=_best_trials(frontier, one),
        )
        for one in found.foretold
    ]
    served = context.served
    shapes = () if served is None else served.shapes
    return {
        "expected": draw_comparisons(found.kept, "What was foretold of this sweep, and what it measured"),
        **draw_experiments(rows, {shape.name: shape.pretraining_learning_rate for shape in shapes}),
        "frontier": draw_frontier(frontier, recommendation),
        "regions": draw_regions(frontier),
        "profiles": draw_profiles(frontier),
        "exponents": draw_exponents(found.readings),
        "foretold": draw_comparisons(foretold, "The largest budget: foretold from the smaller ones, and measured"),
        "residuals": draw_residuals(found.surfaces),
        "surface": draw_surface(found.surfaces, frontier),
        "noise": draw_noise(frontier, rows),
        "lifetime": None
        if recommendation is None or served is None
        else draw_lifetime(frontier, recommendation, served),
        "scores": draw_links(found.links, found.expected_score),
        "curves": draw_curves(frontier, curves),
    }


def _best_trials(frontier: Frontier, foretold: Foretold) -> tuple[str, ...]:
    profiles = frontier.method(foretold.method).profiles
    return tuple(p.trial_id for one in profiles if one.budget_flops == foretold.budget_flops for p in one.points)


def _answer(recommendation: Recommendation) -> dict[str, Any]:
    """The answer's headline, sentences, key figures and the methods' chances."""
    hyper = recommendation.hyperparameters
    size, within = recommendation.optimal_num_params, recommendation.optimal_num_params_interval
    loss, loss_within = recommendation.loss, recommendation.loss_interval
    facts = [
        ("Budget", wording.flops(recommendation.budget_flops)),
        ("Model", recommendation.model),
        ("Non-embedding parameters", wording.count(recommendation.num_params)),
        ("Optimal size (90 %)", with_interval(size, within, wording.count)),
        ("Method", describe(recommendation.method)),
        ("Tokens", wording.count(recommendation.tokens)),
        ("Pairs", wording.count(recommendation.pairs)),
        ("Steps", f"{wording.count(recommendation.steps)} of {hyper.batch_size} pairs"),
        ("Epochs of the data", wording.times(recommendation.epochs)),
        ("Learning rate", f"{hyper.learning_rate:.3g}"),
        ("Temperature", f"{hyper.temperature:.3g}"),
        ("Weight decay", f"{hyper.weight_decay:.3g}"),
        ("Expected held-out loss (90 %)", with_interval(loss, loss_within, wording.loss)),
    ]
    sentences = recommendation.sentences()
    return {
        "headline": f"Train {recommendation.model} by {describe(recommendation.method)}",
        "budget": wording.flops(recommendation.budget_flops),
        "sentences": sentences[: len(sentences) - len(recommendation.cautions)],
        "cautions": recommendation.cautions,
        "loud": recommendation.extrapolation > MAX_EXTRAPOLATION,
        "facts": facts,
        "standings_budget": wording.flops(recommendation.ranking.budget_flops),
        "standings": [
            {
                "method": standing.method,
                "loss": with_interval(standing.loss, standing.loss_interval, wording.loss),
                "share": wording.share(standing.probability_best),
                "width": f"{100 * standing.probability_best:.1f}",
            }
            for standing in recommendation.ranking.standings
        ],
    }

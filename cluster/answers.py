"""What a spec and a store have to say: plan, prepared data, recommendations, report.

Knows how the packages' answers are put together, and how sentences stand on a terminal. Never knows Ray or a command's
options. What a function needs is imported when it runs, so that a plan does not wait for what fits need.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from analysis.expected_score import ExpectedScore
    from analysis.frontier import Frontier
    from analysis.lifetime import Service
    from analysis.recommend import Recommendation
    from cluster.outlook import Outlook
    from sweeps.agenda import Agenda
    from sweeps.cost import Cost, Rates
    from sweeps.extension import Added
    from sweeps.plan import Plan
    from sweeps.spec import SweepSpec
    from sweeps.store import Store
    from trainer.data import DataSource, TokenStatistics
    from trainer.prepare import Prepared

# Until the data are prepared a plan has to assume: measured once on the nano pairs; the paper's constant elsewhere.
NANO_TOKENS_PER_PAIR, NANO_NUM_PAIRS = 49.0, 64_000
PAPER_TOKENS_PER_PAIR = 78.0
NANO_NOTES = (
    "These are nano models on docstrings and code: the sweep is real, but its exponents are not those of models of "
    "useful size, nor the paper's.",
    "Plain word matching (BM25) retrieves these pairs better than any of these models.",
)


def data_source(spec: SweepSpec) -> DataSource:
    """Where the sweep's pairs come from, as the preparation takes it."""
    from trainer.data import DataSource

    return DataSource.from_dict(asdict(spec.data))


def find_prepared(spec: SweepSpec) -> Prepared | None:
    """What was prepared for the sweep before; ``None`` where something is missing."""
    from trainer.prepare import default_cache, find

    return find(data_source(spec), spec.models, max_length=spec.fixed.max_length, cache=default_cache())


def prepare_for(spec: SweepSpec, console: Console) -> Prepared:
    """Prepare what the sweep needs, with progress on ``console``."""
    return prepare_source(data_source(spec), spec.models, spec.fixed.max_length, console)


def prepare_source(source: DataSource, models: Sequence[str], max_length: int, console: Console) -> Prepared:
    """Prepare pairs and models without a sweep, with progress on ``console``."""
    from cluster.view import preparing
    from trainer.prepare import default_cache, prepare

    with preparing(console) as report:
        return prepare(source, models, max_length=max_length, cache=default_cache(), report=report)


def plan_of(spec: SweepSpec, prepared: Prepared | None) -> Plan:
    """The sweep's plan, from what was measured of its data, or what has to be assumed until then."""
    from sweeps.plan import DataFacts
    from sweeps.plan import plan as plan_cells
    from trainer.ladder import SHAPES

    if prepared is None:
        nano = spec.data.source == "nano"
        facts = DataFacts(
            num_train_pairs=NANO_NUM_PAIRS if nano else None,
            tokens_per_pair=NANO_TOKENS_PER_PAIR if nano else PAPER_TOKENS_PER_PAIR,
            measured=False,
        )
        return plan_cells(spec, facts, SHAPES)
    facts = DataFacts(
        num_train_pairs=prepared.manifest.num_pairs["train"],
        tokens_per_pair=prepared.statistics.tokens_per_pair,
        measured=True,
        pairs_per_epoch=prepared.manifest.pairs_per_epoch,
    )
    return plan_cells(spec, facts, {name: model.shape for name, model in prepared.models.items()})


def cost_of(spec: SweepSpec, planned: Plan, rates: Rates, store: Store | None) -> Cost | None:
    """What the plan costs on GPUs; ``None`` for a sweep on CPUs, unless a device is asked about."""
    if not spec.resources.gpus_per_trial and rates.device is None:
        return None
    from sweeps.cost import cost

    return cost(planned, rates, store.read_trials(strict=False) if store else None)


def outlook_of(
    spec: SweepSpec, planned: Plan, prepared: Prepared | None, device: str | None
) -> tuple[Outlook, tuple[str, ...]]:
    """Where the plan's trials would run on GPUs of this kind, or of an assumed one, and what would mend the plan."""
    from cluster.outlook import memory_sentences, outlook
    from sweeps.cost import ASSUMED_DEVICE
    from sweeps.proposals import proposals
    from trainer.ladder import SHAPES

    shapes = SHAPES if prepared is None else {name: model.shape for name, model in prepared.models.items()}
    num_negatives = 0 if prepared is None else prepared.manifest.source.num_negatives
    seats = outlook(spec, planned, shapes, device or ASSUMED_DEVICE, num_negatives=num_negatives)
    memory = memory_sentences(spec, planned, seats, device or ASSUMED_DEVICE)
    return seats, (*proposals(spec, planned), *memory)


def prepared_of(store: Store) -> Prepared:
    """What a store's sweep was begun with."""
    from trainer.prepare import Prepared

    return Prepared.from_json(store.prepared)


def agenda_of(store: Store) -> Agenda:
    """Which trials a store's sweep asks for, as far as its rows decide it."""
    from sweeps.agenda import Agenda
    from sweeps.columns import checked_losses
    from sweeps.plan import studies
    from sweeps.search import Finished
    from trainer.result import TrialState
    from trainer.trial import TrialSpec

    spec, prepared = store.spec, prepared_of(store)
    agenda = Agenda(
        studies(
            spec,
            plan_of(spec, prepared),
            data=prepared.manifest.hash,
            revisions={name: model.revision for name, model in prepared.models.items()},
            shapes={name: model.shape for name, model in prepared.models.items()},
        )
    )
    table, _ = store.read_table(strict=False)
    for row in table.select(["spec", "state", "loss", "checked"]).to_pylist():
        ended = Finished(
            spec=TrialSpec.from_json(row["spec"]),
            state=TrialState(row["state"]),
            loss=row["loss"],
            checked=checked_losses(row["checked"]),
        )
        # What is left of another plan is for a launch to refuse, not for those who only look.
        if not agenda.problem(ended.spec):
            agenda.tell(ended)
    return agenda


def added_to(store: Store, spec: SweepSpec) -> tuple[Added, ...]:
    """What ``spec`` would add to a store. Raises ``ValueError`` where the store holds another sweep."""
    from sweeps.extension import added

    store.refuse_another(spec)
    prepared = prepared_of(store)
    wanted = plan_of(spec, prepared if prepared.models.keys() >= set(spec.models) else find_prepared(spec))
    return added(plan_of(store.spec, prepared), wanted)


def asked_plan(store: Store) -> Plan:
    """The plan of a store's sweep without the trials that its rows have ruled out."""
    planned = plan_of(store.spec, prepared_of(store))
    if store.spec.allocation.kind == "grid" and store.spec.seeds == 1:
        return planned
    from sweeps.account import summary

    agenda = agenda_of(store)
    return replace(planned.without(agenda.ruled_out), decided=summary(agenda))


def rows_of(store: Store) -> pd.DataFrame:
    """A store's rows as the analysis takes them: with methods as the sweep compares them."""
    from sweeps.grouping import by_method

    return by_method(store.read_trials(), store.spec)


def recommendations(store: Store, budgets_flops: Sequence[int]) -> list[Recommendation]:
    """What to train at each budget, from all rows of a store."""
    from analysis.frontier import fit_frontier
    from analysis.recommend import recommend as recommend_at

    frontier = fit_frontier(rows_of(store))
    prepared = prepared_of(store)
    shapes = [model.shape for model in prepared.models.values()]
    return [recommend_at(frontier, budget, shapes, prepared.statistics.tokens_per_pair) for budget in budgets_flops]


def write_report_of(store: Store, budget_flops: int | None) -> Path:
    """Write a store's report, with a recommendation for twice its largest budget unless another is given."""
    from analysis.choice_figures import Served
    from analysis.frontier import fit_frontier
    from analysis.recommend import recommend as recommend_at
    from analysis.report import ReportContext, write_report
    from cluster import data_tables, plan_tables
    from cluster.data_answers import statistics_of
    from cluster.data_sheet import sheet_of
    from sweeps.account import sentences

    rows = rows_of(store)
    frontier = fit_frontier(rows)
    spec, prepared = store.spec, prepared_of(store)
    tokens, shapes = prepared.statistics, [model.shape for model in prepared.models.values()]
    recommendation = None
    if frontier.budgets_flops:
        budget = budget_flops or 2 * max(frontier.budgets_flops)
        recommendation = recommend_at(frontier, budget, shapes, tokens.tokens_per_pair)
    planned = plan_of(spec, prepared)
    measured = statistics_of(prepared)
    context = ReportContext(
        sweep=spec.name,
        manifest=tuple(data_tables.data_facts(prepared)),
        plan=tuple(plan_tables.plan_facts(planned)),
        left_out=tuple((out.cell.words, out.reason) for out in planned.left_out),
        notes=(*(NANO_NOTES if spec.data.source == "nano" else ()), *sentences(agenda_of(store))),
        served=Served(
            shapes=tuple(shapes),
            tokens_per_query=tokens.query.mean_at_max_length,
            tokens_per_document=tokens.positive.mean_at_max_length,
        ),
        expected=spec.expected,
        data=None if measured is None else sheet_of(measured),
        scores=scores_of(store),
    )
    curves = {trial_id: store.read_curve(trial_id) for trial_id in rows["trial_id"]}
    # A report is for a person's browser: that of a store on object storage is written here.
    folder = store.root / "report" if isinstance(store.root, Path) else Path("reports") / spec.name
    return write_report(folder, rows, curves, frontier, recommendation, context)


def scores_of(store: Store) -> pd.DataFrame | None:
    """Scores by trial and task; ``None`` without any."""
    from sweeps.scores import read_scores

    scores = read_scores(store)
    return None if scores.empty else scores


def foretold_score(
    store: Store, rows: pd.DataFrame, frontier: Frontier, answer: Recommendation
) -> tuple[ExpectedScore | None, tuple[str, ...]]:
    """The score to expect of a recommendation, and the words for it or for why there is none; no words where the store
    has no scores."""
    scores = scores_of(store)
    if scores is None:
        return None, ()
    from analysis.expected_score import foretell_score
    from analysis.link import fit_links

    found, why = foretell_score(fit_links(rows, scores), frontier, answer)
    return found, (why,) if found is None else found.sentences()


def fits_of(store: Store) -> Path:
    """Where fits of this store's rows are kept: beside it, or in this person's cache where it is on object storage."""
    from trainer.prepare import default_cache

    if isinstance(store.root, Path):
        return store.root / "fits"
    return default_cache() / "fits" / hashlib.sha256(str(store.root).encode()).hexdigest()[:16]


def service_of(tokens: TokenStatistics, **given: float | None) -> Service | None:
    """What is to be served, with texts as long as those of the sweep; ``None`` where nothing is said of it."""
    from analysis.lifetime import Service

    served = {name: value for name, value in given.items() if value is not None}
    lengths = (tokens.query.mean_at_max_length, tokens.positive.mean_at_max_length)
    return Service(**served, tokens_per_query=lengths[0], tokens_per_document=lengths[1]) if served else None


def emit_sweep(path: Path, spec: SweepSpec, frontier: Frontier, answer: Recommendation) -> None:
    """Write the one-cell sweep that trains the recommendation, with the loss that is expected of it."""
    from datetime import UTC, datetime

    from sweeps.emit import one_cell

    if path.exists() or not path.absolute().parent.is_dir():
        mend = "give another file" if path.exists() else "give a file in a folder that is there"
        raise ValueError(f"--emit is {str(path)!r}, which cannot be written anew: {mend}")
    emitted = one_cell(
        spec,
        answer,
        noise_relative_sd=frontier.method(answer.label).noise.relative_sd,
        stated_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path.write_text(emitted.to_yaml(), encoding="utf-8")


def say(console: Console, text: str) -> None:
    """Words as they are: a path or a command is to be copied, so no line is broken."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def tell(console: Console, sentences: Sequence[str]) -> None:
    """Sentences to be read: broken between words where a person looks at a screen."""
    console.print("\n".join(sentences), soft_wrap=not console.is_terminal, highlight=False, markup=False)

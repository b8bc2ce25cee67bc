"""The front door: the command line.

Knows every package, and what a person types and reads. Each command imports what it needs when it runs, so that help
and status answer at once. Bad input becomes one sentence and exit status 2; a failed trial, exit status 1.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.recommend import Recommendation
    from cluster.status import SweepStatus
    from sweeps.plan import Plan
    from sweeps.spec import SweepSpec
    from sweeps.store import Store
    from trainer.data import DataSource
    from trainer.prepare import Prepared

# Until the data are prepared a plan has to assume: measured once on the nano pairs; the paper's constant elsewhere.
NANO_TOKENS_PER_PAIR, NANO_NUM_PAIRS = 49.0, 64_000
PAPER_TOKENS_PER_PAIR = 78.0
NANO_NOTES = (
    "These are nano models on docstrings and code: the sweep is real, but its exponents are not those of models of "
    "useful size, nor the paper's.",
    "Plain word matching (BM25) retrieves these pairs better than any of these models.",
)

app = typer.Typer(
    help="How to spend a GPU budget on turning a decoder language model into a text-embedding model.",
    epilog="SPEC is a YAML file, or a preset: quickstart, smoke, pythia. STORE is a store's folder, or a sweep's name.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help answers in half the time of rich help.
    rich_markup_mode=None,
)

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or a preset's name.")]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A store's folder, or a sweep's name.")]
StoreOption = Annotated[
    Path | None, typer.Option("--store", metavar="PATH", help="Where results go (default: ./stores/<sweep name>).")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Machine-readable on standard output, everything else on standard error.")
]


@app.command(no_args_is_help=True)
def data(
    source: Annotated[
        str, typer.Argument(metavar="SPEC|SOURCE", help="A spec; or nano, a JSONL or Parquet file, a Hub data set.")
    ],
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="For a SOURCE: whose tokenizer counts (default: the nano ladder)."),
    ] = None,
    max_length: Annotated[int, typer.Option(help="For a SOURCE: tokens a text is cut to.")] = 75,
    as_json: JsonOption = False,
) -> None:
    """Prepare pairs and models, and show what they are."""
    from sweeps.spec import preset_names, read_spec
    from trainer.data import DataSource
    from trainer.ladder import LADDERS

    console = _console(err=as_json)
    if source in preset_names() or Path(source).suffix in (".yaml", ".yml"):
        prepared = _prepare(read_spec(source), console)
    else:
        names = models or [shape.name for shape in LADDERS["nano"]]
        prepared = _prepare_source(DataSource(source=source), names, max_length, console)
    if as_json:
        _print_json(json.loads(prepared.to_json()))
    else:
        from cluster import tables

        console.print(tables.data_view(prepared))


@app.command(no_args_is_help=True)
def plan(spec: SpecArgument, as_json: JsonOption = False) -> None:
    """Show what a sweep would run, and what it leaves out and why."""
    from cluster import tables
    from sweeps.spec import read_spec

    read = read_spec(spec)
    planned = _plan(read, _find(read))
    if as_json:
        _print_json(tables.plan_record(read.name, planned))
    else:
        _console().print(tables.plan_view(read.name, planned))


@app.command(no_args_is_help=True)
def launch(spec: SpecArgument, store: StoreOption = None) -> None:
    """Run a sweep on this machine, and say what it means."""
    from sweeps.spec import read_spec

    read = read_spec(spec)
    _drive(read, store or Path("stores") / read.name)


@app.command(no_args_is_help=True)
def resume(store: StoreArgument) -> None:
    """Go on with a sweep that was stopped or died."""
    opened = _open(store)
    _drive(opened.spec, opened.root)


@app.command(no_args_is_help=True)
def status(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Show how far a sweep is, while it runs or after it died."""
    from cluster import tables
    from cluster.status import read_status

    opened = _open(store)
    found = read_status(opened, _plan(opened.spec, _prepared_of(opened)))
    if as_json:
        _print_json(found.to_dict())
    else:
        _console().print(tables.status_view(found))


@app.command(no_args_is_help=True)
def fit(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A CSV or Parquet file, or a folder of Parquet.")],
    loss: Annotated[str, typer.Option(metavar="COL", help="Column of the loss.")] = "loss",
    params: Annotated[str | None, typer.Option(metavar="COL", help="Column of the model size N.")] = None,
    tokens: Annotated[str | None, typer.Option(metavar="COL", help="Column of the tokens D.")] = None,
    flops: Annotated[str | None, typer.Option(metavar="COL", help="Column of the FLOPs C (else C = 6ND).")] = None,
    budget: Annotated[str | None, typer.Option(metavar="COL", help="Column of the IsoFLOP budget (else C).")] = None,
    method: Annotated[str | None, typer.Option(metavar="COL", help="Column by which to fit separately.")] = None,
    run: Annotated[str | None, typer.Option(metavar="COL", help="Column that tells training curves apart.")] = None,
    share: Annotated[str | None, typer.Option(metavar="COL", help="Column of the trained share S.")] = None,
    epochs: Annotated[str | None, typer.Option(metavar="COL", help="Column of the passes over the data.")] = None,
    drop_worst: Annotated[int, typer.Option(metavar="K", help="Leave out the K highest losses.")] = 0,
    form: Annotated[
        str,
        typer.Option(
            metavar="FORM",
            help="envelope, isoflop, isoflop-window, isoflop-akima, parametric, varpro, shared, compute, "
            "multiplicative, share or joint.",
        ),
    ] = "parametric",
    draws: Annotated[int, typer.Option(metavar="K", help="Bootstrap draws behind the intervals.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Fit a scaling law to any table of rows, and say how sure its parameters are."""
    from analysis.fit_table import Request, fit_table, read_table, records, sentences

    request = Request(
        form=form,
        loss=loss,
        params=params,
        tokens=tokens,
        flops=flops,
        budget=budget,
        method=method,
        run=run,
        share=share,
        epochs=epochs,
        drop_worst=drop_worst,
        num_draws=draws,
    )
    found = fit_table(read_table(table), request)
    if as_json:
        _print_json(records(*found))
    else:
        _say(_console(), "\n".join(sentences(*found)))


@app.command(no_args_is_help=True)
def recommend(
    store: StoreArgument,
    budget: Annotated[float, typer.Option("--budget", metavar="FLOPS", help="Training FLOPs, such as 1e12.")],
    as_json: JsonOption = False,
) -> None:
    """Say what to train at a budget, and what loss to expect."""
    [found] = _recommend(_open(store), [_whole_flops(budget)])
    if as_json:
        _print_json(found.to_dict())
    else:
        _tell(_console(), found)


@app.command(no_args_is_help=True)
def report(
    store: StoreArgument,
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="FLOPS", help="What it recommends for (default: twice the largest measured)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a sweep's report: one HTML page, and its figures."""
    page = _write_report(_open(store), None if budget is None else _whole_flops(budget))
    if as_json:
        _print_json({"report": str(page)})
    else:
        _say(_console(), f"report: {page}")


@app.command(no_args_is_help=True)
def export(
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write; it must not be there yet.")],
    trial: Annotated[
        str, typer.Option("--trial", metavar="ID", help="Whose model, by the start of its id (default: the best).")
    ] = "",
) -> None:
    """Write a trained model as a folder that sentence-transformers loads."""
    from sweeps.weights import find_trial

    opened = _open(store)
    result = find_trial(opened, trial)
    prepared = _prepared_of(opened)
    from trainer.export import export as export_model
    from trainer.prepare import default_cache

    export_model(
        out.resolve(),
        result=result,
        weights=opened.weights(result.spec.trial_id),
        base=Path(prepared.models[result.spec.model].path),
        manifest=prepared.manifest,
        cache=default_cache(),
    )
    assert result.metrics is not None
    which = "" if trial else ", the least of all trials with weights"
    _say(_console(), f"trial {result.spec.trial_id} with a loss of {result.metrics.loss:.4f}{which}: {out}")


def main() -> None:
    """Entry point of the console script."""
    try:
        app(prog_name="isoflop")
    except ValueError as error:
        if not _is_ours(error):
            raise
        _refuse(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        _refuse(f"{error.filename or 'a file'} cannot be written ({error.strerror}): make room, or give another folder")


def _is_ours(error: ValueError) -> bool:
    """Whether our own code raised it, with a sentence for a person. Any other is a fault and shows its traceback."""
    traceback = error.__traceback__
    assert traceback is not None
    while traceback.tb_next:
        traceback = traceback.tb_next
    package = traceback.tb_frame.f_globals["__name__"].partition(".")[0]
    return package in ("isoflop", "__main__", "cluster", "sweeps", "analysis", "trainer")


def _refuse(sentence: str) -> NoReturn:
    print(f"isoflop: {sentence}", file=sys.stderr)
    sys.exit(2)


def _console(*, err: bool = False) -> Console:
    from rich.console import Console

    terminal = (sys.stderr if err else sys.stdout).isatty()
    # Where nobody looks at a screen, tables keep their lines whole.
    return Console(stderr=err, width=None if terminal else 200)


def _print_json(record: object) -> None:
    print(json.dumps(record, indent=2))


def _whole_flops(budget: float) -> int:
    if not 1 <= budget <= 1e30:
        raise ValueError(f"--budget is {budget:g}: give FLOPs from 1 to 1e30, such as 1e12")
    return round(budget)


def _open(name: str) -> Store:
    from sweeps.store import Store

    named = Path("stores") / name
    is_name = not Path(name).exists() and Path(name).name == name and named.exists()
    return Store.open((named if is_name else Path(name)).resolve())


def _source(spec: SweepSpec) -> DataSource:
    from trainer.data import DataSource

    return DataSource.from_dict(asdict(spec.data))


def _find(spec: SweepSpec) -> Prepared | None:
    from trainer.prepare import default_cache, find

    return find(_source(spec), spec.models, max_length=spec.fixed.max_length, cache=default_cache())


def _prepare(spec: SweepSpec, console: Console) -> Prepared:
    return _prepare_source(_source(spec), spec.models, spec.fixed.max_length, console)


def _prepare_source(source: DataSource, models: Sequence[str], max_length: int, console: Console) -> Prepared:
    from cluster.view import preparing
    from trainer.prepare import default_cache, prepare

    with preparing(console) as report:
        return prepare(source, models, max_length=max_length, cache=default_cache(), report=report)


def _plan(spec: SweepSpec, prepared: Prepared | None) -> Plan:
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


def _prepared_of(store: Store) -> Prepared:
    from trainer.prepare import Prepared

    return Prepared.from_json(store.prepared)


def _begun(root: Path) -> Prepared | None:
    """What a sweep with rows was begun with, where that is still there: what was installed since is no matter."""
    from sweeps.store import Store
    from trainer.prepare import is_there

    if not (root / "sweep.yaml").exists() or not Store.open(root).trial_ids():
        return None
    prepared = _prepared_of(Store.open(root))
    return prepared if is_there(prepared) else None


def _drive(spec: SweepSpec, root: Path) -> None:
    """Prepare, run what has no row, report. Ends the process with status 1 where a trial failed."""
    from cluster import tables
    from cluster.driver import announce, driving
    from cluster.local import local_ray
    from cluster.status import read_status
    from cluster.view import watching
    from sweeps.plan import studies
    from sweeps.store import Store
    from trainer.prepare import default_cache

    console = _console()
    if (root / "sweep.yaml").exists() and Store.open(root).spec.hash != spec.hash:
        Store.create(root, spec, prepared="")  # refuses, and says which field differs, before minutes of preparation
    prepared = _begun(root) or _prepare(spec, console)
    planned = _plan(spec, prepared)
    shapes = {name: model.shape for name, model in prepared.models.items()}
    revisions = {name: model.revision for name, model in prepared.models.items()}
    all_studies = studies(spec, planned, data=prepared.manifest.hash, revisions=revisions, shapes=shapes)
    store = Store.create(root.resolve(), spec, prepared.to_json())
    console.print(tables.plan_summary(spec.name, planned))
    with driving(store.root), _stoppable(store, console):
        if len(store.trial_ids()) < planned.total.num_trials:
            with local_ray(default_cache()) as ray:
                from cluster.tune import run

                announce(store.root, ray.dashboard)
                _say(console, f"dashboard: {ray.dashboard} (its token: {ray.token_file})")
                with watching(console) as show:
                    outcome = run(all_studies, prepared, store, spec.resources, show)
            if outcome.stopped_by:
                name = outcome.stopped_by.name
                _say(console, f"stopped by {name}, and nothing is lost: go on with 'isoflop resume {store.root}'")
                sys.exit(128 + outcome.stopped_by)
        _conclude(store, read_status(store, planned), console)


@contextmanager
def _stoppable(store: Store, console: Console) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the process cleanly here too, before and after trials run, and say how to go on."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    except KeyboardInterrupt:
        _say(console, f"stopped, and nothing is lost: go on with 'isoflop resume {store.root}'")
        sys.exit(128 + signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def _conclude(store: Store, found: SweepStatus, console: Console) -> None:
    """Say what the sweep found and write its report. Ends the process with status 1 where a trial failed."""
    if found.failures:
        _say(console, f"{len(found.failures)} of {found.num_trials} trials failed: isoflop status {store.root}")
    measured = [group.budget_flops for group in found.groups if group.best_loss is not None]
    for answer in _recommend(store, [max(measured), 2 * max(measured)]) if measured else ():
        console.print()
        _tell(console, answer)
    if not measured:
        _say(console, "no trial is complete, so nothing can be recommended")
    _say(console, f"\nreport: {_write_report(store, None)}")
    if found.failures or not measured:
        sys.exit(1)


def _say(console: Console, text: str) -> None:
    """Words as they are: a path or a command is to be copied, so no line is broken."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _tell(console: Console, answer: Recommendation) -> None:
    """Sentences to be read: broken between words where a person looks at a screen."""
    sentences = "\n".join(answer.sentences())
    console.print(sentences, soft_wrap=not console.is_terminal, highlight=False, markup=False)


def _recommend(store: Store, budgets_flops: Sequence[int]) -> list[Recommendation]:
    from analysis.frontier import fit_frontier
    from analysis.recommend import recommend as recommend_at

    frontier = fit_frontier(store.read_trials())
    prepared = _prepared_of(store)
    shapes = [model.shape for model in prepared.models.values()]
    return [recommend_at(frontier, budget, shapes, prepared.statistics.tokens_per_pair) for budget in budgets_flops]


def _write_report(store: Store, budget_flops: int | None) -> Path:
    from analysis.frontier import fit_frontier
    from analysis.report import ReportContext, write_report
    from cluster import tables

    rows = store.read_trials()
    frontier = fit_frontier(rows)
    recommendation = None
    if frontier.budgets_flops:
        [recommendation] = _recommend(store, [budget_flops or 2 * max(frontier.budgets_flops)])
    spec, prepared = store.spec, _prepared_of(store)
    planned = _plan(spec, prepared)
    context = ReportContext(
        sweep=spec.name,
        manifest=tuple(tables.data_facts(prepared)),
        plan=tuple(tables.plan_facts(planned)),
        left_out=tuple((out.cell.words, out.reason) for out in planned.left_out),
        notes=NANO_NOTES if spec.data.source == "nano" else (),
    )
    curves = {trial_id: store.read_curve(trial_id) for trial_id in rows["trial_id"]}
    return write_report(store.root / "report", rows, curves, frontier, recommendation, context)


if __name__ == "__main__":
    main()

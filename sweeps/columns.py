"""The columns of the results store: one table that is the Parquet schema, the writer, and the documentation.

Knows how a ``TrialResult`` becomes a flat row and a row becomes a ``TrialResult`` again. Never knows a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from sweeps.score_row import score_columns
from trainer.result import (
    CheckedLoss,
    CurvePoint,
    Environment,
    Metrics,
    ParameterCounts,
    Spending,
    TrialResult,
    TrialState,
)
from trainer.trial import Placement, TrialSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of the rows: its name, Parquet type, unit and meaning, and where a result has its value."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str
    value: Callable[[TrialResult], object]
    nullable: bool = False


def _text(name: str, meaning: str, value: Callable[[TrialResult], object], unit: str = "") -> Column:
    return Column(name=name, type=pa.string(), unit=unit, meaning=meaning, value=value)


def _int(name: str, unit: str, meaning: str, value: Callable[[TrialResult], object]) -> Column:
    return Column(name=name, type=pa.int64(), unit=unit, meaning=meaning, value=value)


def _float(
    name: str, unit: str, meaning: str, value: Callable[[TrialResult], object], nullable: bool = False
) -> Column:
    return Column(name=name, type=pa.float64(), unit=unit, meaning=meaning, value=value, nullable=nullable)


def _setting(name: str, unit: str, meaning: str) -> Column:
    """A setting that only some methods have."""

    def value(result: TrialResult) -> object:
        return getattr(result.spec.method, name, None)

    return _float(f"method_{name}", unit, meaning, value, nullable=True)


def _metric(name: str, unit: str, meaning: str) -> Column:
    """A held-out metric."""

    def value(result: TrialResult) -> object:
        return getattr(result.metrics, name) if result.metrics else None

    return _float(name, unit, meaning + "; COMPLETE trials only", value, nullable=True)


COLUMNS: tuple[Column, ...] = (
    _text("trial_id", "Identity: budget, model, method, and a hash of `spec`; the file's name",
          lambda r: r.spec.trial_id),
    _text("state", "How the trial ended: COMPLETE, PRUNED, DIVERGED or FAILED", lambda r: r.state.value),
    _float("budget_flops", "FLOP", "Booked training FLOPs that the trial may spend",
           lambda r: float(r.spec.budget_flops)),
    _text("model", "Name in a ladder, Hub id, or folder", lambda r: r.spec.model),
    _text("revision", "Identity of the starting weights and tokenizer", lambda r: r.spec.revision),
    _text("method", "Method with its main setting, such as lora-r4", lambda r: r.spec.method.label),
    _text("method_kind", "full, freeze, bias or lora", lambda r: r.spec.method.kind),
    _setting("rank", "", "LoRA: rank of the adapters"),
    _setting("alpha", "", "LoRA: the adapters' output is scaled by alpha / rank"),
    _setting("active_fraction", "share", "Freeze: share of the blocks that train"),
    _float("learning_rate", "", "Peak learning rate of AdamW", lambda r: r.spec.hyperparameters.learning_rate),
    _float("temperature", "", "Training temperature", lambda r: r.spec.hyperparameters.temperature),
    _float("weight_decay", "", "Decoupled weight decay", lambda r: r.spec.hyperparameters.weight_decay),
    _int("batch_size", "pairs", "Pairs in a step, over all workers", lambda r: r.spec.hyperparameters.batch_size),
    _int("max_length", "tokens", "Tokens a text is cut to", lambda r: r.spec.hyperparameters.max_length),
    _float("warmup_fraction", "share", "Share of the budget with a rising learning rate",
           lambda r: r.spec.hyperparameters.warmup_fraction),
    _text("pooling", "How token states become an embedding: mean, last or weighted-mean (by position)",
          lambda r: r.spec.hyperparameters.pooling),
    _float("gradient_clipping", "", "Largest global gradient norm; 0 clips nothing",
           lambda r: r.spec.hyperparameters.gradient_clipping),
    _int("num_evaluation_pairs", "pairs", "Held-out pairs that give the loss", lambda r: r.spec.evaluation.num_pairs),
    _int("num_candidates", "pairs", "Positives that a query is compared with; chance loss is its logarithm",
         lambda r: r.spec.evaluation.num_candidates),
    _text("data", "Hash of the data manifest", lambda r: r.spec.data),
    _int("seed", "", "Decides the data order and the initial adapters", lambda r: r.spec.seed),
    _int("number", "", "The trial's number within its study, from 0", lambda r: r.spec.number),
    _metric("loss", "nat", "Held-out symmetric contrastive loss at its best scale: what is searched and fitted"),
    _metric("loss_rows", "nat", "Its half that ranks positives for a query"),
    _metric("loss_columns", "nat", "Its half that ranks queries for a positive"),
    _metric("calibrated_scale", "", "Logit scale that minimises the held-out loss"),
    _metric("raw_loss", "nat", "Held-out loss at the training temperature"),
    _float("train_loss", "nat", "In-batch loss over the last tenth of the steps, at the training temperature",
           lambda r: r.train_loss, nullable=True),
    _metric("accuracy", "share", "Queries whose positive ranks first among the candidates"),
    _metric("mrr", "", "Mean reciprocal rank of the positive"),
    _metric("ndcg_at_10", "", "nDCG@10 with the positive as the only relevant candidate"),
    _float("booked_flops", "FLOP", "Training FLOPs as the paper books them; exact up to 2^53",
           lambda r: float(r.spending.booked_flops)),
    _float("measured_flops", "FLOP", "With attention, padding, recomputation and evaluation; exact up to 2^53",
           lambda r: float(r.spending.measured_flops)),
    _int("tokens", "tokens", "Real tokens trained on", lambda r: r.spending.tokens),
    _int("padded_tokens", "tokens", "Tokens computed in attention, padding included",
         lambda r: r.spending.padded_tokens),
    _int("pairs", "pairs", "Pairs trained on", lambda r: r.spending.pairs),
    _int("steps", "steps", "Optimizer updates", lambda r: r.spending.steps),
    _float("epochs", "", "Passes over the train split; over its most repeated source where several are mixed",
           lambda r: r.epochs),
    _float("seconds", "s", "Wall time of training and evaluation, over all resumes", lambda r: r.spending.seconds),
    _float("device_seconds", "s", "Wall time times workers; on CUDA also times the share of a GPU that each has",
           lambda r: r.spending.seconds * r.placement.num_devices),
    _float("tokens_per_second", "tokens/s", "Real tokens trained on over wall time; absent where no time was spent",
           lambda r: r.spending.tokens / r.spending.seconds if r.spending.seconds else None, nullable=True),
    _int("peak_memory_bytes", "B", "Largest memory in use on one worker", lambda r: r.spending.peak_memory_bytes),
    _float("mfu", "share", "Booked FLOPs a second over the device's peak; absent where that is not known",
           lambda r: r.mfu, nullable=True),
    _int("num_params_total", "", "Parameters of the base model, without adapters", lambda r: r.counts.total),
    _int("num_params_embedding", "", "Of these, input embeddings", lambda r: r.counts.embedding),
    _int("num_params_non_embedding", "", "Of these, blocks and final norm: a profile's size axis",
         lambda r: r.counts.non_embedding),
    _int("num_params_adapter", "", "Adapter parameters on the blocks' linear layers", lambda r: r.counts.adapter),
    _int("num_params_trainable", "", "Parameters that receive gradients", lambda r: r.counts.trainable),
    _int("num_params_trainable_non_embedding", "", "Of these, those on blocks and final norm",
         lambda r: r.counts.trainable_non_embedding),
    _int("num_resumes", "", "Times that the trial went on from a checkpoint", lambda r: r.num_resumes),
    _text("host", "Machine that finished the trial", lambda r: r.environment.host),
    _text("device", "Device, by its own name", lambda r: r.environment.device),
    _int("num_threads", "", "Torch threads of a worker", lambda r: r.placement.num_threads),
    _int("num_workers", "", "Workers at the end", lambda r: r.placement.num_workers),
    _float("zero_stage", "", "DeepSpeed's ZeRO stage at the end; absent for plain torch",
           lambda r: r.placement.zero_stage, nullable=True),
    _text("dtype", "What the forward and backward pass computed in", lambda r: r.placement.dtype),
    _int("chunk_tokens", "tokens", "Tokens that a worker encoded at a time, at the end",
         lambda r: r.placement.chunk_tokens),
    _int("num_out_of_memory", "", "Times that the trial ran out of memory and went on with less",
         lambda r: r.num_out_of_memory),
    Column(name="checked", type=pa.string(), unit="JSON", nullable=True,
           meaning="Held-out losses on the way as [share of the budget, loss]; a PRUNED trial ended at the last one; "
           "absent where the spec prunes nothing",
           value=lambda r: json.dumps([[one.share, one.loss] for one in r.checked]) if r.spec.checks else None),
    _text("placement", "The whole placement at the end", lambda r: json.dumps(asdict(r.placement)), "JSON"),
    _text("versions", "Versions of the packages that can change the numbers", lambda r: r.environment.versions, "JSON"),
    _text("git_commit", "Commit of isoflop; empty where it is not a checkout", lambda r: r.environment.git_commit),
    _text("finished_at", "When the trial ended, in UTC", lambda r: r.finished_at, "ISO 8601"),
    _text("error", "What went wrong; empty unless DIVERGED or FAILED", lambda r: r.error),
    _text("spec", "The whole trial spec, from which everything above up to `number` follows",
          lambda r: r.spec.to_json(), "JSON"),
)  # fmt: skip

SCHEMA = pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in COLUMNS])

_CURVE_TYPES = {"int": pa.int64(), "float": pa.float64()}
CURVE_SCHEMA = pa.schema(
    [
        # A day of one large GPU is more FLOPs than 64 bits count.
        pa.field(f.name, pa.float64() if f.name.endswith("_flops") else _CURVE_TYPES[str(f.type)], nullable=False)
        for f in fields(CurvePoint)
    ]
)


def to_row(result: TrialResult) -> pa.Table:
    """One row of the schema."""
    return pa.Table.from_pylist([{c.name: c.value(result) for c in COLUMNS}], schema=SCHEMA)


def to_curve(result: TrialResult) -> pa.Table:
    """One row for each point of the result's curve."""
    columns = {name: [getattr(point, name) for point in result.curve] for name in CURVE_SCHEMA.names}
    return pa.table(columns, schema=CURVE_SCHEMA)


def from_row(row: Mapping[str, Any]) -> TrialResult:
    """The result that ``to_row`` wrote, without its curve. ``row`` is a row of the Arrow table as plain values."""
    return TrialResult(
        spec=TrialSpec.from_json(row["spec"]),
        state=TrialState(row["state"]),
        metrics=None if row["loss"] is None else Metrics(**{f.name: row[f.name] for f in fields(Metrics)}),
        spending=Spending(
            **{
                **{f.name: row[f.name] for f in fields(Spending)},
                "booked_flops": int(row["booked_flops"]),
                "measured_flops": int(row["measured_flops"]),
            }
        ),
        counts=ParameterCounts(**{f.name: row[f"num_params_{f.name}"] for f in fields(ParameterCounts)}),
        environment=Environment(**{f.name: row[f.name] for f in fields(Environment)}),
        placement=Placement(**json.loads(row["placement"])),
        epochs=row["epochs"],
        train_loss=row["train_loss"],
        mfu=row["mfu"],
        num_resumes=row["num_resumes"],
        num_out_of_memory=row["num_out_of_memory"],
        finished_at=row["finished_at"],
        error=row["error"],
        curve=(),
        checked=tuple(CheckedLoss(share=s, loss=loss) for s, loss in checked_losses(row["checked"]).items()),
    )


def checked_losses(text: str | None) -> dict[float, float]:
    """What the column ``checked`` holds: held-out losses by share of the budget."""
    found: list[tuple[float, float]] = json.loads(text or "[]")
    return dict(found)


def contradictions(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Columns that are not as the row's own spec and placement have them: none in what ``to_row`` wrote."""
    result = from_row(row)
    return tuple(c.name for c in COLUMNS if c.value(result) != row[c.name])


def with_later_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns that may be absent, empty where a row was written before there were such columns."""
    for number, field in enumerate(schema):
        if field.nullable and field.name not in table.schema.names and number <= table.num_columns:
            table = table.add_column(number, field, pa.nulls(len(table), field.type))
    return table


def columns_markdown() -> str:
    """The columns of rows and curves as Markdown tables: the content of ``docs/columns.md``."""
    curve = (
        ("step", "steps", "Optimizer updates so far, from 1"),
        ("tokens", "tokens", "Real tokens trained on so far"),
        ("spent_flops", "FLOP", "Booked FLOPs so far"),
        ("learning_rate", "", "Learning rate of the step"),
        ("train_loss", "nat", "In-batch contrastive loss of the step, at the training temperature"),
        ("gradient_norm", "", "Global L2 norm of the gradient before clipping"),
    )
    assert [name for name, _, _ in curve] == CURVE_SCHEMA.names
    rows = [(c.name, f"{c.type}{', may be absent' if c.nullable else ''}", c.unit, c.meaning) for c in COLUMNS]
    points = [(name, str(CURVE_SCHEMA.field(name).type), unit, meaning) for name, unit, meaning in curve]
    return (
        "# The columns of the results store\n\n"
        "Made from `sweeps/columns.py`; a test keeps the two equal. Read the files with pandas, polars or DuckDB.\n\n"
        "## `trials/<trial_id>.parquet`: one row for each trial\n\n"
        f"{_markdown_table(rows)}\n"
        "## `curves/<trial_id>.parquet`: about 200 steps of a trial\n\n"
        f"{_markdown_table(points)}\n"
        "## `scores/<trial_id>/<task>.parquet`: one row for each evaluation of a trial\n\n"
        "Those of word matching have the same columns, as `baselines/<name>/<task>.parquet`.\n\n"
        f"{_markdown_table(score_columns())}"
    )


def _markdown_table(rows: Iterable[tuple[str, str, str, str]]) -> str:
    lines = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {kind} | {unit} | {meaning} |" for name, kind, unit, meaning in rows]
    return "\n".join(lines) + "\n"

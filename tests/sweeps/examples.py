"""A small spec, its plan and studies, and results, shared by the tests of ``sweeps/``."""

from __future__ import annotations

from sweeps.plan import DataFacts, Study, plan, studies
from sweeps.reading import read_spec
from sweeps.spec import SweepSpec
from trainer.ladder import SHAPES, parameter_counts
from trainer.result import CurvePoint, Environment, Metrics, Spending, TrialResult, TrialState
from trainer.trial import Placement, TrialSpec

SPEC = """\
name: example
data: nano
models: [nano-3k, nano-14k]
methods: [full, {lora: {rank: 4, alpha: 8}}]
budgets_flops: [8e10, 4e10]
trials: 3
search:
  learning_rate: {of: pretraining, low: 0.1, high: 10, start: 1}
  temperature: 0.05
  weight_decay: {low: 0.001, high: 1}
fixed: {batch_size: 64, max_length: 32, gradient_clipping: 1}
"""
FACTS = DataFacts(num_train_pairs=62_000, tokens_per_pair=49.2, measured=True)


def edited(old: str, new: str) -> str:
    assert old in SPEC
    return SPEC.replace(old, new)


def studies_of(spec: SweepSpec) -> tuple[Study, ...]:
    planned = plan(spec, FACTS, SHAPES)
    return studies(
        spec, planned, data="0123456789abcdef", revisions=dict.fromkeys(spec.models, "weights"), shapes=SHAPES
    )


def trial_spec(number: int = 0, text: str = SPEC) -> TrialSpec:
    study = studies_of(read_spec(text))[0]
    hyperparameters = study.fixed.with_searched(learning_rate=0.01 / (number + 3), temperature=0.05, weight_decay=0.1)
    return study.trial(number, hyperparameters)


def result_of(spec: TrialSpec, *, state: TrialState = TrialState.COMPLETE, loss: float = 3.5) -> TrialResult:
    metrics = Metrics(
        loss=loss,
        loss_rows=loss - 1 / 3,
        loss_columns=loss + 1 / 3,
        calibrated_scale=21.7,
        raw_loss=loss + 0.1,
        accuracy=0.2,
        mrr=0.3,
        ndcg_at_10=0.35,
    )
    complete = state is TrialState.COMPLETE
    return TrialResult(
        spec=spec,
        state=state,
        metrics=metrics if complete else None,
        spending=Spending(
            booked_flops=spec.budget_flops - 7,
            measured_flops=spec.budget_flops * 2 + 1,
            tokens=2_000_000,
            padded_tokens=2_100_000,
            pairs=40_000,
            steps=639,
            seconds=4.5,
            peak_memory_bytes=10**8,
        ),
        counts=parameter_counts(SHAPES[spec.model], spec.method),
        environment=Environment(host="a-host", device="cpu", versions='{"torch":"2"}', git_commit=""),
        placement=Placement(num_workers=2, zero_stage=3, recompute=True),
        epochs=0.645,
        train_loss=2.25 if complete else None,
        mfu=None,
        num_resumes=1,
        num_out_of_memory=1,
        finished_at="2026-11-22T02:00:00+00:00",
        error="" if complete else "step 3: loss nan",
        curve=tuple(
            CurvePoint(
                step=step, tokens=100 * step, spent_flops=1000 * step, learning_rate=0.1 / step, train_loss=4.0 / step,
                gradient_norm=1.5,
            )
            for step in range(1, 6)
        ),
    )  # fmt: skip

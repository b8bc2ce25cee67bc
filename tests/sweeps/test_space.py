"""Lists, whole numbers and settings of a method as dimensions of a study; and specs without them stay as they were."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import replace

import pytest

from sweeps.agenda import Agenda
from sweeps.plan import Study, plan, studies
from sweeps.reading import read_spec
from sweeps.search import Finished, suggest
from sweeps.space import Choices, Range
from tests.sweeps.examples import FACTS, studies_of
from tests.sweeps.test_plan import NANO_FACTS, PAQ_FACTS
from tests.sweeps.test_search import run_alone, run_wildly, tried
from trainer.flops import booked_flops_per_token, num_tokens
from trainer.ladder import SHAPES, parameter_counts
from trainer.result import TrialState
from trainer.trial import Freeze, Full, Lora, TrialSpec

SPEC = """\
name: wide
data: nano
models: [nano-3k]
methods:
  - full
  - lora: {rank: {low: 1, high: 16}, alpha: [8, 16]}
  - freeze: {active_fraction: [0.5, 1.0]}
budgets_flops: [4e10]
trials: 12
search:
  learning_rate: {of: pretraining, low: 0.1, high: 10}
  warmup_fraction: {low: 0.02, high: 0.3}
  pooling: [last, mean, weighted-mean]
fixed: {batch_size: 64, max_length: 32}
limits: {max_epochs: 100}
"""


def study_of(kind: str, text: str = SPEC) -> Study:
    return next(study for study in studies_of(read_spec(text)) if study.cell.method.kind == kind)


def edited(*edits: tuple[str, str]) -> str:
    text = SPEC
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    ("preset", "ids", "spec_hash"),
    # As they were before a spec could search any of this.
    [
        ("isoflop-bias", "61e3b6ba40351ceb", "408a5c88e1de41c6"),
        ("isoflop-lora", "e5844892a0d32c77", "11aa237b9d4bd1de"),
        ("learning-rate", "2ac552291b9b13fb", "7f55008e29303f5a"),
        ("pythia", "b48d3cffab1989b1", "46128d285e30ebae"),
        ("quickstart", "fe7b6ce8b7a5f170", "80ac994d9ff8d272"),
        ("smoke", "6c2601a3b648610d", "80d39c64106aefd5"),
        ("temperature-weight-decay", "16e4fc35448d63d8", "7d0ce5cea22f643a"),
    ],
)
def test_ids_of_specs_that_ask_for_nothing_new_do_not_move(preset: str, ids: str, spec_hash: str) -> None:
    spec = read_spec(preset)
    made = plan(spec, NANO_FACTS if spec.data.source == "nano" else PAQ_FACTS, SHAPES)
    revisions = dict.fromkeys(spec.models, "weights")
    agenda = Agenda(studies(spec, made, data="0123456789abcdef", revisions=revisions, shapes=SHAPES))
    now = "\n".join(sorted(agenda.trial(*item).trial_id for item in agenda.ready()))
    assert hashlib.sha256(now.encode()).hexdigest()[:16] == ids
    assert spec.hash == spec_hash


def test_a_spec_with_everything_searched_reads_back_as_it_is() -> None:
    spec = read_spec(SPEC)
    assert read_spec(spec.to_yaml()) == spec
    lora = spec.methods[1]
    assert (lora.method, lora.smallest) == (Lora(rank=16, alpha=16), Lora(rank=1, alpha=8))
    assert lora.space.rank == Range(low=1, high=16, whole=True)
    assert lora.space.alpha == Choices(values=(8, 16))
    assert [method.label for method in spec.methods] == ["full", "lora", "freeze"]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_every_dimension_is_searched_within_its_bounds_and_in_its_kind(sampler: str) -> None:
    study = study_of("lora", edited(("search:", f"search:\n  sampler: {sampler}")))
    rows: dict[int, Finished] = {}
    for n in range(12):
        given = suggest(study, n, rows)
        spec = study.trial(n, given.hyperparameters, method=given.method)
        loss = 3 + abs(math.log(given.hyperparameters.learning_rate / 0.02))
        rows[n] = Finished(spec=TrialSpec.from_json(spec.to_json()), state=TrialState.COMPLETE, loss=loss)
    methods = [row.spec.method for row in rows.values()]
    assert all(isinstance(m, Lora) and isinstance(m.rank, int) and 1 <= m.rank <= 16 for m in methods)
    assert {m.alpha for m in methods if isinstance(m, Lora)} == {8, 16}
    assert len({m.rank for m in methods if isinstance(m, Lora)}) > 3
    hypers = [row.spec.hyperparameters for row in rows.values()]
    assert {h.pooling for h in hypers} == {"last", "mean", "weighted-mean"}
    assert all(0.02 <= h.warmup_fraction <= 0.3 for h in hypers)
    assert hypers[0].pooling == "last", "the first of a list"


def test_the_first_trial_of_another_method_keeps_its_own_settings() -> None:
    assert suggest(study_of("full"), 0, {}).method == Full()
    assert suggest(study_of("freeze"), 0, {}).method == Freeze(active_fraction=0.5)


def test_what_is_tried_with_lists_does_not_depend_on_timing_or_crashes() -> None:
    def ending(spec: TrialSpec) -> Finished:
        loss = 3 + spec.hyperparameters.learning_rate + 0.1 * (spec.hyperparameters.pooling == "last")
        return Finished(spec=spec, state=TrialState.COMPLETE, loss=loss)

    all_studies = studies_of(read_spec(edited(("trials: 12", "trials: 6"))))
    alone = run_alone(all_studies, ending)
    assert len(alone) == 18
    for seed in range(3):
        assert tried(run_wildly(all_studies, random.Random(seed), ending)) == tried(alone)


def test_a_cell_is_planned_for_its_largest_setting_and_its_epochs_for_the_cheapest() -> None:
    [cell] = [c for c in plan(read_spec(SPEC), FACTS, SHAPES).cells if c.cell.label == "lora"]
    shape = SHAPES["nano-3k"]
    large, small = Lora(rank=16, alpha=16), Lora(rank=1, alpha=8)
    assert cell.flops_per_token == booked_flops_per_token(parameter_counts(shape, large), large)
    assert cell.tokens == 4 * 10**10 // cell.flops_per_token
    cheapest = num_tokens(4 * 10**10, parameter_counts(shape, small), small)
    assert cell.epochs == pytest.approx(cheapest / FACTS.tokens_per_pair / 62_000, rel=1e-4)


def test_a_grid_has_all_of_a_list_and_repeats_the_best_of_each_pooling() -> None:
    text = edited(
        ("search:", "seeds: 3\nsearch:\n  sampler: grid"),
        ("  warmup_fraction: {low: 0.02, high: 0.3}\n", ""),
        ("trials: 12", "trials: 6"),
        ("  - lora: {rank: {low: 1, high: 16}, alpha: [8, 16]}\n  - freeze: {active_fraction: [0.5, 1.0]}\n", ""),
    )
    study = study_of("full", text)
    assert (study.num_searched, study.num_repeats) == (6, 6)

    def ending(spec: TrialSpec) -> Finished:
        return Finished(spec=spec, state=TrialState.COMPLETE, loss=3 + spec.hyperparameters.learning_rate)

    specs = run_alone((study,), ending)
    low = min(spec.hyperparameters.learning_rate for spec in specs)
    searched, repeats = specs[:6], specs[6:]
    assert len({(s.hyperparameters.pooling, s.hyperparameters.learning_rate) for s in searched}) == 6
    assert {s.seed for s in searched} == {0}
    assert sorted((s.hyperparameters.pooling, s.seed) for s in repeats) == [
        (pooling, seed) for pooling in ("last", "mean", "weighted-mean") for seed in (1, 2)
    ]
    assert all(s.hyperparameters.learning_rate == low for s in repeats)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([("{low: 1, high: 16}", "[1, 1]")], "rank has 1 twice"),
        ([("{low: 1, high: 16}", "[4]")], "rank is .4.: give two values"),
        ([("{low: 1, high: 16}", "{low: 1.5, high: 16}")], "rank is 1.5: give a whole number"),
        ([("{low: 1, high: 16}", "[0, 4]")], "rank is 0: give a whole number from 1 up"),
        ([("[last, mean, weighted-mean]", "mean")], "pooling is 'mean': give a list"),
        ([("[last, mean, weighted-mean]", "[mean, max]")], r"pooling\[1\] is 'max': choose 'mean', 'last'"),
        ([("high: 0.3}", "high: 1}")], "warmup_fraction is 1: give a number below 1"),
        ([("  - full\n", "  - lora: {rank: 2, alpha: 8}\n")], "searches settings of 'lora', and another"),
        ([("search:", "search:\n  pruning: {shares: [1.5]}")], r"pruning.shares\[0\] is 1.5: give a number below 1"),
    ],
)
def test_bad_dimensions_are_refused_in_a_sentence(edits: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_spec(edited(*edits))


def test_samplers_say_what_they_cannot_search() -> None:
    with pytest.raises(ValueError, match=r"grid over .*: give 6 times a whole number to the power of 3"):
        Agenda([replace(study_of("lora"), sampler="grid", num_trials=7)])
    with pytest.raises(ValueError, match="'cmaes' with a list for pooling"):
        Agenda([replace(study_of("lora"), sampler="cmaes")])

"""The plan's arithmetic against numbers worked out by hand, its reasons, its order, and the plans of the presets.

After a preset has been changed on purpose: ``python -m tests.sweeps.test_plan`` writes its plan anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.plan import Cell, DataFacts, Plan, plan, study_key
from sweeps.reading import preset_names, read_spec
from tests.sweeps.examples import FACTS, SPEC, edited, studies_of
from trainer.flops import booked_flops_per_token
from trainer.ladder import SHAPES, gpt_neox, parameter_counts
from trainer.trial import METHODS, Bias, Freeze, Full, Lora, method_from

PLANS = Path(__file__).parent / "plans"
NANO_FACTS = DataFacts(num_train_pairs=62_000, tokens_per_pair=49.2, measured=True)
# PAQ's pairs, at the paper's mean length.
PAQ_FACTS = DataFacts(num_train_pairs=53_000_000, tokens_per_pair=78, measured=False)


def shown(preset: str) -> str:
    """A preset's plan as text: one line a cell, in the order of running."""
    spec = read_spec(preset)
    made = plan(spec, NANO_FACTS if spec.data.source == "nano" else PAQ_FACTS, SHAPES)
    lines = [
        f"{c.cell.words} | {c.num_trials} trials of {c.steps} steps, {c.tokens} tokens, {c.epochs:.3f} epochs"
        for c in made.cells
    ]
    lines += [f"left out: {out.cell.words} | {out.reason}" for out in made.left_out]
    for budget, total in [*made.budgets.items(), ("all", made.total)]:
        lines.append(f"total {budget}: {total.num_cells} cells, {total.num_trials} trials, {total.flops} FLOPs")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("preset", preset_names())
def test_the_plan_of_each_preset(preset: str) -> None:
    assert shown(preset) == (PLANS / f"{preset}.txt").read_text()


@pytest.mark.parametrize(
    ("model", "budget", "steps"),
    # Updates of 1024 pairs of 78 tokens for full fine-tuning: the budget over 6 N 78 1024, by hand.
    [
        ("EleutherAI/pythia-14m", 15 * 10**14, 2630),
        ("EleutherAI/pythia-70m", 24 * 10**15, 2647),
        ("EleutherAI/pythia-410m", 24 * 10**15, 165),
        ("EleutherAI/pythia-2.8b", 1536 * 10**15, 1273),
    ],
)
def test_steps_of_full_fine_tuning(model: str, budget: int, steps: int) -> None:
    spec = replace(read_spec("pythia"), models=(model,), budgets_flops=(budget,))
    [full] = [c for c in plan(spec, PAQ_FACTS, SHAPES).cells if c.cell.method == Full()]
    assert full.steps == steps == budget // (6 * SHAPES[model].num_params_non_embedding * 78 * 1024)


def test_a_planned_cell_adds_up() -> None:
    for cell in plan(read_spec("quickstart"), FACTS, SHAPES).cells:
        assert 0 <= cell.cell.budget_flops - cell.tokens * cell.flops_per_token < cell.flops_per_token
        assert cell.pairs == int(cell.tokens / FACTS.tokens_per_pair)
        assert cell.steps == cell.pairs // 64
        assert cell.epochs == cell.pairs / 62_000
        assert cell.flops == cell.num_trials * cell.cell.budget_flops


def test_cheapest_budget_first_and_the_longest_first_within_it() -> None:
    cells = plan(read_spec(SPEC), FACTS, SHAPES).cells
    assert [(c.cell.budget_flops, -c.steps) for c in cells] == sorted((c.cell.budget_flops, -c.steps) for c in cells)
    assert [c.cell.budget_flops for c in cells] == [4 * 10**10] * 4 + [8 * 10**10] * 4
    assert cells[0].steps > cells[-1].steps


def test_totals() -> None:
    made = plan(read_spec(edited("alpha: 8}}", "alpha: 8}, trials: 5}")), FACTS, SHAPES)
    assert (made.total.num_cells, made.total.num_trials) == (8, 2 * 2 * (3 + 5))
    assert made.total.flops == 2 * (3 + 5) * (4 * 10**10 + 8 * 10**10)
    assert list(made.budgets) == [4 * 10**10, 8 * 10**10]
    assert made.budgets[8 * 10**10].flops == 2 * (3 + 5) * 8 * 10**10


def reasons(made: Plan) -> dict[str, str]:
    return {out.cell.words: out.reason for out in made.left_out}


def test_too_few_steps() -> None:
    made = plan(read_spec(edited("fixed: {", "limits: {min_steps: 200}\nfixed: {")), FACTS, SHAPES)
    assert reasons(made)["nano-14k, full, 4e10 FLOPs"] == "nano-14k at 4e10 FLOPs gets 146 steps, fewer than 200"


def test_too_many_epochs() -> None:
    few = DataFacts(num_train_pairs=5_000, tokens_per_pair=49.2, measured=True)
    made = plan(read_spec(SPEC), few, SHAPES)
    words = "nano-3k at 4e10 FLOPs goes 8.2 times through the data, more than 8"
    assert reasons(made)["nano-3k, full, 4e10 FLOPs"] == words


def test_epochs_are_over_the_most_repeated_source() -> None:
    mixed = replace(FACTS, pairs_per_epoch=FACTS.num_train_pairs // 10)
    epochs = {c.cell.words: c.epochs for c in plan(read_spec(SPEC), FACTS, SHAPES).cells}
    limits = edited("fixed: {", "limits: {max_epochs: 100}\nfixed: {")
    for cell in plan(read_spec(limits), mixed, SHAPES).cells:
        assert cell.epochs == pytest.approx(10 * epochs[cell.cell.words])
    assert "goes 6.6 times" in "".join(reasons(plan(read_spec(limits.replace("100", "6")), mixed, SHAPES)).values())


def test_without_a_count_of_pairs_epochs_are_absent_and_limit_nothing() -> None:
    unknown = DataFacts(num_train_pairs=None, tokens_per_pair=49.2, measured=False)
    made = plan(read_spec(SPEC), unknown, SHAPES)
    assert not made.left_out and {c.epochs for c in made.cells} == {None}


def test_bias_on_a_model_without_biases_and_a_model_of_unknown_shape() -> None:
    spec = read_spec(edited("[full, {lora", "[full, bias, {lora").replace("nano-14k", "org/other"))
    plain = replace(SHAPES["nano-3k"], num_biases_block=0, num_biases_final=0)
    made = plan(spec, FACTS, {"nano-3k": plain})
    assert "has no biases" in reasons(made)["nano-3k, bias, 4e10 FLOPs"]
    assert "shape of org/other is not known" in reasons(made)["other, full, 8e10 FLOPs"]
    assert {c.cell.method for c in made.cells} == {Full(), Lora(rank=4, alpha=8)}


def test_nothing_left_to_run_is_said() -> None:
    with pytest.raises(ValueError, match=r"no cell left.*gets 0 steps, fewer than 50.*give other budgets_flops"):
        studies_of(read_spec(edited("[8e10, 4e10]", "[1000]")))


def test_an_unknown_pretraining_rate_is_refused_in_the_plan() -> None:
    shape = gpt_neox("org/own", num_layers=1, width=16, num_heads=2, vocab_size=99, pretraining_learning_rate=0.0)
    spec = read_spec(edited("nano-14k", "org/own"))
    with pytest.raises(ValueError, match=r"search\.learning_rate.*org/own is not known.*without 'of: pretraining'"):
        plan(spec, FACTS, {**SHAPES, "org/own": shape})


def test_studies_carry_all_that_a_trial_needs() -> None:
    spec = read_spec(SPEC)
    made = studies_of(spec)
    assert [s.key for s in made][:2] == ["4e10-nano-3k-lora-r4", "4e10-nano-3k-full"]
    small, large = (s for s in made if s.cell.method == Full() and s.cell.budget_flops == 4 * 10**10)
    assert (small.space.learning_rate.start, large.space.learning_rate.start) == (0.016, 0.01)
    trial = small.trial(2, small.fixed.with_searched(learning_rate=0.1, temperature=0.05, weight_decay=0.2))
    assert (trial.model, trial.number, trial.seed, trial.budget_flops) == ("nano-3k", 2, 0, 4 * 10**10)
    assert (trial.data, trial.revision) == ("0123456789abcdef", "weights")
    assert (trial.hyperparameters.batch_size, trial.hyperparameters.weight_decay) == (64, 0.2)


def test_trials_share_the_seed_unless_they_are_repetitions() -> None:
    searched = studies_of(read_spec(SPEC))[0]
    fixed = "learning_rate: 0.01\n  temperature: 0.05\n  weight_decay: 0.1\n"
    text = SPEC[: SPEC.index("  learning_rate")] + "  " + fixed + SPEC[SPEC.index("fixed:") :]
    repeated = studies_of(read_spec(text))[0]
    point = searched.fixed.with_searched(learning_rate=0.01, temperature=0.05, weight_decay=0.1)
    assert [searched.trial(n, point).seed for n in range(3)] == [0, 0, 0]
    assert [repeated.trial(n, point).seed for n in range(3)] == [0, 1, 2]
    assert len({repeated.trial(n, point).trial_id for n in range(3)}) == 3


@given(
    st.sets(
        st.tuples(
            st.integers(1, 10**12) | st.sampled_from([10**10, 10**11, 113 * 10**9, 1134 * 10**8]),
            st.sampled_from(["a/model", "b/model", "model"]),
            st.sampled_from(
                [Full(), Bias(), Freeze(active_fraction=0.5), Lora(rank=4, alpha=8), Lora(rank=44, alpha=8)]
            ),
        ),
        min_size=2,
        max_size=20,
    )
)
def test_no_two_cells_share_a_key(points: set[tuple[int, str, Full]]) -> None:
    keys = {study_key(Cell(budget_flops=budget, model=model, method=method)) for budget, model, method in points}
    assert len(keys) == len(points)


def test_every_method_can_be_planned() -> None:
    settings = {"freeze": {"active_fraction": 0.5}, "lora": {"rank": 4, "alpha": 8}}
    for kind in METHODS:
        method = method_from(kind, **settings.get(kind, {}))
        counts = parameter_counts(SHAPES["nano-14k"], method)
        [cell] = plan(
            read_spec(
                edited("[full, {lora: {rank: 4, alpha: 8}}]", f"[{{{kind}: {settings.get(kind, {})}}}]")
                .replace("[nano-3k, nano-14k]", "nano-14k")
                .replace("8e10, ", "")
            ),
            FACTS,
            SHAPES,
        ).cells
        assert cell.flops_per_token == booked_flops_per_token(counts, method)


if __name__ == "__main__":
    for name in preset_names():
        (PLANS / f"{name}.txt").write_text(shown(name))

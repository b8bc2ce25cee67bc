"""Which method and model, what another choice costs, and which limit bites: known answers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from analysis.choice import Alternative
from analysis.constraints import Constraints, latency_ms, step_bytes
from analysis.frontier import Frontier, fit_frontier
from analysis.hardware import hardware
from analysis.recommend import Recommendation, recommend
from tests.analysis.law_rows import FULL, LORA, TOKENS_PER_PAIR, law_rows, parabola_law
from trainer.flops import forward_flops
from trainer.ladder import LADDERS, SHAPES
from trainer.memory import StepLoad

NANO_SHAPES = LADDERS["nano"]
ROWS = law_rows(parabola_law())


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    return fit_frontier(ROWS)


def ask(frontier: Frontier, budget: float, constraints: Constraints | None = None) -> Recommendation:
    return recommend(frontier, int(budget), NANO_SHAPES, TOKENS_PER_PAIR, constraints)


def kinds(answer: Recommendation) -> list[str]:
    return [bite.kind for bite in answer.bites]


def test_the_runner_up_method_costs_what_the_law_says(frontier: Frontier) -> None:
    runner_up: Alternative = ask(frontier, 3e11).alternatives[0]
    assert runner_up.method == "lora-r4"
    # Both methods have the same size law here, so that rounding the size costs them the same.
    assert runner_up.more_loss == pytest.approx(0.4 * 3**-0.1, abs=2e-3)
    assert runner_up.more_loss_interval.low < 0.4 * 3**-0.1 < runner_up.more_loss_interval.high
    assert runner_up.more_flops is not None
    budget = 3e11 * runner_up.more_flops
    # At that budget the runner-up's law, with its nearest model, gives the recommended loss.
    law = parabola_law()
    best = min(law(LORA, round(budget), shape) for shape in NANO_SHAPES)
    assert best == pytest.approx(ask(frontier, 3e11).loss, abs=3e-3)


def test_the_runner_up_model_costs_what_the_parabola_says(frontier: Frontier) -> None:
    answer = ask(frontier, 1e12)
    other = answer.alternatives[1]
    assert (other.method, other.model) == ("full", "nano-14k")
    optimum = math.log10(7e3 * 10**0.5)
    sizes = [math.log10(SHAPES[name].num_params_non_embedding) for name in ("nano-25k", "nano-14k")]
    assert other.more_loss == pytest.approx(0.6 * ((sizes[1] - optimum) ** 2 - (sizes[0] - optimum) ** 2), abs=2e-3)
    assert other.more_flops is not None and 1.0 < other.more_flops < 2.0


def test_what_no_budget_reaches_is_said() -> None:
    # LoRA gets no better with more compute.
    rows = law_rows(
        lambda method, budget, shape: parabola_law(loss_exponent=-0.1 if method == FULL else 0.0)(
            method, budget, shape
        ),
        methods=(FULL, LORA),
    )
    runner_up = ask(fit_frontier(rows), 1e12).alternatives[0]
    assert runner_up.more_flops is None
    assert "no budget up to 100 times" in runner_up.sentence


def test_the_method_changes_at_a_known_crossover() -> None:
    # full: 3.0 (C/1e11)^-0.2, lora: 2.6 (C/1e11)^-0.1; they cross at 1e11 (3.0/2.6)^10 = 4.18e11.
    def loss(method, budget, shape):  # type: ignore[no-untyped-def]
        exponent = -0.2 if method == FULL else -0.1
        return parabola_law(level={"full": 3.0, "lora": 2.6}, loss_exponent=exponent)(method, budget, shape)

    crossing = fit_frontier(law_rows(loss, methods=(FULL, LORA)))
    crossover = 1e11 * (3.0 / 2.6) ** 10
    assert ask(crossing, 0.8 * crossover).method == LORA
    assert ask(crossing, 1.25 * crossover).method == FULL
    near = ask(crossing, crossover)
    assert near.probability_best == pytest.approx(0.5, abs=0.1)
    assert near.alternatives[0].more_flops == pytest.approx(1.0, abs=0.02)


def test_rounding_may_decide_between_methods() -> None:
    # By the laws full is a hair better; but its optimal size lies between two models, and that of LoRA on one.
    full_size = math.sqrt(SHAPES["nano-7k"].num_params_non_embedding * SHAPES["nano-14k"].num_params_non_embedding)
    lora_size = SHAPES["nano-7k"].num_params_non_embedding

    def loss(method, budget, shape):  # type: ignore[no-untyped-def]
        law = parabola_law(
            level={"full": 3.0, "lora": 3.001},
            size=full_size if method == FULL else lora_size,
            size_exponent=0.0,
            curvature=3.0,
        )
        return law(method, budget, shape)

    found = fit_frontier(law_rows(loss, methods=(FULL, LORA)))
    assert found.ranking_by_laws(10**11).standings[0].method == "full"
    answer = ask(found, 1.1e11)
    assert (answer.method, answer.model) == (LORA, "nano-7k")


@pytest.mark.parametrize(
    ("limit", "kind", "model"),
    [
        (Constraints(max_params=130_000), "max_params", "nano-14k"),
        (Constraints(max_width=24), "max_width", "nano-14k"),
    ],
)
def test_a_limit_changes_the_model_and_says_what_it_costs(
    frontier: Frontier, limit: Constraints, kind: str, model: str
) -> None:
    free, bound = ask(frontier, 1e12), ask(frontier, 1e12, limit)
    assert (free.model, bound.model) == ("nano-25k", model)
    assert kinds(bound)[0] == kind
    assert bound.loss is not None and free.loss is not None
    assert f"costs {bound.loss - free.loss:.3f} of loss" in bound.bites[0].sentence
    assert bound.bites[0].sentence in bound.cautions
    assert kinds(ask(frontier, 1e12, Constraints(max_params=1e6, max_width=1000))) == kinds(free)


def test_a_latency_is_the_forward_pass_at_the_device_s_rate(frontier: Frontier) -> None:
    machine = hardware(ROWS, "H100", mfu=0.5, price_per_hour=None)
    shape = SHAPES["nano-25k"]
    flops = forward_flops(shape, FULL, tokens=20, squared_lengths=400)
    assert latency_ms(shape, 20, machine) == pytest.approx(1e3 * flops / (0.5 * 989e12))
    limit = Constraints(max_latency_ms=0.9 * latency_ms(shape, 20, machine), tokens_per_query=20, hardware=machine)
    answer = ask(frontier, 1e12, limit)
    assert answer.model == "nano-14k"
    assert kinds(answer)[0] == "max_latency"
    assert "an estimated" in answer.bites[0].sentence


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_params": 0.0}, "--max-params is 0: give a number above 0"),
        ({"max_width": math.nan}, "--max-width is nan: give a number above 0"),
        ({"max_latency_ms": 1.0}, "--max-latency is 1 without a device"),
    ],
)
def test_a_wrong_limit_is_refused(fields: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Constraints(**fields)  # type: ignore[arg-type]


def test_limits_that_leave_no_model_are_refused(frontier: Frontier) -> None:
    with pytest.raises(
        ValueError, match=r"--max-params 5 leaves no model: even of nano-1k, the smallest, it has 33,656"
    ):
        ask(frontier, 1e12, Constraints(max_params=5))


def test_the_ends_of_the_ladder_and_repeated_data_bite(frontier: Frontier) -> None:
    shapes = [SHAPES[name] for name in ("nano-3k", "nano-7k", "nano-14k")]
    low = recommend(frontier, 5 * 10**9, shapes, TOKENS_PER_PAIR)
    assert kinds(low) == ["smallest_model"]
    high = recommend(frontier, 2 * 10**12, shapes, TOKENS_PER_PAIR)
    assert kinds(high) == ["largest_model"]
    assert "nano-14k, the largest model that may be chosen, is 2.2 times smaller" in high.bites[0].sentence
    assert kinds(ask(frontier, 1e14))[-1] == "data_exhausted"


def test_memory_bites_where_no_single_device_holds_the_step(frontier: Frontier) -> None:
    machine = hardware(ROWS, "T4", mfu=None, price_per_hour=None)
    assert "memory" not in kinds(ask(frontier, 1e12, Constraints(hardware=machine)))
    small = replace(machine, memory_bytes=10**8)
    answer = ask(frontier, 1e12, Constraints(hardware=small))
    assert kinds(answer)[-1] == "memory"
    assert "one T4 has 0" in answer.bites[-1].sentence


def test_memory_is_a_limit_where_the_devices_are_counted(frontier: Frontier) -> None:
    """A device that just holds nano-14k by full fine-tuning does not get nano-25k."""
    machine = hardware(ROWS, "T4", mfu=None, price_per_hour=None)
    free = ask(frontier, 1e12)
    assert free.model == "nano-25k"
    batch = free.hyperparameters.batch_size

    def need(name: str) -> int:
        load = StepLoad(shape=SHAPES[name], method=FULL, batch_size=batch, tokens=math.ceil(batch * TOKENS_PER_PAIR))
        return step_bytes(load, machine)

    tight = replace(machine, memory_bytes=need("nano-14k"))
    bound = ask(frontier, 1e12, Constraints(hardware=tight, num_gpus=1))
    assert bound.model == "nano-14k"
    assert kinds(bound)[0] == "memory"
    assert "Without this limit it would be nano-25k" in bound.bites[0].sentence
    assert ask(frontier, 1e12, Constraints(hardware=tight)).model == "nano-25k"
    roomy = replace(machine, memory_bytes=need("nano-25k"))
    assert "memory" not in kinds(ask(frontier, 1e12, Constraints(hardware=roomy, num_gpus=1)))
    with pytest.raises(ValueError, match=r"--gpus 1 of T4 hold no model's training step"):
        ask(frontier, 1e12, Constraints(hardware=replace(machine, memory_bytes=10**6), num_gpus=1))
    with pytest.raises(ValueError, match="--gpus is 2 without a device"):
        Constraints(num_gpus=2)


def test_a_method_without_a_model_near_its_optimum_is_named() -> None:
    def loss(method, budget, shape):  # type: ignore[no-untyped-def]
        return parabola_law(size=7e3 if method == FULL else 2.5e3, size_exponent=0.2)(method, budget, shape)

    found = fit_frontier(law_rows(loss, methods=(FULL, LORA)))
    answer = recommend(found, 10**11, [SHAPES["nano-25k"]], TOKENS_PER_PAIR)
    assert answer.method == FULL
    assert any("Not compared" in caution and "lora-r4" in caution for caution in answer.cautions)


def test_all_of_it_is_json(frontier: Frontier) -> None:
    machine = hardware(ROWS, "H100", mfu=None, price_per_hour=2.0)
    answer = ask(frontier, 1e14, Constraints(max_params=1e5, hardware=machine))
    record = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert [bite["kind"] for bite in record["bites"]] == kinds(answer)
    assert record["hardware"]["money"] == pytest.approx(2.0 * record["hardware"]["gpu_hours"])
    assert np.isfinite(record["hardware"]["gpu_hours"])


def test_draws_without_a_law_of_the_size_do_not_take_the_loss_away(frontier: Frontier) -> None:
    """A tenth of the draws may have too few optima for a size law; what their losses say still stands."""
    without = []
    for method in frontier.methods:
        assert method.size_law is not None
        log_levels = method.size_law.log_levels.copy()
        log_levels[::8] = np.nan
        without.append(replace(method, size_law=replace(method.size_law, log_levels=log_levels)))
    answer = ask(replace(frontier, methods=tuple(without)), 3e11)
    assert answer.loss_interval is not None
    assert math.isfinite(answer.loss_interval.low) and math.isfinite(answer.loss_interval.high)
    assert answer.probability_best > 0.99

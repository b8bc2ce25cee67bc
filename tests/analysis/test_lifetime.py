"""Training and serving together: sums by hand, the optimum against a search through the law, the front by its rule."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.constraints import Constraints
from analysis.frontier import Frontier, fit_frontier
from analysis.hardware import hardware
from analysis.lifetime import Lifetime, Service, lifetime, size
from analysis.recommend import recommend
from tests.analysis.law_rows import FULL, LORA, TOKENS_PER_PAIR, law_rows, parabola_law
from trainer.ladder import LADDERS, SHAPES

NANO_SHAPES = LADDERS["nano"]
LAW = parabola_law()
ROWS = law_rows(LAW, methods=(FULL, LORA))


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    return fit_frontier(ROWS)


def service(queries: float = 0.0, documents: float = 0.0, reembeddings: float = 0.0, months: float = 12) -> Service:
    return Service(
        queries_per_month=queries,
        documents=documents,
        reembeddings=reembeddings,
        months=months,
        tokens_per_query=20,
        tokens_per_document=30,
    )


def ask(frontier: Frontier, budget: float, served: Service, constraints: Constraints | None = None) -> Lifetime:
    answer = recommend(frontier, int(budget), NANO_SHAPES, TOKENS_PER_PAIR, constraints)
    return lifetime(frontier, answer, NANO_SHAPES, served)


def test_serving_is_a_forward_pass_of_every_text() -> None:
    shape = SHAPES["nano-25k"]
    weights = shape.num_layers * sum(i * o for i, o in shape.linears)
    served = service(queries=1000, documents=500, reembeddings=2, months=6)
    assert (served.num_queries, served.num_documents) == (6000, 1500)
    tokens, squares = 6000 * 20 + 1500 * 30, 6000 * 400 + 1500 * 900
    assert served.flops(shape) == 2 * weights * tokens + 4 * shape.width * shape.num_layers * squares
    assert served.index_bytes(shape) == 500 * 32 * 4


def test_with_little_to_serve_the_recommendation_is_the_optimum(frontier: Frontier) -> None:
    found = ask(frontier, 1e12, service(queries=1))
    assert found.optimum == found.recommended
    assert "Nothing that the laws can tell reaches its loss for less" in " ".join(found.sentences())


def test_with_much_to_serve_the_optimum_is_what_the_law_says(frontier: Frontier) -> None:
    served = service(queries=1e7)
    found = ask(frontier, 1e12, served)
    assert found.recommended.model == "nano-25k"
    wanted = LAW(FULL, 10**12, SHAPES["nano-25k"])
    budgets = np.geomspace(4e10, 1.44e12, 4000)
    costs = {
        (shape.name, method.label): budgets[reached.argmax()] + served.flops(shape)
        for method in (FULL, LORA)
        for shape in NANO_SHAPES
        if (reached := np.array([LAW(method, b, shape) <= wanted + 1e-9 for b in budgets])).any()
    }
    assert found.optimum is not None
    cheapest = min(costs, key=lambda key: costs[key])
    assert (found.optimum.model, found.optimum.method) == cheapest == ("nano-14k", "full")
    assert found.optimum.lifetime_flops == pytest.approx(costs[cheapest], rel=0.01)
    assert found.optimum.training_flops > found.recommended.training_flops
    assert found.optimum.known_loss <= wanted + 1e-3
    assert "Its loss for the least over its life: nano-14k by full" in " ".join(found.sentences())


def test_the_front_has_every_option_that_no_other_beats(frontier: Frontier) -> None:
    found = ask(frontier, 1e12, service(queries=1e6, documents=1e6))
    costs = [option.lifetime_flops for option in found.front]
    losses = [option.known_loss for option in found.front]
    assert costs == sorted(costs) and len(set(costs)) == len(costs)
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == len(losses)
    assert {option.method for option in found.front} == {"full"}, "LoRA has a higher loss here for as many FLOPs"
    assert len({option.model for option in found.front}) > 1
    for option in found.front:
        assert option.known_loss == pytest.approx(LAW(FULL, option.training_flops, SHAPES[option.model]), abs=5e-3)


def test_money_counts_both(frontier: Frontier) -> None:
    machine = hardware(ROWS, "H100", mfu=0.4, price_per_hour=2.0)
    found = ask(frontier, 1e12, service(documents=1e9), Constraints(hardware=machine))
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    ours = record["recommended"]
    assert ours["lifetime_flops"] == ours["training_flops"] + ours["serving_flops"]
    assert ours["money"] == pytest.approx(2.0 * ours["lifetime_flops"] / (0.4 * 989e12 * 3600))
    assert ours["index_bytes"] == 10**9 * SHAPES[ours["model"]].width * 4
    assert "which cost" in found.sentences()[1]


def test_without_laws_only_the_recommendation_is_priced() -> None:
    found = ask(fit_frontier(law_rows(LAW, budgets=[1.2e11])), 5e11, service(queries=1e6))
    assert (found.optimum, found.front) == (None, ())
    assert "cannot be foretold" in " ".join(found.sentences())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "nothing is served"),
        ({"queries": 5.0, "months": 0.0}, "nothing is served"),
        ({"queries": -1.0}, "--queries is -1: give a number from 0"),
        ({"documents": float("nan")}, "--documents is nan"),
        ({"documents": 1.0, "reembeddings": -3.0}, "--reembed is -3"),
    ],
)
def test_a_wrong_service_is_refused(fields: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        service(**fields)


def test_sizes_in_words() -> None:
    assert [size(number) for number in (512, 4.1e6, 409.6e9)] == ["512 B", "4.1 MB", "410 GB"]

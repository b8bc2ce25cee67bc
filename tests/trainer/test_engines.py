"""Both engines, any number of workers, any ZeRO stage, any method: one gradient, one course of losses, one state."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.ranks import on_workers
from tests.trainer.tiny import random_texts, tiny_decoder
from trainer import engine
from trainer.contrastive import contrastive_loss, deal, embed
from trainer.encoder import GROUPED_CAUSAL, Encoder, plan_chunks
from trainer.engine import Engine, TorchEngine
from trainer.methods import apply_method
from trainer.trial import Bias, Freeze, Full, Hyperparameters, Lora, Method, Placement
from trainer.world import ALONE, World

# A hundred engines are started in each world, by up to four processes: minutes where others use the processors too.
pytestmark = pytest.mark.timeout(1200)

METHODS: list[Method] = [Full(), Freeze(active_fraction=0.5), Bias(), Lora(rank=3, alpha=6.0)]
STAGES = (None, 0, 1, 2, 3)
ROUNDED_STAGES = (None, 1, 2, 3)
RESTARTED = [*((METHODS[3], stage) for stage in STAGES), *((method, 3) for method in METHODS[:3])]
# Four processes on two cores take minutes.
WORLD_SIZES = (1, 2, pytest.param(4, marks=pytest.mark.slow))
NUM_PAIRS, NUM_NEGATIVES = 12, 3
TEXTS = random_texts(2 * NUM_PAIRS + NUM_NEGATIVES)
SCALE = 20.0
NUM_STEPS = 10
CLIPPING = 5.0
LEARNING_RATES = [1e-3 * (1 + step % 3) for step in range(NUM_STEPS)]
FLOAT32 = Placement(chunk_tokens=37, recompute=True)
"""Chunks so small that workers have unequal numbers of them, of 2 and of 4 workers."""
HYPERPARAMETERS = Hyperparameters(
    learning_rate=1e-3, temperature=1 / SCALE, weight_decay=0.1, batch_size=NUM_PAIRS, max_length=20,
    warmup_fraction=0.1, pooling="mean", gradient_clipping=0.0,
)  # fmt: skip


def encoder_with(method: Method, dtype: torch.dtype = torch.float32) -> Encoder:
    """Wide enough that ZeRO-3 partitions its matrices. Adapters are moved off their zeros, which hide half of them."""
    backbone = tiny_decoder("gpt_neox", hidden_size=64, intermediate_size=128, attn_implementation=GROUPED_CAUSAL)
    torch.manual_seed(1)
    apply_method(backbone, method)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                parameter.normal_(std=0.3)
    return Encoder(backbone.to(dtype), "mean").eval()


def loss_of(started: Engine, placement: Placement, world: World) -> Tensor:
    embedded = embed(
        started.encoder,
        TEXTS,
        chunk_tokens=placement.chunk_tokens,
        recompute=placement.recompute,
        keep_last=started.keeps_last_chunk,
        encode=started,
        world=world,
    )
    queries, positives, negatives = embedded.embeddings.split([NUM_PAIRS, NUM_PAIRS, NUM_NEGATIVES])
    rows, columns = contrastive_loss(queries, positives, SCALE, negatives)
    return (rows + columns) / 2


def gradient(started: Engine) -> Tensor:
    """All gradients as one vector, wherever the engine keeps them."""
    parameters = [p for p in started.encoder.parameters() if p.requires_grad]
    if isinstance(started, TorchEngine):
        return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    from deepspeed.utils import safe_get_full_grad

    return torch.cat([safe_get_full_grad(p).flatten() for p in parameters])


@dataclass(frozen=True)
class Course:
    """What one engine did: its first gradient, ten losses, and the ten gradient norms."""

    gradient: Tensor
    losses: list[float]
    norms: list[float]


def course(
    world: World, method: Method, placement: Placement, *, clipping: float = 0.0, restart_at: int = NUM_STEPS
) -> Course:
    """Ten steps; before step ``restart_at`` all is thrown away but the engine's state, which a new engine takes."""
    dtype = torch.float64 if placement.dtype == "float64" else torch.float32
    hyperparameters = replace(HYPERPARAMETERS, gradient_clipping=clipping)
    started = engine.start(encoder_with(method, dtype), hyperparameters, placement, world)
    losses, norms, first = [], [], torch.zeros(0)
    for step, learning_rate in enumerate(LEARNING_RATES):
        if step == restart_at:
            state = started.state()
            started = engine.start(encoder_with(method, dtype), hyperparameters, placement, world)
            started.restore(state)
        loss = loss_of(started, placement, world)
        started.backward(loss)
        if not losses:
            first = gradient(started).clone()
        norms.append(started.step(learning_rate))
        losses.append(loss.item())
    return Course(gradient=first, losses=losses, norms=norms)


@functools.cache
def reference(method: Method, dtype: str = "float64", clipping: float = 0.0) -> Course:
    """One process, one chunk, nothing recomputed, plain torch."""
    return course(ALONE, method, Placement(dtype=dtype), clipping=clipping)  # type: ignore[arg-type]


def courses(world: World) -> dict[Any, Course]:
    """Every engine, stage and method in this world."""
    found: dict[Any, Course] = {}
    base = replace(FLOAT32, num_workers=world.size)
    for method in METHODS:
        for stage in STAGES:
            found[method.label, stage] = course(world, method, replace(base, zero_stage=stage))
        found[method.label, "float64"] = course(world, method, replace(base, dtype="float64"))
    return found


def variants(world: World) -> dict[Any, Course]:
    """What else an engine can be asked for, with the full method."""
    found: dict[Any, Course] = {}
    base = replace(FLOAT32, num_workers=world.size)
    for stage in STAGES:
        found["clipped", stage] = course(world, Full(), replace(base, zero_stage=stage), clipping=CLIPPING)
    for stage in ROUNDED_STAGES:
        rounded = replace(base, zero_stage=stage, dtype="bfloat16")
        found["bfloat16", stage] = course(world, Full(), rounded)
        found["unrounded", stage] = _largest_rounding(world, rounded)
    found["offload", 2] = course(world, Full(), replace(base, zero_stage=2, offload=True))
    return found


def restarts(world: World) -> dict[Any, Course]:
    """Courses with a new engine in the middle, and the same without; adapters in bfloat16."""
    found: dict[Any, Course] = {}
    base = replace(FLOAT32, num_workers=world.size)
    for stage in ROUNDED_STAGES:
        rounded = replace(base, zero_stage=stage, dtype="bfloat16")
        found["bfloat16 lora", stage] = course(world, METHODS[3], rounded)
        found["bfloat16", stage] = course(world, Full(), rounded)
        found["bfloat16 again", stage] = course(world, Full(), rounded, restart_at=5)
    for method, stage in RESTARTED:
        again = course(world, method, replace(base, zero_stage=stage), restart_at=5)
        found["again", method.label, stage] = again
        found["straight", method.label, stage] = course(world, method, replace(base, zero_stage=stage))
    return found


def _largest_rounding(world: World, placement: Placement) -> float:
    """How far the weights that an engine trains are from those it was given."""
    given = dict(encoder_with(Full()).named_parameters())
    trained = engine.start(encoder_with(Full()), HYPERPARAMETERS, placement, world).trained()
    return max(float((trained[name] - parameter).abs().max()) for name, parameter in given.items())


@pytest.fixture(scope="module", params=WORLD_SIZES, ids=lambda size: f"world{size}")
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Course]]:
    """All courses of a world, by rank."""
    return on_workers(courses, request.param, tmp_path_factory.mktemp("world") / "meeting")


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Course]]:
    """All variants on two workers, by rank."""
    return on_workers(variants, 2, tmp_path_factory.mktemp("world") / "meeting")


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Course]]:
    """All restarts on two workers, by rank."""
    return on_workers(restarts, 2, tmp_path_factory.mktemp("world") / "meeting")


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_in_float64_the_gradient_is_that_of_one_batch(method: Method, measured: list[dict[Any, Course]]) -> None:
    for rank in measured:
        assert distance(rank[method.label, "float64"].gradient, reference(method).gradient) < 1e-12
        assert rank[method.label, "float64"].losses == pytest.approx(reference(method).losses, rel=1e-10)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: f"stage-{stage}")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_every_engine_has_the_gradient_and_the_losses_of_one_batch(
    method: Method, stage: int | None, measured: list[dict[Any, Course]]
) -> None:
    for rank in measured:
        found, expected = rank[method.label, stage], reference(method)
        assert found.gradient.shape == expected.gradient.shape
        assert distance(found.gradient, expected.gradient) < 1e-6
        assert found.losses == pytest.approx(expected.losses, abs=1e-5)
        assert found.norms == pytest.approx(expected.norms, rel=1e-4)
    assert reference(method).losses[-1] < reference(method).losses[0] - 0.1, "the model must learn for this to say much"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: f"stage-{stage}")
def test_every_engine_clips_alike(stage: int | None, varied: list[dict[Any, Course]]) -> None:
    expected = reference(Full(), clipping=CLIPPING)
    assert expected.norms[0] > CLIPPING > expected.norms[-1], "AdamW does not see a scale that all steps share"
    assert expected.losses != pytest.approx(reference(Full()).losses, abs=1e-3)
    for rank in varied:
        assert rank["clipped", stage].losses == pytest.approx(expected.losses, abs=1e-5)
        assert rank["clipped", stage].norms == pytest.approx(expected.norms, rel=1e-4)


@pytest.mark.parametrize("stage", ROUNDED_STAGES, ids=lambda stage: f"stage-{stage}")
def test_bfloat16_stays_near_float32(stage: int | None, varied: list[dict[Any, Course]]) -> None:
    for rank in varied:
        assert rank["bfloat16", stage].losses == pytest.approx(reference(Full()).losses, abs=0.05)
        assert rank["bfloat16", stage].losses != pytest.approx(reference(Full()).losses, abs=1e-6)


def test_an_offloaded_optimizer_changes_nothing(varied: list[dict[Any, Course]]) -> None:
    for rank in varied:
        assert rank["offload", 2].losses == pytest.approx(reference(Full()).losses, abs=1e-5)


@pytest.mark.parametrize("stage", ROUNDED_STAGES, ids=lambda stage: f"stage-{stage}")
def test_bfloat16_trains_weights_that_are_not_rounded(stage: int | None, varied: list[dict[Any, Any]]) -> None:
    for rank in varied:
        assert rank["unrounded", stage] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("stage", ROUNDED_STAGES, ids=lambda stage: f"stage-{stage}")
def test_bfloat16_goes_on_bit_for_bit_and_has_adapters(stage: int | None, restarted: list[dict[Any, Course]]) -> None:
    for rank in restarted:
        assert rank["bfloat16 again", stage].losses == rank["bfloat16", stage].losses
        assert rank["bfloat16 lora", stage].losses == pytest.approx(reference(METHODS[3]).losses, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "stage"), RESTARTED, ids=lambda part: getattr(part, "label", f"stage-{part}"))
def test_a_new_engine_goes_on_bit_for_bit(
    method: Method, stage: int | None, restarted: list[dict[Any, Course]]
) -> None:
    for rank in restarted:
        assert rank["again", method.label, stage].losses == rank["straight", method.label, stage].losses


def test_workers_with_fewer_chunks_keep_the_others_company() -> None:
    """The courses above would not show it if all workers had as many chunks."""
    lengths = [len(text) for text in TEXTS]
    for num_workers in (2, 4):
        shares = deal(lengths, num_workers)
        assert len({len(plan_chunks([lengths[i] for i in share], FLOAT32.chunk_tokens)) for share in shares}) > 1


def test_texts_are_dealt_once_and_evenly() -> None:
    lengths = [len(text) for text in TEXTS]
    for num_workers in (1, 2, 3, 4, 40):
        shares = deal(lengths, num_workers)
        assert sorted(i for share in shares for i in share) == list(range(len(TEXTS)))
        tokens = [sum(lengths[i] for i in share) for share in shares]
        assert max(tokens) - min(tokens) <= max(lengths)

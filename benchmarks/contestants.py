"""The trainers that are compared, on one batch and one set of weights: the paper's, sentence-transformers', ours.

Knows how each of them gets the gradient of one batch, and checks that all get the same. Never knows a clock.

All share the very same parameter objects, so one optimizer serves them all, and what one of them computes can be
compared with what another does. Random weights: a step's cost does not depend on their values.

Shapes: P pairs, D embedding width.
"""

from __future__ import annotations

import math
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXModel, PreTrainedTokenizerFast
from transformers.utils import logging

from trainer.contrastive import Embedded, contrastive_loss, embed
from trainer.encoder import GROUPED_CAUSAL, Chunk, Encoder
from trainer.ladder import ModelShape
from trainer.methods import apply_method
from trainer.trial import Dtype, Method

MAX_LENGTH = 75
"""Tokens a text is cut to (paper, appendix)."""
CHUNK_PAIRS = 32
"""Pairs that the paper's gradient caching encodes at a time."""
SCALE = 40.0
"""Logit scale of the paper's code."""
VERSIONS = ("torch", "transformers", "sentence-transformers", "peft", "numpy")


class DisagreementError(Exception):
    """A trainer computes something else than the paper's way, so that its time says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Pairs as token ids."""

    queries: list[np.ndarray]
    positives: list[np.ndarray]

    @property
    def num_tokens(self) -> int:
        """Real tokens."""
        return sum(len(text) for text in self.queries + self.positives)

    @property
    def num_padded_tokens(self) -> int:
        """Tokens when queries and positives are each padded to their longest."""
        return sum(len(side) * max(map(len, side)) for side in (self.queries, self.positives))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far a trainer may be from the paper's way."""

    embedding: float
    """Largest absolute difference of an element of a unit embedding."""
    gradient: float
    """Norm of the difference over the norm, over all trained parameters."""


EXACT = Tolerance(embedding=1e-5, gradient=1e-4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """One trainer, bound to the shared parameters."""

    name: str
    words: str
    """What it does, for the table's legend."""
    embed: Callable[[Batch], Tensor]
    """(2P, D) unit embeddings, queries first, without a gradient."""
    backward: Callable[[Batch], Tensor]
    """The symmetric loss; its gradient is added to the shared parameters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """One set of parameters in the two layouts: rows of padded texts, and a stream of tokens."""

    rows: GPTNeoXModel
    encoder: Encoder
    dtype: Dtype

    def autocast(self) -> torch.autocast:
        """Under which the models run: bfloat16 products where ``dtype`` asks for them."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16", cache_enabled=False)

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device


def bge_batch(num_pairs: int, vocab_size: int, *, seed: int = 0) -> Batch:
    """Random token ids with the lengths of the paper's data: queries of 14 tokens on average, positives of 64.

    Lognormal, cut at 75 (paper, appendix: mean lengths after the cut; their shape is our assumption).
    """
    random = np.random.default_rng(seed)

    def texts(median: float) -> list[np.ndarray]:
        lengths = np.clip(np.rint(random.lognormal(np.log(median), 0.6, num_pairs)), 1, MAX_LENGTH).astype(int)
        return [random.integers(2, vocab_size, length) for length in lengths]

    return Batch(queries=texts(11.7), positives=texts(81.0))


def share(shape: ModelShape, method: Method, device: str, *, dtype: Dtype = "float32") -> Shared:
    """Random float32 weights of ``shape`` under ``method``, in both layouts; ``dtype`` is that of the products."""
    models = []
    for implementation in ("sdpa", GROUPED_CAUSAL):
        torch.manual_seed(0)
        config = GPTNeoXConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.width,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            intermediate_size=4 * shape.width,
            use_cache=False,
            attn_implementation=implementation,
        )
        with torch.device(device):
            model = GPTNeoXModel(config)
        apply_method(model, method)
        models.append(model.eval())
    rows, stream = models
    rows.load_state_dict(stream.state_dict(keep_vars=True), assign=True)
    return Shared(rows=rows, encoder=Encoder(stream, "mean"), dtype=dtype)


def contestants(shared: Shared, *, chunk_tokens: int, large_chunk_tokens: int) -> tuple[Contestant, ...]:
    """Everyone: the paper's way first, which the others are checked against and compared with.

    ``chunk_tokens`` is the token budget of a chunk where activations are computed again, ours and
    sentence-transformers' alike; ``large_chunk_tokens`` that of ours where they are kept.
    """
    return (
        _paper(shared, cached=True),
        _paper(shared, cached=False),
        *_sentence_transformers(shared, chunk_tokens),
        _ours(shared, chunk_tokens, recompute=True),
        _ours(shared, large_chunk_tokens, recompute=False),
    )


def embed_ours(shared: Shared, batch: Batch, *, chunk_tokens: int, recompute: bool) -> Embedded:
    """The training loop's own call."""

    def encode(chunk: Chunk) -> Tensor:
        with shared.autocast():
            embeddings: Tensor = shared.encoder(chunk)
        return embeddings

    texts = batch.queries + batch.positives
    return embed(shared.encoder, texts, chunk_tokens=chunk_tokens, recompute=recompute, encode=encode)


def check(found: Sequence[Contestant], shared: Shared, batch: Batch, tolerance: Tolerance = EXACT) -> dict[str, float]:
    """Largest differences from the first contestant: of embeddings, of losses, and of gradients relative to their norm.

    Leaves no gradient behind. Raises ``DisagreementError`` beyond ``tolerance``.
    """
    largest = {"embedding": 0.0, "loss": 0.0, "gradient": 0.0}
    reference, expected, expected_loss = None, found[0].embed(batch), 0.0
    _forget_gradients(shared)
    for contestant in found:
        differences = {"embedding": (contestant.embed(batch) - expected).abs().max().item()}
        loss = contestant.backward(batch).item()
        gradient = [parameter.grad for parameter in shared.trained]
        _forget_gradients(shared)
        if reference is None:
            reference, expected_loss = gradient, loss
        differences["loss"] = abs(loss - expected_loss)
        differences["gradient"] = _relative_difference(gradient, reference)
        limits = {"embedding": tolerance.embedding, "loss": 100 * tolerance.embedding, "gradient": tolerance.gradient}
        for what, limit in limits.items():
            if not differences[what] <= limit:
                raise DisagreementError(
                    f"{contestant.name}: its {what} differs from {found[0].name} by {differences[what]:.1e}, more than "
                    f"{limit:.0e}: no ratio of their times is given"
                )
            largest[what] = max(largest[what], differences[what])
    return largest


def machine(device: str) -> dict[str, str | int]:
    """The machine in words, without its name, and the versions that decide speed."""
    processor = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().split("\n\n")[0].splitlines() if ":" in line)
        named = {key.strip(): value.strip() for key, value in fields.items()}
        processor = (
            f"{named.get('model name', processor)} (family {named.get('cpu family')}, model {named.get('model')})"
        )
    return {
        "processor": processor,
        "num_processors": os.cpu_count() or 1,
        "num_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "python": platform.python_version(),
        **{package: version(package) for package in VERSIONS},
    }


def _ours(shared: Shared, chunk_tokens: int, *, recompute: bool) -> Contestant:
    def embeddings(batch: Batch) -> Tensor:
        with torch.no_grad():
            return embed_ours(shared, batch, chunk_tokens=chunk_tokens, recompute=False).embeddings

    def backward(batch: Batch) -> Tensor:
        embedded = embed_ours(shared, batch, chunk_tokens=chunk_tokens, recompute=recompute)
        loss = _loss(embedded.embeddings)
        loss.backward()
        return loss.detach()

    words = "activations computed again" if recompute else "activations kept"
    return Contestant(
        name="ours, recompute" if recompute else "ours",
        words=f"one stream without padding, {words}, chunks of {chunk_tokens} tokens",
        embed=embeddings,
        backward=backward,
    )


def _paper(shared: Shared, *, cached: bool) -> Contestant:
    """Queries and positives each padded to their longest; with ``cached``, two passes in chunks (Gao et al. 2021)."""

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        with shared.autocast():
            states = shared.rows(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return F.normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)

    def sides(batch: Batch) -> list[tuple[Tensor, Tensor]]:
        return [_pad(side, shared.device) for side in (batch.queries, batch.positives)]

    def embeddings(batch: Batch) -> Tensor:
        with torch.no_grad():
            return torch.cat([encode(ids, mask) for ids, mask in sides(batch)])

    def in_one_pass(batch: Batch) -> Tensor:
        loss = _loss(torch.cat([encode(ids, mask) for ids, mask in sides(batch)]))
        loss.backward()
        return loss.detach()

    def in_two_passes(batch: Batch) -> Tensor:
        chunks = [
            chunk
            for ids, mask in sides(batch)
            for chunk in zip(ids.split(CHUNK_PAIRS), mask.split(CHUNK_PAIRS), strict=True)
        ]
        with torch.no_grad():
            cached_embeddings = torch.cat([encode(ids, mask) for ids, mask in chunks])
        cached_embeddings.requires_grad_()
        loss = _loss(cached_embeddings)
        loss.backward()
        assert cached_embeddings.grad is not None
        gradients = torch.split(cached_embeddings.grad, [len(ids) for ids, _ in chunks])
        for (ids, mask), gradient in zip(chunks, gradients, strict=True):
            (encode(ids, mask) * gradient).sum().backward()
        return loss.detach()

    return Contestant(
        name="paper" if cached else "paper, one pass",
        words="queries and positives padded to their longest"
        + (f", gradient caching in chunks of {CHUNK_PAIRS} pairs" if cached else ", no gradient caching"),
        embed=embeddings,
        backward=in_two_passes if cached else in_one_pass,
    )


def _sentence_transformers(shared: Shared, chunk_tokens: int) -> tuple[Contestant, Contestant]:
    """Its own losses on its own model, with its token budget; symmetric, as ours."""
    model = _sentence_transformer(shared)
    settings = {"scale": SCALE, "directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    losses = {
        "ST cached": CachedMultipleNegativesRankingLoss(
            # Its loss works in blocks of so many pairs too: as large a block as may be is fastest.
            model,
            mini_batch_size=1024,
            mini_batch_num_tokens=chunk_tokens,
            **settings,
        ),
        "ST, one pass": MultipleNegativesRankingLoss(model, **settings),
    }

    def features(batch: Batch) -> list[dict[str, Tensor]]:
        padded = (_pad(side, shared.device) for side in (batch.queries, batch.positives))
        return [{"input_ids": ids, "attention_mask": mask} for ids, mask in padded]

    def embeddings(batch: Batch) -> Tensor:
        with torch.no_grad(), shared.autocast():
            return torch.cat([model(side)["sentence_embedding"] for side in features(batch)]).float()

    def backward_of(loss_module: torch.nn.Module) -> Callable[[Batch], Tensor]:
        def backward(batch: Batch) -> Tensor:
            # Its trainer runs the loss under autocast too, and its caching runs the model in the backward pass.
            with shared.autocast():
                loss: Tensor = loss_module(features(batch), None)
                loss.backward()
            return loss.detach()

        return backward

    words = {
        "ST cached": f"CachedMultipleNegativesRankingLoss, mini-batches of {chunk_tokens} tokens",
        "ST, one pass": "MultipleNegativesRankingLoss, no gradient caching",
    }
    cached, one_pass = (
        Contestant(name=name, words=words[name], embed=embeddings, backward=backward_of(loss))
        for name, loss in losses.items()
    )
    return cached, one_pass


def _sentence_transformer(shared: Shared) -> SentenceTransformer:
    """A SentenceTransformer around the shared rows. It is loaded from a small folder, then given their weights."""
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        small = GPTNeoXConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
        GPTNeoXModel(small).save_pretrained(folder)
        words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
        transformer = Transformer(folder)
    transformer.model = shared.rows
    pooling = Pooling(shared.rows.config.hidden_size, pooling_mode="mean")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device=str(shared.device))


def _pad(texts: list[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """(P, longest) ids and mask of right-padded rows."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(text) for text in texts], batch_first=True).to(device)
    lengths = torch.tensor([len(text) for text in texts], device=device)
    return ids, (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()


def _loss(embeddings: Tensor) -> Tensor:
    queries, positives = embeddings.chunk(2)
    rows, columns = contrastive_loss(queries, positives, SCALE)
    return (rows + columns) / 2


def _forget_gradients(shared: Shared) -> None:
    for parameter in shared.trained:
        parameter.grad = None


def _relative_difference(found: list[Tensor | None], expected: list[Tensor | None]) -> float:
    """Norm of the difference over the norm of what was expected. Infinite where only one has a gradient."""
    difference = norm = 0.0
    for one, other in zip(found, expected, strict=True):
        if one is None or other is None:
            if one is not other:
                return math.inf
            continue
        difference += float(torch.linalg.vector_norm(one - other)) ** 2
        norm += float(torch.linalg.vector_norm(other)) ** 2
    return math.sqrt(difference / norm)

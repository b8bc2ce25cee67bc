"""The contrastive step: embed a batch of texts chunk by chunk over the workers, one loss over all, one backward pass.

Knows the loss, and how chunks and workers leave its gradient unchanged. Never knows an optimizer, a schedule or a
budget.

Shapes: P pairs, M hard negatives, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.encoder import GROUP_SLACK, Chunk, Encoder, pack, plan_chunks
from trainer.world import ALONE, World


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """Embeddings of a batch and what computing them took, on all workers."""

    embeddings: Tensor
    """(texts, D) in the order the texts were given. Those of other workers have no graph."""
    tokens: int
    """Real tokens."""
    computed_tokens: int
    """Tokens that the linear layers computed: the real ones, and the padding of right-padded rows."""
    attended_tokens: int
    """Tokens that attention computed."""
    squared_lengths: int
    """See ``Chunk.squared_lengths``."""
    recomputed_tokens: int
    """Those of the computed tokens that the backward pass computes again."""
    recomputed_squared_lengths: int
    """Those of the squared lengths that the backward pass computes again."""


def embed(
    encoder: Encoder,
    texts: Sequence[np.ndarray],
    *,
    chunk_tokens: int,
    recompute: bool,
    keep_last: bool = True,
    encode: Callable[[Chunk], Tensor] | None = None,
    world: World = ALONE,
) -> Embedded:
    """Unit embeddings of the texts, encoded in chunks of at most ``chunk_tokens`` tokens.

    With ``recompute`` the chunks drop their activations, to be computed again in the one backward pass that follows:
    the memory of a chunk and the gradient of the whole batch, which is what gradient caching (Gao et al. 2021) gives,
    without surrogate losses. The last chunk keeps its own (``keep_last``): the backward pass begins with it and needs
    them at once. ``encode`` is what runs a chunk, where an engine has wrapped the encoder. Every worker of ``world``
    calls this with the same texts, encodes its share, and gets all embeddings.
    """
    encode = encode or encoder
    device = next(encoder.parameters()).device
    shares = deal([len(text) for text in texts], world.size)
    plans = [_plan(share, texts, chunk_tokens) for share in shares]
    own = plans[world.rank]
    slack = GROUP_SLACK if encoder.packed else 0.0
    chunks = [pack([texts[i] for i in indices], device, slack=slack) for indices in own]
    # Under ZeRO-3 a worker that runs fewer chunks than the others would leave them waiting for its weights.
    idle = [pack([texts[0]], device)] * (max(map(len, plans)) - len(own))
    num_recomputed = len(chunks) + len(idle) - int(keep_last) if recompute else 0
    parts = [
        checkpoint(encode, chunk, use_reentrant=False) if place < num_recomputed else encode(chunk)
        for place, chunk in enumerate(chunks + idle)
    ]
    encoded = torch.cat(parts)[: len(shares[world.rank])]
    rows = world.gather(encoded, [len(share) for share in shares])
    gathered = np.concatenate([indices for plan in plans for indices in plan])
    place_of_text = torch.from_numpy(np.argsort(gathered)).to(device)
    recomputed = chunks[:num_recomputed]
    attended_tokens, squared_lengths, recomputed_tokens, recomputed_squared_lengths = world.sums(
        sum(chunk.attended_tokens for chunk in chunks),
        sum(chunk.squared_lengths for chunk in chunks),
        sum(len(chunk.token_ids) if encoder.packed else chunk.attended_tokens for chunk in recomputed),
        sum(chunk.squared_lengths for chunk in recomputed),
    )
    tokens = sum(len(text) for text in texts)
    return Embedded(
        embeddings=rows[place_of_text],
        tokens=tokens,
        computed_tokens=tokens if encoder.packed else attended_tokens,
        attended_tokens=attended_tokens,
        squared_lengths=squared_lengths,
        recomputed_tokens=recomputed_tokens,
        recomputed_squared_lengths=recomputed_squared_lengths,
    )


def deal(lengths: Sequence[int], num_workers: int) -> list[list[int]]:
    """Which texts each worker encodes: dealt one by one, longest first, so that all get about as many tokens."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[rank::num_workers] for rank in range(num_workers)]


def _plan(share: Sequence[int], texts: Sequence[np.ndarray], chunk_tokens: int) -> list[list[int]]:
    """Chunks of a worker's share, as indices of texts."""
    return [[share[i] for i in chunk] for chunk in plan_chunks([len(texts[i]) for i in share], chunk_tokens)]


def contrastive_loss(
    queries: Tensor, positives: Tensor, scale: float | Tensor, negatives: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``(l_r, l_c)`` in nats (paper, section 3, lines 134-135), from (P, D) unit queries and positives.

    With logits ``s = scale * queries @ positives.T`` of shape (P, P), whose diagonal holds the pairs: ``l_r`` is the
    cross-entropy of each row (a query against all positives), ``l_c`` that of each column (a positive against all
    queries). The training loss is their mean; chance is ``ln P``. Hard negatives, (M, D), are further candidates of
    every row; columns have none.
    """
    logits = scale * (queries @ positives.T)
    pair = torch.arange(len(queries), device=queries.device)
    rows = logits if negatives is None else torch.cat([logits, scale * (queries @ negatives.T)], dim=1)
    return F.cross_entropy(rows, pair), F.cross_entropy(logits.T, pair)

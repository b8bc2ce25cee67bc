"""The contrastive step: embed a batch of pairs chunk by chunk, one loss over all of it, one backward pass.

Knows the loss and how chunking leaves its gradient unchanged. Never knows an optimizer, a schedule or a budget.

Shapes: P pairs, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.encoder import GROUP_SLACK, Encoder, pack, plan_chunks


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """Embeddings of a batch and what computing them took."""

    embeddings: Tensor
    """(texts, D) in the order the texts were given."""
    tokens: int
    """Real tokens."""
    computed_tokens: int
    """Tokens that the linear layers computed: the real ones, and the padding of right-padded rows."""
    attended_tokens: int
    """Tokens that attention computed."""
    squared_lengths: int
    """See ``Chunk.squared_lengths``."""


def embed(encoder: Encoder, texts: Sequence[np.ndarray], *, chunk_tokens: int, recompute: bool) -> Embedded:
    """Unit embeddings of the texts, encoded in chunks of at most ``chunk_tokens`` tokens.

    With ``recompute`` each chunk's activations are dropped and computed again in the one backward pass that follows:
    the memory of a chunk and the gradient of the whole batch, which is what gradient caching (Gao et al. 2021) gives,
    without surrogate losses.
    """
    device = next(encoder.parameters()).device
    plan = plan_chunks([len(text) for text in texts], chunk_tokens)
    slack = GROUP_SLACK if encoder.packed else 0.0
    chunks = [pack([texts[i] for i in indices], device, slack=slack) for indices in plan]
    parts = [checkpoint(encoder, chunk, use_reentrant=False) if recompute else encoder(chunk) for chunk in chunks]
    place_of_text = torch.from_numpy(np.argsort(np.concatenate(plan))).to(device)
    tokens = sum(len(text) for text in texts)
    attended_tokens = sum(chunk.attended_tokens for chunk in chunks)
    return Embedded(
        embeddings=torch.cat(parts)[place_of_text],
        tokens=tokens,
        computed_tokens=tokens if encoder.packed else attended_tokens,
        attended_tokens=attended_tokens,
        squared_lengths=sum(chunk.squared_lengths for chunk in chunks),
    )


def contrastive_loss(queries: Tensor, positives: Tensor, scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """``(l_r, l_c)`` in nats (paper, section 3, lines 134-135), from (P, D) unit queries and positives.

    With logits ``s = scale * queries @ positives.T`` of shape (P, P), whose diagonal holds the pairs: ``l_r`` is the
    cross-entropy of each row (a query against all positives), ``l_c`` that of each column (a positive against all
    queries). The training loss is their mean; chance is ``ln P``.
    """
    logits = scale * (queries @ positives.T)
    pair = torch.arange(len(queries), device=queries.device)
    return F.cross_entropy(logits, pair), F.cross_entropy(logits.T, pair)

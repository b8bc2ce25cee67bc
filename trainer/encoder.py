"""Texts in, unit embeddings out: padding-free chunks, causal attention per text, pooling.

Knows how a chunk of texts is laid out for a Hugging Face decoder and pooled. Never knows pairs, a loss, a method or a
budget. A text's embedding never depends on its neighbours in the chunk.

Shapes: T tokens in a chunk, B texts, H heads, D width, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging

from trainer.trial import Pooling

GROUPED_CAUSAL = "grouped_causal"
# Families whose forward hands extra arguments down to the attention function, so that one flat stream of tokens can be
# used (tests/trainer/test_encoder.py proves each). Every other decoder gets right-padded rows.
PACKED_FAMILIES = frozenset({"gpt_neox", "llama", "qwen2", "qwen3"})
# Texts at least this share of a group's longest text join the group. Half keeps the groups few, which tiny models need.
GROUP_SLACK = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionGroup:
    """Texts of similar length, padded to the longest for attention alone."""

    gather: Tensor
    """(texts, longest) positions in the stream; a text's padding repeats its first position."""
    valid: Tensor
    """Positions of the real tokens in the flattened group, in stream order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Texts encoded together as one stream, longest first."""

    token_ids: Tensor
    """(T,)"""
    positions: Tensor
    """(T,) restarting at 0 for each text."""
    lengths: Tensor
    """(B,)"""
    groups: tuple[AttentionGroup, ...]

    @property
    def squared_lengths(self) -> int:
        """Sum over texts of the length that attention computes, squared: the padding inside groups is included."""
        return sum(group.gather.shape[0] * group.gather.shape[1] ** 2 for group in self.groups)

    @property
    def attended_tokens(self) -> int:
        """Tokens that attention computes, with the padding inside groups."""
        return sum(group.gather.numel() for group in self.groups)


def plan_chunks(lengths: Sequence[int], chunk_tokens: int) -> list[list[int]]:
    """Indices of the texts of each chunk: longest first, at most ``chunk_tokens`` real tokens, at least one text."""
    chunks: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not chunks or lengths[index] > room:
            chunks.append([])
            room = chunk_tokens
        chunks[-1].append(index)
        room -= lengths[index]
    return chunks


def pack(texts: Sequence[np.ndarray], device: torch.device, *, slack: float = GROUP_SLACK) -> Chunk:
    """One stream of the texts (token id arrays, longest first).

    Texts at least ``slack`` times as long as a group's longest share its attention; 0 puts all in one group, which
    is also the layout of right-padded rows. Raises ``ValueError`` on an empty text.
    """
    sizes = np.array([len(text) for text in texts])
    if sizes.min() == 0:
        raise ValueError("a text has no tokens: drop empty texts before tokenising")
    starts = np.cumsum(sizes) - sizes
    groups, first = [], 0
    while first < len(sizes):
        longest = sizes[first]
        last = first + int(np.searchsorted(-sizes[first:], -longest * slack, side="right"))
        columns = np.arange(longest)
        real = columns < sizes[first:last, None]
        gather = starts[first:last, None] + np.where(real, columns, 0)
        groups.append(
            AttentionGroup(
                gather=torch.from_numpy(gather).to(device),
                valid=torch.from_numpy(np.flatnonzero(real)).to(device),
            )
        )
        first = last
    return Chunk(
        token_ids=torch.from_numpy(np.concatenate(texts)).to(device),
        positions=torch.from_numpy(np.arange(sizes.sum()) - np.repeat(starts, sizes)).to(device),
        lengths=torch.from_numpy(sizes).to(device),
        groups=tuple(groups),
    )


def grouped_causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    groups: tuple[AttentionGroup, ...],
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each text of a stream: (1, H, T, E) in, (1, T, H, E) out.

    Right padding inside a group needs no mask: causality keeps real tokens from seeing what comes after them.
    """
    streams = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    outputs = []
    for group in groups:
        queries, keys, values = (stream[group.gather].transpose(1, 2) for stream in streams)
        few_key_heads = queries.shape[1] != keys.shape[1]
        attended = F.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=scaling, enable_gqa=few_key_heads
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1)[group.valid])
    return torch.cat(outputs)[None], None


ALL_ATTENTION_FUNCTIONS.register(GROUPED_CAUSAL, grouped_causal_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(GROUPED_CAUSAL, lambda *args, **kwargs: None)


def load_backbone(path: str) -> PreTrainedModel:
    """The decoder without its language-model head, in float32, from a folder or a Hub id.

    Only safetensors are read, and no code that comes with a model is run.
    """
    # A bar for each of a sweep's loads would bury the sweep's own.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    backbone: PreTrainedModel = AutoModel.from_pretrained(
        path,
        config=config,
        dtype=torch.float32,
        attn_implementation=GROUPED_CAUSAL if config.model_type in PACKED_FAMILIES else "sdpa",
        use_safetensors=True,
        trust_remote_code=False,
    )
    return backbone


class Encoder(nn.Module):
    """A decoder, pooled and normalised: (chunk of B texts) -> (B, D) unit vectors in float32 or wider."""

    def __init__(self, backbone: PreTrainedModel, pooling: Pooling) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.packed = backbone.config._attn_implementation == GROUPED_CAUSAL

    def forward(self, chunk: Chunk) -> Tensor:
        states = self._stream_states(chunk) if self.packed else self._padded_states(chunk)
        states = states.to(torch.promote_types(states.dtype, torch.float32))
        ends = torch.cumsum(chunk.lengths, 0)
        match self.pooling:
            case "mean":
                text_of_token = torch.repeat_interleave(
                    torch.arange(len(chunk.lengths), device=states.device), chunk.lengths
                )
                sums = states.new_zeros(len(chunk.lengths), states.shape[1]).index_add(0, text_of_token, states)
                pooled = sums / chunk.lengths[:, None]
            case "last":
                pooled = states[ends - 1]
        return F.normalize(pooled, dim=-1)

    def _stream_states(self, chunk: Chunk) -> Tensor:
        """(T, D) last hidden states of the stream."""
        output = self.backbone(
            input_ids=chunk.token_ids[None], position_ids=chunk.positions[None], use_cache=False, groups=chunk.groups
        )
        states: Tensor = output.last_hidden_state[0]
        return states

    def _padded_states(self, chunk: Chunk) -> Tensor:
        """(T, D) by right-padded rows without a mask, which causal attention does not need."""
        rows = nn.utils.rnn.pad_sequence(
            list(torch.split(chunk.token_ids, chunk.lengths.tolist())), batch_first=True, padding_value=0
        )
        states: Tensor = self.backbone(input_ids=rows, use_cache=False).last_hidden_state
        real = torch.arange(rows.shape[1], device=rows.device) < chunk.lengths[:, None]
        return states[real]

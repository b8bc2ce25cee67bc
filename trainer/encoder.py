"""Texts in, unit embeddings out: padding-free chunks, causal attention per text, pooling.

Knows how a chunk of texts is laid out for a Hugging Face decoder and pooled. Never knows pairs, a loss, a method or a
budget. A text's embedding never depends on its neighbours in the chunk.

Shapes: T tokens in a chunk, B texts, H heads, D width, E head width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging

from trainer.trial import Pooling

GROUPED_CAUSAL = "grouped_causal"
# Texts at least this share of a group's longest text join the group. Half keeps the groups few, which tiny models need.
GROUP_SLACK = 0.5
# Largest difference between the states that two layouts give the same text, relative to the largest state. In float64
# too, since transformers' plain attention takes its softmax in float32.
_SAME = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-3}


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
    sliding_window: int | None = None,
    softcap: float | None = None,
    windows: list[int | None] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each text of a stream: (1, H, T, E) in, (1, T, H, E) out.

    Right padding inside a group needs no mask: causality keeps real tokens from seeing what comes after them.
    ``sliding_window`` is the tokens that a token sees, itself included; ``softcap`` bounds the scores (Gemma 2). What a
    decoder hands over beyond these is not known here: ``choose_layout`` proves that nothing is missed. ``windows``
    collects the window of each call.
    """
    if windows is not None:
        windows.append(sliding_window)
    streams = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    outputs = []
    for group in groups:
        queries, keys, values = (stream[group.gather].transpose(1, 2) for stream in streams)
        length = queries.shape[2]
        mask = None
        if sliding_window is not None and length > sliding_window:
            mask = queries.new_ones(length, length, dtype=torch.bool).tril().triu(1 - sliding_window)
        if softcap is None:
            few_key_heads = queries.shape[1] != keys.shape[1]
            attended = F.scaled_dot_product_attention(
                queries, keys, values, mask, is_causal=mask is None, scale=scaling, enable_gqa=few_key_heads
            )
        else:
            attended = _softcapped_attention(queries, keys, values, mask, scaling, softcap)
        outputs.append(attended.transpose(1, 2).flatten(0, 1)[group.valid])
    return torch.cat(outputs)[None], None


def _softcapped_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float | None, softcap: float
) -> Tensor:
    """Causal attention with scores ``softcap * tanh(score / softcap)`` (Gemma 2, section 2), which no kernel has."""
    length, width = queries.shape[2:]
    keys, values = (t.repeat_interleave(queries.shape[1] // t.shape[1], dim=1) for t in (keys, values))
    scores = queries @ keys.transpose(2, 3) * (width**-0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    seen = queries.new_ones(length, length, dtype=torch.bool).tril() if mask is None else mask
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(~seen, -torch.inf)
    return torch.softmax(scores, dim=-1).to(values.dtype) @ values


ALL_ATTENTION_FUNCTIONS.register(GROUPED_CAUSAL, grouped_causal_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(GROUPED_CAUSAL, lambda *args, **kwargs: None)


def load_backbone(path: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The decoder without its language-model head, from a folder or a Hub id, its parameters in ``dtype``.

    Only safetensors are read, and no code that comes with a model is run. Raises ``ValueError`` where it is not causal.
    """
    # A bar for each of a sweep's loads would bury the sweep's own.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    backbone: PreTrainedModel = AutoModel.from_pretrained(
        path, dtype=dtype, use_safetensors=True, trust_remote_code=False
    )
    choose_layout(backbone)
    return backbone


def choose_layout(backbone: PreTrainedModel) -> None:
    """Give ``backbone`` the attention for packed streams where it is proved to be the decoder's own.

    Proved on the weights themselves: two short texts have the states that they have alone, every layer has handed its
    attention over, and with the window that the configuration says. Every other decoder keeps its own attention
    and gets right-padded rows, for which two texts must have the states that they have alone too: raises
    ``ValueError`` where they do not, since then a token sees what comes after it.
    """
    own = backbone.config._attn_implementation
    texts = [np.arange(1, 4), np.arange(4, 6)]
    chunk = pack(texts, backbone.device)
    with torch.no_grad():
        alone = torch.cat(
            [backbone(input_ids=text[None], use_cache=False).last_hidden_state[0] for text in _texts_of(chunk)]
        )
        if _may_pack(backbone):
            backbone.set_attn_implementation(GROUPED_CAUSAL)
            if _packs(backbone, chunk, alone):
                return
            backbone.set_attn_implementation(own)
        if not _same(_padded_states(backbone, chunk), alone):
            raise ValueError(
                f"model {backbone.config.name_or_path!r} lets a token see what comes after it: choose a causal decoder"
            )


def _may_pack(backbone: PreTrainedModel) -> bool:
    """Whether the decoder takes positions and an attention function, and has no other kinds of layers than we know."""
    kinds = set(getattr(backbone.config, "layer_types", None) or ())
    return (
        backbone._supports_attention_backend
        and "position_ids" in inspect.signature(backbone.forward).parameters
        and kinds <= {"full_attention", "sliding_attention"}
    )


def _packs(backbone: PreTrainedModel, chunk: Chunk, alone: Tensor) -> bool:
    config = backbone.config
    windows: list[int | None] = []
    try:
        states = _stream_states(backbone, chunk, windows=windows)
    except TypeError:  # it does not hand the groups down to its attention
        return False
    if kinds := getattr(config, "layer_types", None):
        expected = kinds.count("sliding_attention")
    else:
        expected = config.num_hidden_layers if getattr(config, "sliding_window", None) else 0
    every_layer = len(windows) == config.num_hidden_layers
    return every_layer and sum(window is not None for window in windows) == expected and _same(states, alone)


def _same(states: Tensor, expected: Tensor) -> bool:
    return bool((states - expected).abs().max() <= _SAME[expected.dtype] * expected.abs().max())


def _stream_states(backbone: PreTrainedModel, chunk: Chunk, **probe: Any) -> Tensor:
    """(T, D) last hidden states of the stream."""
    output = backbone(
        input_ids=chunk.token_ids[None],
        position_ids=chunk.positions[None],
        use_cache=False,
        groups=chunk.groups,
        **probe,
    )
    states: Tensor = output.last_hidden_state[0]
    return states


def _padded_states(backbone: PreTrainedModel, chunk: Chunk) -> Tensor:
    """(T, D) by right-padded rows without a mask, which causal attention does not need."""
    rows = nn.utils.rnn.pad_sequence(_texts_of(chunk), batch_first=True, padding_value=0)
    states: Tensor = backbone(input_ids=rows, use_cache=False).last_hidden_state
    return states[torch.arange(rows.shape[1], device=rows.device) < chunk.lengths[:, None]]


def _texts_of(chunk: Chunk) -> list[Tensor]:
    return list(torch.split(chunk.token_ids, chunk.lengths.tolist()))


def _sums(states: Tensor, lengths: Tensor) -> Tensor:
    """(B, D) sums of each text's states."""
    text_of_token = torch.repeat_interleave(
        torch.arange(len(lengths), device=states.device), lengths, output_size=len(states)
    )
    return states.new_zeros(len(lengths), states.shape[1]).index_add(0, text_of_token, states)


class Encoder(nn.Module):
    """A decoder, pooled and normalised: (chunk of B texts) -> (B, D) unit vectors in float32 or wider."""

    def __init__(self, backbone: PreTrainedModel, pooling: Pooling) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.packed = backbone.config._attn_implementation == GROUPED_CAUSAL

    def forward(self, chunk: Chunk) -> Tensor:
        states = (_stream_states if self.packed else _padded_states)(self.backbone, chunk)
        states = states.to(torch.promote_types(states.dtype, torch.float32))
        ends = torch.cumsum(chunk.lengths, 0)
        match self.pooling:
            case "mean":
                pooled = _sums(states, chunk.lengths) / chunk.lengths[:, None]
            case "weighted-mean":
                # Token i of n weighs i / (1 + ... + n): a later state has seen more (SGPT, Muennighoff 2022).
                weights = (chunk.positions + 1).to(states.dtype)
                totals = chunk.lengths * (chunk.lengths + 1) // 2
                pooled = _sums(states * weights[:, None], chunk.lengths) / totals[:, None]
            case "last":
                pooled = states[ends - 1]
        return F.normalize(pooled, dim=-1)

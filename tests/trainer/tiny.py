"""Tiny decoders of several families and random texts, for tests that need a real architecture and no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

VOCAB_SIZE = 97
COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
GROUPED = {**COMMON, "intermediate_size": 32, "num_key_value_heads": 1}
# Windows shorter than the texts, heads that are wider than their share of the width, and both kinds of layers.
WIDE_HEADS = {**GROUPED, "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 5}
GPT = {"vocab_size": VOCAB_SIZE, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
SETTINGS: dict[str, dict[str, object]] = {
    "gpt_neox": {**COMMON, "intermediate_size": 64},
    "llama": GROUPED,
    "smollm": {**GROUPED, "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "mistral": {**GROUPED, "sliding_window": 5},
    "gemma": {**GROUPED, "head_dim": 12},
    "gemma2": {**WIDE_HEADS, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**WIDE_HEADS, "layer_types": ["sliding_attention", "full_attention"]},
    "phi": {**COMMON, "intermediate_size": 32},
    "opt": {**COMMON, "ffn_dim": 32, "word_embed_proj_dim": 16},
    "gpt2": GPT,
    "gptj": {**GPT, "rotary_dim": 4},
    "falcon": {**COMMON, "alibi": True},
}
FAMILIES = tuple(SETTINGS)
"""Decoders with and without biases, grouped heads, gates, windows, capped scores and learned positions."""
_KINDS = {"smollm": "llama"}
"""SmolLM is published as Llama."""


def tiny_decoder(family: str, *, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A randomly initialised two-layer decoder; norms and biases are moved off their ones and zeros."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(_KINDS.get(family, family), **{**SETTINGS[family], **overrides})
    model: PreTrainedModel = MODEL_MAPPING[type(config)](config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(5)
    return model.eval()


def random_texts(num: int, *, seed: int = 0, longest: int = 20) -> list[np.ndarray]:
    """``num`` texts of 1 to ``longest`` random token ids."""
    random = np.random.default_rng(seed)
    return [random.integers(2, VOCAB_SIZE, random.integers(1, longest + 1)) for _ in range(num)]


def write_split(folder: Path, split: str, queries: list[np.ndarray], positives: list[np.ndarray]) -> None:
    """Token files in the layout that ``trainer.data.open_split`` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for side, texts in (("query", queries), ("positive", positives)):
        np.concatenate(texts).astype(np.uint16).tofile(folder / f"{split}.{side}.uint16")
        np.save(folder / f"{split}.{side}.offsets.npy", np.cumsum([0, *map(len, texts)]))

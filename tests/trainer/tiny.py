"""Tiny decoders of several families and random texts, for tests that need a real architecture and no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import (
    GPT2Config,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXModel,
    LlamaConfig,
    LlamaModel,
    OPTConfig,
    OPTModel,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)

VOCAB_SIZE = 97
COMMON = {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = {**COMMON, "intermediate_size": 32, "num_key_value_heads": 1, "max_position_embeddings": 64}


def tiny_decoder(family: str, *, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A randomly initialised two-layer decoder; norms and biases are moved off their ones and zeros."""
    torch.manual_seed(seed)
    match family:
        case "gpt_neox":
            settings = {**COMMON, "intermediate_size": 64, "max_position_embeddings": 64, **overrides}
            model: PreTrainedModel = GPTNeoXModel(GPTNeoXConfig(**settings))
        case "llama":
            model = LlamaModel(LlamaConfig(**{**GROUPED, **overrides}))
        case "qwen2":
            model = Qwen2Model(Qwen2Config(**{**GROUPED, **overrides}))
        case "qwen3":
            model = Qwen3Model(Qwen3Config(**{**GROUPED, "head_dim": 8, **overrides}))
        case "gpt2":
            settings = {"vocab_size": VOCAB_SIZE, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
            model = GPT2Model(GPT2Config(**{**settings, **overrides}))
        case "opt":
            settings = {**COMMON, "ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 64}
            model = OPTModel(OPTConfig(**{**settings, **overrides}))
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

"""Small made-up worlds for tests: pairs, a tokenizer and a decoder, in the forms that real ones have."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, GPTNeoXModel, PreTrainedTokenizerFast

WORDS = [f"{a}{b}" for a in ("ba", "co", "di", "fu", "ge", "hu") for b in ("lan", "mer", "nix", "por", "sut", "tov")]


def make_pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Pairs whose positive says the query's words among others, so that there is something to learn."""
    rng = random.Random(seed)
    pairs = []
    for number in range(count):
        topic = rng.sample(WORDS, 4)
        filler = [rng.choice(WORDS) for _ in range(12)]
        positive = [*topic, *filler]
        rng.shuffle(positive)
        pairs.append((f"{' '.join(topic)} {number}", f"{' '.join(positive)} {number * 7919}"))
    return pairs


def write_jsonl(path: Path, pairs: Iterable[tuple[str, str]]) -> Path:
    """A file in the form of the BGE files: the positive is a list."""
    path.write_text("".join(json.dumps({"query": q, "pos": [p], "neg": []}) + "\n" for q, p in pairs))
    return path


def save_tokenizer(folder: Path, vocab_size: int = 320) -> Tokenizer:
    """A byte-level BPE over the made-up words, as ``AutoTokenizer`` reads it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [" ".join(WORDS)] * 2,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    return tokenizer


def save_decoder(folder: Path, *, width: int = 32, num_layers: int = 2, head: bool = False) -> None:
    """A random GPT-NeoX; with ``head`` as a causal language model, the way Pythia is published."""
    config = GPTNeoXConfig(
        vocab_size=320,
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=4 * width,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    (GPTNeoXForCausalLM(config) if head else GPTNeoXModel(config)).save_pretrained(folder)

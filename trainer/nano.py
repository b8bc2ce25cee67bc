"""The nano ladder: small GPT-NeoX models, pre-trained on this machine as language models of the corpus's text.

Knows how the tokenizer, the text stream and the models are made from training pairs. Never knows how they are used or
where they are cached. The models imitate Pythia: rotary positions on a quarter of each head, parallel residual, untied
unembedding (which is trained, and thrown away at the end, since an embedding model has none).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.cache import build_once
from trainer.ladder import SHAPES, ModelShape
from trainer.processes import in_processes, num_usable_cores, tick

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import GPTNeoXModel

RECIPE = 1
"""Raise it when a change below changes the models: it is part of their name in the cache."""

VOCAB_SIZE = 4096
CONTEXT = 512
END, PADDING = "<|endoftext|>", "<|padding|>"
TEXT_CHARACTERS = 1500
TOKENIZER_TEXTS = 24_000

NUM_TOKENS = 1_500_000
"""Read once; a smaller corpus gives less."""
SEQUENCES, LENGTH = 8, 128
WARMUP_SHARE, DECAY_SHARE = 0.05, 0.3
WEIGHT_DECAY = 0.05
INITIAL_STD = 0.02
"""Of the random weights. More makes better language models, but slower learners of embeddings (DECISIONS.md)."""
VALIDATION_SEQUENCES = 128

TOKENIZER = "tokenizer"
TRAIN_STREAM, VALIDATION_STREAM, PRETRAINING = "train.npy", "validation.npy", "pretraining.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    name: str
    folder: Path
    world: Path


def model_key(name: str) -> str:
    """The name of a trained model's folder: it changes with all that decides its weights, beside the text."""
    settings = [RECIPE, SHAPES[name].to_json(), NUM_TOKENS, SEQUENCES, LENGTH, WARMUP_SHARE, DECAY_SHARE]
    settings += [WEIGHT_DECAY, INITIAL_STD]
    return f"{name}-{hashlib.sha256(repr(settings).encode()).hexdigest()[:8]}"


def build_world(
    folder: Path, texts: Mapping[str, tuple[Sequence[str], Sequence[str]]], progress: Callable[[int, int], None]
) -> None:
    """Tokenizer and text streams from (queries, positives) of the splits ``train`` and ``validation``.

    ``progress`` gets the texts that the tokenizer has read and will read.
    """
    documents = {
        split: [f"{query}\n{positive}"[:TEXT_CHARACTERS] for query, positive in zip(*pairs, strict=True)]
        for split, pairs in texts.items()
    }
    train = _shuffled(documents["train"])
    tokenizer = _train_tokenizer(train[:TOKENIZER_TEXTS], progress)
    _save_tokenizer(tokenizer, folder / TOKENIZER)
    np.save(folder / TRAIN_STREAM, _stream(tokenizer, train, NUM_TOKENS))
    held_out = _shuffled(documents["validation"])
    np.save(folder / VALIDATION_STREAM, _stream(tokenizer, held_out, VALIDATION_SEQUENCES * LENGTH))


def pretrain(world: Path, folders: Mapping[str, Path], progress: Callable[[int, int], None]) -> None:
    """Train the named nano models, each in its own process with one thread, the longest first.

    A folder appears whole when its model is finished, so that an interrupted call has lost only what was running.
    ``progress`` gets tokens trained on and in all, over all models.
    """
    largest_first = sorted(folders, key=lambda name: SHAPES[name].num_params_non_embedding, reverse=True)
    tasks = [_Task(name=name, folder=folders[name], world=world) for name in largest_first]
    total = len(tasks) * _num_steps(len(np.load(world / TRAIN_STREAM, mmap_mode="r"))) * SEQUENCES * LENGTH
    in_processes(
        _pretrain_one,
        tasks,
        num_processes=num_usable_cores(),
        progress=lambda done: progress(done, total),
    )


def _pretrain_one(task: _Task) -> None:
    build_once(task.folder, lambda partial: _train(SHAPES[task.name], task.world, partial))


def _train(shape: ModelShape, world: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(shape)
    head = torch.nn.Parameter(torch.randn(VOCAB_SIZE, shape.width) * model.config.initializer_range)
    parameters = [*model.parameters(), head]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        fused=True,
    )
    sequences = _sequences(world / TRAIN_STREAM)
    num_steps = _num_steps(sequences.size)
    order = np.random.default_rng(0).permutation(len(sequences))
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = shape.pretraining_learning_rate * _schedule(step / num_steps)
        optimizer.zero_grad()
        loss = next_token_loss(model, head, sequences[order[step * SEQUENCES : (step + 1) * SEQUENCES]])
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        tick(SEQUENCES * LENGTH)
    held_out = _sequences(world / VALIDATION_STREAM)
    with torch.no_grad():
        losses = [next_token_loss(model, head, row).item() for row in held_out[:, None]]
    # What `save_pretrained` does for a model in one file, without the seconds that it spends on loading DeepSpeed.
    model.config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    for file in (world / TOKENIZER).iterdir():
        shutil.copy(file, folder)
    record = {"loss": float(np.mean(losses)), "tokens": num_steps * SEQUENCES * LENGTH}
    (folder / PRETRAINING).write_text(json.dumps(record))


def build_model(shape: ModelShape) -> GPTNeoXModel:
    """A nano model with random weights, from torch's current seed."""
    from transformers import GPTNeoXConfig, GPTNeoXModel

    return GPTNeoXModel(
        GPTNeoXConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=shape.width,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            intermediate_size=4 * shape.width,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
            use_parallel_residual=True,
            tie_word_embeddings=False,
            initializer_range=INITIAL_STD,
            attention_dropout=0.0,
            hidden_dropout=0.0,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )
    )


def next_token_loss(model: GPTNeoXModel, head: torch.Tensor, sequences: NDArray[np.uint16]) -> torch.Tensor:
    """Mean cross-entropy of next tokens in nats. ``sequences`` is ``(rows, LENGTH)``, ``head`` ``(vocab, width)``."""
    import torch

    from trainer.unembedding import unembedding_loss

    tokens = torch.from_numpy(sequences.astype(np.int64))
    states = model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    return unembedding_loss(states.flatten(0, 1), head, tokens[:, 1:].flatten())


def _schedule(done: float) -> float:
    """Share of the peak learning rate: warm-up, stable, linear decay to zero (Hu et al. 2024)."""
    return min(1.0, (done + 1e-3) / WARMUP_SHARE, (1 - done) / DECAY_SHARE)


def _num_steps(num_tokens: int) -> int:
    return num_tokens // (SEQUENCES * LENGTH)


def _sequences(stream: Path) -> NDArray[np.uint16]:
    tokens: NDArray[np.uint16] = np.load(stream)
    return tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)


def _shuffled(documents: Sequence[str]) -> list[str]:
    return [documents[i] for i in np.random.default_rng(0).permutation(len(documents))]


def _stream(tokenizer: Tokenizer, documents: Sequence[str], num_tokens: int) -> NDArray[np.uint16]:
    """Documents one after the other, each closed by the end token, until there are ``num_tokens``."""
    (end,) = tokenizer.encode(END).ids
    tokens: list[int] = []
    for start in range(0, len(documents), 256):
        for encoding in tokenizer.encode_batch_fast(documents[start : start + 256]):
            tokens += [*encoding.ids, end]
        if len(tokens) >= num_tokens:
            break
    return np.array(tokens[:num_tokens], np.uint16)


def _train_tokenizer(documents: Sequence[str], progress: Callable[[int, int], None]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def read() -> Iterator[str]:
        for number, document in enumerate(documents):
            if number % 500 == 0:
                progress(number, len(documents))
            yield document

    tokenizer.train_from_iterator(read(), trainer, length=len(documents))
    return tokenizer


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write it as ``AutoTokenizer`` reads it. The padding token is its own: an end token that is padding too is masked
    out, or trained on, by surprise.
    """
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=PADDING,
        model_max_length=CONTEXT,
    ).save_pretrained(folder)

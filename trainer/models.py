"""Base models from the Hub or a folder: where their files are, which weights these are, and what shape they have.

Knows Hugging Face repositories and configurations. Never runs code from a repository and never reads a pickle.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.ladder import SHAPES, ModelShape

_PATTERNS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")


def files_of(name: str, folder: Path) -> list[Path]:
    """The files that decide what the model in ``folder`` computes: weights, configuration, tokenizer.

    Raises ``ValueError`` for a folder without a configuration or without safetensors weights.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"model {name!r} has no config.json: give a folder that save_pretrained wrote")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"model {name!r} has no .safetensors weights: save it again with safetensors, or choose another "
            "(pickled weights can run code and are never loaded)"
        )
    return sorted({path for pattern in _PATTERNS for path in folder.glob(pattern)})


def download(name: str) -> tuple[Path, str]:
    """(folder, commit) of a model on the Hub, or of its copy in the Hugging Face cache where the Hub is not reachable.

    Raises ``ValueError`` for a name that the Hub does not have or weights that are pickles only.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_PATTERNS), ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"model {name!r} is neither of the nano ladder, nor a folder, nor could the Hub give it "
            f"({type(error).__name__}): check the name, or the connection"
        ) from error
    files_of(name, folder)
    return folder, folder.name


def load_tokenizer(name: str, folder: Path) -> Any:
    """The ``tokenizers.Tokenizer`` of the model in ``folder``. Raises ``ValueError`` where it has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model {name!r} has no tokenizer that loads ({_reason(error)}): add tokenizer.json"
        ) from error
    if not tokenizer.is_fast:
        raise ValueError(f"model {name!r} has a tokenizer without tokenizer.json: convert it to a fast one")
    return tokenizer.backend_tokenizer


def measure_shape(name: str, folder: Path) -> tuple[ModelShape, int]:
    """The shape of any decoder that ``AutoModel`` builds, from its configuration alone, and the tokens it can read.

    Nothing is allocated: the model is built on the meta device. A block is an element of the module list that has as
    many elements as the configuration has layers; embeddings are those outside it; the rest is after the last block.
    A model of a ladder keeps the ladder's pre-training rate. Raises ``ValueError`` for what is no such decoder.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model {name!r} is none that transformers can build ({_reason(error)}): choose another"
        ) from error
    num_layers = getattr(config, "num_hidden_layers", 0)
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == num_layers]
    if len(lists) != 1:
        raise ValueError(f"model {name!r} has no single stack of {num_layers} blocks: choose a decoder-only model")
    block, *others = lists[0]
    if any(_num_parameters(other) != _num_parameters(block) for other in others):
        raise ValueError(f"model {name!r} has blocks of different sizes: choose a decoder whose blocks are alike")
    in_blocks = {id(parameter) for parameter in lists[0].parameters()}
    embedding = {
        id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()
    } - in_blocks
    final = [(n, p) for n, p in model.named_parameters() if id(p) not in in_blocks | embedding]
    known = SHAPES.get(name)
    shape = ModelShape(
        name=name,
        num_layers=num_layers,
        width=config.hidden_size,
        num_heads=config.num_attention_heads,
        vocab_size=config.vocab_size,
        num_params_embedding=sum(p.numel() for p in model.parameters() if id(p) in embedding),
        num_params_block=_num_parameters(block),
        num_params_final=sum(p.numel() for _, p in final),
        num_biases_block=_num_biases(block.named_parameters()),
        num_biases_final=_num_biases(final),
        linears=_linears(block),
        pretraining_learning_rate=known.pretraining_learning_rate if known else 0.0,
    )
    return shape, getattr(config, "max_position_embeddings", 0)


def _reason(error: Exception) -> str:
    """The first line of what another library says, for one sentence of ours."""
    return str(error).strip().partition("\n")[0].rstrip(".")


def _num_parameters(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def _num_biases(parameters: Iterable[tuple[str, Any]]) -> int:
    return sum(p.numel() for name, p in parameters if name.endswith("bias"))


def _linears(block: Any) -> tuple[tuple[int, int], ...]:
    """(inputs, outputs) of each linear layer; GPT-2's ``Conv1D`` is one that keeps its weight transposed."""
    import torch
    from transformers.pytorch_utils import Conv1D

    shapes = []
    for module in block.modules():
        if isinstance(module, torch.nn.Linear):
            shapes.append((module.in_features, module.out_features))
        elif isinstance(module, Conv1D):
            shapes.append((module.weight.shape[0], module.weight.shape[1]))
    return tuple(shapes)

"""Base models from the Hub or a folder: where their files are, which weights these are, and what shape they have.

Knows Hugging Face repositories and configurations. Never runs code from a repository and never reads a pickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.cache import hash_files
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


def check_revision(name: str, folder: Path, revision: str, cache: Path) -> None:
    """Raises ``ValueError`` unless ``folder`` still holds the weights and tokenizer that ``revision`` names."""
    again = "bring it back, or prepare and train again"
    if not folder.is_dir():
        raise ValueError(f"model {name!r} is no longer in {folder}: {again}")
    # A snapshot of the Hub is a folder named by its commit.
    found = revision if folder.name == revision else hash_files(files_of(name, folder), cache / "hashes")
    if found != revision:
        raise ValueError(f"model {name!r} in {folder} is revision {found} now, and {revision} was trained: {again}")


def download(name: str) -> tuple[Path, str]:
    """(folder, commit) of a model on the Hub, or of its copy in the Hugging Face cache where the Hub is not reachable.

    Raises ``ValueError`` for a name that the Hub does not have or weights that are pickles only.
    """
    folder = _snapshot(name, list(_PATTERNS))
    files_of(name, folder)
    return folder, folder.name


def _snapshot(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"model {name!r} is neither of the nano ladder, nor a folder, nor could the Hub give it "
            f"({type(error).__name__}): check the name, or the connection"
        ) from error


def download_tokenizer(name: str) -> Path:
    """The folder of a Hub model's tokenizer alone, without weights. Raises ``ValueError`` as ``download``."""
    return _snapshot(name, [pattern for pattern in _PATTERNS if pattern != "*.safetensors"])


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


def read_shape(name: str, folder: Path) -> tuple[ModelShape, int]:
    """The shape of any decoder that ``AutoModel`` builds, from its configuration alone, and the tokens it can read.

    Nothing is allocated: the model is built on the meta device. A model of a ladder keeps the ladder's pre-training
    rate. Raises ``ValueError`` for what is no such decoder.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    from trainer.anatomy import measure_shape

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model {name!r} is none that transformers can build ({_reason(error)}): choose another"
        ) from error
    model.config.name_or_path = name
    known = SHAPES.get(name)
    shape = measure_shape(name, model, known.pretraining_learning_rate if known else 0.0)
    if not all(getattr(module, "is_causal", True) for module in model.modules()):
        raise ValueError(f"model {name!r} lets a token see what comes after it: choose a causal decoder")
    return shape, getattr(config, "max_position_embeddings", 0)


def _reason(error: Exception) -> str:
    """The first line of what another library says, for one sentence of ours."""
    return str(error).strip().partition("\n")[0].rstrip(".")

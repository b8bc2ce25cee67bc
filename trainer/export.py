"""What a trial has learned, kept and handed out: trained weights by name, and folders that sentence-transformers loads.

Knows safetensors, a base model's folder, adapters, and the files that sentence-transformers reads. Never knows a sweep,
a store, or how a trial was trained. Nothing is pickled, and no code that comes with a model is run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from trainer.card import model_card, prompts
from trainer.data import DataManifest
from trainer.encoder import load_backbone
from trainer.methods import lora_config, quiet_peft
from trainer.models import check_revision
from trainer.result import TrialResult
from trainer.trained import RECORD, trained_record
from trainer.trial import Lora, Pooling, TrialSpec
from trainer.whole import save_tensors, sha256, whole

ADAPTER = "adapter"
"""Folder of LoRA's adapters inside an exported one, in peft's own format."""

_WEIGHTS = "trained.safetensors"
_ENCODER_PREFIX = "backbone."
"""``Encoder`` calls its decoder so, and trained tensors are named as in the encoder."""
_PEFT_PREFIX = "base_model.model."
_POOLING_KEYS: dict[Pooling, str] = {
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
    "weighted-mean": "pooling_mode_weightedmean_tokens",
}


def save_trained(folder: Path, spec: TrialSpec, tensors: Mapping[str, Tensor]) -> None:
    """Keep what a trial has trained: ``tensors`` by parameter name, of any shapes, as float32, beside its spec.

    The folder appears whole or not at all, and replaces what an earlier attempt of the same trial has left.
    """
    with whole(folder) as partial:
        weights = partial / _WEIGHTS
        save_tensors(weights, {name: tensor.float() for name, tensor in tensors.items()})
        (partial / RECORD).write_text(trained_record(spec.to_json(), sha256(weights)))


def load_trained(folder: Path, spec: TrialSpec) -> dict[str, Tensor]:
    """The tensors that ``save_trained`` kept of this very trial. Raises ``ValueError`` where they are not whole."""
    weights = folder / _WEIGHTS
    try:
        record = json.loads((folder / RECORD).read_text())
        intact = record["trial"] == spec.to_json() and record["sha256"] == sha256(weights)
    except (OSError, ValueError, KeyError):
        intact = False
    if not intact:
        raise ValueError(
            f"weights {str(folder)!r} are not what trial {spec.trial_id} saved: bring them back, or choose another"
        )
    return load_file(weights)


def weights_hash(folder: Path) -> str:
    """SHA-256 of the tensors that ``save_trained`` kept in ``folder``, in hex digits."""
    return sha256(folder / _WEIGHTS)


def export(out: Path, *, result: TrialResult, weights: Path, base: Path, manifest: DataManifest, cache: Path) -> None:
    """Write the model that a complete trial has trained as a folder for ``SentenceTransformer(out)``, in float32.

    ``weights`` is what ``save_trained`` kept, ``base`` the folder of the model that the trial began with; adapters are
    merged, and kept beside the model too. ``cache`` remembers hashes of files. The folder appears whole or not at all.
    Raises ``ValueError`` where ``out`` holds something, or ``weights`` or ``base`` are not what the trial used.
    """
    spec = result.spec
    if out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None):
        raise ValueError(f"{str(out)!r} is there already and not empty: give a folder that is not")
    check_revision(spec.model, base, spec.revision, cache)
    tensors = {name.removeprefix(_ENCODER_PREFIX): t for name, t in load_trained(weights, spec).items()}
    # Saving a model loads DeepSpeed to look for its wrapper, which would say on standard output what device it found.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with whole(out) as partial:
        backbone = load_backbone(str(base))
        if isinstance(spec.method, Lora):
            backbone = _merged(backbone, spec.method, tensors, partial / ADAPTER, model=spec.model)
        else:
            _put(backbone, tensors)
        backbone.config.use_cache = False
        backbone.save_pretrained(partial)
        _save_tokenizer(base, partial, spec.hyperparameters.max_length)
        _save_modules(partial, backbone.config.hidden_size, spec, manifest)
        (partial / "README.md").write_text(model_card(result, manifest, on_hub=base.name == spec.revision))
        if out.exists():
            out.rmdir()


def _merged(
    backbone: PreTrainedModel, method: Lora, tensors: Mapping[str, Tensor], folder: Path, *, model: str
) -> PreTrainedModel:
    """The decoder with its adapters added in; the adapters alone go to ``folder``."""
    config = lora_config(backbone, method)
    config.task_type = "FEATURE_EXTRACTION"
    with quiet_peft():
        adapted = get_peft_model(backbone, config)
        # The name that the trial knows, where peft would note a folder of this machine.
        config.base_model_name_or_path = model
        _put(adapted, {f"{_PEFT_PREFIX}{name}": tensor for name, tensor in tensors.items()})
        # The embedding's own weights are the base model's: only its adapter is new.
        adapted.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink()  # peft's own card is a form to be filled in; the folder above has the card
        merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def _put(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)


def _save_tokenizer(base: Path, folder: Path, max_length: int) -> None:
    """The base's tokenizer, set to cut and pad on the right, as the trainer does."""
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    tokenizer.model_max_length = max_length
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        # Padding is told from text by the attention mask, so a token that texts have too does no harm.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(folder)


def _save_modules(folder: Path, width: int, spec: TrialSpec, manifest: DataManifest) -> None:
    """The files that tell sentence-transformers what to do after the decoder, in the form that every release reads."""
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    _save_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    _save_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": spec.hyperparameters.max_length, "do_lower_case": False},
    )
    _save_json(
        folder / "config_sentence_transformers.json",
        {"prompts": prompts(manifest), "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    pooling = {key: mode == spec.hyperparameters.pooling for mode, key in _POOLING_KEYS.items()}
    _save_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **pooling})
    (folder / "2_Normalize").mkdir()


def _save_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")

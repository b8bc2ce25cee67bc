"""The model card of a trained embedding model: how to use it, how it was made, and what its numbers mean.

Knows a trial's result, the data manifest, and the front matter that the Hugging Face Hub reads. Never knows weights or
where files are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict

from trainer.data import DataManifest, Origin
from trainer.result import TrialResult
from trainer.trial import Bias, Freeze, Full, Lora, Method, TrialSpec

_TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction", "isoflop")


def model_card(result: TrialResult, manifest: DataManifest, *, on_hub: bool) -> str:
    """The card in Markdown. ``on_hub`` says that the base model's name is one on the Hub, which then links to it."""
    spec = result.spec
    sections = (
        _front_matter(spec, manifest, on_hub),
        f"# {_short(spec.model)}, {spec.method.label}, {spec.budget_flops:.2g} FLOPs\n\n"
        f"A text-embedding model, trained from the decoder `{spec.model}` by contrastive fine-tuning "
        f"(trial `{spec.trial_id}`). Embeddings have unit length; compare them by their dot product.",
        _usage(spec, manifest),
        _results(result),
        "## Recipe\n\n" + _table(_recipe(result)),
        "## Data\n\n" + _table(_data(manifest)),
        "## Software\n\n" + _table(_software(result)),
    )
    return "\n\n".join(sections) + "\n"


def prompts(manifest: DataManifest) -> dict[str, str]:
    """What is put before a text of each kind, by sentence-transformers' names for the kinds."""
    return {"query": manifest.source.query_prefix, "document": manifest.source.positive_prefix}


def _front_matter(spec: TrialSpec, manifest: DataManifest, on_hub: bool) -> str:
    """YAML, whose strings are written as JSON, which YAML reads."""
    fields: dict[str, object] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": list(_TAGS),
    }
    if on_hub:
        fields["base_model"] = spec.model
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---"])


def _usage(spec: TrialSpec, manifest: DataManifest) -> str:
    used = {kind: prompt for kind, prompt in prompts(manifest).items() if prompt}
    starts = " and ".join(f"every {kind} begins with `{json.dumps(prompt)}`" for kind, prompt in used.items())
    added = f" In training {starts}; `encode_query` and `encode_document` put it there." if used else ""
    adapters = (
        "\n\nThe adapters are merged into the weights. They are also kept alone, in `adapter/`, for "
        "`peft.PeftModel.from_pretrained(base, ...)` on the decoder that `AutoModel` loads."
        if isinstance(spec.method, Lora)
        else ""
    )
    return (
        "## Use\n\n```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        'model = SentenceTransformer("this folder")\n'
        'queries = model.encode_query(["what is asked"])\n'
        'documents = model.encode_document(["what may answer it"])\n'
        "print(model.similarity(queries, documents))\n```\n\n"
        f"Texts are cut to {spec.hyperparameters.max_length} tokens, special tokens included; an embedding is "
        f"{_POOLING[spec.hyperparameters.pooling]}.{added}{adapters}"
    )


_POOLING = {
    "mean": "the mean of its tokens' last states",
    "last": "the last token's last state",
    "weighted-mean": "the mean of its tokens' last states, weighted by position",
}


def _results(result: TrialResult) -> str:
    metrics, evaluation = result.metrics, result.spec.evaluation
    assert metrics is not None, "only a complete trial has a model"
    rows = {
        "Contrastive loss, in nats": f"{metrics.loss:.4f}",
        "  of queries against all documents": f"{metrics.loss_rows:.4f}",
        "  of documents against all queries": f"{metrics.loss_columns:.4f}",
        "  at the training temperature": f"{metrics.raw_loss:.4f}",
        "Logit scale that minimises it": f"{metrics.calibrated_scale:.2f}",
        "Queries whose document ranks first": f"{metrics.accuracy:.1%}",
        "Mean reciprocal rank": f"{metrics.mrr:.4f}",
        "nDCG@10": f"{metrics.ndcg_at_10:.4f}",
    }
    return (
        "## Results\n\n"
        f"On {evaluation.num_pairs} held-out pairs of the data below, each query among {evaluation.num_candidates} "
        "documents. The loss is the symmetric contrastive loss (InfoNCE) at the logit scale that minimises it, so that "
        "trials at different training temperatures compare; guessing gives "
        f"ln {evaluation.num_candidates} = {math.log(evaluation.num_candidates):.4f}.\n\n" + _table(rows)
    )


def _recipe(result: TrialResult) -> dict[str, object]:
    spec, spending, counts, placement = result.spec, result.spending, result.counts, result.placement
    return {
        "Base model": f"`{spec.model}`",
        "Revision": f"`{spec.revision}`",
        "Method": _words(spec.method),
        "Parameters": f"{counts.total:,}, of which {counts.embedding:,} in embeddings",
        "Trained parameters": f"{counts.trainable:,}",
        "Loss": "symmetric InfoNCE over the pairs of a step",
        "Optimizer": "AdamW; linear warm-up, then a cosine to zero, over the budget",
        **asdict(spec.hyperparameters),
        "seed": spec.seed,
        "Budget, in training FLOPs": f"{spec.budget_flops:,}",
        "Booked FLOPs": f"{spending.booked_flops:,} (real tokens, without embeddings and attention)",
        "Measured FLOPs": f"{spending.measured_flops:,} (with attention, recomputation and evaluation)",
        "Tokens": f"{spending.tokens:,}",
        "Pairs": f"{spending.pairs:,}, {result.epochs:.2f} passes over the train split",
        "Steps": f"{spending.steps:,}",
        "Workers": f"{placement.num_workers} on {result.environment.device}",
        "Computed in": placement.dtype,
    }


def _words(method: Method) -> str:
    match method:
        case Full():
            return "full: every parameter is trained"
        case Freeze():
            return f"freeze: the last {method.active_fraction:g} of the blocks and the final norm are trained"
        case Bias():
            return "bias: the biases are trained"
        case Lora():
            return f"lora: adapters of rank {method.rank} and alpha {method.alpha:g} on linear layers and embeddings"


def _data(manifest: DataManifest) -> dict[str, object]:
    return {
        **{f"Source {number}": _origin(origin) for number, origin in enumerate(manifest.source.origins, start=1)},
        **{name: f"`{json.dumps(value)}`" for name, value in manifest.source.settings.items()},
        "Manifest hash": f"`{manifest.hash}`",
        "Pairs by split": _counts(manifest.num_pairs),
        "Left out": _counts(manifest.dropped) or "nothing",
        "Split": manifest.split_rule,
        **{f"SHA-256 of {split}": f"`{digest}`" for split, digest in manifest.content.items()},
    }


def _origin(origin: Origin) -> str:
    fields = {name: value for name, value in asdict(origin).items() if name != "source" and value}
    return ", ".join([f"`{origin.source}`", *(f"{name} `{value}`" for name, value in fields.items())])


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _software(result: TrialResult) -> dict[str, object]:
    versions = json.loads(result.environment.versions)
    return {"isoflop commit": result.environment.git_commit or "unknown", **versions, "Finished": result.finished_at}


def _table(rows: Mapping[str, object]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows.items())])


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _short(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1]

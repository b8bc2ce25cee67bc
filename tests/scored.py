"""A store of two small models with kept weights, and made-up rows for nano tasks: what an evaluation starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sweeps.reading import read_spec
from sweeps.store import Store
from tests.sweeps.examples import SPEC, result_of, trial_spec
from tests.world import WORDS, save_decoder, save_tokenizer
from trainer.cache import hash_files
from trainer.data import DataManifest, DataSource, SideStatistics, TokenStatistics
from trainer.encoder import Encoder, load_backbone
from trainer.export import save_trained
from trainer.ladder import SHAPES
from trainer.models import files_of
from trainer.nano_rows import NanoRow, NanoRows
from trainer.prepare import Prepared, PreparedModel
from trainer.trial import Full

MODEL = "nano-3k"
NUM_PACKAGES, MODULES, IN_MODULE = 6, 3, 10


def nano_world(seed: int = 0) -> NanoRows:
    """Packages of modules of pairs; a text has the words of its package, its module and its pair."""
    places = [(p, m, i) for p in range(NUM_PACKAGES) for m in range(MODULES) for i in range(IN_MODULE)]
    rows = []
    for p, m, i in places:
        own = f"{WORDS[p]} {WORDS[10 + m]} {WORDS[(7 * i + p + seed) % 36]} {i}"
        rows.append(NanoRow(query=f"asks {own}", positive=f"tells {own} {p} {m}", module=f"{WORDS[p]}.m{m}"))
    return NanoRows.of(rows)


def scored_store(folder: Path, seeds: tuple[int, ...] = (1, 2)) -> Store:
    """The store; trial ``n`` has its base model with noise of seed ``n`` for trained weights, and a loss of ``n``."""
    base = folder / "cache" / "base"
    torch.manual_seed(0)
    save_tokenizer(base)
    save_decoder(base)
    revision = hash_files(files_of("base", base), folder / "cache" / "hashes")
    store = Store.create(folder / "store", read_spec(SPEC), _prepared(base, revision).to_json())
    for seed in seeds:
        first = trial_spec(seed)
        spec = replace(
            first,
            model=MODEL,
            revision=revision,
            method=Full(),
            hyperparameters=replace(first.hyperparameters, max_length=12),
        )
        encoder = Encoder(load_backbone(str(base)), "mean")
        torch.manual_seed(seed)
        tensors = {name: p.detach() + 0.3 * torch.randn_like(p) for name, p in encoder.named_parameters()}
        save_trained(Path(str(store.weights(spec.trial_id))), spec, tensors)
        store.record(result_of(spec, loss=float(seed)))
    return store


def _prepared(base: Path, revision: str) -> Prepared:
    side = SideStatistics(mean=8, percentiles={"50": 8}, histogram={"8": 1}, mean_at_max_length=8, truncated_share=0)
    model = PreparedModel(
        name=MODEL,
        path=str(base),
        revision=revision,
        shape=SHAPES[MODEL],
        tokens=str(base.parent / "tokens" / "none"),
    )
    return Prepared(
        manifest=DataManifest(
            source=DataSource(source="nano"),
            fingerprint="0",
            num_pairs={"train": 1000, "validation": 50, "test": 180},
            dropped={},
            split_rule="by second-level package",
            content={"train": "ab", "validation": "cd", "test": "ef"},
        ),
        statistics=TokenStatistics(max_length=12, query=side, positive=side),
        models={MODEL: model},
    )

"""Everything a sweep needs before its first trial: pairs, tokens, models, and what is known of them.

Knows the layout of the cache, who makes each artefact, and how to find what is there without loading anything heavy.
Never knows a sweep or a trial.

    <cache>/data/<source key>/       one Parquet file a split, manifest.json
    <cache>/nano/<train texts>/      tokenizer, token streams, and the pre-trained nano models beside them
    <cache>/models/<model key>.json  what was measured of a model: folder, revision, shape, tokenizer
    <cache>/tokens/<data>-<tokenizer>-<max length>/
    <cache>/nano-tasks/              the modules of held-out nano pairs, which evaluation tasks are made of
    <cache>/statistics/<key>.json    what was measured of pairs (trainer/survey.py)
    <cache>/hashes/                  content hashes of people's files, by size and time of change
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from trainer import nano
from trainer.cache import build_once, hash_files, slug, write_atomically
from trainer.data import TOKENS, DataManifest, DataSource, Report, TokenStatistics
from trainer.ladder import LADDERS, ModelShape
from trainer.pair_cache import NANO, artefact, data_folder, find_manifest, manifest_folder, packages_of, prepare_data

if TYPE_CHECKING:
    from trainer.nano_rows import NanoRows

NANO_MODELS = frozenset(shape.name for shape in LADDERS[NANO])


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedModel:
    """A model that is ready to be loaded."""

    name: str
    path: str
    """Folder that ``AutoModel.from_pretrained`` loads."""
    revision: str
    """Identity of weights and tokenizer: a Hub commit, or a hash of the folder's content."""
    shape: ModelShape
    tokens: str
    """Folder of the pairs in this model's tokens (``trainer.data.open_split``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What ``prepare`` made."""

    manifest: DataManifest
    statistics: TokenStatistics
    """Of the first model's tokenizer."""
    models: dict[str, PreparedModel]

    def to_json(self) -> str:
        return json.dumps(
            {
                "manifest": json.loads(self.manifest.to_json()),
                "statistics": json.loads(self.statistics.to_json()),
                "models": {name: asdict(model) for name, model in self.models.items()},
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Prepared:
        record = json.loads(text)
        models = {}
        for name, fields in record["models"].items():
            shape = ModelShape.from_json(json.dumps(fields.pop("shape")))
            models[name] = PreparedModel(shape=shape, **fields)
        return cls(
            manifest=DataManifest.from_json(json.dumps(record["manifest"])),
            statistics=TokenStatistics.from_json(json.dumps(record["statistics"])),
            models=models,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _ModelRecord:
    """What is kept of a model: everything but the tokens, which depend on the data."""

    path: str
    revision: str
    tokenizer: str
    longest: int
    """Tokens the model can read; 0 where it does not say."""
    shape: ModelShape

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> _ModelRecord:
        fields = json.loads(text)
        return cls(shape=ModelShape.from_json(json.dumps(fields.pop("shape"))), **fields)


def default_cache() -> Path:
    """``$ISOFLOP_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("ISOFLOP_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("isoflop"))


def prepare(source: DataSource, models: Sequence[str], *, max_length: int, cache: Path, report: Report) -> Prepared:
    """Make what is missing, and return all of it.

    Each artefact is made once, whole, under a lock: an interrupted call goes on where it stopped, and two at once do
    the work once. ``report`` hears of the progress several times a second. Raises ``ValueError`` for bad input: a
    source or model that does not exist, a row that is no pair, too few pairs, a ``max_length`` beyond a model's.
    """
    # The tokenizers library asks for this before its first use, or warns at every later fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    own = [name for name in models if name in NANO_MODELS]
    if own:
        _check_length(max_length, own[0], nano.CONTEXT)
    manifest = prepare_data(source, cache, report)
    # What may be misspelled comes before what takes minutes.
    for name in sorted(set(models) - NANO_MODELS):
        _check_length(max_length, name, _prepare_model(name, source, cache, report).longest)
    if own:
        _prepare_nano(_nano_source(source), own, cache, report)
    for name in models:
        record = _prepare_model(name, source, cache, report)
        _prepare_tokens(record, name, data_folder(source, cache), manifest, max_length, cache, report)
    prepared = find(source, models, max_length=max_length, cache=cache)
    assert prepared is not None, "what was prepared a moment ago is gone from the cache"
    return prepared


def cache_of(prepared: Prepared) -> Path:
    """The cache that these were prepared in."""
    return Path(next(iter(prepared.models.values())).tokens).parent.parent


def is_there(prepared: Prepared) -> bool:
    """Whether the models and tokens that ``prepare`` named are still where it left them."""
    return all(Path(folder).is_dir() for model in prepared.models.values() for folder in (model.path, model.tokens))


def find(source: DataSource, models: Sequence[str], *, max_length: int, cache: Path) -> Prepared | None:
    """What ``prepare`` made, or ``None`` where something is missing. Reads small records only, in milliseconds."""
    manifest = find_manifest(source, cache)
    if manifest is None:
        return None
    prepared: dict[str, PreparedModel] = {}
    statistics: list[TokenStatistics] = []
    for name in models:
        record = _find_model(name, source, cache)
        if record is None:
            return None
        tokens = _tokens_folder(cache, manifest, record, max_length)
        if not tokens.exists():
            return None
        statistics.append(TokenStatistics.from_json((tokens / TOKENS).read_text()))
        prepared[name] = PreparedModel(
            name=name, path=record.path, revision=record.revision, shape=record.shape, tokens=str(tokens)
        )
    return Prepared(manifest=manifest, statistics=statistics[0], models=prepared)


def prepare_tokenizers(source: DataSource, models: Sequence[str], cache: Path, report: Report) -> dict[str, Path]:
    """The folder of each model's tokenizer; no weights are loaded or trained. Raises ``ValueError`` as ``prepare``."""
    from trainer.models import download_tokenizer

    folders: dict[str, Path] = {}
    if any(name in NANO_MODELS for name in models):
        _prepare_nano(_nano_source(source), (), cache, report)
    for name in models:
        if name in NANO_MODELS:
            manifest = find_manifest(_nano_source(source), cache)
            assert manifest is not None, "the nano corpus was prepared a moment ago"
            folders[name] = _world_folder(manifest, cache) / nano.TOKENIZER
        else:
            report(f"loading the tokenizer of {name}", 0, 0)
            folders[name] = Path(name).resolve() if Path(name).is_dir() else download_tokenizer(name)
    return folders


def nano_test_rows(manifest: DataManifest, cache: Path, report: Report) -> NanoRows:
    """What nano tasks are made of: the test split of these nano data, with the module of each pair.

    Raises ``ValueError`` where the data are others, are gone, or are not to be made again here.
    """
    own = [origin for origin in manifest.source.origins if origin.source == NANO]
    if not own:
        others = ", ".join(repr(origin.source) for origin in manifest.source.origins)
        raise ValueError(
            "--tasks has nano tasks, which are made of pairs that a sweep on nano data holds out, and the data of this "
            f"one are {others}: give paper15, or names of mteb's tasks"
        )
    from trainer.nano_rows import nano_rows

    pairs = manifest_folder(manifest, cache)
    return nano_rows(manifest, pairs, packages_of(own[0]), cache, report)


def _nano_source(source: DataSource) -> DataSource:
    """The corpus that nano models read in pre-training: the pairs' own one, or that of all installed packages."""
    return DataSource(source=NANO, name=source.name if source.source == NANO else "")


def _prepare_nano(source: DataSource, models: Sequence[str], cache: Path, report: Report) -> None:
    from trainer.shards import read_texts

    manifest = prepare_data(source, cache, report)
    pairs, world = data_folder(source, cache), _world_folder(manifest, cache)
    folders = {name: _nano_folder(manifest, name, cache) for name in models}
    with artefact(world, report):
        if not world.exists():
            texts = {split: read_texts(pairs, split) for split in ("train", "validation")}
            build_once(
                world,
                lambda partial: nano.build_world(
                    partial, texts, lambda done, total: report("training the tokenizer", done, total)
                ),
            )
        missing = {name: folder for name, folder in folders.items() if not folder.exists()}
        if missing:
            words = f"pre-training {', '.join(missing)}"
            nano.pretrain(world, missing, lambda done, total: report(words, done, total))


def _world_folder(manifest: DataManifest, cache: Path) -> Path:
    return _nano_cache(manifest, cache) / f"world-{nano.RECIPE}"


def _nano_folder(manifest: DataManifest, name: str, cache: Path) -> Path:
    return _nano_cache(manifest, cache) / nano.model_key(name)


def _nano_cache(manifest: DataManifest, cache: Path) -> Path:
    """Tokenizer and models follow from the train texts alone: validation only says how good they are."""
    return cache / NANO / manifest.content["train"][:16]


def _prepare_model(name: str, source: DataSource, cache: Path, report: Report) -> _ModelRecord:
    known = _find_model(name, source, cache)
    if known:
        return known
    from trainer import models

    report(f"loading {name}", 0, 0)
    local = _local_folder(name, source, cache)
    if local:
        folder, revision = local, hash_files(models.files_of(name, local), cache / "hashes")
    else:
        folder, revision = models.download(name)
    shape, longest = models.read_shape(name, folder)
    record = _ModelRecord(
        path=str(folder),
        revision=revision,
        tokenizer=slug(models.load_tokenizer(name, folder).to_str()),
        longest=longest,
        shape=shape,
    )
    write_atomically(_record_file(name, local, cache), record.to_json())
    return record


def _find_model(name: str, source: DataSource, cache: Path) -> _ModelRecord | None:
    folder = _local_folder(name, source, cache)
    if folder and not folder.exists():
        return None
    file = _record_file(name, folder, cache)
    if not file.exists():
        return None
    record = _ModelRecord.from_json(file.read_text())
    return record if Path(record.path).exists() else None


def _local_folder(name: str, source: DataSource, cache: Path) -> Path | None:
    """Where a model is that does not come from the Hub: a folder, or a nano model's place in the cache."""
    if name in NANO_MODELS:
        manifest = find_manifest(_nano_source(source), cache)
        return _nano_folder(manifest, name, cache) if manifest else cache / "nano" / "missing"
    folder = Path(name)
    return folder.resolve() if folder.is_dir() else None


def _record_file(name: str, folder: Path | None, cache: Path) -> Path:
    """What is known of a model: by its files for a folder, by its name for the Hub."""
    from trainer.models import files_of

    key = f"{folder} {hash_files(files_of(name, folder), cache / 'hashes')}" if folder else f"hub {name}"
    return cache / "models" / f"{slug(key)}.json"


def _prepare_tokens(
    record: _ModelRecord, name: str, pairs: Path, manifest: DataManifest, max_length: int, cache: Path, report: Report
) -> None:
    folder = _tokens_folder(cache, manifest, record, max_length)
    if folder.exists():
        return
    from trainer.models import load_tokenizer
    from trainer.tokens import write_tokens

    with artefact(folder, report):
        build_once(
            folder,
            lambda partial: write_tokens(
                pairs,
                partial,
                tokenizer=load_tokenizer(name, Path(record.path)),
                max_length=max_length,
                progress=lambda done, total: report("turning pairs into tokens", done, total),
            ),
            resume=True,
        )


def _check_length(max_length: int, name: str, longest: int) -> None:
    if 0 < longest < max_length:
        raise ValueError(f"max_length is {max_length}, but {name} reads at most {longest} tokens: lower it")


def _tokens_folder(cache: Path, manifest: DataManifest, record: _ModelRecord, max_length: int) -> Path:
    return cache / "tokens" / f"{manifest.hash}-{record.tokenizer}-{max_length}"

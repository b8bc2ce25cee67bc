"""An exported folder is what was trained: sentence-transformers and peft load it alone and give the same embeddings."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCardData
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel

from tests.sweeps.examples import result_of, trial_spec
from tests.trainer.tiny import tiny_decoder, write_split
from tests.trainer.trials import ignore, spec_of
from tests.world import make_pairs, save_tokenizer
from trainer.cache import hash_files
from trainer.contrastive import embed
from trainer.data import DataManifest, DataSource, open_split
from trainer.encoder import Encoder, choose_layout, load_backbone
from trainer.evaluate import HELD_OUT_ORDER_SEED, held_out_metrics
from trainer.export import ADAPTER, export, load_trained, save_trained
from trainer.loop import train
from trainer.methods import apply_method, quiet_peft
from trainer.models import files_of, load_tokenizer
from trainer.trial import Bias, Freeze, Full, Lora, Method, Placement, Pooling, TrialFiles, TrialSpec

LENGTH = 12
QUERY, POSITIVE = "Find what answers: ", "passage: "
TEXTS = [text for pair in make_pairs(10) for text in pair] + ["a", "banlan " * 50, " spaces around ", "two\nlines"]
PLAIN = DataManifest(
    source=DataSource(source="pairs.jsonl"),
    fingerprint="0",
    num_pairs={"train": 1000, "validation": 50, "test": 50},
    dropped={"blank text": 2},
    split_rule="by query",
    content={"train": "ab", "validation": "cd", "test": "ef"},
)
PREFIXED = replace(PLAIN, source=replace(PLAIN.source, query_prefix=QUERY, positive_prefix=POSITIVE))


class Trained:
    """A tiny decoder on disk, trained by adding noise, with what it then makes of token ids."""

    def __init__(self, folder: Path, family: str, method: Method, pooling: Pooling = "mean") -> None:
        self.folder, self.base, self.out, self.weights = folder, folder / "base", folder / "out", folder / "weights"
        save_tokenizer(self.base)
        tiny_decoder(family, vocab_size=320).save_pretrained(self.base)
        hyperparameters = replace(trial_spec().hyperparameters, pooling=pooling, max_length=LENGTH)
        self.spec: TrialSpec = replace(
            trial_spec(), model="./base", revision=self.revision(), method=method, hyperparameters=hyperparameters
        )
        backbone = load_backbone(str(self.base))
        torch.manual_seed(1)
        apply_method(backbone, method)
        self.encoder = Encoder(backbone, pooling)
        with torch.no_grad():
            for parameter in self.tensors().values():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        save_trained(self.weights, self.spec, self.tensors())

    def revision(self) -> str:
        return hash_files(files_of("base", self.base), self.folder / "hashes")

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: p for name, p in self.encoder.named_parameters() if p.requires_grad}

    def ids(self, texts: list[str]) -> list[np.ndarray]:
        """As in training: the backend tokenizer cuts and adds special tokens."""
        tokenizer = load_tokenizer("base", self.base)
        tokenizer.enable_truncation(LENGTH)
        return [np.array(encoding.ids) for encoding in tokenizer.encode_batch(texts)]

    def embeddings(self, texts: list[str]) -> torch.Tensor:
        return embeddings_of(self.encoder, self.ids(texts))

    def export(self, manifest: DataManifest = PLAIN) -> None:
        result = replace(result_of(trial_spec()), spec=self.spec)
        cache = self.folder / "cache"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            export(self.out, result=result, weights=self.weights, base=self.base, manifest=manifest, cache=cache)


def embeddings_of(encoder: Encoder, ids: list[np.ndarray]) -> torch.Tensor:
    with torch.no_grad():
        return embed(encoder, ids, chunk_tokens=100, recompute=False).embeddings


def sentence_transformer(folder: Path) -> object:
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=False)


def same(encode: Callable[..., np.ndarray], trained: Trained, texts: list[str], prefix: str = "") -> None:
    expected = trained.embeddings([prefix + text for text in texts])
    torch.testing.assert_close(torch.tensor(encode(texts, batch_size=7)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "last", "weighted-mean"])
@pytest.mark.parametrize("method", [Full(), Freeze(active_fraction=0.5), Bias(), Lora(rank=2, alpha=4)])
def test_sentence_transformers_gives_the_same_embeddings(tmp_path: Path, method: Method, pooling: Pooling) -> None:
    trained = Trained(tmp_path, "gpt_neox", method, pooling)
    trained.export()
    model = sentence_transformer(trained.out)
    same(model.encode, trained, TEXTS)
    assert model.max_seq_length == LENGTH
    assert model.similarity_fn_name == "cosine"
    assert not list(tmp_path.glob(".*")), "something partial is left"


@pytest.mark.parametrize("method", [Full(), Lora(rank=2, alpha=4)], ids=lambda method: method.label)
@pytest.mark.parametrize("family", ["gpt2", "opt", "smollm", "gemma2", "gemma3_text"])
def test_other_families_and_their_special_tokens(tmp_path: Path, family: str, method: Method) -> None:
    """A tokenizer that puts a token first and last, as Llama's and OPT's do: a cut text keeps both."""
    trained = Trained(tmp_path, family, method, "last")
    tokenizer = save_tokenizer(trained.base)
    path = trained.base / "tokenizer.json"
    tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    path.write_text(tokenizer.to_str())
    trained.spec = replace(trained.spec, revision=trained.revision())
    save_trained(trained.weights, trained.spec, trained.tensors())
    trained.export()
    model = sentence_transformer(trained.out)
    assert model.tokenize(["banlan " * 50])["input_ids"][0].tolist()[:: LENGTH - 1] == [0, 0]
    same(model.encode, trained, TEXTS)


def test_prefixes_become_prompts(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "gpt_neox", Full())
    trained.export(PREFIXED)
    model = sentence_transformer(trained.out)
    same(model.encode, trained, TEXTS)
    same(model.encode_query, trained, TEXTS, QUERY)
    same(model.encode_document, trained, TEXTS, POSITIVE)
    card = (trained.out / "README.md").read_text()
    assert f"every query begins with `{json.dumps(QUERY)}`" in card


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "smollm"])
def test_adapters_stand_beside_the_merged_model_for_peft(tmp_path: Path, family: str) -> None:
    from peft import PeftModel

    trained = Trained(tmp_path, family, Lora(rank=2, alpha=4))
    trained.export()
    with quiet_peft():
        adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(trained.base), str(trained.out / ADAPTER))
    backbone = adapted.base_model.model
    choose_layout(backbone)
    texts = [np.arange(n) + 3 for n in (5, 2, 9)]
    theirs, ours = (embeddings_of(encoder, texts) for encoder in (Encoder(backbone, "mean"), trained.encoder))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
    assert {path.name for path in (trained.out / ADAPTER).iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert str(tmp_path) not in (trained.out / ADAPTER / "adapter_config.json").read_text()


def test_the_folder_holds_no_pickle_no_code_and_no_half_precision(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "gpt_neox", Full())
    trained.export()
    assert {path.suffix for path in trained.out.rglob("*") if path.is_file()} == {".json", ".safetensors", ".md"}
    config = json.loads((trained.out / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert "auto_map" not in config
    model = sentence_transformer(trained.out)
    assert model.tokenizer.pad_token == "<|endoftext|>"
    assert model.tokenizer.padding_side == model.tokenizer.truncation_side == "right"


def test_the_card_says_what_was_done(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "gpt_neox", Lora(rank=2, alpha=4))
    trained.export()
    card = (trained.out / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert ModelCardData(**fields).to_dict()["library_name"] == "sentence-transformers"
    assert fields["pipeline_tag"] == "sentence-similarity"
    assert "base_model" not in fields, "a folder of this machine is no model on the Hub"
    spec, result = trained.spec, result_of(trial_spec())
    facts = (
        spec.trial_id, spec.revision, "rank 2 and alpha 4", f"{spec.budget_flops:,}", PLAIN.hash, "`pairs.jsonl`",
        f"{result.spending.booked_flops:,}", "3.5000", "ln 256 = 5.5452", "1,000 train", "| learning_rate | ",
    )  # fmt: skip
    assert [fact for fact in facts if fact not in text] == []


def test_a_model_of_the_hub_is_named_as_the_base(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "gpt_neox", Full())
    commit = "0123456789" * 4
    trained.base = trained.base.rename(tmp_path / commit)
    trained.spec = replace(trained.spec, model="someone/decoder", revision=commit)
    save_trained(trained.weights, trained.spec, trained.tensors())
    trained.export()
    fields = yaml.safe_load((trained.out / "README.md").read_text().split("---\n")[1])
    assert fields["base_model"] == "someone/decoder"


def test_what_is_there_already_is_never_touched(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "gpt_neox", Full())
    trained.out.mkdir()
    (trained.out / "mine").write_text("keep")
    with pytest.raises(ValueError, match="is there already and not empty"):
        trained.export()
    assert [path.name for path in trained.out.iterdir()] == ["mine"]
    (trained.out / "mine").unlink()
    trained.export()
    assert (trained.out / "modules.json").exists()


def test_a_base_that_has_gone_or_changed_is_refused(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "gpt_neox", Full())
    config = trained.base / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ValueError, match=f"and {trained.spec.revision} was trained"):
        trained.export()
    trained.base = tmp_path / "gone"
    with pytest.raises(ValueError, match="no longer in"):
        trained.export()
    assert not trained.out.exists()


@pytest.mark.parametrize("method", [Full(), Lora(rank=2, alpha=4)], ids=lambda method: method.label)
def test_the_exported_model_has_the_loss_of_the_trial_s_row(tmp_path: Path, method: Method) -> None:
    """The whole way: texts, tokens, a real trial that keeps its weights, sentence-transformers, the same metrics."""
    trained = Trained(tmp_path, "gpt_neox", method)
    pairs = {"train": make_pairs(300, seed=1), "validation": make_pairs(64, seed=2)}
    for split, rows in pairs.items():
        queries, positives = (trained.ids(list(side)) for side in zip(*rows, strict=True))
        write_split(tmp_path / "tokens", split, queries, positives)
    spec = spec_of(method, model="./base", revision=trained.revision(), max_length=LENGTH, budget_flops=3 * 10**8)
    files = TrialFiles(
        tokens=str(tmp_path / "tokens"),
        model=str(trained.base),
        checkpoints=str(tmp_path / "checkpoints"),
        weights=str(tmp_path / "kept"),
    )
    result = train(spec, Placement(), files, ignore)
    assert result.metrics is not None and result.metrics.loss < np.log(32)

    export(
        trained.out,
        result=result,
        weights=tmp_path / "kept",
        base=trained.base,
        manifest=PLAIN,
        cache=tmp_path / "cache",
    )
    model = sentence_transformer(trained.out)
    order = open_split(tmp_path / "tokens", "validation").order(HELD_OUT_ORDER_SEED, np.arange(64))
    queries, positives = zip(*(pairs["validation"][i] for i in order), strict=True)
    found = held_out_metrics(
        torch.tensor(model.encode(list(queries))),
        torch.tensor(model.encode(list(positives))),
        num_candidates=spec.evaluation.num_candidates,
        temperature=spec.hyperparameters.temperature,
    )
    assert asdict(found) == pytest.approx(asdict(result.metrics), rel=1e-4)


def test_weights_come_back_as_float32_and_only_for_their_trial(tmp_path: Path) -> None:
    spec, folder = trial_spec(), tmp_path / "weights" / "trial"
    exact = torch.tensor([1.5, 2.25], dtype=torch.float64)
    save_trained(folder, spec, {"a": torch.ones(3), "b": exact})
    save_trained(folder, spec, {"b": torch.nn.Parameter(exact)})
    found = load_trained(folder, spec)
    assert found.keys() == {"b"} and found["b"].dtype is torch.float32 and found["b"].tolist() == [1.5, 2.25]
    assert [path.name for path in folder.parent.iterdir()] == ["trial"]
    with pytest.raises(ValueError, match="are not what trial"):
        load_trained(folder, trial_spec(1))
    with (folder / "trained.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="are not what trial"):
        load_trained(folder, spec)
    with pytest.raises(ValueError, match="are not what trial"):
        load_trained(tmp_path / "nothing", spec)


def test_a_write_that_fails_leaves_the_weights_of_before(tmp_path: Path) -> None:
    spec, folder = trial_spec(), tmp_path / "trial"
    save_trained(folder, spec, {"a": torch.ones(3)})
    with pytest.raises(TypeError):
        save_trained(folder, spec, {"a": torch.zeros(3), 1: torch.zeros(3)})  # type: ignore[dict-item]
    assert load_trained(folder, spec)["a"].tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["trial"]

"""Word matching as the evaluation tasks see it: BM25 and TF-IDF, to stand beside the trained models.

Knows words and mteb's protocols. Never knows a neural model or a store. Words are runs of letters or digits, and
identifiers fall apart into theirs (``readHTMLTable`` is read, html, table), without which code shares few words with
what is said of it. Nothing is tuned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from trainer.tasks import BASELINES

BM25, TFIDF = BASELINES
MAX_WORDS = 2**14
"""Most frequent words of the training texts that TF-IDF counts: its embeddings are dense for mteb."""

_WORD = re.compile(r"\d+|[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [word.lower() for run in _WORD.findall(text) for word in _CAMEL.split(run)]


class Bm25:
    """BM25 (Robertson et al. 1994; k1 1.5, b 0.75) by mteb's protocol of a search."""

    def __init__(self) -> None:
        from trainer.scoring import model_meta

        self.mteb_model_meta = model_meta(BM25, bm25s.__version__)
        self._ids: list[str] = []
        self._vocabulary: dict[str, int] = {}
        self._index = bm25s.BM25()

    def index(self, corpus: Any, **_: Any) -> None:
        """Take in documents, rows with ``id``, ``text`` and mostly ``title``."""
        self._ids = [document["id"] for document in corpus]
        texts = [words(f"{document.get('title') or ''} {document['text']}") for document in corpus]
        self._vocabulary = {word: i for i, word in enumerate(dict.fromkeys(word for text in texts for word in text))}
        numbers = [[self._vocabulary[word] for word in text] for text in texts]
        self._index.index((numbers, self._vocabulary), show_progress=False)

    def search(
        self, queries: Any, *, top_k: int, top_ranked: Mapping[str, Sequence[str]] | None = None, **_: Any
    ) -> dict[str, dict[str, float]]:
        """Score by document, of the ``top_k`` best or of those that ``top_ranked`` asks for, for each query."""
        places = {name: place for place, name in enumerate(self._ids)}
        found = {}
        for query in queries:
            known = [word for word in words(query["text"]) if word in self._vocabulary]
            scores = self._index.get_scores(known) if known else np.zeros(len(self._ids), np.float32)
            if top_ranked is None:
                best = np.argsort(-scores, kind="stable")[:top_k].tolist()
            else:
                best = [places[name] for name in top_ranked[query["id"]]]
            found[query["id"]] = {self._ids[place]: float(scores[place]) for place in best}
        return found


def tfidf(texts: Sequence[str]) -> Any:
    """TF-IDF as an encoder of mteb: words and their rarity from ``texts``, as a model learns from them."""
    from mteb.models.abs_encoder import AbsEncoder

    from trainer.scoring import model_meta

    vectorizer = TfidfVectorizer(analyzer=words, max_features=MAX_WORDS, sublinear_tf=True, dtype=np.float32)
    vectorizer.fit(texts)

    class TfIdf(AbsEncoder):  # type: ignore[misc]  # mteb is not followed
        """Unit vectors of weighted word counts; a text of unknown words is all zeros."""

        mteb_model_meta = model_meta(TFIDF, str(len(texts)))

        def encode(self, inputs: Any, **_: Any) -> NDArray[np.float32]:
            batch = [text for texts in inputs for text in texts["text"]]
            embeddings: NDArray[np.float32] = vectorizer.transform(batch).toarray()
            return embeddings

    return TfIdf()

"""Which languages texts seem to be in: a guess from their letters, with how many of the guesses are in doubt.

Knows py3langid (Lui and Baldwin's langid, naive Bayes over byte n-grams, 97 languages). Never knows where texts come
from. It guesses a natural language for anything, code included, so the share in doubt belongs to every number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SURE = 0.5
"""Probability of the likeliest language from which a guess is not in doubt."""
_CHARACTERS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Languages:
    """What was guessed of some texts."""

    shares: dict[str, float]
    """Share of the texts by ISO 639-1 code, the largest first; guesses in doubt included."""
    doubtful: float
    """Share of the texts whose likeliest language has a probability below ``SURE``."""


def guess_languages(texts: Sequence[str]) -> Languages:
    """The languages of ``texts``, by the first 1,000 characters of each."""
    identifier = _identifier()
    guesses = [identifier.classify(text[:_CHARACTERS]) for text in texts]
    counts = Counter(code for code, _ in guesses)
    return Languages(
        shares={code: count / len(texts) for code, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))},
        doubtful=sum(probability < SURE for _, probability in guesses) / max(1, len(texts)),
    )


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

"""The nearest of many texts, against sets of words that are compared one by one."""

from __future__ import annotations

import random

import numpy as np

from tests.world import WORDS
from trainer.neighbours import Neighbours
from trainer.splits import normalised


def four_grams(text: str) -> set[tuple[str, ...]]:
    words = normalised(text).split()
    return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}


def jaccard(one: str, other: str) -> float:
    a, b = four_grams(one), four_grams(other)
    return len(a & b) / len(a | b)


def variants(rng: random.Random, text: str) -> list[str]:
    """The text with more and more of its end replaced."""
    words = text.split()
    return [" ".join(words[:keep] + rng.choices(WORDS, k=len(words) - keep)) for keep in (60, 55, 50, 45, 40, 30, 20)]


def test_similarity_is_the_exact_one_of_the_nearest_text() -> None:
    rng = random.Random(0)
    asked = [" ".join(rng.choices(WORDS, k=60)) for _ in range(40)]
    others = [" ".join(rng.choices(WORDS, k=60)) for _ in range(300)]
    passing = others + [rng.choice(variants(rng, text)) for text in asked for _ in range(2)]
    rng.shuffle(passing)
    found = Neighbours(asked)
    found.pass_by(passing[:200])
    found.pass_by(passing[200:])
    truth = np.array([max(jaccard(text, other) for other in passing) for text in asked])
    assert (truth >= 0.7).sum() > 10 and (truth < 0.5).sum() > 3
    sure = truth >= 0.7
    np.testing.assert_allclose(found.similarity[sure], truth[sure])
    # Nothing is claimed that is not there, and of what lies just above the limit few are missed.
    assert not found.similarity[truth < 0.5].any()
    near = (truth >= 0.5) & ~sure
    assert (found.similarity[near] > 0).mean() > 0.7
    assert all(jaccard(asked[place], text) == found.similarity[place] for place, text in found.nearest.items())


def test_case_and_punctuation_do_not_make_a_text_another_and_few_words_are_compared_whole() -> None:
    found = Neighbours(["Return THE value.", "return the value", "sum of it", "a longer text of some words"])
    found.pass_by(["return: the (value)!", "sum of that"])
    assert found.is_exact.tolist() == [True, True, False, False]
    assert found.similarity.tolist() == [1.0, 1.0, 0.0, 0.0]


def test_a_text_is_no_neighbour_of_its_own_but_of_its_copies() -> None:
    texts = ["one two three four five six", "alone among these words here now", "one two three four five six"]
    found = Neighbours([texts[0], texts[1]])
    found.pass_by(texts, own=np.array([0, 1, -1]))
    assert found.is_exact.tolist() == [True, False]
    both = Neighbours([texts[0], texts[2]])
    both.pass_by(texts, own=np.array([0, -1, 1]))
    assert both.is_exact.all()


def test_more_equal_texts_than_a_band_holds_are_all_found() -> None:
    found = Neighbours(["the same words as in all of the others"] * 400)
    found.pass_by(["The same words as in all of the others"])
    assert found.is_exact.all()


def test_nothing_to_ask_about_is_no_error() -> None:
    found = Neighbours([])
    found.pass_by(["some text that passes by"])
    assert len(found.similarity) == 0 and not found.nearest

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.order import Mixture, pair_order


@settings(deadline=None)
@given(st.integers(0, 2**63), st.integers(1, 300), st.integers(0, 10**9))
def test_every_epoch_visits_every_pair_once(seed: int, num_pairs: int, epoch: int) -> None:
    order = pair_order(seed, num_pairs, np.arange(epoch * num_pairs, (epoch + 1) * num_pairs))
    assert sorted(order.tolist()) == list(range(num_pairs))


def test_the_order_is_a_function_of_the_position() -> None:
    positions = np.arange(5000)
    order = pair_order(7, 1000, positions)
    assert (pair_order(7, 1000, positions[1234:2345]) == order[1234:2345]).all()
    assert (pair_order(7, 1000, positions[::-1]) == order[::-1]).all()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    n = 1000
    orders = [pair_order(seed, n, np.arange(epoch * n, (epoch + 1) * n)) for seed in (0, 1) for epoch in (0, 1)]
    for i, one in enumerate(orders):
        # A random permutation has one fixed point on average, and no correlation with the identity.
        assert abs(np.corrcoef(one, np.arange(n))[0, 1]) < 0.12
        for other in orders[:i]:
            assert (one == other).sum() < 10


def test_a_large_data_set_needs_no_memory_for_its_order() -> None:
    order = pair_order(3, 150_000_000, np.arange(10**9, 10**9 + 4096))
    assert len(np.unique(order)) == 4096
    assert order.min() >= 0 and order.max() < 150_000_000
    assert abs(order.mean() / 75_000_000 - 1) < 0.05


def test_the_order_of_one_source_never_changes() -> None:
    # Trials of older stores go on with the pairs they would have met.
    assert pair_order(5, 1000, np.arange(8)).tolist() == [310, 868, 167, 848, 111, 801, 817, 769]


# Mixtures.

mixtures = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=4)


def stream(mixture: Mixture, seed: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The source and the pair inside the source at each of the first positions."""
    order = mixture.order(seed, np.arange(length))
    ends = np.cumsum(mixture.num_pairs)
    assert order.min() >= 0 and order.max() < ends[-1]
    sources = np.searchsorted(ends, order, side="right")
    return sources, order - np.concatenate([[0], ends])[sources]


@settings(deadline=None)
@given(mixtures, st.integers(0, 2**63 - 1), st.data())
def test_each_source_is_drawn_by_its_weight_in_every_stretch_of_a_period(
    sizes: list[tuple[int, int]], seed: int, data: st.DataObject
) -> None:
    mixture = Mixture(*zip(*sizes, strict=True))
    assert sum(weight for _, weight in sizes) % mixture.period == 0
    sources, _ = stream(mixture, seed, 3 * mixture.period)
    start = data.draw(st.integers(0, 2 * mixture.period))
    found = Counter(sources[start : start + mixture.period].tolist())
    total = sum(weight for _, weight in sizes)
    assert [found[i] * total for i in range(len(sizes))] == [weight * mixture.period for _, weight in sizes]


@settings(deadline=None)
@given(mixtures, st.integers(0, 2**63 - 1))
def test_no_stretch_is_far_from_the_weights(sizes: list[tuple[int, int]], seed: int) -> None:
    mixture = Mixture(*zip(*sizes, strict=True))
    sources, _ = stream(mixture, seed, mixture.period)
    for source, slots in enumerate(mixture.slots):
        drawn = np.cumsum(sources == source)
        wanted = np.arange(1, mixture.period + 1) * slots / mixture.period
        assert np.abs(drawn - wanted).max() <= len(sizes)


@settings(deadline=None)
@given(mixtures, st.integers(0, 2**63 - 1))
def test_each_source_visits_every_pair_once_in_each_of_its_epochs(sizes: list[tuple[int, int]], seed: int) -> None:
    mixture = Mixture(*zip(*sizes, strict=True))
    sources, pairs = stream(mixture, seed, 2 * int(np.ceil(mixture.period * max(n / w for n, w in sizes))) + 1)
    for source, num_pairs in enumerate(mixture.num_pairs):
        visits = pairs[sources == source]
        for start in range(0, len(visits) - num_pairs + 1, num_pairs):
            assert sorted(visits[start : start + num_pairs].tolist()) == list(range(num_pairs))


@settings(deadline=None)
@given(mixtures, st.integers(0, 2**63 - 1), st.integers(1, 4), st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_batches_workers_and_resumes_read_the_same_stream(
    sizes: list[tuple[int, int]], seed: int, num_workers: int, batches: list[int]
) -> None:
    mixture = Mixture(*zip(*sizes, strict=True))
    whole = mixture.order(seed, np.arange(sum(batches)))
    read = []
    for end, size in zip(np.cumsum(batches), batches, strict=True):
        # A fresh object for each batch: all that a resumed trial knows is the position.
        resumed = Mixture.from_json(mixture.to_json())
        parts = np.array_split(np.arange(end - size, end), num_workers)
        read += [resumed.order(seed, part) for part in parts]
    assert np.concatenate(read).tolist() == whole.tolist()


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(2, 40))
def test_sources_of_one_size_do_not_walk_in_step(seed: int, num_pairs: int) -> None:
    mixture = Mixture([100 * num_pairs] * 2, [1, 1])
    sources, pairs = stream(mixture, seed, 200)
    assert (pairs[sources == 0] == pairs[sources == 1]).sum() < 10


def test_epochs_are_those_of_the_most_repeated_source() -> None:
    mixture = Mixture([1000, 50], [3, 1])
    # Of 400 positions 100 go to the source of 50 pairs, and 300 to that of 1000.
    assert mixture.epochs(400) == pytest.approx(2)
    assert mixture.pairs_per_epoch == 200
    sources, pairs = stream(mixture, 0, 200)
    assert len(set(pairs[sources == 1].tolist())) == 50 == (sources == 1).sum()


def test_a_large_mixture_needs_no_memory_for_its_order() -> None:
    mixture = Mixture([100_000_000, 50_000_000, 7], [500, 499, 1])
    order = mixture.order(3, np.arange(10**10, 10**10 + 4000))
    assert (order < 100_000_000).sum() == 2000 and (order >= 150_000_000).sum() == 4
    assert len(np.unique(order)) == 3996 + 4

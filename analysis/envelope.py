"""Approach 1: the lowest loss that any training curve reaches at each FLOP count, and the power law of its size.

Knows training curves as arrays. Never knows tables' columns, methods, or the store.

Hoffmann et al. 2022: curves are interpolated at 1,500 FLOP counts evenly spaced in log; at each the size and tokens of
the lowest are taken, and lines go through them in log-log. Counts at which the smallest or the largest size is the
lowest are an edge and left out. The bootstrap draws whole curves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.fit import FloatArray, Interval, percentile_interval

NUM_COUNTS = 1500


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EnvelopeFit:
    """``N* = N0 C^a`` and ``D* = D0 C^b`` along the envelope."""

    values: dict[str, float]
    draws: dict[str, FloatArray]
    """Each (num_draws,); NaN where a draw's envelope has no two FLOP counts inside the grid."""
    flops: FloatArray
    """The FLOP counts that the laws rest on, shape (n,)."""
    num_params: FloatArray
    loss: FloatArray
    residuals: FloatArray
    """ln of the envelope's size over the law's, (n,)."""
    num_runs: int
    num_edge: int
    """FLOP counts left out since the smallest or the largest size is the lowest there."""

    @property
    def num_points(self) -> int:
        return self.flops.size

    @property
    def objective(self) -> float:
        return float((self.residuals**2).sum())

    @property
    def intervals(self) -> dict[str, Interval]:
        return {name: percentile_interval(draws) for name, draws in self.draws.items()}


def fit_envelope(
    runs: FloatArray,
    num_params: FloatArray,
    tokens: FloatArray,
    flops: FloatArray,
    loss: FloatArray,
    *,
    num_draws: int = 1000,
    seed: int = 0,
) -> EnvelopeFit:
    """The envelope of training curves. Arrays (n,): rows with the same ``runs`` are points of one curve.

    Raises ``ValueError`` where fewer than three sizes have a curve of two points, or the envelope never leaves the
    edges of the grid of sizes.
    """
    names, member, lengths = np.unique(runs, return_inverse=True, return_counts=True)
    usable = np.flatnonzero(lengths >= 2)
    sizes = np.array([num_params[member == one][0] for one in usable])
    if np.unique(sizes).size < 3:
        raise ValueError(
            f"{np.unique(sizes).size} sizes have a training curve of two points or more, and an envelope needs 3: "
            "name the column of the curves by --run"
        )
    counts = np.geomspace(flops.min(), flops.max(), NUM_COUNTS)
    curves = np.full((usable.size, NUM_COUNTS), np.inf)
    data = np.full((usable.size, NUM_COUNTS), np.nan)
    for place, one in enumerate(usable):
        here = np.flatnonzero(member == one)
        here = here[np.argsort(flops[here], kind="stable")]
        inside = (counts >= flops[here[0]]) & (counts <= flops[here[-1]])
        at = np.log(counts[inside])
        curves[place, inside] = np.exp(np.interp(at, np.log(flops[here]), np.log(loss[here])))
        data[place, inside] = np.exp(np.interp(at, np.log(flops[here]), np.log(tokens[here])))
    along = _along(counts, sizes, curves, data)
    if np.unique(along.num_params).size < 2:
        raise ValueError("the envelope touches fewer than two sizes inside the grid: no law can be fitted through it")
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(num_draws):
        taken = np.unique(rng.integers(usable.size, size=usable.size))
        drawn.append(_along(counts, sizes[taken], curves[taken], data[taken]).laws())
    values = along.laws()
    return EnvelopeFit(
        values=values,
        draws={name: np.array([law[name] for law in drawn]) for name in values},
        flops=along.flops,
        num_params=along.num_params,
        loss=along.loss,
        residuals=np.log(along.num_params / (values["N0"] * along.flops ** values["a"])),
        num_runs=names.size,
        num_edge=int(np.isfinite(curves).any(axis=0).sum()) - along.flops.size,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Along:
    """The lowest curve at the FLOP counts where it is of an inner size; arrays (n,)."""

    flops: FloatArray
    num_params: FloatArray
    tokens: FloatArray
    loss: FloatArray

    def laws(self) -> dict[str, float]:
        """Least-squares lines in log-log; NaN where the envelope touches fewer than two sizes."""
        if np.unique(self.num_params).size < 2:
            return dict.fromkeys(("a", "N0", "b", "D0"), np.nan)
        a, size_level = np.polyfit(np.log(self.flops), np.log(self.num_params), 1)
        b, tokens_level = np.polyfit(np.log(self.flops), np.log(self.tokens), 1)
        return {"a": float(a), "N0": float(np.exp(size_level)), "b": float(b), "D0": float(np.exp(tokens_level))}


def _along(counts: FloatArray, sizes: FloatArray, curves: FloatArray, data: FloatArray) -> _Along:
    """The envelope of ``curves`` (num_curves, num_counts), infinite where a curve does not reach, of ``sizes``."""
    lowest = curves.argmin(axis=0)
    loss = curves.min(axis=0)
    winner = sizes[lowest]
    inner = np.flatnonzero(np.isfinite(loss) & (winner > sizes.min()) & (winner < sizes.max()))
    return _Along(flops=counts[inner], num_params=winner[inner], tokens=data[lowest[inner], inner], loss=loss[inner])

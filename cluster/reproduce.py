"""One recorded trial trained again on this machine, in a folder of its own, and compared with its row.

Knows where the data and the model of a row are found again, and that they must be the very same. Never writes into a
store, and never asks Ray for anything: a trial of several workers gets them as processes of this machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.answers import find_prepared, prepared_of
from cluster.carry import fetched_weights
from sweeps.reproduction import Reproduction, compare
from sweeps.store import Store
from trainer.prepare import PreparedModel, default_cache
from trainer.result import CurvePoint, TrialResult, TrialState
from trainer.trial import Placement, TrialFiles

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.DIVERGED)
"""Endings that follow from the trial itself: the others follow from what happened around it."""


def reproduce(store: Store, trial_id: str, report: Callable[[CurvePoint], None]) -> Reproduction:
    """Train the recorded trial ``trial_id`` again from what its row says, and compare all that it measured.

    ``report`` gets the state after every step. Raises ``ValueError`` for a trial that did not end by itself, and where
    its data, its model or its device are not here.
    """
    recorded = store.read_trial(trial_id)
    if recorded.state not in ENDED:
        states = ", ".join(state.value for state in ENDED)
        raise ValueError(f"trial {trial_id} ended {recorded.state.value}: choose one of {states}")
    points = store.read_curve(trial_id).to_dict("records")
    curve = tuple(CurvePoint(**{str(name): value for name, value in point.items()}) for point in points)
    recorded = replace(recorded, curve=curve)
    model = inputs_of(store, recorded)
    _check_device(recorded.placement, trial_id)
    from trainer.export import weights_hash  # loads torch
    from trainer.loop import train

    is_kept = trial_id in store.trials_with_weights()
    with TemporaryDirectory(prefix="isoflop-reproduce-") as scratch:
        folder = Path(scratch)
        files = TrialFiles(
            tokens=model.tokens,
            model=model.path,
            checkpoints=str(folder / "checkpoints"),
            weights=str(folder / "weights") if is_kept else "",
        )
        again = train(recorded.spec, recorded.placement, files, report)
        weights = None
        if is_kept and again.state is TrialState.COMPLETE:
            kept = fetched_weights(store.weights(trial_id), folder / "kept")
            weights = weights_hash(kept), weights_hash(Path(files.weights))
    return compare(recorded, again, weights=weights, contradictions=store.contradictions(trial_id))


def inputs_of(store: Store, recorded: TrialResult) -> PreparedModel:
    """The model and the tokens that the trial was trained with: where the sweep left them, or in this cache.

    Raises ``ValueError`` where what is there is not the data or the model that the row names by their hashes.
    """
    from trainer.models import check_revision

    spec, begun = recorded.spec, prepared_of(store)
    found = begun if _has_tokens(begun.models.get(spec.model)) else find_prepared(store.spec)
    here = "nothing prepared" if found is None else f"data {found.manifest.hash}"
    again = "bring back the cache that it was prepared in (ISOFLOP_CACHE)"
    if found is None or found.manifest.hash != spec.data:
        raise ValueError(
            f"trial {spec.trial_id} was trained on data {spec.data}, and here is {here}: {again}, or prepare the same "
            "pairs again with 'isoflop data'"
        )
    model = found.models.get(spec.model)
    if not _has_tokens(model):
        raise ValueError(f"trial {spec.trial_id} was trained from model {spec.model!r}, which is not here: {again}")
    assert model is not None
    check_revision(spec.model, Path(model.path), spec.revision, default_cache())
    return model


def _has_tokens(model: PreparedModel | None) -> bool:
    return model is not None and Path(model.tokens).is_dir()


def _check_device(placement: Placement, trial_id: str) -> None:
    """Raise ``ValueError`` where this machine lacks the GPUs that the trial was trained on."""
    if placement.device == "cpu":
        return
    import torch

    found, needed = torch.cuda.device_count(), placement.num_workers * placement.gpus_per_worker
    if found < needed:
        raise ValueError(
            f"trial {trial_id} was trained on {needed:g} GPUs, and torch finds {found} here: reproduce it on a machine "
            "that has them"
        )

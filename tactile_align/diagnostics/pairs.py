"""Features of held-out moments by the model of a run."""

from collections.abc import Iterator

import numpy as np
import torch

from tactile_align.config.train import TrainConfig
from tactile_align.errors import InputError
from tactile_align.losses.negatives import touch_pattern
from tactile_align.moments.augment import augment
from tactile_align.moments.dataset import Batch, Moments
from tactile_align.policies.aligned import AlignedPolicy, View
from tactile_align.policies.build import views_of


def view_of(config: TrainConfig, key: str) -> View:
    """Return the view of a config that has this key."""
    return next(view for view in views_of(config) if view.key == key)


def pair_features(model: AlignedPolicy, moments: Moments, config: TrainConfig, key: str) -> dict[str, np.ndarray]:
    """Return h_tau, h_w, loss inputs and names of all valid contact moments of one view.

    Raises:
        InputError: There is none.
    """
    view = view_of(config, key)
    rows = pair_rows(moments, view)
    return {
        **row_features(model, moments, config, key, rows),
        "row": rows,
        "episode": moments.episode[rows],
        "time": moments.time[rows],
        "contact": moments.column(f"contact_index/{view.sensor}")[rows],
    }


@torch.no_grad()
def row_features(
    model: AlignedPolicy, moments: Moments, config: TrainConfig, key: str, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Return h_tau and h_w (N, dim) of some moments of one view, and for the same-touch rule their touches."""
    sensor = view_of(config, key).sensor
    found: dict[str, list[np.ndarray]] = {"h_tau": [], "h_w": []}
    if config.hsa.touch_ceiling is not None:
        found["touch"] = []
    for batch in batches(moments, config, rows):
        seen = model.see(batch)
        found["h_tau"].append(seen.touches[sensor].vector.numpy())
        found["h_w"].append(seen.regions[key].vector.numpy())
        if "touch" in found:
            found["touch"].append(touch_pattern(batch[f"image/{sensor}"]).numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def pair_rows(moments: Moments, view: View) -> np.ndarray:
    """Return the rows of all moments that have a box in a view and a contact of its sensor.

    Raises:
        InputError: There is none.
    """
    rows = np.flatnonzero(moments.column(f"visible/{view.key}") & moments.column(f"contact/{view.sensor}"))
    if not len(rows):
        raise InputError(
            f"view {view.key}: no held-out moment of {len(moments)} has both a box and a contact, so there is no pair "
            f"to judge. Hold out more episodes, or look at the recordings with tactile-align inspect and verify"
        )
    return rows


def batches(moments: Moments, config: TrainConfig, rows: np.ndarray) -> Iterator[Batch]:
    """Yield some moments, about 128 at a time, as the encoders take them."""
    for chosen in np.array_split(rows, max(1, len(rows) // 128)):
        yield centred(moments.__getitems__(chosen.tolist()), config)


def centred(batch: Batch, config: TrainConfig) -> Batch:
    """Bring packed views to the encoder's input size without random changes."""
    return augment(batch, tuple(view.key for view in views_of(config)), config.augment, None)

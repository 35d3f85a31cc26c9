"""Features of the moments on which a run is evaluated, computed with its model."""

import numpy as np
import torch

from tactile_align.diagnostics.summary import MORE_EPISODES
from tactile_align.errors import InputError
from tactile_align.losses.negatives import touch_pattern
from tactile_align.moments.dataset import Moments
from tactile_align.policies.alignment import View
from tactile_align.policies.build import LoadedRun


def pair_features(run: LoadedRun, key: str) -> dict[str, np.ndarray]:
    """Return features and indices of the N moments that have a box and a contact in one view, as arrays by name.

    The arrays are: h_tau and h_w, (N, dim) touch and region features of length dim. row, (N,) index of the moment.
    episode, (N,) index of the episode. time, (N,) frame number within the episode. contact, (N,) index of the contact
    within the episode. If hsa.touch_ceiling is set, also touch: small copies of the touch images, whose similarity is
    compared with touch_ceiling.

    Raises:
        InputError: No moment has both a box and a contact.
    """
    view, moments = run.view(key), run.moments
    rows = pair_rows(moments, view)
    return {
        **row_features(run, view, rows),
        "row": rows,
        "episode": moments.episode[rows],
        "time": moments.time[rows],
        "contact": moments.touches[view.sensor].contact_index[rows],
    }


@torch.no_grad()
def row_features(run: LoadedRun, view: View, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return touch and region features of the moments with indices `rows`: h_tau, h_w and touch of `pair_features`."""
    found: dict[str, list[np.ndarray]] = {"h_tau": [], "h_w": []}
    if run.config.hsa.touch_ceiling is not None:
        found["touch"] = []
    for batch in run.batches(rows):
        seen = run.model.see(batch, action=False)
        found["h_tau"].append(seen.touches[view.sensor].vector.cpu().numpy())
        found["h_w"].append(seen.regions[view.key].vector.cpu().numpy())
        if "touch" in found:
            found["touch"].append(touch_pattern(batch.touches[view.sensor].present).cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def pair_rows(moments: Moments, view: View) -> np.ndarray:
    """Return the indices of all moments with a box in a view and a contact of its sensor.

    Raises:
        InputError: No moment has both a box and a contact.
    """
    rows = np.flatnonzero(moments.views[view.key].visible & moments.touches[view.sensor].contact)
    if not len(rows):
        raise InputError(
            f"view {view.key}: expected judged moments with both a box and a contact; none of {len(moments)} has "
            f"both. {MORE_EPISODES}; or check the recordings with `tactile-align inspect` and `verify`"
        )
    return rows

"""The same retrieval in several galleries: what a pair is told apart by shows in which gallery finds it."""

from typing import Any

import numpy as np

from tactile_align.diagnostics.retrieval import Gallery, region_retrieval, retrieval
from tactile_align.errors import InputError

LEAST = 4
"""Candidates below which recall says nothing."""
KINDS: dict[str, Gallery] = {
    "contact only": "all",
    "cross-episode": "cross-episode",
    "same episode with a gap": "same-episode",
}
AMONG_REGIONS = "regions of the same image"
FEW = 8
"""Contacts one episode offers: its own gallery is no larger."""


def gallery_recalls(
    features: dict[str, np.ndarray], kind: Gallery, gallery: int, min_gap: int
) -> dict[str, dict[str, Any]]:
    """Return recall by direction in the largest gallery of at most `gallery` that nine of ten contacts can fill.

    Args:
        features: See `pairs.pair_features`.
        kind: Where the other candidates come from.
        gallery: Candidates; halved until the held-out episodes offer as many.
        min_gap: Rows that moments of one episode must be apart to stand in one gallery.

    Raises:
        ValueError: They do not even offer four.
    """
    size = min(gallery, FEW) if kind == "same-episode" else gallery
    tau, w, episode, contact, time = (features[name] for name in ("h_tau", "h_w", "episode", "contact", "time"))
    asked = 0.9 * len(np.unique(np.stack([episode, contact], axis=1), axis=0))
    while True:
        try:
            found = retrieval(tau, w, episode, contact, gallery=size, kind=kind, time=time, min_gap=min_gap)
        except ValueError:
            if size < 2 * LEAST:
                raise
        else:
            if found["both"].queries >= asked or size < 2 * LEAST:
                return {name: recall.as_dict() for name, recall in found.items()}
        size //= 2


def among_regions(
    features: dict[str, np.ndarray], chosen: np.ndarray, others: np.ndarray, exist: np.ndarray
) -> dict[str, Any]:
    """Return how often a touch finds its own region among others of the same image.

    Near a border there are fewer others. The gallery is the largest that nine of ten moments can fill; the rest is
    not judged.

    Args:
        features: See `pairs.pair_features`.
        chosen: (M,) which of them have other regions.
        others: (M, R, dim) features of those regions.
        exist: (M, R) bool, those that exist first; see `features.towers.shifted_boxes`.

    Raises:
        InputError: Most have none.
    """
    counts = exist.sum(axis=1)
    fewest = int(np.quantile(counts, 0.1, method="lower"))
    if fewest == 0:
        raise InputError(
            f"needs boxes far enough from the border to have another of their size beside them; {(counts == 0).sum()} "
            f"of {len(counts)} have none. Look at more of the image: a larger zoom, or none"
        )
    judged = counts >= fewest
    rows = chosen[judged]
    regions = np.concatenate([features["h_w"][rows, None], others[judged, :fewest]], axis=1)
    found = region_retrieval(features["h_tau"][rows], regions, features["episode"][rows], features["contact"][rows])
    return found.as_dict()

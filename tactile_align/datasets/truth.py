"""Ground truth of a simulated recording: the arrays in the group truth/. Layouts and training do not read them."""

import numpy as np

from tactile_align.datasets import hdf5
from tactile_align.datasets.containers import tree
from tactile_align.datasets.episodes import Episode
from tactile_align.datasets.handles import open_file


def read_truth(episode: Episode, key: str, *shape: int) -> np.ndarray | None:
    """Return the array truth/`key` of an episode with T rows, (T, *shape) float64; None if it does not exist.

    Raises:
        EpisodeError: The array has another shape, is a link, or cannot be read.
    """
    prefix = f"{episode.ref.group}/" if episode.ref.group else ""
    full = f"{prefix}truth/{key}"
    with open_file(episode.path) as file:
        item = tree.reach(file, full, episode.path)
        if not tree.is_array(item):
            return None
        data = tree.array(file, full, episode.path)
        array = tree.read_low_dim(data, episode.path, full)
    if array.shape != (len(episode), *shape):
        text = f"has shape {array.shape}, expected {(len(episode), *shape)}; record the episode again"
        raise hdf5.fault("truth", episode.path, full, text)
    if array.dtype.kind not in "biuf":
        raise hdf5.fault("truth", episode.path, full, f"has dtype {array.dtype}, expected numbers; record it again")
    return array.astype(np.float64)

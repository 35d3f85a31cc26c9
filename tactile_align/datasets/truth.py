"""Ground truth of a simulated recording: arrays under truth/ that no layout names and no training reads."""

import h5py
import numpy as np

from tactile_align.datasets import hdf5
from tactile_align.datasets.episodes import Episode
from tactile_align.datasets.handles import open_file


def read_truth(episode: Episode, key: str, *shape: int) -> np.ndarray | None:
    """Read an array (T, *shape) of a simulated episode's truth, float64; None where it holds none.

    Raises:
        EpisodeError: Another shape, a link, or data that cannot be read.
    """
    prefix = f"{episode.ref.group}/" if episode.ref.group else ""
    full = f"{prefix}truth/{key}"
    with open_file(episode.path) as file:
        item = hdf5.reach(file, full, episode.path)
        if not isinstance(item, h5py.Dataset):
            return None
        data = hdf5.dataset(file, full, episode.path)
        array = hdf5.read_low_dim(data, episode.path, full)
    if array.shape != (len(episode), *shape):
        text = f"has shape {array.shape} but the episode needs {(len(episode), *shape)}; record it again"
        raise hdf5.fault("truth", episode.path, full, text)
    if array.dtype.kind not in "biuf":
        raise hdf5.fault("truth", episode.path, full, f"holds {array.dtype}, numbers are needed; record it again")
    return array.astype(np.float64)

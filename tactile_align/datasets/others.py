"""Arrays of an episode that its layout does not name, such as a simulator's truth."""

from collections.abc import Iterable
from pathlib import Path

import h5py

from tactile_align.datasets import guard
from tactile_align.datasets.layout import Layout

DEEPEST = 8  # groups within groups


def other_arrays(
    group: h5py.Group, layout: Layout, places: Iterable[tuple[str, str, str]], file: Path
) -> dict[str, h5py.Dataset]:
    """Return the arrays of numbers that the layout does not name, by their path below the group.

    Args:
        group: The episode.
        layout: Its layout.
        places: (role, name, key) of its streams of frames.
        file: For error messages.

    Raises:
        EpisodeError: A link, or data that lie elsewhere.
    """
    state = layout.state
    known = {*state.qpos, *state.action, *state.qvel, *(key for _, _, key in places)}
    known |= {layout.lengths.key} if layout.lengths else set()
    return _below(group, known, file, "")


def _below(group: h5py.Group, known: set[str], file: Path, under: str) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    holder = guard.reach(group, under, file) if under else group
    if not isinstance(holder, h5py.Group) or under.count("/") > DEEPEST:
        return found
    for name in guard.names(holder, file):
        key = f"{under}/{name}".strip("/")
        if key in known:
            continue
        item = guard.reach(group, key, file)
        if isinstance(item, h5py.Group):
            found.update(_below(group, known, file, key))
        elif isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf" and item.shape is not None:
            data = guard.dataset(group, key, file)
            if data is not None:
                found[key] = data
    return found

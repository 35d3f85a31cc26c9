"""Arrays of an episode that its layout does not name, such as a simulator's truth."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np

from tactile_align.datasets import guard
from tactile_align.datasets.layout import Layout
from tactile_align.errors import EpisodeError

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
    return _below(group, _known(layout, places), file, "")


def untaken_streams(
    group: h5py.Group, layout: Layout, places: Iterable[tuple[str, str, str]], file: Path, steps: int
) -> list[str]:
    """Describe what looks like a stream and that the layout takes nothing from: 'obs/gel (90, 240, 320, 3) uint8'.

    A stream has as many rows as the episode, or three axes and more, or holds encoded frames. A simulator's `truth`
    is none. Only for telling: what cannot be reached (links, damage) is passed over, nothing is read.

    Args:
        group: The episode.
        layout: Its layout.
        places: (role, name, key) of its streams of frames.
        file: For error messages.
        steps: The episode's rows; 0 where unknown.
    """
    taken = (_at(group, key, file) for key in ("", "truth", *layout.state.carried, *_known(layout, places)))
    seen = {_address(item) for item in taken if item is not None}
    return [
        f"{key} {data.shape} {'variable-length uint8' if _holds_bytes(data) else data.dtype}"
        for key, data in _reached(group, file, "", seen)
        if data.shape
        and (data.shape[0] == steps > 0 or _holds_bytes(data) or (len(data.shape) >= 3 and data.dtype.kind in "biuf"))
    ]


def _known(layout: Layout, places: Iterable[tuple[str, str, str]]) -> set[str]:
    state = layout.state
    known = {*state.qpos, *state.action, *state.qvel, *(key for _, _, key in places)}
    return known | ({layout.lengths.key} if layout.lengths else set())


def _holds_bytes(data: h5py.Dataset) -> bool:
    return bool(h5py.check_vlen_dtype(data.dtype) == np.uint8)


def _reached(group: h5py.Group, file: Path, under: str, seen: set[int]) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every dataset whose address is not in `seen`, each once: hard links may run in circles."""
    holder = _at(group, under, file)
    try:
        inside = guard.names(holder, file) if isinstance(holder, h5py.Group) else ()
    except EpisodeError:
        return
    for name in inside if under.count("/") <= DEEPEST else ():
        key = f"{under}/{name}".strip("/")
        item = _at(group, key, file)
        if item is None or _address(item) in seen:
            continue
        seen.add(_address(item))
        if isinstance(item, h5py.Group):
            yield from _reached(group, file, key, seen)
        else:
            yield key, item


def _at(group: h5py.Group, key: str, file: Path) -> h5py.Group | h5py.Dataset | None:
    try:
        return guard.reach(group, key, file)
    except EpisodeError:
        return None


def _address(item: h5py.Group | h5py.Dataset) -> int:
    return int(h5py.h5o.get_info(item.id).addr)


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

"""Find everything one episode holds and name what is wrong with it, before any frame but the first is read."""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from tactile_align.datasets import guard
from tactile_align.datasets.layout import Layout
from tactile_align.datasets.state import state_array
from tactile_align.datasets.streams import Stream, camera_places, depth_at, stream_at, touch_places
from tactile_align.errors import EpisodeError, Fault


@dataclass
class Found:
    """What an episode holds; `faults` is empty when it can be used."""

    qpos: np.ndarray | None = None
    qvel: np.ndarray | None = None
    action: np.ndarray | None = None
    cameras: dict[str, Stream] = field(default_factory=dict)
    touches: dict[str, Stream] = field(default_factory=dict)
    depth: dict[str, str] = field(default_factory=dict)  # name -> key
    carried: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def find(group: h5py.Group, layout: Layout, file: Path) -> Found:
    """Look at every stream of the episode in `group`; low-dimensional ones are read, of frames only the
    first.
    """
    found = Found()
    for what, keys, needed in (
        ("qpos", layout.state.qpos, True),
        ("action", layout.state.action, True),
        ("qvel", layout.state.qvel, False),
    ):
        with _Collect(found):
            setattr(found, what, state_array(group, keys, file, needed))
    with _Collect(found):
        for key in layout.state.carried:
            if guard.dataset(group, key, file) is not None:
                found.carried[key] = guard.full_name(group, key)
    for role, name, key in frame_places(group, layout, file, found):
        with _Collect(found):
            if role == "depth":
                found.depth[name] = depth_at(group, key, file)
            else:
                side = found.touches if role == "touch" else found.cameras
                side[name] = stream_at(group, name, key, layout, file)
    _check_lengths(group, layout, file, found)
    return found


class _Collect:
    """Turn an EpisodeError inside the block into entries of `found.faults`."""

    def __init__(self, found: Found) -> None:
        self.found = found

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, EpisodeError):
            self.found.faults.extend(error.faults)
            return True
        return False


def frame_places(group: h5py.Group, layout: Layout, file: Path, found: Found) -> list[tuple[str, str, str]]:
    """(role, name, key below the group) of every stream of frames, each name once, cameras in the layout's order.

    What is wrong with the places themselves comes into `found.faults`.
    """
    places: dict[str, tuple[str, str, str]] = {}
    with _Collect(found):
        places = {name: (role, name, key) for role, name, key in camera_places(group, layout, file)}
    for place in layout.touches.groups:
        with _Collect(found):
            for role, name, key in touch_places(group, place, layout, file):
                if name in places:
                    text = f"is the second stream called {name!r}; keep one"
                    found.faults.append(Fault("twice", file, guard.full_name(group, key), text))
                else:
                    places[name] = role, name, key
    if not any(role == "camera" for role, _, _ in places.values()):
        text = "holds no camera stream; an episode needs at least one. Is the layout the right one?"
        found.faults.append(Fault("missing", file, guard.full_name(group, layout.cameras.group), text))
    return list(places.values())


def _check_lengths(group: h5py.Group, layout: Layout, file: Path, found: Found) -> None:
    if found.qpos is None:
        return
    steps, base = len(found.qpos), guard.full_name(group, layout.state.qpos[0])
    lengths = {stream.key: (stream.rows, "frames") for stream in (*found.cameras.values(), *found.touches.values())}
    for what, keys in (("action", layout.state.action), ("qvel", layout.state.qvel)):
        values = getattr(found, what)
        if values is not None:
            lengths[guard.full_name(group, keys[0])] = (len(values), "rows")
    for key in (*found.carried.values(), *found.depth.values()):
        data = guard.dataset(group.file, key, file)
        if data is not None:
            lengths[key] = (int(data.shape[0]) if data.ndim else 0, "rows")
    shortest = min([steps, *(n for n, _ in lengths.values())])
    for key, (rows, unit) in lengths.items():
        if rows != steps:
            text = (
                f"has {rows} {unit} but /{base} has {steps} rows; all streams of an episode must be equally "
                "long. "
                f"Cut them with: tactile-align trim {file.name} --to {shortest}"
            )
            found.faults.append(Fault("length", file, key, text))

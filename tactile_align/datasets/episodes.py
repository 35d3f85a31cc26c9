"""Episodes opened for reading. Frames are read one at a time and are always returned as RGB."""

import hashlib
from contextlib import suppress
from copy import copy
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from tactile_align.datasets import codec, hdf5
from tactile_align.datasets.containers import tree
from tactile_align.datasets.handles import HANDLES, Stamp, open_file
from tactile_align.datasets.layout import Layout
from tactile_align.datasets.refs import EpisodeRef, list_episodes, locate, parse_ref
from tactile_align.datasets.roles import Array
from tactile_align.datasets.streams import Found, Stream, find, frame_fault, frame_of_raw, present, size_fault
from tactile_align.datasets.writer import write_episode
from tactile_align.errors import ColumnError, EpisodeError, Fault, InputError

__all__ = ["Episode", "EpisodeError", "EpisodeRef", "Fault", "list_episodes", "open_episode", "write_episode"]


def open_episode(where: EpisodeRef | str | Path, layout: str | Path | None = None) -> "Episode":
    """Return one episode, opened and checked.

    Args:
        where: An EpisodeRef, a file, or "FILE#demo_3" for one episode of a file with several.
        layout: Name or TOML file of a layout; recognised from the file when None.

    Raises:
        FileNotFoundError: The file does not exist.
        EpisodeError: The episode has a fault; the message contains file, key and row.
    """
    episode, contents = examine_episode(where, layout)
    if contents.faults:
        raise EpisodeError(contents.faults)
    return episode


def examine_episode(where: EpisodeRef | str | Path, layout: str | Path | None = None) -> tuple["Episode", Found]:
    """Return an episode, even if it has faults, and its contents with the list of faults; for inspection or repair."""
    path = parse_ref(where).path
    with open_file(path) as file:
        stamp = Stamp.of(path.resolve())
        ref, known, holder = locate(file, where, layout)
        attributes = tree.attributes(holder, path)
        contents = find(holder, known, path)
        fps = _fps(attributes, known, path, contents)
    return Episode(ref, known, stamp, contents, attributes, fps), contents


def row_count(where: EpisodeRef | str | Path, layout: str | Path | None = None) -> int:
    """Return the number of rows of an episode, without reading its data or checking it.

    Raises:
        EpisodeError: The recording cannot be opened, or the episode has no joints.
    """
    path = parse_ref(where).path
    with open_file(path) as file:
        _, known, holder = locate(file, where, layout)
        key = present(holder, known.state.qpos, known, path)[0]
        data = tree.array(holder, key, path)
        if data is None or not data.shape:
            raise hdf5.fault("missing", path, key, "is missing or a single number. Check the layout")
        return int(data.shape[0])


class Episode:
    """Recorded episode of T synchronised moments.

    Joints and actions are in memory. Frames are read on request through file handles of the current process, so an
    Episode can be pickled and used after a fork. Leaving the `with` block closes the handle; a later read reopens it.

    Attributes:
        ref: Reference to the episode: file, group and layout.
        path: The file.
        layout: The layout.
        qpos: (T, D) float64 raw joint and gripper readings, D columns, in the units of the recording (the rig states
            which).
        action: (T, A) float64 raw actions, A columns, in the units of the recording.
        qvel: (T, D) float64 joint velocities, None if not recorded. The qvel of X-Trainer recordings is a copy of qpos.
        fps: Frames per second, None when neither the file nor the layout states the rate as one number.
        attributes: Attributes of the episode.
        times: (T,) times of the rows, s, if the layout states where they are; None otherwise.
        apart_s: For each stream with times of its own, the largest time between a row and its frame, s.
    """

    def __init__(
        self,
        ref: EpisodeRef,
        layout: Layout,
        stamp: Stamp,
        contents: Found,
        attributes: dict[str, Any],
        fps: float | None,
    ) -> None:
        self.ref, self.path, self.layout = ref, ref.path, layout
        self.qpos = contents.qpos if contents.qpos is not None else np.zeros((0, 0))
        self.action = contents.action if contents.action is not None else np.zeros((0, 0))
        self.qvel = contents.qvel
        self.attributes, self.fps = attributes, fps
        self._stamp = stamp
        self._depth, self._carried = contents.depth, contents.carried
        self._cameras, self._touches = contents.cameras, contents.touches
        self.times, self.apart_s = contents.times, contents.apart_s
        self._stored = contents.nearest

    def __len__(self) -> int:
        return len(self.qpos)

    def __enter__(self) -> "Episode":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        streams = ", ".join((*self.cameras, *self.sensors))
        return f"Episode({self.ref}, layout {self.layout.name}, {len(self)} steps, {streams})"

    def close(self) -> None:
        """Close the episode's file in this process; a later read opens it again."""
        HANDLES.release(self._stamp)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the camera streams, in the layout's order."""
        return tuple(self._cameras)

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of the touch sensors, one per touch stream."""
        return tuple(self._touches)

    @property
    def depth(self) -> tuple[str, ...]:
        """Names of the depth streams."""
        return tuple(self._depth)

    @property
    def carried(self) -> tuple[str, ...]:
        """Paths of additional arrays with one entry per row, from the layout's list `carried`, such as base_action."""
        return tuple(self._carried)

    @cached_property
    def _streams(self) -> dict[str, Stream]:
        return {**self._cameras, **self._touches}

    def stream(self, name: str) -> Stream:
        """Return the description of a camera or touch stream: path, storage, size and channel order.

        Raises:
            InputError: The episode has no stream of this name.
        """
        if name not in self._streams:
            raise InputError(f"{self.ref} has no stream {name!r}. Use one of its streams: {', '.join(self._streams)}")
        return self._streams[name]

    def about(self, error: InputError) -> str:
        """Return the message of an error with the episode and, if a column of qpos is wrong, the path of its array."""
        if not isinstance(error, ColumnError):
            return f"{self.ref}: {error}"
        arrays = self.carried_grippers() if error.gripper_missing else ()
        candidates = f", which only lists under carried: {'; '.join(arrays)}" if arrays else ""
        return f"{self.ref}: {self.qpos_key(error)}: {error}{candidates}"

    def qpos_key(self, error: ColumnError) -> str:
        """Return the path of the array of qpos that contains the column which an error is about."""
        return f"/{self.ref.group}/{self.column_keys('qpos')[error.column]}".replace("//", "/")

    def column_keys(self, what: Literal["qpos", "action"]) -> tuple[str, ...]:
        """Return for each column of qpos or action the path of its array below the episode."""
        keys: tuple[str, ...] = getattr(self.layout.state, what)
        if len(keys) == 1:
            return keys * int(getattr(self, what).shape[1])
        with open_file(self.path) as file:
            group = file[self.ref.group] if self.ref.group else file
            keys = present(group, keys, self.layout, self.path)
            return tuple(key for key in keys for _ in range(1 if group[key].ndim == 1 else group[key].shape[1]))

    def at_rows(self, rows: np.ndarray, fps: float | None) -> "Episode":
        """Return an episode of some rows of this one, (n,) in any order, perhaps repeated; `fps` is its rate."""
        other = copy(self)
        other.qpos, other.action, other.fps = self.qpos[rows], self.action[rows], fps
        other.qvel = None if self.qvel is None else self.qvel[rows]
        other.times = None if self.times is None else self.times[rows]
        whole = np.arange(len(self))
        other._stored = {
            name: self._stored.get(name, whole)[rows] for name in (*self._streams, *self.depth, *self.carried)
        }
        return other

    def stored_row(self, name: str, t: int) -> int:
        """Return the row of a stream or carried array, as stored, that belongs to row t of the episode.

        Raises:
            IndexError: `t` is outside the episode.
        """
        if not 0 <= t < len(self):
            raise IndexError(f"{self.ref}: index {t} is not in 0 to {len(self) - 1}. Use an index in this range")
        return int(self._stored[name][t]) if name in self._stored else int(t)

    def width_height(self, name: str) -> tuple[int, int]:
        """Return (width, height), px, of the frames of the camera or touch sensor `name`."""
        stream = self.stream(name)
        return stream.width, stream.height

    def image(self, name: str, t: int, at_least: tuple[int, int] | None = None) -> np.ndarray:
        """Return frame t of a camera or a touch sensor.

        Args:
            name: Name of a camera or touch sensor.
            t: Index of the frame, 0 <= t < len(self).
            at_least: Smallest useful (width, height), px; None: full size. A JPEG is scaled by n/8 while it is decoded,
                with the smallest n from 1 to 8 for which the frame has at least this size.

        Returns:
            (H, W, 3) uint8 RGB, whatever channel order the file uses.

        Raises:
            InputError: The episode has no stream of this name.
            IndexError: `t` is outside the episode.
            EpisodeError: The frame is damaged, or its size differs from that of the first frame.
        """
        stream, row, t = self.stream(name), self._row(name, t), self.stored_row(name, t)
        if stream.kind == "raw":
            frame = frame_of_raw(row, self.layout, self.path, stream.key, t)
            return np.ascontiguousarray(frame[..., ::-1] if stream.channels == "bgr" else frame)
        try:
            width, height = codec.width_height(row)
            if (width, height) == (stream.width, stream.height):
                return codec.decode(row, stream.channels, at_least)
        except ValueError as cause:
            raise frame_fault(cause, self.layout, self.path, stream.key, t) from cause
        raise size_fault(width, height, stream, self.layout, self.path, t)

    def encoded(self, name: str, t: int, padded: bool = False) -> bytes | None:
        """Return the JPEG or PNG bytes of frame t as stored; None if the frames are stored raw.

        Bytes that follow the image in its row are included only if `padded`.
        """
        stream = self.stream(name)
        if stream.kind == "raw":
            return None
        row, t = self._row(name, t), self.stored_row(name, t)
        try:
            return row.tobytes() if padded else codec.without_padding(row)
        except ValueError as cause:
            raise frame_fault(cause, self.layout, self.path, stream.key, t) from cause

    def depth_image(self, name: str, t: int) -> np.ndarray:
        """Return frame t of the depth stream `name` as stored, in the recorder's shape, dtype and unit."""
        if name not in self._depth:
            remedy = f"Use one of: {', '.join(self._depth)}" if self._depth else "It contains no depth; use image()"
            raise InputError(f"{self.ref} has no depth stream {name!r}. {remedy}")
        return HANDLES.read_row(self._stamp, self._depth[name], self.stored_row(name, t))

    def carried_array(self, key: str) -> np.ndarray:
        """Return the array at the path `key`, one of `carried`; its first axis is the T rows of the episode."""
        rows = [HANDLES.read_row(self._stamp, self._carried[key], self.stored_row(key, t)) for t in range(len(self))]
        return np.stack(rows)

    def carried_grippers(self) -> tuple[str, ...]:
        """Return each array under `carried` that changes and is called as a gripper's, with its range, as text."""
        found = []
        for key in (key for key in self.carried if Array(key, "", "other").of_gripper):
            with suppress(EpisodeError):  # damage in data that are never read is not a fault of the episode
                first = HANDLES.read_row(self._stamp, self._carried[key], self.stored_row(key, 0))
                if first.dtype.kind not in "iuf" or first.size != 1:
                    continue
                values = self.carried_array(key)
                values = values[np.isfinite(values)]
                if len(np.unique(values)) > 1:
                    found.append(f"{key}, {values.min():.4g} to {values.max():.4g}")
        return tuple(found)

    def content_hash(self) -> str:
        """Return a SHA-256 hash of the episode's content, which does not depend on where the file lies.

        The hash covers joints, actions, the frame rate, the number of steps, and the first, middle and last frame of
        each camera and touch stream as stored.

        Raises:
            EpisodeError: One of the frames cannot be read.
        """
        digest = hashlib.sha256(repr((self.qpos.shape, self.action.shape, self.fps)).encode())
        digest.update(self.qpos.tobytes())
        digest.update(self.action.tobytes())
        for name in sorted(self._streams):
            digest.update(name.encode())
            for t in sorted({0, len(self) // 2, len(self) - 1}):
                digest.update(self._row(name, t).tobytes())
        return digest.hexdigest()

    def _row(self, name: str, t: int) -> np.ndarray:
        stream = self.stream(name)
        row = HANDLES.read_row(self._stamp, stream.key, self.stored_row(name, t))
        return row if stream.kind == "raw" else codec.octets(row)


def _fps(attributes: dict[str, Any], layout: Layout, path: Path, contents: Found) -> float | None:
    stated = attributes.get("fps")
    if stated is None:
        return layout.fps
    rate = tree.one_number(stated)
    if rate is not None and not 0 < rate < np.inf:
        text = f"has the attribute fps = {stated!r}; expected a positive number. Correct or remove the attribute"
        contents.faults.append(Fault("attribute", path, "", text))
        return None
    return rate

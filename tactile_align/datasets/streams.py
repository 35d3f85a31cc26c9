"""Streams of frames: which there are, how each is stored, and what is wrong with one before any frame is decoded."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from tactile_align.datasets import codec, guard
from tactile_align.datasets.layout import Channels, Kind, Layout


@dataclass(frozen=True)
class Stream:
    """One stream of frames: `key` is its full path in the file, `channels` as in the layout's [channels]."""

    name: str
    key: str
    kind: Kind
    rows: int
    width: int
    height: int
    channels: Channels
    codec: str  # "raw", "jpeg" or "png"
    row_shape: tuple[int, ...]


def camera_places(group: h5py.Group, layout: Layout, file: Path) -> list[tuple[str, str, str]]:
    """(role, name, key below the group) of every camera and depth stream, cameras in the layout's order.

    Raises:
        EpisodeError: What should be the group of cameras cannot be reached, or is a dataset.
    """
    cameras = guard.reach(group, layout.cameras.group, file)
    if cameras is None:
        return []
    if not isinstance(cameras, h5py.Group):
        text = "must be a group of camera streams; it is a dataset. Is the layout the right one?"
        raise guard.fault("data instead of group", file, guard.full_name(group, layout.cameras.group), text)
    names = sorted(guard.names(cameras, file), key=layout.camera_rank)
    roles = {name: "depth" if layout.is_depth(name) else "camera" for name in names}
    chosen = [name for name in names if layout.is_depth(name) or layout.is_camera(name)]
    return [(roles[name], name, f"{layout.cameras.group}/{name}".strip("/")) for name in chosen]


def touch_places(group: h5py.Group, place: str, layout: Layout, file: Path) -> Iterator[tuple[str, str, str]]:
    """(role, name, key below the group) of every touch stream in one of the layout's places for them."""
    holder = guard.reach(group, place, file)
    if isinstance(holder, h5py.Group):
        yield from (
            ("touch", name, f"{place}/{name}".strip("/")) for name in guard.names(holder, file) if layout.is_touch(name)
        )


def kind_of(data: h5py.Dataset) -> Kind | None:
    """How a dataset stores frames; None when it does not."""
    if data.dtype == np.uint8 and data.ndim == 2:
        return "padded_jpeg"
    if data.dtype == np.uint8 and data.ndim == 4 and data.shape[3] == 3:
        return "raw"
    if data.ndim == 1 and h5py.check_vlen_dtype(data.dtype) == np.uint8:
        return "vlen_jpeg"
    return None


def stream_at(group: h5py.Group, name: str, key: str, layout: Layout, file: Path) -> Stream:
    """Look at a stream and its first frame.

    Raises:
        EpisodeError: Missing, empty, of another kind, claims too much, or its first frame is damaged.
    """
    full = guard.full_name(group, key)
    data = guard.dataset(group, key, file)
    if data is None:
        raise guard.fault("missing", file, full, "is missing")
    kind = _kind(data, file, full)
    rows = int(data.shape[0])
    if rows == 0:
        raise guard.fault("empty", file, full, f"has shape {data.shape}: no frames. Record the episode again")
    if rows > guard.MAX_ROWS:
        raise guard.fault(
            "huge", file, full, f"claims {rows:,} frames, at most {guard.MAX_ROWS:,} are read. Is it damaged?"
        )
    row_shape = tuple(int(n) for n in data.shape[1:])
    row_bytes = 1
    for n in row_shape:
        row_bytes *= n
    if row_bytes > guard.MAX_FRAME_BYTES:
        text = f"claims {row_bytes:,} bytes a frame, at most {guard.MAX_FRAME_BYTES:,} are read. Is it damaged?"
        raise guard.fault("huge", file, full, text)
    if kind == "raw":
        if 0 in row_shape:
            raise guard.fault("shape", file, full, f"has shape {data.shape}: frames without pixels")
        height, width = row_shape[:2]
        return Stream(name, full, kind, rows, width, height, layout.channel_order(name, False), "raw", row_shape)
    row = guard.read_row(data, 0, file, full)
    try:
        width, height = codec.width_height(row)
    except ValueError as cause:
        text = f"{cause}; cut the frame out with: tactile-align repair"
        raise guard.fault("frame", file, full, text, 0) from cause
    order = layout.channel_order(name, True)
    return Stream(name, full, kind, rows, width, height, order, codec.codec_of(row), row_shape)


def depth_at(group: h5py.Group, key: str, file: Path) -> str:
    """Check a depth stream and return its full path in the file.

    Raises:
        EpisodeError: Missing, or no numbers.
    """
    full = guard.full_name(group, key)
    data = guard.dataset(group, key, file)
    if data is None or data.ndim < 1 or data.dtype.kind not in "uif":
        got = "nothing" if data is None else f"dtype {data.dtype}, shape {data.shape}"
        raise guard.fault("dtype", file, full, f"must hold (steps, height, width) depth numbers; got {got}")
    return full


def _kind(data: h5py.Dataset, file: Path, key: str) -> Kind:
    kind = kind_of(data)
    if kind is None:
        text = f"has dtype {data.dtype} and shape {data.shape}; frames are uint8 (steps, height, width, 3), or encoded"
        raise guard.fault("dtype", file, key, f"{text} as uint8 (steps, bytes) or variable-length uint8 (steps,)")
    return kind

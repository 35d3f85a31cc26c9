"""Streams of an episode: their paths, storage and faults, found without decoding the frames."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from tactile_align.datasets import codec, hdf5
from tactile_align.datasets.containers import tree
from tactile_align.datasets.layout import Channels, Kind, Layout, Times
from tactile_align.datasets.times import SECONDS, Steps, nearest, why_no_times
from tactile_align.errors import EpisodeError, Fault, InputError
from tactile_align.evenly import evenly


@dataclass(frozen=True)
class Stream:
    """Description of one stream of frames.

    Attributes:
        name: Name of the camera or touch sensor.
        key: Full path in the file.
        kind: How the frames are stored.
        rows: Number of frames.
        width: Width of the first frame, px.
        height: Height of the first frame, px.
        channels: Channel order, as in the layout's [channels].
        codec: raw, jpeg or png.
        row_shape: Shape of one stored row.
    """

    name: str
    key: str
    kind: Kind
    rows: int
    width: int
    height: int
    channels: Channels
    codec: str
    row_shape: tuple[int, ...]


def camera_places(group: h5py.Group, layout: Layout, file: Path) -> list[tuple[str, str, str]]:
    """Return each camera and depth stream as (role, name, path below `group`), cameras in the layout's order.

    Raises:
        EpisodeError: The camera group cannot be reached, or is a dataset.
    """
    cameras = tree.reach(group, layout.cameras.group, file)
    if cameras is None:
        return []
    if not tree.is_group(cameras):
        text = "is a dataset, expected a group of camera streams; check that the layout is the right one"
        raise hdf5.fault("data-instead-of-group", file, hdf5.full_name(group, layout.cameras.group), text)
    names = sorted(tree.names(cameras, file), key=layout.camera_rank)
    roles = [(name, "depth" if layout.is_depth(name) else "camera" if layout.is_camera(name) else "") for name in names]
    return [(role, name, f"{layout.cameras.group}/{name}".strip("/")) for name, role in roles if role]


def touch_places(group: h5py.Group, place: str, layout: Layout, file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each touch stream in `place`, a touch group of the layout, as (role, name, path below `group`)."""
    holder = tree.reach(group, place, file)
    names = tree.names(holder, file) if tree.is_group(holder) else ()
    yield from (("touch", name, f"{place}/{name}".strip("/")) for name in names if layout.is_touch(name))


def kind_of(data: h5py.Dataset) -> Kind | None:
    """Return how an HDF5 dataset stores frames; None when the dataset does not contain frames."""
    if data.dtype in (np.uint8, np.int8) and data.ndim == 2:
        return "padded_jpeg"
    if data.dtype.kind in "SV" and data.dtype.names is None and data.ndim == 1:
        return "padded_jpeg"  # the same bytes as fixed-length text or opaque data
    if data.ndim > 2 and codec.raw_size(data.dtype, data.shape[1:]) is not None and not _of_matlab(data):
        return "raw"
    if data.ndim == 1 and h5py.check_vlen_dtype(data.dtype) in (np.uint8, np.int8):
        return "vlen_jpeg"
    return None


def described(key: str, data: h5py.Dataset) -> str:
    """Return the path, shape and type of an array in one text, such as 'obs/gel (90, 240, 320, 3) uint8'."""
    held = h5py.check_vlen_dtype(data.dtype)
    return f"{key} {data.shape} {data.dtype if held is None else f'variable-length {held}'}"


def holds_no_frames(group: h5py.Group, key: str, role: str, file: Path) -> bool:
    """Return whether an array that is called like a stream contains no frames, not even damaged ones.

    Examples are positions of markers, taxels, forces and time stamps. An array of the shape of frames, or with an
    encoded image in one of the sampled rows, contains frames. Arrays that cannot be read are judged as frames, because
    opening the stream names the damage.

    Args:
        group: The episode.
        key: Path of the array below the group.
        role: camera, touch or depth.
        file: The file's path, for error messages.
    """
    try:
        data = tree.array(group, key, file)
        if data is None or 0 in data.shape:
            return False
        if role == "depth":
            return data.dtype.kind not in "uif"
        kind = kind_of(data)
        if kind is None or kind == "raw":
            return kind is None and not shaped_as_frames(data)
        row_bytes = hdf5.byte_count(data.shape[1:], data.dtype.itemsize)
        if row_bytes > hdf5.MAX_FRAME_BYTES:
            return False
        short = kind == "padded_jpeg" and row_bytes < LEAST_IMAGE_BYTES
        heads = [_head(data, int(row), file, key) for row in evenly(len(data), 5)]
        # A stream of which every row is empty is damaged; one without any image in other bytes never was a stream.
        return short or (any(map(any, heads)) and not any(map(codec.is_image, heads)))
    except EpisodeError:
        return False


LEAST_IMAGE_BYTES = 64  # the smallest PNG has 67 bytes, the smallest JPEG more


def _head(data: h5py.Dataset, row: int, file: Path, key: str) -> bytes:
    if data.ndim == 1:
        return codec.octets(tree.read_row(data, row, file, key))[:LEAST_IMAGE_BYTES].tobytes()
    with hdf5.reading(file, key, row):
        return bytes(data[row, :LEAST_IMAGE_BYTES].tobytes())


def _of_matlab(data: h5py.Dataset) -> bool:
    return data.ndim == 4 and data.shape[0] in (1, 3) and min(data.shape[1:3]) >= 16 and data.shape[3] not in (1, 3)


def shaped_as_frames(data: h5py.Dataset) -> bool:
    """Return whether an array of numbers has the shape of frames, also of frames in a form that is not read."""
    if _of_matlab(data):
        return True
    shape = data.shape[1:]
    if len(shape) == 2:
        return bool(data.dtype == np.uint8) and min(shape) >= 32  # grey images; a grid of taxels is smaller
    places = [(shape[2], shape[:2]), (shape[0], shape[1:])] if len(shape) == 3 else []
    return any(channels in (1, 3, 4) and min(sides) >= 16 for channels, sides in places)


def stream_at(group: h5py.Group, name: str, key: str, layout: Layout, file: Path) -> Stream:
    """Return the description of the stream at the path `key` below `group`, with the size of its first frame.

    Raises:
        EpisodeError: The stream is missing, empty, too large or of another kind, or its first frame is damaged.
    """
    full = hdf5.full_name(group, key)
    data = tree.array(group, key, file)
    if data is None:
        raise hdf5.fault("missing", file, full, "is missing. Check that the layout is the right one")
    kind = _kind(data, file, full)
    rows = int(data.shape[0])
    if rows == 0:
        raise hdf5.fault("empty", file, full, f"contains no frames (shape {data.shape}). Record the episode again")
    if rows > hdf5.MAX_ROWS:
        text = f"states {rows:,} frames in its shape; the limit is {hdf5.MAX_ROWS:,}. Record the episode again"
        raise hdf5.fault("huge", file, full, text)
    row_shape = tuple(int(n) for n in data.shape[1:])
    row_bytes = hdf5.byte_count(row_shape, data.dtype.itemsize)
    if row_bytes > hdf5.MAX_FRAME_BYTES:
        text = f"has {row_bytes:,} bytes per frame; the limit is {hdf5.MAX_FRAME_BYTES:,}. Record the episode again"
        raise hdf5.fault("huge", file, full, text)
    if kind == "raw":
        if 0 in row_shape:
            raise hdf5.fault("shape", file, full, f"has frames without pixels: shape {data.shape}. Record it again")
        width, height = codec.raw_size(data.dtype, row_shape) or (0, 0)
        if data.dtype.kind == "f":
            frame_of_raw(tree.read_row(data, 0, file, full), layout, file, full, 0)
        return Stream(name, full, kind, rows, width, height, layout.channel_order(name, False), "raw", row_shape)
    row = codec.octets(tree.read_row(data, 0, file, full))
    try:
        width, height = codec.width_height(row)
    except InputError as cause:
        raise frame_fault(cause, layout, file, full, 0) from cause
    order = layout.channel_order(name, True)
    return Stream(name, full, kind, rows, width, height, order, codec.codec_of(row), row_shape)


def frame_fault(cause: ValueError, layout: Layout, file: Path, key: str, t: int) -> EpisodeError:
    """Return the fault of the unusable frame in row t; `repair` is advised only if it can write the layout."""
    advice = ", or, if other frames are usable, remove this one with: tactile-align repair" if layout.writable else ""
    return hdf5.fault("frame", file, key, f"{cause}{advice}", t)


def size_fault(width: int, height: int, stream: Stream, layout: Layout, file: Path, t: int) -> EpisodeError:
    """Return the fault of the frame in row t that has another size, px, than the first frame of its stream."""
    text = f"is {width}x{height} px, row 0 {stream.width}x{stream.height}. {without_row(layout)}"
    return hdf5.fault("frame-size", file, stream.key, text, t)


def without_row(layout: Layout) -> str:
    """Return the advice for a damaged row; `repair` is advised only if it can write the layout."""
    return "Remove the row with: tactile-align repair" if layout.writable else "Record it again, or leave it out"


def frame_of_raw(row: np.ndarray, layout: Layout, file: Path, key: str, t: int) -> np.ndarray:
    """Return the frame of row t of a raw stream; see `codec.from_raw`.

    Raises:
        EpisodeError: A floating-point row has values outside 0 to 1.
    """
    try:
        return codec.from_raw(row)
    except InputError as cause:
        raise frame_fault(cause, layout, file, key, t) from cause


def depth_at(group: h5py.Group, key: str, file: Path) -> str:
    """Return the full path in the file of the depth stream at `key` below `group`, after checking the stream.

    Raises:
        EpisodeError: The stream is missing or does not contain numbers.
    """
    full = hdf5.full_name(group, key)
    data = tree.array(group, key, file)
    if data is None or data.ndim < 1 or data.dtype.kind not in "uif":
        got = "nothing" if data is None else f"dtype {data.dtype}, shape {data.shape}"
        raise hdf5.fault("dtype", file, full, f"is not numbers (steps, height, width): found {got}. Record it again")
    return full


def _kind(data: h5py.Dataset, file: Path, key: str) -> Kind:
    kind = kind_of(data)
    if kind is None:
        text = f"has dtype {data.dtype} and shape {data.shape}; raw frames must be (steps, height, width, 3) or "
        text += "(steps, 3, height, width) of uint8 or of numbers 0 to 1, or grey uint8 (steps, height, width), "
        text += "encoded frames uint8 (steps, bytes) or variable-length uint8"
        if _of_matlab(data):
            text += ". Its axes are reversed, as in files of MATLAB: there, give h5write [3 width height steps]"
        raise hdf5.fault("dtype", file, key, f"{text}. Check the layout, or write the frames again")
    return kind


def state_array(
    group: h5py.Group, keys: tuple[str, ...], layout: Layout, file: Path, needed: bool, finite: bool = True
) -> np.ndarray | None:
    """Return joints, velocities or actions, (T, D) float64 with T rows; None if they are missing and not `needed`.

    Args:
        group: The episode.
        keys: Paths of the arrays below the group; their columns are joined.
        layout: The layout, for advice in error messages.
        file: The file's path, for error messages.
        needed: Whether missing arrays are an error.
        finite: Whether non-finite numbers are an error.

    Raises:
        EpisodeError: An array is missing, of another kind, too large, or contains non-finite numbers.
    """
    parts: list[np.ndarray] = []
    for key in keys:
        data = tree.array(group, key, file)
        full = hdf5.full_name(group, key)
        if data is None:
            if needed:
                have = ", ".join(tree.names(group, file)) or "nothing"
                text = f"is missing (found at the top level: {have}); check that the layout is the right one"
                raise hdf5.fault("missing", file, full, text)
            return None
        _require_numbers(data, file, full)
        values = tree.read_low_dim(data, file, full).astype(np.float64)
        values = values[:, None] if values.ndim == 1 else values
        bad = np.argwhere(~np.isfinite(values))
        if len(bad) and finite:
            row, column = (int(i) for i in bad[0])
            text = f"column {column} is {values[row, column]}; all numbers must be finite"
            raise hdf5.fault("non-finite", file, full, f"{text}. {without_row(layout)}", row)
        if parts and len(parts[0]) != len(values):
            text = f"has {len(values)} rows but /{hdf5.full_name(group, keys[0])} has {len(parts[0])}"
            raise hdf5.fault("length", file, full, f"{text}; joined arrays must be equally long. Record it again")
        parts.append(values)
    return np.concatenate(parts, axis=1) if parts else None


def present(group: h5py.Group, keys: tuple[str, ...], layout: Layout, file: Path) -> tuple[str, ...]:
    """Return the paths `keys` without those that are optional in the layout and missing in the episode.

    If all are missing, all are returned, so that reading them names the first one.
    """
    may_lack = layout.state.optional
    if not may_lack:
        return keys
    return tuple(key for key in keys if key not in may_lack or tree.reach(group, key, file) is not None) or keys


def _require_numbers(data: h5py.Dataset, file: Path, full: str) -> None:
    # Several columns of whole numbers are probably radians that a recorder cut off; one is a gripper's counts.
    counts = data.dtype.kind in "iu" and data.shape[1:] in ((), (1,))
    if data.dtype.kind != "f" and not counts:
        text = (
            f"has dtype {data.dtype}, expected floating-point numbers (only a single column may hold whole numbers, "
            "such as a gripper's counts); write it again as float32 or float64"
        )
        raise hdf5.fault("dtype", file, full, text)
    if data.ndim not in (1, 2):
        raise hdf5.fault("shape", file, full, f"has shape {data.shape}, expected (steps, columns). Reshape it")
    if 0 in data.shape:
        text = f"contains no steps (shape {data.shape}). Record the episode again, or delete it"
        raise hdf5.fault("empty", file, full, text)


@dataclass
class Found:
    """Contents of an episode and its faults; the episode can be used only when `faults` is empty."""

    qpos: np.ndarray | None = None
    qvel: np.ndarray | None = None
    action: np.ndarray | None = None
    cameras: dict[str, Stream] = field(default_factory=dict)
    touches: dict[str, Stream] = field(default_factory=dict)
    depth: dict[str, str] = field(default_factory=dict)  # name -> key
    carried: dict[str, str] = field(default_factory=dict)
    times: np.ndarray | None = None  # (T,) times of the rows, s
    nearest: dict[str, np.ndarray] = field(default_factory=dict)  # frame of each row, (T,), of a stream with own times
    apart_s: dict[str, float] = field(default_factory=dict)  # largest distance of such a frame from its row, s
    strays: list[str] = field(default_factory=list)  # arrays called like streams that contain no frames
    faults: list[Fault] = field(default_factory=list)


def find(group: h5py.Group, layout: Layout, file: Path) -> Found:
    """Return the contents of the episode in `group`. Joints and actions are read; of each stream only the first frame.

    Faults are collected in the result, not raised.
    """
    contents = Found()
    for what, keys, needed in layout.state.arrays:
        with _Collect(contents):
            found = present(group, keys, layout, file)
            setattr(contents, what, state_array(group, found, layout, file, needed))
    if contents.action is not None and layout.state.action_from == "next":
        contents.action = np.concatenate([contents.action[1:], contents.action[-1:]])
    with _Collect(contents):
        for key in layout.state.carried:
            if tree.array(group, key, file) is not None:
                contents.carried[key] = hdf5.full_name(group, key)
    for role, name, key in frame_places(group, layout, file, contents):
        with _Collect(contents):
            if role == "depth":
                contents.depth[name] = depth_at(group, key, file)
            else:
                side = contents.touches if role == "touch" else contents.cameras
                side[name] = stream_at(group, name, key, layout, file)
    if layout.times is not None and contents.qpos is not None:
        _align(group, layout.times, len(contents.qpos), file, contents)
    _check_lengths(group, layout, file, contents)
    return contents


def _align(group: h5py.Group, stated: Times, steps: int, file: Path, contents: Found) -> None:
    """Add to `contents` the times of the `steps` rows, and the frames that are nearest to the rows in time."""
    with _Collect(contents):
        contents.times = _times(group, stated.rows, steps, "rows", stated, file)
    lengths = {name: stream.rows for name, stream in (*contents.cameras.items(), *contents.touches.items())}
    lengths |= {name: int(tree.array(group.file, key, file).shape[0]) for name, key in contents.depth.items()}
    for name, key in stated.streams.items():
        if contents.times is None or (name not in lengths and contents.faults):
            continue
        with _Collect(contents):
            if name not in lengths:
                text = f"is stated as the times of a stream {name}, but the streams are {', '.join(lengths)}. "
                text += "Correct the name in [times] of the layout"
                raise hdf5.fault("times", file, hdf5.full_name(group, key), text)
            times = _times(group, key, lengths[name], f"frames of {name}", stated, file)
            contents.nearest[name], apart = nearest(times, contents.times)
            contents.apart_s[name] = float(apart.max())
            if over := np.flatnonzero(apart > (stated.within_s or 0)).tolist():
                text = (
                    f"has no frame of {name} within {stated.within_s:g} s of row {over[0]} and of {len(over)} rows in "
                )
                text += f"all; the nearest is {apart[over[0]]:.3g} s away. The times of the frames begin "
                text += f"{times[0] - contents.times[0]:+.3g} s after those of the rows and end "
                text += f"{times[-1] - contents.times[-1]:+.3g} s after them. Correct the times or the unit, or set a "
                raise hdf5.fault("apart", file, hdf5.full_name(group, key), f"{text}larger within_s in the layout")


def _times(group: h5py.Group, key: str, count: int, what: str, stated: Times, file: Path) -> np.ndarray:
    """Return the recorded times of `count` rows or frames, (count,) s, after checking that they never decrease."""
    full, data = hdf5.full_name(group, key), tree.array(group, key, file)
    if data is None:
        text = (
            f"is missing, but the layout states the times of the {what} there. Check that the layout is the right one"
        )
        raise hdf5.fault("missing", file, full, text)
    values = tree.read_low_dim(data, file, full)
    if values.dtype.kind not in "fiu" or values.size != count:
        got = f"has dtype {values.dtype} and shape {values.shape}"
        raise hdf5.fault("times", file, full, f"{got}; expected a time for each of {count} {what}. Check the layout")
    if why := why_no_times(values.reshape(-1), stated.unit):
        raise hdf5.fault("times", file, full, f"contains no times in {stated.unit}: {why}. Record the times again")
    times = values.reshape(-1).astype(np.float64) * SECONDS[stated.unit]
    if back := Steps.of(times).backwards:
        raise hdf5.fault("times", file, full, "is earlier than the row before. Record the times again", back[0])
    return times


class _Collect:
    """Context manager that adds the faults of an EpisodeError to `contents.faults` instead of raising it."""

    def __init__(self, contents: Found) -> None:
        self.contents = contents

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, EpisodeError):
            self.contents.faults.extend(error.faults)
        return isinstance(error, EpisodeError)


def frame_places(group: h5py.Group, layout: Layout, file: Path, contents: Found) -> list[tuple[str, str, str]]:
    """Return each stream of frames as (role, name, path below `group`), cameras in the layout's order.

    The role is "camera", "touch" or "depth". Each name occurs once. Duplicate names, a missing camera and groups that
    cannot be read are added to `contents.faults`. Arrays that are called like a stream but contain no frames are added
    to `contents.strays`, except those that the layout lists by their name.
    """
    places: dict[str, tuple[str, str, str]] = {}
    with _Collect(contents):
        places = {name: (role, name, key) for role, name, key in camera_places(group, layout, file)}
    for place in layout.touches.groups:
        with _Collect(contents):
            for role, name, key in touch_places(group, place, layout, file):
                if name in places:
                    text = f"is the second stream called {name!r}. Rename or remove one of the two streams"
                    contents.faults.append(Fault("twice", file, hdf5.full_name(group, key), text))
                else:
                    places[name] = role, name, key
    for role, name, key in list(places.values()):
        if name not in layout.cameras.order and holds_no_frames(group, key, role, file):
            contents.strays.append(described(key, group[key]))
            del places[name]
    if not any(role == "camera" for role, _, _ in places.values()):
        text = "has no camera stream, but an episode needs at least one. Check that the layout is the right one"
        contents.faults.append(Fault("missing", file, hdf5.full_name(group, layout.cameras.group), text))
    return list(places.values())


def _check_lengths(group: h5py.Group, layout: Layout, file: Path, contents: Found) -> None:
    if contents.qpos is None:
        return
    steps = len(contents.qpos)
    base = hdf5.full_name(group, present(group, layout.state.qpos, layout, file)[0])
    streams = (*contents.cameras.values(), *contents.touches.values())
    lengths = {stream.key: (stream.rows, "frames") for stream in streams if stream.name not in contents.nearest}
    for what, keys in (("action", layout.state.action), ("qvel", layout.state.qvel)):
        values = getattr(contents, what)
        if values is not None:
            lengths[hdf5.full_name(group, keys[0])] = (len(values), "rows")
    depth = [key for name, key in contents.depth.items() if name not in contents.nearest]
    for key in (*contents.carried.values(), *depth):
        data = tree.array(group.file, key, file)
        if data is not None:
            lengths[key] = (int(data.shape[0]) if data.ndim else 0, "rows")
    shortest = min([steps, *(n for n, _ in lengths.values())])
    where = f"{file}#{group.name.rpartition('/')[2]}" if group.name != "/" else str(file)
    for key, (rows, unit) in lengths.items():
        if rows != steps:
            contents.faults.append(length_fault(file, where, key, f"{rows} {unit}", rows, base, steps, shortest))


SAME_RATE_ROWS, SAME_RATE_SHARE, MOST_SAME_RATE_ROWS = 2, 0.03, 15
"""Largest difference in length that a recorder may cut off at the end, in rows or as a share of the longer length.

A share of more than MOST_SAME_RATE_ROWS rows, half a second at 30 frames per second, is a difference of rates.
"""


def rate_ratio(rows: int, steps: int) -> str:
    """Return the ratio of two lengths in words, such as "3 to 5"; "" if they differ by no more than a cut-off end.

    The ratio of the smallest numbers that explain the lengths to within one row is that of the rates.
    """
    share = min(SAME_RATE_SHARE * max(rows, steps), MOST_SAME_RATE_ROWS)
    if abs(rows - steps) <= max(SAME_RATE_ROWS, share):
        return ""
    ratios = ((round(rows * whole / max(steps, 1)), whole) for whole in range(1, 13))
    near = next((f"{part} to {whole}" for part, whole in ratios if part and abs(steps * part / whole - rows) < 1), "")
    return near or f"{rows / max(steps, 1):.3g} to 1"


def length_fault(
    file: Path, episode: str, key: str, length: str, rows: int, base: str, steps: int, shortest: int
) -> Fault:
    """Return the fault of a stream at `key` with `rows` rows beside the `steps` rows at `base`, with what to do.

    `episode` is the file, or FILE#NAME in a file with several episodes; `length` the number of rows with its unit, and
    `shortest` the length of the shortest stream of the episode.
    """
    command = f"tactile-align trim {shlex.quote(episode)} --out NEW.hdf5 --to {shortest}"
    text = f"has {length} but /{base} has {steps} rows; all streams of an episode must be equally long"
    if ratio := rate_ratio(rows, steps):
        text += f". The ratio of {ratio} suggests streams of different rates, whose rows have different times. Record "
        text += (
            "the streams at one rate, or state their times in [times] of a layout, and the nearest frames are read. "
        )
        text += "Only if their rates are equal and a stream ended "
        return Fault("rate", file, key, f"{text}early, cut them with: {command} --same-rate")
    return Fault("length", file, key, f"{text}. Cut all streams with: {command}")

"""Writer of episodes: stores streams, arrays and attributes at the paths of a layout."""

import errno
import io
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tactile_align.datasets import codec
from tactile_align.datasets.layout import Layout, load_layout
from tactile_align.errors import InputError
from tactile_align.files import NO_ROOM, no_room, write_atomically

Frames = Iterable[np.ndarray | bytes]


@dataclass(frozen=True)
class _Encoded:
    key: str
    rows: list[bytes]


class Disk(io.FileIO):
    """File below an HDF5 file. It keeps the first error of a full disk instead of raising it.

    When a write fails while HDF5 closes a file, h5py crashes the interpreter. Here every write succeeds for HDF5, and
    `check` raises the error outside of HDF5.

    Attributes:
        error: The first error; the writes after it are ignored.
        needed: Smallest number of bytes that the whole file needs.
    """

    error: OSError | None = None
    needed = 0

    def check(self, ahead: int = 0) -> None:
        """Raise the error of a full disk.

        Args:
            ahead: Number of bytes that will be written next.

        Raises:
            OSError: A write failed, or fewer than `ahead` bytes are free.
        """
        self.needed = max(self.needed, self.seek(0, os.SEEK_END) + ahead)
        if ahead and self.error is None and shutil.disk_usage(Path(str(self.name)).parent).free < ahead:
            self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        """Write all bytes of a buffer and return their number."""
        rest = memoryview(data)
        self.needed = max(self.needed, self.tell() + len(rest))
        with self._keeping_errors():
            while self.error is None and rest:
                rest = rest[super().write(rest) :]
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file, bytes, and return it."""
        with self._keeping_errors():
            super().truncate(size)
        return size or 0

    @contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error


@dataclass
class Writer:
    """Writer of one episode to an open file. It checks each stream or array before storing it.

    Attributes:
        file: The open file, under its temporary name.
        disk: The file below the HDF5 file.
        layout: Layout that states the paths and the storage of streams and arrays.
        target: The final path, for error messages.
        steps: T, the number of rows that every stream must have.
        quality: JPEG quality; that of the layout when None.
    """

    file: h5py.File
    disk: Disk
    layout: Layout
    target: Path
    steps: int
    quality: int | None

    def low_dim(self, qpos: np.ndarray, action: np.ndarray, qvel: np.ndarray | None) -> None:
        """Write joints `qpos` (T, D), actions (T, A) and, if given, joint velocities `qvel` (T, D)."""
        state = self.layout.state
        if qvel is not None and not state.qvel:
            raise InputError(f"{self.target}: layout {self.layout.name} cannot store qvel. Leave qvel out")
        given = [("qpos", state.qpos[0], qpos), ("action", state.action[0], action)]
        given += [] if qvel is None else [("qvel", state.qvel[0], qvel)]
        for name, key, values in given:
            array = np.asarray(values)
            if array.ndim != 2 or array.dtype.kind not in "fiu" or array.shape[0] == 0:
                got = f"{name} has dtype {array.dtype} and shape {array.shape}, expected numbers (steps, columns)"
                raise InputError(f"{self.target}: {got}. Give one row of numbers per step")
            self._same_length(name, len(array))
            if not np.isfinite(array).all():
                row = int(np.argwhere(~np.isfinite(array))[0, 0])
                raise InputError(f"{self.target}: {name} row {row} has a non-finite number. Remove the row")
            self._store(key, array.astype(state.dtype))

    def frames(self, images: dict[str, Frames], touches: dict[str, Frames]) -> None:
        """Write T frames of each camera and touch sensor, and the table of encoded lengths if the layout has one."""
        layout = self.layout
        if not images:
            raise InputError(f"{self.target}: images is empty; an episode needs at least one camera. Give its frames")
        cameras = sorted(images, key=layout.camera_rank)
        for name in cameras:
            if "/" in name or not layout.is_camera(name):
                text = f"{self.target}: layout {layout.name} would not read a stream called {name!r} as a camera"
                other = f"touch names: {', '.join(layout.touches.names)}; depth names: {', '.join(layout.depth.names)}"
                raise InputError(f"{text} ({other}); {_rename('cameras')}")
        for name in touches:
            if "/" in name or not layout.is_touch(name) or not layout.touches.groups:
                text = f"{self.target}: layout {layout.name} would not read a stream called {name!r} as a touch"
                raise InputError(f"{text} (touch names: {', '.join(layout.touches.names)}); {_rename('touches')}")
        work = [(name, f"{layout.cameras.group}/{name}", images[name], False) for name in cameras]
        work += [(name, f"{layout.touches.groups[0]}/{name}", touches[name], True) for name in sorted(touches)]
        if layout.storage.kind == "raw":
            for name, key, frames, _ in work:
                self._raw(name, key, frames)
            return
        encoded = [_Encoded(key, self._encode(name, frames, touch)) for name, key, frames, touch in work]
        sizes = [len(row) for stream in encoded for row in stream.rows]
        longest = max(sizes)
        self.disk.check(sum(sizes))
        for stream in encoded:
            if layout.storage.kind == "vlen_jpeg":
                self._vlen(stream)
            else:
                own = max(len(row) for row in stream.rows)
                self._padded(stream, longest if layout.storage.padding == "shared" else own)
        if layout.lengths is not None:
            if layout.lengths.rows == "alphabetical":
                encoded.sort(key=lambda stream: stream.key.rpartition("/")[2])
            table = np.array([[len(row) for row in stream.rows] for stream in encoded], np.float32)
            self._store(layout.lengths.key, table)

    def arrays(self, given: dict[str, np.ndarray], whole: bool = True) -> None:
        """Write each array at its path below the episode. If `whole`, each must be a depth stream with T rows."""
        for key, values in given.items():
            array = np.asarray(values)
            if whole:
                self._same_length(key, len(array))
                if not self.layout.is_depth(key.rpartition("/")[2]):
                    names = ", ".join(self.layout.depth.names)
                    raise InputError(f"{self.target}: {key} would not be read as depth. Rename it to match {names}")
            self._store(key, array)

    def attributes(self, given: dict[str, Any]) -> None:
        """Write the HDF5 attributes of the file's root, in sorted order, so that equal input gives equal bytes."""
        for name, value in sorted(given.items()):
            if (size := _stored_bytes(value)) > MOST_BYTES:
                text = f"attribute {name} has {size:,} bytes, and HDF5 stores at most {MOST_BYTES:,}"
                raise InputError(f"{self.target}: {text}. Give it as an array in extra")
            dated = np.asarray(value) if isinstance(value, np.datetime64 | np.timedelta64) else None
            try:
                self.file.attrs[name] = value if dated is None else dated.astype(h5py.opaque_dtype(dated.dtype))
            except TypeError as cause:
                kind = type(value).__name__
                text = f"attribute {name} is of type {kind}, expected text or numbers. Convert the value"
                raise InputError(f"{self.target}: {text}") from cause

    def _encode(self, name: str, frames: Frames, touch: bool) -> list[bytes]:
        storage, order = self.layout.storage, self.layout.channel_order(name, True)
        quality = self.quality if self.quality is not None else storage.quality
        rows: list[bytes] = []
        first: tuple[int, int] | None = None
        for row, frame in enumerate(self._counted(name, frames)):
            size = self._width_height(name, row, frame)
            if isinstance(frame, bytes):
                data = frame
            elif touch and storage.touch_codec == "png":
                data = codec.encode_png(frame, order)
            else:
                data = codec.encode_jpeg(frame, max(quality, 95) if touch else quality, order, full_chroma=touch)
            first = self._alike(name, row, size, first)
            rows.append(data)
        return rows

    def _raw(self, name: str, key: str, frames: Frames) -> None:
        order = self.layout.channel_order(name, False)
        first: tuple[int, int] | None = None
        for row, frame in enumerate(self._counted(name, frames)):
            pixels = codec.decode(frame) if isinstance(frame, bytes) else frame
            first = self._alike(name, row, self._width_height(name, row, pixels), first)
            if row == 0:
                shape = (self.steps, *pixels.shape)
                self.disk.check(math.prod(shape))
                data = self.file.create_dataset(key, shape, np.uint8, chunks=(1, *pixels.shape), track_times=False)
            data[row] = pixels[..., ::-1] if order == "bgr" else pixels
            self.disk.check()

    def _padded(self, stream: _Encoded, width: int) -> None:
        shape = (self.steps, width)
        data = self.file.create_dataset(stream.key, shape, np.uint8, chunks=(1, width), track_times=False)
        for row, text in enumerate(stream.rows):
            padded = np.zeros(width, np.uint8)
            padded[: len(text)] = np.frombuffer(text, np.uint8)
            data[row] = padded
            self.disk.check()

    def _vlen(self, stream: _Encoded) -> None:
        kind = h5py.vlen_dtype(np.uint8)
        data = self.file.create_dataset(stream.key, (self.steps,), kind, track_times=False)
        for row, text in enumerate(stream.rows):
            data[row] = np.frombuffer(text, np.uint8)
            self.disk.check()

    def _counted(self, name: str, frames: Frames) -> Iterable[np.ndarray | bytes]:
        count = 0
        for count, frame in enumerate(islice(frames, self.steps + 1), start=1):
            if count <= self.steps:
                yield frame
        self._same_length(name, count, "frames" if count <= self.steps else "or more frames")

    def _same_length(self, name: str, rows: int, unit: str = "rows") -> None:
        if rows != self.steps:
            text = f"{name} has {rows} {unit} but qpos has {self.steps} rows"
            raise InputError(f"{self.target}: {text}; the two must be equal. Cut the longer stream")

    def _width_height(self, name: str, row: int, frame: np.ndarray | bytes) -> tuple[int, int]:
        if isinstance(frame, bytes):
            try:
                return codec.width_height(frame)
            except ValueError as cause:
                raise InputError(f"{self.target}: {name} row {row} {cause}") from cause
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            text = f"{name} row {row} is {got}, expected uint8 (height, width, 3) RGB. Convert the frame"
            raise InputError(f"{self.target}: {text}")
        return frame.shape[1], frame.shape[0]

    def _alike(self, name: str, row: int, size: tuple[int, int], first: tuple[int, int] | None) -> tuple[int, int]:
        if first is not None and size != first:
            got, need = f"{size[0]}x{size[1]}", f"{first[0]}x{first[1]}"
            raise InputError(f"{self.target}: {name} row {row} is {got} but row 0 is {need}. Resize the frames")
        return size

    def _store(self, key: str, array: np.ndarray) -> None:
        self.disk.check(array.nbytes)
        self.file.create_dataset(key, data=array, track_times=False)


def _rename(what: str) -> str:
    return f"rename it, or copy that layout's file, add the name to {what}.names, and use the copy as layout"


MOST_BYTES = 64_000
"""Largest size of an attribute; a header of HDF5 holds 64 KiB with the attribute's name and type."""
ABOUT_STORAGE = ("layout", "compress")  # attributes that describe how one file is stored, never copied to another


def copied_attributes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of an episode that a copy contains: those that HDF5 can store and that are true there.

    References to objects, objects of JSON, text that HDF5 cannot encode, and values above MOST_BYTES are excluded.
    """
    return {name: value for name, value in given.items() if name not in ABOUT_STORAGE and _is_storable(value)}


def _is_storable(value: Any) -> bool:
    if isinstance(value, h5py.Empty):
        return True
    try:
        dtype = np.asarray(value).dtype
    except ValueError:  # lists of different lengths
        return False
    if _stored_bytes(value) > MOST_BYTES:
        return False
    if dtype.kind not in "UO":
        return not dtype.hasobject
    return all(isinstance(one, str) and _is_text(one) for one in np.asarray(value, dtype=object).ravel())


def _stored_bytes(value: Any) -> int:
    """Return the size of an attribute in its file's header, which of each text contains only a reference."""
    array = np.asarray(0 if isinstance(value, h5py.Empty) else value)
    return array.size * (16 if array.dtype.kind in "UO" else array.itemsize)


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def write_episode(
    path: str | Path,
    *,
    qpos: np.ndarray,
    action: np.ndarray,
    images: Mapping[str, Frames],
    touches: Mapping[str, Frames] | None = None,
    qvel: np.ndarray | None = None,
    depth: Mapping[str, np.ndarray] | None = None,
    fps: float | None = None,
    attributes: Mapping[str, Any] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    layout: str | Path = "xtrainer",
    quality: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one episode to a file and return the file's path.

    The file gets its final name only when it is complete. Equal input gives equal bytes.

    Args:
        path: The file to write; its folder is created.
        qpos: (T, D) raw joint readings, D columns in T rows.
        action: (T, A) raw actions, A columns.
        images: T frames (H, W, 3) uint8 RGB by camera name, as an array or any iterable. A frame may also be the bytes
            of a JPEG or PNG in the layout's channel order; these bytes are stored unchanged.
        touches: T frames by touch sensor, in the form of `images`.
        qvel: (T, D) joint velocities.
        depth: (T, H, W) depth images by stream name, in the recorder's unit.
        fps: Frames per second, stored as an attribute; None when unknown.
        attributes: Additional root attributes; they replace attributes of the same name in the layout.
        extra: Additional arrays by path, such as "truth/contact".
        layout: Name or TOML file of a layout.
        quality: JPEG quality of the cameras; touches use at least 95. None: the layout's quality.
        overwrite: Whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        FileExistsError: The file exists and `overwrite` is False.
        InputError: Streams differ in length, a frame has another shape or dtype, or a name or number cannot be
            stored.
        OSError: The disk is full; the message contains the file, the space that it needs and the free space.
    """
    target, facts = Path(path), load_layout(layout)
    if not facts.writable:
        raise InputError(f"{target}: layout {facts.name} can only be read. Use layout xtrainer or aloha instead")
    if len(facts.state.qpos) > 1 or len(facts.state.action) > 1:
        raise InputError(f"{target}: layout {facts.name} joins several arrays and cannot be written. Use xtrainer")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists. Choose another name, or set overwrite=True to replace it")

    def fill(writer: Writer) -> None:
        writer.low_dim(qpos, action, qvel)
        writer.frames(dict(images), dict(touches or {}))
        writer.arrays({f"{facts.cameras.group}/{name}": data for name, data in (depth or {}).items()})
        writer.arrays(dict(extra or {}), whole=False)
        stated = {**_rate(target, fps), **(attributes or {}), "layout": facts.name}
        writer.attributes({**facts.attributes, **stated})

    def write(partial: Path) -> None:
        with Disk(partial, "w+") as disk:
            try:
                with h5py.File(disk, "w") as file:
                    fill(Writer(file, disk, facts, target, len(np.asarray(qpos)), quality))
                disk.check()
            except (OSError, RuntimeError) as error:
                if disk.error is None or disk.error.errno not in NO_ROOM:
                    raise
                raise no_room(target, disk.error, disk.needed) from error

    write_atomically(target, write)
    return target


def _rate(target: Path, fps: float | None) -> dict[str, float]:
    if fps is None:
        return {}
    if not (np.isfinite(fps) and fps > 0):
        raise InputError(f"{target}: fps must be a positive number; got {fps}. Leave fps out if the rate is unknown")
    return {"fps": float(fps)}

"""Replay buffers in Zarr stores of format 2 and 3, in a folder or in a zip file (extra `zarr`), read without a copy.

A replay buffer, as Diffusion Policy, UMI, Reactive Diffusion Policy and Open X-Tactile write it, joins all episodes in
arrays `data/KEY` of one row per step. `meta/episode_ends` holds the row after the last one of each episode. The
episodes are shown as the groups episode_0, episode_1, ..., whose arrays are the arrays below `data`. An array (T, N,
height, width, 3) of the images of N sensors, or (T, N, height, width) of grey ones, is shown as N arrays KEY_0 to
KEY_{N-1}.

The store is read without the package zarr, because its sizes must be checked before anything is decompressed.
"""

import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tactile_align.config.data import ZARR_MARKS, has_mark
from tactile_align.datasets import hdf5
from tactile_align.datasets.containers.tree import Array, Group
from tactile_align.datasets.containers.zarr_arrays import MOST_SHRINK, NO_CHUNK, Stored, format_2, format_3, one_line
from tactile_align.errors import EpisodeError, InputError

MARKS = (".zgroup", "zarr.json")
"""Files in the root group of a store of format 2 and 3."""
GEOMETRY = "tactile_align_rig"
"""Attribute of the root group that contains the text of a rig file."""
MAX_JSON_BYTES = 2**24
LOCAL_HEADER = 30  # bytes before the name in the header of a member of a zip file; the last 4 are two lengths
MAX_EPISODES = 2**20


class _Store(Protocol):
    """Files of a store by their path in the store."""

    def read(self, name: str, most: int) -> bytes | None:
        """Return a file of at most `most` bytes; None if it does not exist."""

    def part(self, name: str, first: int, count: int) -> bytes | None:
        """Return `count` bytes of a file from the byte `first`, before the end if negative; None without the file.

        Fewer bytes are returned where the file ends.
        """

    def names(self, under: str) -> tuple[str, ...]:
        """Return the sorted names of the files and folders in a folder."""

    def close(self) -> None:
        """Close the files that are open."""


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root, self.resolved = root, root.resolve()

    def read(self, name: str, most: int) -> bytes | None:
        path = self._inside(name)
        if path is not None and path.stat().st_size > most:
            raise InputError(f"{name} has {path.stat().st_size:,} bytes; the limit is {most:,}. Write the store again")
        return None if path is None else path.read_bytes()

    def part(self, name: str, first: int, count: int) -> bytes | None:
        path = self._inside(name)
        if path is None:
            return None
        with path.open("rb") as handle:
            handle.seek(first if first >= 0 else max(path.stat().st_size + first, 0))
            return handle.read(count)

    def _inside(self, name: str) -> Path | None:
        path = self.root / name
        if not path.is_file():
            return None
        if not path.resolve().is_relative_to(self.resolved):
            raise InputError(f"{name} is a link out of the store. Copy the store with the files to which it links")
        return path

    def names(self, under: str) -> tuple[str, ...]:
        folder = self.root / under
        return tuple(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else ()

    def close(self) -> None: ...


class _Zip:
    """Files of a store in a zip file, whose root group lies at the root of the zip file or in a folder of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: zipfile.ZipFile | None = None
        self._starts: dict[str, int] = {}
        try:
            members = [member for member in self.file.infolist() if not member.is_dir()]
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as cause:
            raise InputError(f"cannot be read as a zip file ({one_line(cause)}). Copy it again") from cause
        marks = [member.filename for member in members if member.filename.rpartition("/")[2] in MARKS]
        if not marks:
            raise InputError(f"contains no Zarr store: none of its files is called {' or '.join(MARKS)}. Give another")
        names = {member.filename for member in members}
        groups = [mark.removesuffix(mark.rpartition("/")[2]) for mark in marks]
        buffers = [g for g in groups if names & {f"{g}meta/episode_ends/{form}" for form in (".zarray", "zarr.json")}]
        self.prefix = min(buffers or groups, key=lambda name: (name.count("/"), name))
        self.members: dict[str, zipfile.ZipInfo] = {}
        self.folders: dict[str, set[str]] = {}
        for member in members:
            if member.filename.startswith(self.prefix):
                name = member.filename.removeprefix(self.prefix)
                self.members[name] = (
                    member  # of several with one name the last holds, as for zarr, which never replaces
                )
                while name:
                    name, _, last = name.rpartition("/")
                    known = self.folders.setdefault(name, set())
                    if last in known:
                        break
                    known.add(last)

    @property
    def file(self) -> zipfile.ZipFile:
        if self._file is None:
            self._file = zipfile.ZipFile(self.path)
        return self._file

    def read(self, name: str, most: int) -> bytes | None:
        member = self.members.get(name)
        if member is None:
            return None
        if member.file_size > most:
            raise InputError(f"{name} states {member.file_size:,} bytes; the limit is {most:,}. Write the store again")
        with _unzipping(name):
            return self.file.read(member)

    def part(self, name: str, first: int, count: int) -> bytes | None:
        member = self.members.get(name)
        if member is None:
            return None
        if member.compress_type != zipfile.ZIP_STORED:
            text = "is a shard that the zip file compresses again, so no part of it can be read"
            raise InputError(f"{name} {text}. Write the zip file without compression")
        at = first if first >= 0 else max(member.file_size + first, 0)
        with _unzipping(name), self.path.open("rb") as handle:
            handle.seek(self._data_at(member) + at)
            return handle.read(max(min(count, member.file_size - at), 0))

    def _data_at(self, member: zipfile.ZipInfo) -> int:
        """Return where the data of a member begin in the zip file; reading from there does not read what lies before.

        Raises:
            BadZipFile: The member's header is damaged, or the member is encrypted.
        """
        if member.filename not in self._starts:
            with self.file.open(member), self.path.open("rb") as handle:  # opening it checks the header
                handle.seek(member.header_offset + LOCAL_HEADER - 4)
                name, extra = struct.unpack("<HH", handle.read(4))
            self._starts[member.filename] = member.header_offset + LOCAL_HEADER + name + extra
        return self._starts[member.filename]

    def names(self, under: str) -> tuple[str, ...]:
        return tuple(sorted(self.folders.get(under, ())))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


@contextmanager
def _unzipping(name: str) -> Iterator[None]:
    """Convert the errors of `zipfile` inside the `with` block to an InputError that contains the file."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as cause:
        raise InputError(f"{name} cannot be read from the zip file ({one_line(cause)}). Copy it again") from cause


def _store(path: Path) -> _Store:
    return _Folder(path) if path.is_dir() else _Zip(path)


def _json(store: _Store, name: str) -> dict[str, Any] | None:
    raw = store.read(name, MAX_JSON_BYTES)
    if raw is None:
        return None
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as cause:
        raise InputError(f"{name} is not valid JSON ({one_line(cause)}). Copy the store again") from cause
    if not isinstance(data, dict):
        raise InputError(f"{name} is not a JSON object. Copy the store again")
    return data


def _attributes(store: _Store) -> dict[str, Any]:
    meta = _json(store, "zarr.json")
    attributes = _json(store, ".zattrs") if meta is None else meta.get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def root_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of the root group of a store.

    Raises:
        EpisodeError: The store cannot be read.
    """
    try:
        store = _store(path)
        try:
            return _attributes(store)
        finally:
            store.close()
    except InputError as cause:
        raise hdf5.fault("zarr", path, "", str(cause)) from cause


class ZarrRecording(Group):
    """Replay buffer in a Zarr store; its members are the episodes."""

    container = "zarr"

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.file = path, "/", self
        self._stored: dict[str, Stored | None] = {}
        self._bands: dict[str, tuple[int, np.ndarray]] = {}
        self._tables: dict[str, tuple[str, np.ndarray | None]] = {}
        try:
            self.store = _store(path)
            self.attrs = _attributes(self.store)
        except InputError as cause:
            raise hdf5.fault("zarr", path, "", str(cause)) from cause
        self.ends = self._episode_ends()
        self.rows = int(self.ends[-1])

    def close(self) -> None:
        self.store.close()
        self._bands.clear()
        self._tables.clear()

    def names(self) -> tuple[str, ...]:
        return tuple(f"episode_{i}" for i in range(len(self.ends)))

    def member(self, name: str) -> Group | None:
        number = name.removeprefix("episode_")
        if not number.isdecimal() or name != f"episode_{int(number)}" or int(number) >= len(self.ends):
            return None
        first = int(self.ends[int(number) - 1]) if int(number) else 0
        return _Episode(self, name, "data", first, int(self.ends[int(number)]))

    def stored(self, name: str) -> Stored | None:
        """Return the array at a path in the store; None if there is none.

        Raises:
            EpisodeError: The description of the array is damaged or exceeds a limit.
        """
        if name not in self._stored:
            try:
                self._stored[name] = self._described(name)
            except InputError as cause:
                raise hdf5.fault("zarr", self.path, name, str(cause)) from cause
        return self._stored[name]

    def row(self, array: Stored, row: int) -> np.ndarray:
        """Return a row of an array, counted from the beginning of the array.

        Raises:
            EpisodeError: A chunk is damaged, or needs a codec that is not supported.
        """
        band = row // array.chunks[0]
        number, rows = self._bands.get(array.name, (-1, None))
        if number != band or rows is None:
            try:
                rows = self._band(array, band)
            except InputError as cause:
                raise hdf5.fault("zarr", self.path, array.name, str(cause), row) from cause
            self._bands[array.name] = band, rows
        return np.asarray(rows[row - band * array.chunks[0]])

    def _band(self, array: Stored, band: int) -> np.ndarray:
        if array.dtype.hasobject:
            raise InputError("contains texts or objects, which are not read. Store numbers or fixed-length text")
        if array.too_large:
            raise InputError(array.too_large)
        rows = np.empty((array.chunks[0], *array.shape[1:]), array.dtype)
        most = MOST_SHRINK * hdf5.byte_count(array.chunks, array.dtype.itemsize) + MAX_JSON_BYTES
        for part in array.parts:
            where = tuple(slice(i * c, (i + 1) * c) for i, c in zip(part, array.chunks[1:], strict=True))
            there = rows[(slice(None), *where)]
            raw = self._raw(array, (band, *part), most)
            if raw is None:
                there[...] = array.fill
                continue
            try:
                chunk = array.decode(raw)
            except InputError as cause:
                raise InputError(f"chunk {array.file((band, *part))} {cause}") from cause
            there[...] = chunk[tuple(slice(n) for n in there.shape)]
        return rows

    def _raw(self, array: Stored, chunk: tuple[int, ...], most: int) -> bytes | None:
        """Return the bytes of a chunk, at most `most`; None if the chunk is not stored."""
        name, shards = array.file(chunk), array.shards
        if shards is None:
            return self.store.read(name, most)
        known, table = self._tables.get(array.name, ("", None))
        if known != name:
            raw = self.store.part(name, -shards.table_bytes if shards.at_end else 0, shards.table_bytes)
            if raw is not None and len(raw) != shards.table_bytes:
                raise InputError(f"shard {name} ends before its table of chunks. Copy the store again")
            try:
                table = None if raw is None else shards.table(raw)
            except InputError as cause:
                raise InputError(f"the table of chunks in shard {name} {cause}") from cause
            self._tables[array.name] = name, table
        if table is None:
            return None
        first, count = map(int, table[tuple(i % n for i, n in zip(chunk, shards.per, strict=True))])
        if first == count == NO_CHUNK:
            return None
        if count > most or first >= 2**63:
            raise InputError(f"shard {name} states a chunk of {count:,} bytes at {first:,}. Copy the store again")
        found = self.store.part(name, first, count)
        if found is None or len(found) != count:
            raise InputError(f"shard {name} ends before a chunk that its table states. Copy the store again")
        return found

    def _episode_ends(self) -> np.ndarray:
        key = "meta/episode_ends"
        stored = self.stored(key)
        if stored is None:
            text = "is missing, but only replay buffers are read: data/KEY of one row per step, and the row after the "
            text += "last one of each episode. Write this array, or export the episodes to HDF5"
            raise hdf5.fault("missing", self.path, key, text)
        if len(stored.shape) != 1 or stored.dtype.kind not in "iu" or not 0 < stored.shape[0] <= MAX_EPISODES:
            text = f"has shape {stored.shape} and dtype {stored.dtype}, expected 1 to {MAX_EPISODES:,} whole numbers"
            raise hdf5.fault("shape", self.path, key, f"{text}. Write it again")
        ends = np.array([self.row(stored, i) for i in range(stored.shape[0])], np.int64)
        wrong = np.flatnonzero(np.diff(ends, prepend=0) <= 0)
        if len(wrong) or ends[-1] > hdf5.MAX_ROWS:
            row = int(wrong[0]) if len(wrong) else len(ends) - 1
            text = f"is {ends[row]}; the ends of episodes increase from 1 to at most {hdf5.MAX_ROWS:,}"
            raise hdf5.fault("episode-ends", self.path, key, f"{text}. Correct it", row)
        return ends

    def _described(self, name: str) -> Stored | None:
        if (meta := _json(self.store, f"{name}/zarr.json")) is not None:
            return format_3(name, meta) if meta.get("node_type") == "array" else None
        meta = _json(self.store, f"{name}/.zarray")
        return None if meta is None else format_2(name, meta)


class _Episode(Group):
    """Rows `first` <= row < `end` of the arrays in a folder of a store."""

    container = "zarr"

    def __init__(self, file: ZarrRecording, name: str, under: str, first: int, end: int) -> None:
        self.recording, self.file, self.name, self.under = file, file, f"/{name}", under
        self.first, self.end = first, end
        self.attrs = {key: value for key, value in file.attrs.items() if key != GEOMETRY}

    def files(self) -> tuple[Path, ...]:
        found: set[Path] = set()
        for name in self.recording.store.names(self.under):
            key = f"{self.under}/{name}"
            folder = self.recording.path / key
            found.update((folder, folder / ".zarray", folder / "zarr.json"))
            try:
                stored = self.recording.stored(key)
            except EpisodeError:
                continue  # reading the array reports the fault
            if stored is None:
                inner = self.member(name)
                found.update(inner.files() if isinstance(inner, Group) else ())
            elif stored.chunks:
                bands = range(self.first // stored.chunks[0], math.ceil(self.end / stored.chunks[0]))
                files = (stored.file((band, *part)) for band in bands for part in stored.parts)
                found.update(self.recording.path / file for file in files)
        return tuple(sorted(path for path in found if path.exists()))

    def names(self) -> tuple[str, ...]:
        shown: list[str] = []
        for name in self.recording.store.names(self.under):
            try:
                stored = self.recording.stored(f"{self.under}/{name}")
            except EpisodeError:
                shown.append(name)  # listed, so that reading it reports the fault
                continue
            if stored is not None and _sensors(stored):
                shown += [f"{name}_{i}" for i in range(_sensors(stored))]
            elif stored is not None or self._is_group(name):
                shown.append(name)
        return tuple(shown)

    def member(self, name: str) -> Group | Array | None:
        stored = self.recording.stored(f"{self.under}/{name}")
        if stored is not None and not _sensors(stored):
            return _Rows(self, stored, name)
        base, _, number = name.rpartition("_")
        whole = self.recording.stored(f"{self.under}/{base}") if base and number.isdecimal() else None
        if whole is not None and int(number) < _sensors(whole) and number == str(int(number)):
            return _Rows(self, whole, name, int(number))
        if self._is_group(name):
            inner = f"{self.name}/{name}".strip("/")
            return _Episode(self.recording, inner, f"{self.under}/{name}", self.first, self.end)
        return None

    def _is_group(self, name: str) -> bool:
        return any(mark in MARKS for mark in self.recording.store.names(f"{self.under}/{name}"))


def _sensors(stored: Stored) -> int:
    """Return the number N of sensors of an array (T, N, height, width, 3) of images; 0 for any other array.

    Grey images (T, N, height, width) of sensors are told from coloured ones (T, 3, height, width) only if N is not 3.
    """
    shape = stored.shape
    images = len(shape) == 5 and shape[4] == 3
    grey = len(shape) == 4 and shape[1] not in (1, 3) and shape[3] > 4 and min(shape[2:]) >= 32
    return shape[1] if stored.dtype == np.uint8 and (images or grey) else 0


class _Rows(Array):
    """Rows of one episode of an array, or of one sensor's images in the array."""

    def __init__(self, episode: _Episode, stored: Stored, name: str, sensor: int | None = None) -> None:
        self._recording, self._stored, self._sensor = episode.recording, stored, sensor
        self._first = episode.first
        self.name = f"{episode.name}/{name}"
        inner = stored.shape[1:] if sensor is None else stored.shape[2:]
        rows, total = episode.recording.rows, stored.shape[0] if stored.shape else 0
        if total != rows:
            text = f"has {total} rows, but meta/episode_ends ends at {rows}; all arrays below data are equally long"
            raise hdf5.fault("length", episode.recording.path, self.name.strip("/"), f"{text}. Write the buffer again")
        if stored.too_large:
            raise hdf5.fault("huge", episode.recording.path, self.name.strip("/"), stored.too_large)
        self.shape, self.dtype = (episode.end - episode.first, *inner), stored.dtype
        self.chunks = stored.chunks if sensor is None else (stored.chunks[0], *stored.chunks[2:])
        self.compression = stored.compression

    def row(self, t: int) -> np.ndarray:
        if not -len(self) <= t < len(self):
            raise IndexError(f"{self.name}: index {t} is not in 0 to {len(self) - 1}. Use an index in this range")
        values = self._recording.row(self._stored, self._first + t % len(self))
        return values if self._sensor is None else values[self._sensor]


def is_recording(path: Path) -> bool:
    """Return whether a path is a Zarr store: a folder with a root group, or a zip file that contains one."""
    if path.is_dir():
        return has_mark(path, ZARR_MARKS)
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        if handle.read(4) != b"PK\x03\x04":
            return False
    state = path.stat()
    return _is_store(path, state.st_ino, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1024)
def _is_store(path: Path, *state: int) -> bool:
    """Return whether a zip file contains a Zarr store; `state` changes when the file changes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] in MARKS for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return path.name.endswith(".zarr.zip")


def marks(folder: Path) -> tuple[Path, ...]:
    """Return files and folders whose change shows that the list of episodes or the attributes of a store changed."""
    root, ends = (folder / name for name in (*MARKS, ".zattrs")), folder / "meta" / "episode_ends"
    first = (ends / name for name in ("", ".zarray", "zarr.json", "0", "c/0"))  # one chunk contains all ends
    return tuple(path for path in (*root, *first) if path.exists())


open_recording = ZarrRecording

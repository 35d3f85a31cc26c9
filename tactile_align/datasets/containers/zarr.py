"""Replay buffers in Zarr stores of format 2 and 3, in a folder or in a zip file (extra `zarr`), read without a copy.

A replay buffer, as Diffusion Policy, UMI, Reactive Diffusion Policy and Open X-Tactile write it, joins all episodes in
arrays `data/KEY` of one row per step. `meta/episode_ends` holds the row after the last one of each episode. The
episodes are shown as the groups episode_0, episode_1, ..., whose arrays are the arrays below `data`. An array (T, N,
height, width, 3) of the images of N sensors is shown as N arrays KEY_0 to KEY_{N-1}.

The store is read without the package zarr, because its sizes must be checked before anything is decompressed.
"""

import bz2
import json
import lzma
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from tactile_align.datasets import hdf5
from tactile_align.datasets.containers.tree import Array, Group
from tactile_align.errors import EpisodeError, InputError
from tactile_align.extras import need

MARKS = (".zgroup", "zarr.json")
"""Files in the root group of a store of format 2 and 3."""
GEOMETRY = "tactile_align_rig"
"""Attribute of the root group that contains the text of a rig file."""
MAX_JSON_BYTES = 2**24
MAX_EPISODES = 2**20
MOST_CHUNKS = 2**14  # largest number of chunks over which one row is spread
MOST_SHRINK = 4  # the compressed size of incompressible data exceeds their size by far less than this factor
_NAMES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32")
_DTYPES = (*_NAMES, "float64")  # of format 3


class _Store(Protocol):
    """Files of a store by their path in the store."""

    def read(self, name: str, most: int) -> bytes | None:
        """Return a file of at most `most` bytes; None if it does not exist."""

    def names(self, under: str) -> tuple[str, ...]:
        """Return the sorted names of the files and folders in a folder."""

    def close(self) -> None:
        """Close the files that are open."""


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root, self.resolved = root, root.resolve()

    def read(self, name: str, most: int) -> bytes | None:
        path = self.root / name
        if not path.is_file():
            return None
        if not path.resolve().is_relative_to(self.resolved):
            raise InputError(f"{name} is a link out of the store. Copy the store with the files to which it links")
        if path.stat().st_size > most:
            raise InputError(f"{name} has {path.stat().st_size:,} bytes; the limit is {most:,}. Write the store again")
        return path.read_bytes()

    def names(self, under: str) -> tuple[str, ...]:
        folder = self.root / under
        return tuple(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else ()

    def close(self) -> None: ...


class _Zip:
    """Files of a store in a zip file, whose root group lies at the root of the zip file or in a folder of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: zipfile.ZipFile | None = None
        try:
            members = [member for member in self.file.infolist() if not member.is_dir()]
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as cause:
            raise InputError(f"cannot be read as a zip file ({_one_line(cause)}). Copy it again") from cause
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
        try:
            return self.file.read(member)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as cause:
            raise InputError(f"{name} cannot be read from the zip file ({_one_line(cause)}). Copy it again") from cause

    def names(self, under: str) -> tuple[str, ...]:
        return tuple(sorted(self.folders.get(under, ())))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


@dataclass(frozen=True)
class _Stored:
    """Array as stored: its shape, its division into chunks, and the steps that decode a chunk.

    `dtype` is object when the entries are not numbers of fixed size. `decode` takes the bytes of a chunk.
    """

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any
    place: Callable[[tuple[int, ...]], str]
    decode: Callable[[bytes], np.ndarray]
    compression: str | None

    @property
    def parts(self) -> Iterator[tuple[int, ...]]:
        """Indices, along all axes but the first, of the chunks over which each row is spread."""
        return product(*(range(math.ceil(n / c)) for n, c in zip(self.shape[1:], self.chunks[1:], strict=True)))

    @property
    def band_bytes(self) -> int:
        """Size of the rows that are decompressed to read one row, bytes."""
        across = hdf5.byte_count(self.shape[1:], self.dtype.itemsize)
        return max(hdf5.byte_count(self.chunks, self.dtype.itemsize), self.chunks[0] * across)

    @property
    def too_large(self) -> str:
        """Why no row can be read, if the rows that are decompressed to read one exceed the limit; otherwise ""."""
        if self.band_bytes <= hdf5.MAX_CHUNK_BYTES:
            return ""
        text = f"has chunks of {self.band_bytes:,} bytes; the limit is {hdf5.MAX_CHUNK_BYTES:,}"
        return f"{text}. Write the array again with smaller chunks"


def _store(path: Path) -> _Store:
    return _Folder(path) if path.is_dir() else _Zip(path)


def _json(store: _Store, name: str) -> dict[str, Any] | None:
    raw = store.read(name, MAX_JSON_BYTES)
    if raw is None:
        return None
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as cause:
        raise InputError(f"{name} is not valid JSON ({_one_line(cause)}). Copy the store again") from cause
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
        self._stored: dict[str, _Stored | None] = {}
        self._bands: dict[str, tuple[int, np.ndarray]] = {}
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

    def names(self) -> tuple[str, ...]:
        return tuple(f"episode_{i}" for i in range(len(self.ends)))

    def member(self, name: str) -> Group | None:
        number = name.removeprefix("episode_")
        if not number.isdecimal() or name != f"episode_{int(number)}" or int(number) >= len(self.ends):
            return None
        first = int(self.ends[int(number) - 1]) if int(number) else 0
        return _Episode(self, name, "data", first, int(self.ends[int(number)]))

    def stored(self, name: str) -> _Stored | None:
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

    def row(self, array: _Stored, row: int) -> np.ndarray:
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

    def _band(self, array: _Stored, band: int) -> np.ndarray:
        if array.dtype.hasobject:
            raise InputError("contains texts or objects, which are not read. Store numbers or fixed-length text")
        if array.too_large:
            raise InputError(array.too_large)
        rows = np.empty((array.chunks[0], *array.shape[1:]), array.dtype)
        most = MOST_SHRINK * hdf5.byte_count(array.chunks, array.dtype.itemsize) + MAX_JSON_BYTES
        for part in array.parts:
            where = tuple(slice(i * c, (i + 1) * c) for i, c in zip(part, array.chunks[1:], strict=True))
            there = rows[(slice(None), *where)]
            name = f"{array.name}/{array.place((band, *part))}"
            raw = self.store.read(name, most)
            if raw is None:
                there[...] = array.fill
                continue
            try:
                chunk = array.decode(raw)
            except InputError as cause:
                raise InputError(f"chunk {name} {cause}") from cause
            there[...] = chunk[tuple(slice(n) for n in there.shape)]
        return rows

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

    def _described(self, name: str) -> _Stored | None:
        if (meta := _json(self.store, f"{name}/zarr.json")) is not None:
            return _format_3(name, meta) if meta.get("node_type") == "array" else None
        meta = _json(self.store, f"{name}/.zarray")
        return None if meta is None else _format_2(name, meta)


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
            found.add(folder)
            try:
                stored = self.recording.stored(key)
            except EpisodeError:
                continue  # reading the array reports the fault
            if stored is None:
                inner = self.member(name)
                found.update(inner.files() if isinstance(inner, Group) else ())
            elif stored.chunks:
                bands = range(self.first // stored.chunks[0], math.ceil(self.end / stored.chunks[0]))
                found.update((folder / stored.place((band, *part))).parent for band in bands for part in stored.parts)
        return tuple(sorted(path for path in found if path.is_dir()))

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


def _sensors(stored: _Stored) -> int:
    """Return the number N of sensors of an array (T, N, height, width, 3) of images; 0 for any other array."""
    images = len(stored.shape) == 5 and stored.shape[4] == 3 and stored.dtype == np.uint8
    return stored.shape[1] if images else 0


class _Rows(Array):
    """Rows of one episode of an array, or of one sensor's images in the array."""

    def __init__(self, episode: _Episode, stored: _Stored, name: str, sensor: int | None = None) -> None:
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
        names = (*MARKS, *(f"meta/episode_ends/{mark}" for mark in (".zarray", "zarr.json")))
        return any((path / name).is_file() for name in names)
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
    """Return files and folders whose change shows that the list of episodes in a store changed."""
    ends = folder / "meta" / "episode_ends"
    return tuple(path for path in (*(folder / mark for mark in MARKS), ends, ends / ".zarray") if path.exists())


open_recording = ZarrRecording


def _format_2(name: str, meta: dict[str, Any]) -> _Stored:
    shape, chunks = _shape(meta.get("shape"), "shape"), _shape(meta.get("chunks"), "chunks")
    kind = meta.get("dtype")
    plain = isinstance(kind, str) and kind != "|O"
    try:
        dtype = np.dtype(kind) if plain else np.dtype(object)
    except TypeError as cause:
        raise InputError(f"has dtype {kind!r}, expected a type of numpy. Write it again") from cause
    order, separator = meta.get("order"), meta.get("dimension_separator", ".")
    if order not in ("C", "F") or separator not in (".", "/"):
        text = f"has order {order!r} and dimension_separator {separator!r}, expected C or F, and . or /"
        raise InputError(f"{text}. Write it again")
    packed, filters = meta.get("compressor"), meta.get("filters") or []
    if (
        not (packed is None or _is_codec(packed, "id"))
        or not isinstance(filters, list)
        or not all(_is_codec(f, "id") for f in filters)
    ):
        raise InputError("has a compressor or a filter without an id. Write it again")
    whole = hdf5.byte_count(chunks, dtype.itemsize)

    def decode(raw: bytes) -> np.ndarray:
        if packed is not None and packed["id"].startswith("imagecodecs"):
            return _image(packed, raw, chunks, dtype)
        data: Any = raw if packed is None else _unpacked(packed, raw, whole, exact=not filters)
        for step in reversed(filters):
            data = _unfiltered(step, data)
        return _as_chunk(data, dtype, chunks, order)

    def place(index: tuple[int, ...]) -> str:
        return str(separator).join(map(str, index)) or "0"

    fill = _fill(meta.get("fill_value"), dtype)
    return _checked(_Stored(name, shape, chunks, dtype, fill, place, decode, packed and str(packed["id"])))


def _format_3(name: str, meta: dict[str, Any]) -> _Stored:
    grid, encoding = meta.get("chunk_grid"), meta.get("chunk_key_encoding")
    if not isinstance(grid, dict) or grid.get("name") != "regular" or not isinstance(grid.get("configuration"), dict):
        raise InputError(f"has the chunk grid {grid!r}; only regular grids are read. Write it again")
    if not isinstance(encoding, dict) or encoding.get("name") not in ("default", "v2"):
        raise InputError(f"has the chunk key encoding {encoding!r}, expected default or v2. Write it again")
    shape, chunks = _shape(meta.get("shape"), "shape"), _shape(grid["configuration"].get("chunk_shape"), "chunk_shape")
    kind = meta.get("data_type")
    dtype = np.dtype(kind) if isinstance(kind, str) and kind in _DTYPES else np.dtype(object)
    codecs = meta.get("codecs")
    if not isinstance(codecs, list) or not codecs or not all(_is_codec(codec, "name") for codec in codecs):
        raise InputError("has no list of codecs with a name each. Write it again")
    default = encoding["name"] == "default"
    options = encoding.get("configuration")
    separator = str(options.get("separator", "/" if default else ".")) if isinstance(options, dict) else "/"
    decode = _chain(codecs, dtype, chunks) if not dtype.hasobject else _refuse_objects

    def place(index: tuple[int, ...]) -> str:
        return separator.join((*(("c",) if default else ()), *map(str, index))) or "0"

    packed = next((c["name"] for c in reversed(codecs) if c["name"] not in ("bytes", "transpose", "crc32c")), None)
    return _checked(_Stored(name, shape, chunks, dtype, _fill(meta.get("fill_value"), dtype), place, decode, packed))


def _chain(codecs: list[dict[str, Any]], dtype: np.dtype[Any], chunks: tuple[int, ...]) -> Callable[[bytes], Any]:
    """Return the function that decodes a chunk with the list of codecs of format 3."""
    if codecs[0]["name"] == "sharding_indexed" and len(codecs) == 1:
        raise InputError("is stored in shards, which are not read. Write the array again without shards")
    turned = list(range(len(chunks)))
    while codecs and codecs[0]["name"] == "transpose":
        order = _options(codecs[0]).get("order")
        if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, turned)):
            raise InputError(f"has a codec that transposes the axes {order!r}. Write it again")
        turned, codecs = [turned[i] for i in order], codecs[1:]
    if not codecs:
        raise InputError("has no codec from numbers to bytes. Write it again")
    first, rest = codecs[0], codecs[1:]
    stored = tuple(chunks[i] for i in turned)
    big = first["name"] == "bytes" and _options(first).get("endian") == "big"
    laid = dtype.newbyteorder(">") if big else dtype.newbyteorder("<")
    whole = hdf5.byte_count(chunks, dtype.itemsize)

    def decode(raw: bytes) -> np.ndarray:
        data: Any = raw
        for codec in reversed(rest):
            if codec["name"] == "crc32c":
                data = _without_crc32c(bytes(data))
            else:
                named = {"id": codec["name"].removeprefix("numcodecs."), **_options(codec)}
                data = _unpacked(named, bytes(data), whole + 4, exact=False)
        if first["name"] == "bytes":
            chunk = _as_chunk(data, laid, stored, "C")
        else:
            chunk = _image({"id": first["name"], **_options(first)}, bytes(data), stored, dtype)
        return chunk.transpose(np.argsort(turned))

    return decode


def _refuse_objects(raw: bytes) -> NoReturn:
    raise InputError("contains texts or objects, which are not read. Store numbers or fixed-length text")


def _checked(stored: _Stored) -> _Stored:
    if len(stored.shape) != len(stored.chunks) or not all(stored.chunks):
        raise InputError(f"has shape {stored.shape} and chunks {stored.chunks}, which do not fit. Write it again")
    across = math.prod(math.ceil(n / c) for n, c in zip(stored.shape[1:], stored.chunks[1:], strict=True))
    if across > MOST_CHUNKS:
        raise InputError(f"has rows in {across:,} chunks; the limit is {MOST_CHUNKS:,}. Write it with larger chunks")
    return stored


def _shape(value: Any, key: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 2**48 for n in value) or len(value) > 16:
        raise InputError(f"has the {key} {str(value)[:80]!r}, expected a list of whole numbers. Write it again")
    return tuple(value)


def _is_codec(value: Any, key: str) -> bool:
    return isinstance(value, dict) and isinstance(value.get(key), str)


def _options(codec: dict[str, Any]) -> dict[str, Any]:
    options = codec.get("configuration")
    return options if isinstance(options, dict) else {}


def _fill(value: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.hasobject or dtype.kind not in "biuf":
        return dtype.type() if not dtype.hasobject else None
    try:
        with np.errstate(invalid="raise"):
            return np.array(0 if value is None else value).astype(dtype)[()]
    except (TypeError, ValueError, OverflowError, FloatingPointError) as cause:
        raise InputError(f"has the fill value {value!r}, which is no {dtype}. Write it again") from cause


def _as_chunk(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> np.ndarray:
    flat = np.frombuffer(data, np.uint8)
    if flat.size != hdf5.byte_count(shape, dtype.itemsize):
        text = f"has {flat.size:,} bytes, expected {hdf5.byte_count(shape, dtype.itemsize):,}"
        raise InputError(f"{text}. Copy the store again")
    return flat.view(dtype).reshape(shape, order=order)


def _unpacked(codec: dict[str, Any], raw: bytes, most: int, exact: bool) -> Any:
    """Return the decompressed bytes of a chunk, after checking the size that they state.

    Args:
        codec: Name (`id`) and options of the compression.
        raw: The compressed bytes.
        most: Largest size of the result, bytes; with filters, which may change it, MOST_SHRINK times as much.
        exact: Whether no filter follows.

    Raises:
        InputError: The data are damaged, state more than `most`, or need another codec.
        MissingExtra: The package of the codec is not installed.
    """
    name, limit = codec["id"], most if exact else MOST_SHRINK * most + 64
    if name in ("gzip", "zlib"):
        packer = zlib.decompressobj(47)
        try:
            return _within(packer.decompress(raw, limit + 1), limit)
        except zlib.error as cause:
            raise InputError(f"is damaged ({name}: {_one_line(cause)}). Copy the store again") from cause
    if name in ("bz2", "lzma"):
        opener = bz2.BZ2Decompressor() if name == "bz2" else lzma.LZMADecompressor()
        try:
            return _within(opener.decompress(raw, limit + 1), limit)
        except (OSError, lzma.LZMAError, EOFError, ValueError) as cause:
            raise InputError(f"is damaged ({name}: {_one_line(cause)}). Copy the store again") from cause
    stated = _STATED.get(name)
    if stated is None:
        text = f"is packed by {name!r}; supported are {', '.join(('gzip', 'zlib', 'bz2', 'lzma', *_STATED))}"
        raise InputError(f"{text} and image codecs of the package imagecodecs. Write the array again with one of them")
    size = stated(raw)
    if size is None or size > limit:
        what = "does not state its decompressed size" if size is None else f"states {size:,} decompressed bytes"
        raise InputError(f"{what}; the limit is {limit:,}. Write the array again, or copy the store again")
    numcodecs = need("numcodecs", "a Zarr store", "numcodecs", "zarr")
    try:
        return numcodecs.get_codec({"id": name}).decode(raw)
    except (RuntimeError, ValueError, TypeError) as cause:
        raise InputError(f"is damaged ({name}: {_one_line(cause)}). Copy the store again") from cause


def _within(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise InputError(f"has more than {limit:,} decompressed bytes, which its array does not need. Copy it again")
    return data


def _size_of_blosc(raw: bytes) -> int | None:
    packed = int.from_bytes(raw[12:16], "little")
    return int.from_bytes(raw[4:8], "little") if 16 <= packed <= len(raw) else None


def _size_of_zstd(raw: bytes) -> int | None:
    if raw[:4] != b"\x28\xb5\x2f\xfd" or len(raw) < 6:
        return None
    flags = raw[4]
    single = bool(flags & 0x20)
    width = (int(single), 2, 4, 8)[flags >> 6]
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(raw[at : at + width], "little")
    return None if width == 0 or len(raw) < at + width else size + (256 if width == 2 else 0)


def _size_of_lz4(raw: bytes) -> int | None:
    return int.from_bytes(raw[:4], "little") if len(raw) > 4 else None


_STATED: dict[str, Callable[[bytes], int | None]] = {
    "blosc": _size_of_blosc,
    "zstd": _size_of_zstd,
    "lz4": _size_of_lz4,
}
"""Functions that return the decompressed size, bytes, which compressed data state; None if they state none."""
_FILTERS = ("shuffle", "delta", "fixedscaleoffset", "astype")


def _unfiltered(codec: dict[str, Any], data: Any) -> Any:
    if codec["id"] not in _FILTERS:
        text = f"needs the filter {codec['id']!r}; supported are {', '.join(_FILTERS)}"
        raise InputError(f"{text}. Write the array again without it")
    numcodecs = need("numcodecs", "a Zarr store", "numcodecs", "zarr")
    try:
        return np.ascontiguousarray(numcodecs.get_codec(dict(codec)).decode(data))
    except (RuntimeError, ValueError, TypeError, KeyError) as cause:
        raise InputError(f"is damaged ({codec['id']}: {_one_line(cause)}). Copy the store again") from cause


def _image(codec: dict[str, Any], raw: bytes, chunks: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return a chunk that is one encoded image. The decoder refuses an image of another size before it decodes it."""
    numcodecs = _image_codecs(codec["id"])
    chunk = np.empty(chunks, dtype)
    image = chunk[0] if len(chunks) == 4 and chunks[0] == 1 else chunk
    try:
        decoder = numcodecs.get_codec({key: value for key, value in codec.items() if value is not None})
    except (ValueError, TypeError) as cause:
        text = f"needs the codec {codec['id']!r}, which this imagecodecs does not have ({_one_line(cause)})"
        raise InputError(f"{text}. Update it: pip install -U imagecodecs") from cause
    try:
        decoder.decode(raw, out=image)
    except (RuntimeError, ValueError, TypeError) as cause:
        text = f"is no {codec['id']} image of shape {image.shape} and dtype {dtype} ({_one_line(cause)})"
        raise InputError(f"{text}. Copy the store again") from cause
    return chunk


def _without_crc32c(raw: bytes) -> bytes:
    checksum = need("google_crc32c", "a Zarr array with the codec crc32c", "google-crc32c", "zarr").value
    if len(raw) < 4 or checksum(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        raise InputError("does not match its checksum. Copy the store again")
    return raw[:-4]


@cache
def _image_codecs(name: str) -> Any:
    """Return the module numcodecs, to which the codecs of imagecodecs were added; `name` is the codec that is needed.

    Raises:
        MissingExtra: One of the packages is not installed.
    """
    numcodecs = need("numcodecs", "a Zarr store", "numcodecs", "zarr")
    need("imagecodecs.numcodecs", f"a Zarr store with the codec {name}", "imagecodecs", "zarr").register_codecs(
        verbose=False
    )
    return numcodecs


def _one_line(cause: BaseException) -> str:
    return " ".join(str(cause).split())

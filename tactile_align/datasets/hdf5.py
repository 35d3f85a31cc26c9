"""Safe access to HDF5 files: reading one file never opens another file.

An unknown file may link to other files, state shapes larger than any memory, or need filters that are not installed.
All groups and datasets are accessed through this module. It follows only plain (hard) links and checks every dataset
before reading it.
"""

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tactile_align.errors import EpisodeError, Fault, InputError

# Codes in the HDF Group's filter registry. HDF5 does not allow its checksum filter on variable-length rows.
GZIP, SHUFFLE = 1, 2


def claimed_bytes(data: h5py.Dataset, row: int) -> int:
    """Return the size, bytes, that the file states for one row of a variable-length dataset.

    The row itself is not read.

    Raises:
        InputError: The row lengths are compressed in an unsupported way, or damaged.
        OSError: The file cannot be read.
    """
    width = 8 + int(data.file.id.get_create_plist().get_sizes()[0])
    itemsize = int(h5py.check_vlen_dtype(data.dtype).itemsize)
    raw, at = _chunk(data, row, width) if data.chunks else _contiguous(data, row, width)
    return int.from_bytes(raw[at : at + 4], "little") * itemsize


def _contiguous(data: h5py.Dataset, row: int, width: int) -> tuple[bytes, int]:
    if data.id.get_create_plist().get_layout() == h5py.h5d.COMPACT:
        raise InputError("stores its frame lengths in the header, where they cannot be checked; copy it with: h5repack")
    if data.id.get_storage_size() == 0:
        return b"", 0  # never written: every row is empty
    start = data.id.get_offset()
    with Path(data.file.filename).open("rb") as handle:
        handle.seek(start + row * width)
        return handle.read(width), 0


def _chunk(data: h5py.Dataset, row: int, width: int) -> tuple[bytes, int]:
    rows = int(data.chunks[0])
    start = row - row % rows
    if data.id.get_chunk_info_by_coord((start,)).byte_offset is None:
        return b"", 0
    mask, raw = data.id.read_direct_chunk((start,))
    plist = data.id.get_create_plist()
    for i in reversed(range(plist.get_nfilters())):
        if mask & (1 << i):
            continue  # this chunk was written without the filter
        code, _, values, _ = plist.get_filter(i)
        if code == GZIP:
            # 5 bytes more than expected: a zip bomb then fails the length check below and cannot fill the memory.
            raw = zlib.decompressobj().decompress(raw, rows * width + 5)
        elif code == SHUFFLE:
            raw = _unshuffled(raw, int(values[0]))
        else:
            raise InputError(f"compresses frame lengths with HDF5 filter {code}; write it again without that filter")
    if len(raw) != rows * width:
        raise InputError(f"has {len(raw)} bytes of frame lengths, expected {rows * width}; copy or record it again")
    return raw, (row - start) * width


def _unshuffled(raw: bytes, size: int) -> bytes:
    whole = len(raw) - len(raw) % size
    return np.frombuffer(raw[:whole], np.uint8).reshape(size, -1).T.tobytes() + raw[whole:]


MAX_LOW_DIM_BYTES = 2**28  # 2.4 million rows of 14 doubles: 13 hours at 50 Hz
MAX_FRAME_BYTES = 2**27  # one frame, encoded or decoded: 6700 x 6700 RGB
MAX_CHUNK_BYTES = 2**28  # HDF5 decompresses the whole chunk to read one row
MAX_ROWS = 10_000_000

# Codes in the HDF Group's filter registry that every h5py wheel supports; 32000 is h5py's own LZF.
_BUILT_IN_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}


def fault(kind: str, file: Path, key: str, text: str, row: int | None = None) -> EpisodeError:
    """Return an EpisodeError with one fault; the arguments are those of `errors.Fault`."""
    return EpisodeError(Fault(kind, file, key, text, row))


def full_name(group: h5py.Group, key: str) -> str:
    """Return the full path in the file, without a leading slash, of a `key` that is relative to a group."""
    return "/".join(part for part in f"{group.name or ''}/{key}".split("/") if part)


@contextmanager
def reading(file: Path, key: str, row: int | None = None) -> Iterator[None]:
    """Convert the errors that the HDF5 library raises inside the `with` block to an "unreadable" EpisodeError."""
    try:
        yield
    except EpisodeError:
        raise
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, zlib.error) as cause:
        reason = " ".join(str(cause).split())
        text = f"cannot be read (HDF5 reports: {reason}); copy or record the file again"
        raise fault("unreadable", file, key, text, row) from cause


def reach(root: h5py.Group, key: str, file: Path) -> h5py.Group | h5py.Dataset | None:
    """Return the group or dataset at `key` below `root`; None when a part of the path is missing.

    The empty key returns `root`.

    Raises:
        EpisodeError: A part of the path is a soft, external or user-defined link, or cannot be read.
    """
    here: Any = root
    walked = [] if root.name in (None, "/") else [str(root.name).strip("/")]
    for part in filter(None, key.split("/")):
        if not isinstance(here, h5py.Group):
            return None
        walked.append(part)
        name = "/".join(walked)
        with reading(file, name):
            # h5py's get(getlink=True) would follow the link to check whether its target exists.
            links, raw = here.id.links, part.encode()
            if not links.exists(raw):
                return None
            if links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise _link_error(file, name, links, raw)
            here = here[part]
    return here if isinstance(here, (h5py.Group, h5py.Dataset)) else None


def names(group: h5py.Group, file: Path) -> tuple[str, ...]:
    """Return the names of a group's members in alphabetical order, without following any link."""
    with reading(file, str(group.name)):
        members = tuple(group.keys())
    odd = [name for name in members if not isinstance(name, str)]
    if odd:
        text = f"contains a name that is not text ({odd[0]!r}); the file is damaged. Copy or record it again"
        raise fault("unreadable", file, str(group.name), text)
    return members


def dataset(root: h5py.Group, key: str, file: Path) -> h5py.Dataset | None:
    """Return the dataset at `key` after checking that its data are stored in this file; None when it is missing.

    Raises:
        EpisodeError: The key is a link, a group or a virtual dataset, or the dataset has external storage, a filter
            that h5py does not include, or huge chunks.
    """
    data = reach(root, key, file)
    if data is None:
        return None
    key = full_name(root, key)
    if not isinstance(data, h5py.Dataset):
        text = "is a group, expected a dataset; check that the layout is the right one"
        raise fault("group-instead-of-data", file, key, text)
    with reading(file, key):
        virtual, external, chunks = data.is_virtual, data.external, data.chunks
        plist = data.id.get_create_plist()
        filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
        shape, itemsize = data.shape, data.dtype.itemsize
    if virtual:
        text = "is a virtual dataset with data in other files; an episode must contain its data. Copy all into one file"
        raise fault("virtual-dataset", file, key, text)
    if external:
        where = external[0][0]
        text = f"has its data in another file ({where}); an episode must contain its data. Copy with: h5repack IN OUT"
        raise fault("external-storage", file, key, text)
    for code, _, _, label in filters:
        if code not in _BUILT_IN_FILTERS:
            title = label.decode(errors="replace") if isinstance(label, bytes) else label
            known = ", ".join(_BUILT_IN_FILTERS.values())
            text = f"needs HDF5 filter {code} ({title}); supported are {known}. Write it again without that filter"
            raise fault("filter", file, key, text)
    if shape is None:
        raise fault("empty", file, key, "is an empty (null) dataset; expected one row per step. Record it again")
    if chunks is not None and byte_count(chunks, itemsize) > MAX_CHUNK_BYTES:
        text = f"has chunks of {byte_count(chunks, itemsize):,} bytes; the limit is {MAX_CHUNK_BYTES:,}"
        raise fault("huge", file, key, f"{text}. Write the dataset again with smaller chunks")
    return data


def read_low_dim(data: h5py.Dataset, file: Path, key: str) -> np.ndarray:
    """Return all of a dataset of numbers, (T,) or (T, D, ...) for T rows, after checking the size that the file states.

    Raises:
        EpisodeError: The stated size exceeds MAX_LOW_DIM_BYTES, or HDF5 cannot read the array.
    """
    require_low_dim(data.shape, data.dtype.itemsize, file, key)
    with reading(file, key):
        return np.asarray(data[()])


def require_low_dim(shape: tuple[int, ...], itemsize: int, file: Path, key: str) -> None:
    """Raise an error if an array of numbers with this shape and size of an entry, bytes, is too large to be read.

    Raises:
        EpisodeError: The size exceeds MAX_LOW_DIM_BYTES.
    """
    claimed = byte_count(shape, itemsize)
    if claimed > MAX_LOW_DIM_BYTES:
        text = f"has shape {shape}, that is {claimed:,} bytes; the limit is {MAX_LOW_DIM_BYTES:,}. Record it again"
        raise fault("huge", file, key, text)


def read_row(data: h5py.Dataset, row: int, file: Path, key: str) -> np.ndarray:
    """Return one row of a dataset. The size of fixed-length rows was checked when the episode was opened.

    Raises:
        EpisodeError: A variable-length row states more than MAX_FRAME_BYTES, or HDF5 cannot read the row.
    """
    with reading(file, key, row):
        try:
            claimed = 0 if h5py.check_vlen_dtype(data.dtype) is None else claimed_bytes(data, row)
        except ValueError as cause:
            raise fault("unreadable", file, key, str(cause), row) from cause
        if claimed > MAX_FRAME_BYTES:
            text = f"states a size of {claimed:,} bytes; the limit is {MAX_FRAME_BYTES:,}. Record it again, or, if its"
            text += " layout can be written, remove the row with: tactile-align repair"
            raise fault("huge", file, key, text, row)
        return np.asarray(data[row])


def byte_count(shape: tuple[int, ...], itemsize: int) -> int:
    """Return the size of an array in bytes, as a Python integer, which cannot overflow."""
    return math.prod(map(int, shape), start=itemsize)


def _link_error(file: Path, key: str, links: Any, raw: bytes) -> EpisodeError:
    kind = links.get_info(raw).type
    if kind == h5py.h5l.TYPE_EXTERNAL:
        where, _ = links.get_val(raw)
        what = f"is a link to another file ({where.decode(errors='replace')})"
    elif kind == h5py.h5l.TYPE_SOFT:
        what = f"is a soft link (to {links.get_val(raw).decode(errors='replace')})"
    else:
        what = "is a link of an unknown type"
    return fault("link", file, key, f"{what}; an episode must contain its data. Copy with: h5repack --merge IN OUT")

"""How long a variable-length row claims to be, read before HDF5 takes that much memory for it.

HDF5 believes the length that stands in a row's descriptor: a broken or hostile file of some kilobytes may so ask for
gigabytes. Descriptors are 4 bytes of length, then the address and the index of what they describe (HDF5 File Format
Specification 3.0, section VIII.B); the library does not hand them out, so they are read from the file as they lie.
"""

import zlib
from pathlib import Path

import h5py
import numpy as np

from tactile_align.errors import InputError

GZIP, SHUFFLE = 1, 2  # codes of the HDF Group's filter registry; HDF5 refuses its checksum for such rows


def claimed_bytes(data: h5py.Dataset, row: int) -> int:
    """Return how many bytes a row of a (T,) variable-length dataset claims to hold.

    Raises:
        ValueError: The descriptors are packed in a way that is not undone here.
        OSError: The file cannot be read.
    """
    width = 8 + int(data.file.id.get_create_plist().get_sizes()[0])
    itemsize = int(h5py.check_vlen_dtype(data.dtype).itemsize)
    raw, at = _chunk(data, row, width) if data.chunks else _contiguous(data, row, width)
    return int.from_bytes(raw[at : at + 4], "little") * itemsize


def _contiguous(data: h5py.Dataset, row: int, width: int) -> tuple[bytes, int]:
    if data.id.get_create_plist().get_layout() == h5py.h5d.COMPACT:
        raise InputError("keeps its rows' lengths in its header, where they cannot be checked; copy it with: h5repack")
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
            continue  # left out for this chunk
        code, _, values, _ = plist.get_filter(i)
        if code == GZIP:
            # A little more than there may be, so that a bomb neither fills the memory nor passes for whole.
            raw = zlib.decompressobj().decompress(raw, rows * width + 5)
        elif code == SHUFFLE:
            raw = _unshuffled(raw, int(values[0]))
        else:
            raise InputError(f"packs its rows' lengths with HDF5 filter {code}; write it again without")
    if len(raw) != rows * width:
        raise InputError(f"holds {len(raw)} bytes of lengths where {rows * width} belong; copy or record it again")
    return raw, (row - start) * width


def _unshuffled(raw: bytes, size: int) -> bytes:
    whole = len(raw) - len(raw) % size
    return np.frombuffer(raw[:whole], np.uint8).reshape(size, -1).T.tobytes() + raw[whole:]

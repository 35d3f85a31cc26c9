"""Arrays of Zarr stores as their metadata describe them (format 2 and 3), and the codecs that decode their chunks."""

import bz2
import lzma
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, NamedTuple, NoReturn

import numpy as np

from tactile_align.datasets import hdf5
from tactile_align.errors import InputError
from tactile_align.extras import need

MOST_CHUNKS = 2**14  # largest number of chunks over which one row is spread
MOST_IN_SHARD = 2**20  # largest number of chunks in a file
MOST_SHRINK = 4  # the compressed size of incompressible data exceeds their size by far less than this factor
_NAMES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32")
_DTYPES = (*_NAMES, "float64")  # of format 3


class Shards(NamedTuple):
    """Division of the files of an array into chunks: each file begins or ends with a table of its chunks' places.

    `per` is the number of chunks of a file along each axis, `at_end` whether the table ends the file, and `checked`
    whether a checksum follows the table.
    """

    per: tuple[int, ...]
    at_end: bool
    checked: bool

    @property
    def table_bytes(self) -> int:
        """Size of the table, bytes."""
        return hdf5.byte_count(self.per, 16) + 4 * self.checked

    def table(self, raw: bytes) -> np.ndarray:
        """Return the first byte and the number of bytes of each chunk of a file, (*per, 2) uint64, from its table."""
        plain = _without_crc32c(raw) if self.checked else raw
        return np.frombuffer(plain, "<u8").reshape(*self.per, 2)


NO_CHUNK = 2**64 - 1
"""Place and size, in the table of a shard, of a chunk that is not stored."""


@dataclass(frozen=True)
class Stored:
    """Array as stored: its shape, its division into chunks, and the steps that decode a chunk.

    `dtype` is object when the entries are not numbers of fixed size. `decode` takes the bytes of a chunk. `place` takes
    the index of a file, which is one chunk unless `shards` states how many chunks it contains.
    """

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any
    place: Callable[[tuple[int, ...]], str]
    decode: Callable[[bytes], np.ndarray]
    compression: str | None
    shards: Shards | None = None

    def file(self, chunk: tuple[int, ...]) -> str:
        """Return the path in the store of the file that contains the chunk with this index."""
        inside = chunk if self.shards is None else (i // n for i, n in zip(chunk, self.shards.per, strict=True))
        return f"{self.name}/{self.place(tuple(inside))}"

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


def format_2(name: str, meta: dict[str, Any]) -> Stored:
    shape, chunks = _shape(meta.get("shape"), "shape"), _shape(meta.get("chunks"), "chunks")
    kind = meta.get("dtype")
    dtype = _dtype(kind) if isinstance(kind, str) else np.dtype(object)
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
            data = _unfiltered(step, data, MOST_SHRINK * whole + 64)
        return _as_chunk(data, dtype, chunks, order)

    def place(index: tuple[int, ...]) -> str:
        return str(separator).join(map(str, index)) or "0"

    fill = _fill(meta.get("fill_value"), dtype)
    return _checked(Stored(name, shape, chunks, dtype, fill, place, decode, packed and str(packed["id"])))


def format_3(name: str, meta: dict[str, Any]) -> Stored:
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
    shards = None
    if codecs[0]["name"] == "sharding_indexed" and len(codecs) == 1:
        shards, chunks, codecs = _shards(_options(codecs[0]), chunks)
    default = encoding["name"] == "default"
    options = encoding.get("configuration")
    separator = str(options.get("separator", "/" if default else ".")) if isinstance(options, dict) else "/"
    decode = _chain(codecs, dtype, chunks) if not dtype.hasobject else _refuse_objects

    def place(index: tuple[int, ...]) -> str:
        return separator.join((*(("c",) if default else ()), *map(str, index))) or "0"

    packed = next((c["name"] for c in reversed(codecs) if c["name"] not in ("bytes", "transpose", "crc32c")), None)
    fill = _fill(meta.get("fill_value"), dtype)
    return _checked(Stored(name, shape, chunks, dtype, fill, place, decode, packed, shards))


def _shards(options: dict[str, Any], file: tuple[int, ...]) -> tuple[Shards, tuple[int, ...], list[dict[str, Any]]]:
    """Return the shards, the shape of a chunk and its codecs, from the options of a shard and the shape of a file."""
    chunks, codecs = _shape(options.get("chunk_shape"), "chunk_shape of its shards"), options.get("codecs")
    if not isinstance(codecs, list) or not codecs or not all(_is_codec(codec, "name") for codec in codecs):
        raise InputError("has shards without a list of codecs with a name each. Write it again")
    if len(chunks) != len(file) or not all((*chunks, *file)) or any(n % c for n, c in zip(file, chunks, strict=True)):
        raise InputError(f"has shards of {file} with chunks of {chunks}, which do not fit. Write it again")
    of_table, place = options.get("index_codecs"), options.get("index_location", "end")
    table = [codec for codec in of_table if _is_codec(codec, "name")] if isinstance(of_table, list) else []
    names = [codec["name"] for codec in table]
    if names not in (["bytes"], ["bytes", "crc32c"]) or _options(table[0]).get("endian") == "big":
        text = f"has shards whose table has the codecs {names}, expected little-endian bytes, or these and crc32c"
        raise InputError(f"{text}. Write it again")
    if place not in ("start", "end"):
        raise InputError(f"has the index_location {place!r} of its shards, expected start or end. Write it again")
    per = tuple(n // c for n, c in zip(file, chunks, strict=True))
    if math.prod(per) > MOST_IN_SHARD:
        text = f"has shards of {math.prod(per):,} chunks; the limit is {MOST_IN_SHARD:,}"
        raise InputError(f"{text}. Write it with smaller shards")
    return Shards(per, place == "end", len(names) == 2), chunks, codecs


def _chain(codecs: list[dict[str, Any]], dtype: np.dtype[Any], chunks: tuple[int, ...]) -> Callable[[bytes], Any]:
    """Return the function that decodes a chunk with the list of codecs of format 3."""
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


def _checked(stored: Stored) -> Stored:
    if len(stored.shape) != len(stored.chunks) or not all(stored.chunks):
        raise InputError(f"has shape {stored.shape} and chunks {stored.chunks}, which do not fit. Write it again")
    across = math.prod(math.ceil(n / c) for n, c in zip(stored.shape[1:], stored.chunks[1:], strict=True))
    if across > MOST_CHUNKS:
        raise InputError(f"has rows in {across:,} chunks; the limit is {MOST_CHUNKS:,}. Write it with larger chunks")
    return stored


def _dtype(kind: Any) -> np.dtype[Any]:
    """Return the type that a text such as "<f4" states, without the other types that numpy takes for a text."""
    try:
        if re.fullmatch(r"[<>|=]?[a-zA-Z]\d*(\[\d*\w+\])?", kind):
            return np.dtype(kind)
        raise ValueError("is a list or an array of types")
    except (TypeError, ValueError) as cause:
        raise InputError(f"has dtype {kind!r}, expected a type of numpy. Write it again") from cause


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
        return np.zeros((), dtype)[()] if not dtype.hasobject else None
    try:
        with np.errstate(invalid="raise"):
            fill = np.array(0 if value is None else value).astype(dtype)
            if fill.ndim:
                raise ValueError("is a list")
            return fill[()]
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
            raise InputError(f"is damaged ({name}: {one_line(cause)}). Copy the store again") from cause
    if name in ("bz2", "lzma"):
        opener = bz2.BZ2Decompressor() if name == "bz2" else lzma.LZMADecompressor(memlimit=hdf5.MAX_CHUNK_BYTES)
        try:
            return _within(opener.decompress(raw, limit + 1), limit)
        except (OSError, lzma.LZMAError, EOFError, ValueError) as cause:
            raise InputError(f"is damaged ({name}: {one_line(cause)}). Copy the store again") from cause
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
        raise InputError(f"is damaged ({name}: {one_line(cause)}). Copy the store again") from cause


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
_CONVERTED = ("astype", "dtype")
_FILTERS = {
    "shuffle": (),
    "delta": _CONVERTED,
    "fixedscaleoffset": _CONVERTED,
    "astype": ("encode_dtype", "decode_dtype"),
}
"""Supported filters, and which of their options are the types of their input and of their output in decoding."""


def _unfiltered(codec: dict[str, Any], data: Any, most: int) -> Any:
    """Return the data before a filter was applied, of at most `most` bytes.

    Raises:
        InputError: The data are damaged, the result would have more than `most` bytes, or the filter is not supported.
        MissingExtra: The package numcodecs is not installed.
    """
    if codec["id"] not in _FILTERS:
        text = f"needs the filter {codec['id']!r}; supported are {', '.join(_FILTERS)}"
        raise InputError(f"{text}. Write the array again without it")
    if options := _FILTERS[codec["id"]]:
        stated = [codec.get(option) or codec.get(options[1]) for option in options]
        before, after = (_dtype(str(kind)) for kind in stated)
        if before.kind not in "biufc" or after.kind not in "biufc":
            text = f"has the filter {codec['id']!r} between the types {stated[0]!r} and {stated[1]!r}"
            raise InputError(f"{text}, expected numbers. Write the array again without it")
        size = memoryview(data).nbytes // before.itemsize * after.itemsize
        if size > most:
            text = f"is {memoryview(data).nbytes:,} bytes, and the filter {codec['id']!r} makes {size:,} bytes of it"
            raise InputError(f"{text}; the limit is {most:,}. Write the array again without it")
    numcodecs = need("numcodecs", "a Zarr store", "numcodecs", "zarr")
    try:
        return np.ascontiguousarray(numcodecs.get_codec(dict(codec)).decode(data))
    except (RuntimeError, ValueError, TypeError, KeyError) as cause:
        raise InputError(f"is damaged ({codec['id']}: {one_line(cause)}). Copy the store again") from cause


def _image(codec: dict[str, Any], raw: bytes, chunks: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return a chunk that is one encoded image. The decoder refuses an image of another size before it decodes it."""
    numcodecs = _image_codecs(codec["id"])
    chunk = np.empty(chunks, dtype)
    image = chunk[0] if len(chunks) == 4 and chunks[0] == 1 else chunk
    try:
        decoder = numcodecs.get_codec({key: value for key, value in codec.items() if value is not None})
    except (ValueError, TypeError) as cause:
        text = f"needs the codec {codec['id']!r}, which this imagecodecs does not have ({one_line(cause)})"
        raise InputError(f"{text}. Update it: pip install -U imagecodecs") from cause
    try:
        decoder.decode(raw, out=image)
    except (RuntimeError, ValueError, TypeError) as cause:
        text = f"is no {codec['id']} image of shape {image.shape} and dtype {dtype} ({one_line(cause)})"
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


def one_line(cause: BaseException) -> str:
    return " ".join(str(cause).split())

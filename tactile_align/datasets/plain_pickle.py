"""Read a pickle that holds numbers and numpy arrays, and nothing that could run.

A pickle is a program. This reader knows the four names numpy's own pickles call and stands its own inert
objects in for them, so nothing of numpy or of anybody else is called with what the file says.
"""

import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tactile_align.errors import InputError, UnsafePickleError

MAX_BYTES = 2**24  # one step of joints is a few kilobytes
_PLAIN = re.compile(r"[<>=|]?([biufc][1248]|c16|\?|b|i|f)$")


def load_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Read a pickled dictionary of arrays and numbers.

    Args:
        data: The file's bytes, any pickle protocol, numpy 1 or 2.

    Returns:
        By key, each value as an array; entries that are neither numbers nor arrays are left out.

    Raises:
        UnsafePickleError: It names a class or function other than numpy's array makers.
        InputError: It is damaged, too large, or no dictionary.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"has {len(data):,} bytes, at most {MAX_BYTES:,} are read")
    try:
        loaded = _Reader(io.BytesIO(data)).load()
    except UnsafePickleError:
        raise
    except Exception as cause:
        raise InputError(f"is a damaged pickle ({type(cause).__name__}: {cause})") from cause
    if not isinstance(loaded, dict):
        raise InputError(f"must hold a dictionary; got {type(loaded).__name__}")
    try:
        return {str(key): array for key, value in loaded.items() if (array := _array(value)) is not None}
    except OverflowError as cause:
        raise InputError(f"holds a whole number that no float is as large as ({cause})") from cause


class _Dtype:
    def __init__(self, kind: str) -> None:
        if not isinstance(kind, str) or not _PLAIN.match(kind):
            raise UnsafePickleError(f"holds an array of {kind!r}; only plain numbers are read")
        self.kind, self.order = kind, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]

    @property
    def numpy(self) -> np.dtype[Any]:
        kind = np.dtype(self.kind)
        return kind if self.order == "=" else kind.newbyteorder(">" if self.order == ">" else "<")


class _Array:
    """Stands in for an array until its bytes arrive."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = _filled(raw, dtype, shape, "F" if fortran else "C")


def _filled(raw: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> np.ndarray:
    if not isinstance(raw, (bytes, bytearray)) or not isinstance(dtype, _Dtype):
        raise UnsafePickleError("holds an array of objects; only plain numbers are read")
    return np.frombuffer(raw, dtype.numpy).reshape(shape, order="F" if order == "F" else "C").copy()


def _dtype(kind: str, align: bool = False, copy: bool = True) -> _Dtype:
    return _Dtype(kind)


def _reconstruct(subtype: Any, shape: Any, kind: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, raw: Any) -> np.ndarray:
    return _filled(raw, dtype, (), "C")


def _encode(text: str, codec: str = "latin1") -> bytes:
    return text.encode("latin1")  # protocols 0 to 2 spell bytes as text


class _NoArray:
    """numpy.ndarray is only ever named, never called, in numpy's pickles."""


_KNOWN: dict[tuple[str, str], Any] = {("_codecs", "encode"): _encode}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _KNOWN[f"{_core}.multiarray", "scalar"] = _scalar
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = _filled
_KNOWN["numpy", "dtype"] = _dtype
_KNOWN["numpy", "ndarray"] = _NoArray


class _Reader(pickle._Unpickler):  # in Python: the C one lets a file claim a memo of any size
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            found: Callable[..., Any] = _KNOWN[module, name]
        except KeyError:
            text = f"asks for {module}.{name}; only numbers and numpy arrays are read. Do you trust its source?"
            raise UnsafePickleError(text) from None
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError("refers to an object outside itself; only numbers and numpy arrays are read")


def _array(value: Any) -> np.ndarray | None:
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (bool, int, float)):
        return np.asarray(value, np.float64)
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, (int, float)) for v in value):
        return np.asarray(value, np.float64)
    return None

"""Frames at their final size, one file a stream and episode, read through a limited number of memory maps."""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from tactile_align.errors import InputError

MAX_MAPS = 128  # each holds a file descriptor; macOS grants a process 256

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The values used last, made when first asked for; a copy in another process starts empty."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"at least one value must be kept; got limit {limit}")
        self.limit = limit
        self._kept: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value at `key`, from `make()` where it is not kept; the one unused longest goes."""
        if key not in self._kept:
            self._kept[key] = make()
            if len(self._kept) > self.limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def __reduce__(self) -> tuple[type["Recent[K, V]"], tuple[int]]:
        return type(self), (self.limit,)


def write_packed(path: Path, frames: Iterable[np.ndarray], shape: tuple[int, int, int, int]) -> None:
    """Write T frames as one uint8 array of `shape` (T, height, width, 3) in NumPy's file format.

    Written row by row, not through a memory map: on a full disk a map ends the process with a bus error.
    """
    with path.open("wb") as handle:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(handle, header)
        for frame in frames:
            handle.write(np.ascontiguousarray(frame, dtype=np.uint8).data)
        handle.flush()
        os.fsync(handle.fileno())


def open_packed(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Return the frames as a read-only memory map.

    Raises:
        InputError: Missing, cut short or of another shape.
    """
    try:
        frames: np.ndarray = np.load(path, mmap_mode="r")
        found = f"{frames.dtype} {frames.shape}"
    except (OSError, ValueError, EOFError) as error:
        found = " ".join(str(error).split())
    else:
        if frames.shape == shape and frames.dtype == np.uint8:
            return frames
    raise InputError(
        f"{path}: must hold packed frames, uint8 {shape}; got {found}. "
        f"The cache was changed from outside: delete {path.parent} and run again"
    )

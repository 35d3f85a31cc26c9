"""Handles of open HDF5 files: a limited number per process, never shared across a fork.

An HDF5 handle inherited through a fork shares state with the parent and corrupts both processes, so a child process
opens its own handles. A file is opened on the first read.
"""

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from tactile_align.datasets import hdf5

MAX_OPEN = 64  # well below the 256 descriptors macOS grants a process


@dataclass(frozen=True)
class Stamp:
    """State of a file: path, inode, time of the last change (ns), length (bytes). A changed file has another stamp."""

    path: Path
    inode: int
    modified_ns: int
    length: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Return the stamp of the file at a path in its current state."""
        stat = path.stat()
        return cls(path, stat.st_ino, stat.st_mtime_ns, stat.st_size)


@dataclass
class _Open:
    file: h5py.File
    data: dict[str, h5py.Dataset] = field(default_factory=dict)


class Handles:
    """HDF5 files that this process has open. When more than `limit` are open, the least recently used is closed."""

    def __init__(self, limit: int = MAX_OPEN) -> None:
        self.limit = limit
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._open: OrderedDict[Stamp, _Open] = OrderedDict()
        self._inherited: list[OrderedDict[Stamp, _Open]] = []

    def __len__(self) -> int:
        return len(self._open)

    def read_row(self, stamp: Stamp, key: str, row: int) -> np.ndarray:
        """Return one row of the HDF5 dataset at the path `key`; the stamp's file is opened if necessary.

        Raises:
            EpisodeError: The file changed since its stamp was made, or cannot be read.
        """
        self._after_fork()
        with self._lock:  # h5py allows only one read at a time anyway; decoding runs outside this lock
            entry = self._entry(stamp)
            data = entry.data.get(key)
            if data is None:
                data = hdf5.dataset(entry.file, key, stamp.path)
                if data is None:
                    raise hdf5.fault("missing", stamp.path, key, "was removed from the open file; open it again")
                entry.data[key] = data
            return hdf5.read_row(data, row, stamp.path, key)

    def release(self, stamp: Stamp) -> None:
        """Close the stamp's file if it is open in this process."""
        self._after_fork()
        with self._lock:
            entry = self._open.pop(stamp, None)
            if entry is not None:
                entry.data.clear()
                entry.file.close()

    def _entry(self, stamp: Stamp) -> _Open:
        entry = self._open.get(stamp)
        if entry is None:
            if Stamp.of(stamp.path) != stamp:
                text = "is in a file that was changed after it was opened; open the episode again"
                raise hdf5.fault("changed", stamp.path, "", text)
            entry = self._open[stamp] = _Open(open_file(stamp.path))
            while len(self._open) > self.limit:
                self.release(next(iter(self._open)))
        self._open.move_to_end(stamp)
        return entry

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            # The inherited handles stay open, because closing them would change library state shared with the parent.
            self._inherited.append(self._open)
            self._open, self._lock, self._pid = OrderedDict(), threading.RLock(), os.getpid()


def open_file(path: Path) -> h5py.File:
    """Return an HDF5 file opened for reading.

    Raises:
        FileNotFoundError: The file does not exist.
        EpisodeError: The file is not HDF5, truncated or damaged.
    """
    if path.is_dir():
        raise FileNotFoundError(f"{path}: a folder, but one episode file is needed. Give one file in the folder")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Give a .hdf5 or .h5 file, or FILE#demo_3 for one episode in it")
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError, ValueError) as cause:
        reason = " ".join(str(cause).split())
        text = f"is not a readable HDF5 file ({reason}); it may be incomplete. Copy or record it again"
        raise hdf5.fault("not-hdf5", path, "", text) from cause


HANDLES = Handles()

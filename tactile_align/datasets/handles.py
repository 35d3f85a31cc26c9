"""Handles of open recordings: a limited number per process, never shared across a fork.

An HDF5 handle inherited through a fork shares state with the parent and corrupts both processes, so a child process
opens its own handles. A file is opened on the first read.
"""

import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import h5py
import numpy as np

from tactile_align.datasets import hdf5
from tactile_align.datasets.containers import lerobot_reader, tree, zarr
from tactile_align.files import DOWNLOAD, foreign_file

MAX_OPEN = 64  # well below the 256 descriptors macOS grants a process

MAX_ARRAYS = 512  # arrays of one recording that are kept; those of thousands of episodes would fill the memory


@dataclass(frozen=True)
class Stamp:
    """State of a recording: path, inode, time of the last change (ns), length (bytes); a changed one has another stamp.

    Of a recording that is a folder, only the files are considered that list its episodes; see `of_episode`.
    """

    path: Path
    inode: int
    modified_ns: int
    length: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Return the stamp of the recording at a path in its current state."""
        own = path.stat()
        marks = [file for container in CONTAINERS for file in container.marks(path)] if S_ISDIR(own.st_mode) else []
        return cls._of(path, own, marks)

    @classmethod
    def _of(cls, path: Path, own: os.stat_result, more: Sequence[Path]) -> "Stamp":
        stats = [file.stat() for file in more] or [own]
        return cls(path, own.st_ino, max(stat.st_mtime_ns for stat in stats), sum(stat.st_size for stat in stats))

    @classmethod
    def of_episode(cls, path: Path, group: str) -> "Stamp":
        """Return the stamp of a recording and of all files from which one of its episodes is read.

        Raises:
            EpisodeError: The recording cannot be read.
        """
        if not path.is_dir():
            return cls.of(path)
        with open_file(path) as root:
            episode = tree.reach(root, group, path)
            files = episode.files() if isinstance(episode, tree.Group) else ()
        marks = [file for container in CONTAINERS for file in container.marks(path)]
        return cls._of(path, path.stat(), [*marks, *files])


@dataclass
class _Open:
    file: h5py.File | tree.Group
    data: dict[str, h5py.Dataset | tree.Array] = field(default_factory=dict)


class Handles:
    """Recordings that this process has open. When more than `limit` are open, the least recently used is closed."""

    def __init__(self, limit: int = MAX_OPEN) -> None:
        self.limit = limit
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._open: OrderedDict[Stamp, _Open] = OrderedDict()
        self._inherited: list[OrderedDict[Stamp, _Open]] = []

    def __len__(self) -> int:
        return len(self._open)

    def read_row(self, stamp: Stamp, key: str, row: int) -> np.ndarray:
        """Return one row of the array at the path `key`; the stamp's recording is opened if necessary.

        Raises:
            EpisodeError: The file changed since its stamp was made, or cannot be read.
        """
        self._after_fork()
        with self._lock:  # h5py allows only one read at a time anyway; decoding runs outside this lock
            entry = self._entry(stamp)
            data = entry.data.get(key)
            if data is None:
                data = tree.array(entry.file, key, stamp.path)
                if data is None:
                    raise hdf5.fault("missing", stamp.path, key, "was removed from the open file; open it again")
                if len(entry.data) >= MAX_ARRAYS:
                    entry.data.clear()
                entry.data[key] = data
            return tree.read_row(data, row, stamp.path, key)

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


CONTAINERS = lerobot_reader, zarr
"""Modules of the containers other than HDF5: `is_recording`, `marks` and `open_recording` of a path."""
_ROOTS: OrderedDict[tuple[int, Stamp], tree.Group] = OrderedDict()
MAX_ROOTS = 8  # recordings of other containers whose lists of episodes are kept


def is_recording(path: Path) -> bool:
    """Return whether a path is a recording of a container other than HDF5."""
    return any(container.is_recording(path) for container in CONTAINERS)


def open_file(path: Path) -> Any:
    """Return a recording of any container, opened for reading: an HDF5 file or a `tree.Group`.

    The list of episodes of a recording in another container than HDF5 is read once in a process.

    Raises:
        FileNotFoundError: The path does not exist.
        EpisodeError: The recording is damaged, or not of a known container.
    """
    key = (os.getpid(), Stamp.of(path)) if path.exists() else None
    if key is not None and key in _ROOTS:
        return _ROOTS[key]
    for container in CONTAINERS:
        if key is not None and container.is_recording(path):
            _ROOTS[key] = root = container.open_recording(path)
            while len(_ROOTS) > MAX_ROOTS:
                _ROOTS.popitem(last=False)[1].close()
            return root
    return _open_hdf5(path)


def _open_hdf5(path: Path) -> h5py.File:
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
        known = what_it_is(path)
        if "h5clear" in reason:
            known = "left open by a recorder that crashed", f"Copy it and clear the mark: h5clear -s {path.name}"
        text = f"it is {known[0]}. {known[1]}" if known else "it may be incomplete. Copy or record it again"
        raise hdf5.fault("not-hdf5", path, "", f"is not a readable HDF5 file ({reason}); {text}") from cause


CONVERT_FIRST = "Export its streams to HDF5 or to a LeRobotDataset first"
UNPACK = "Unpack it first"
BEGINNINGS = (
    (b"\x89MCAP", "an MCAP recording", CONVERT_FIRST),
    (b"#ROSBAG", "a ROS bag", CONVERT_FIRST),
    (b"SQLite format 3", "an SQLite database, such as a ROS 2 bag", CONVERT_FIRST),
    (b"PAR1", "a Parquet table", "Give the folder of the LeRobotDataset to which it belongs"),
    (b"MATLAB 5.0", "a MATLAB file of version 5", "Save it in MATLAB with the option '-v7.3', which writes HDF5"),
    (b"\x93NUMPY", "a NumPy array", CONVERT_FIRST),
    (b"\x80", "a Python pickle", CONVERT_FIRST),
    (b"BZh", "packed by bzip2", UNPACK),
    (b"\xfd7zXZ", "packed by xz", UNPACK),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"\xff\xd8\xff", "a JPEG image", CONVERT_FIRST),
    (b"\x89PNG", "a PNG image", CONVERT_FIRST),
    (b"%PDF", "a PDF document", DOWNLOAD),
)
"""First bytes of recordings and archives under the name of an episode, what they are, and what to do."""


def what_it_is(path: Path) -> tuple[str, str] | None:
    """Return what a file that HDF5 cannot open is, by its first bytes, and what to do; None if that is unknown."""
    with path.open("rb") as handle:
        head = handle.read(512)
    if not head.strip(b"\0"):
        return "empty" if not head else "filled with zeros where its header belongs", "Copy or record it again"
    if foreign := foreign_file(path):
        return foreign
    if head.startswith(b"PK\x03\x04"):
        return _what_zip_it_is(path), CONVERT_FIRST
    if head[257:262] == b"ustar":
        return "a tar archive", UNPACK
    if head[4:8] == b"ftyp":
        return "a video", CONVERT_FIRST
    return next(((what, todo) for begin, what, todo in BEGINNINGS if head.startswith(begin)), None)


def _what_zip_it_is(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return "a zip archive"
    if names and all(name.endswith(".npy") for name in names):
        return "an .npz file of NumPy arrays"
    zarr = ".zarr" in path.name or any(name.endswith((".zgroup", ".zarray", "zarr.json")) for name in names)
    return "a zip archive with a Zarr store" if zarr else "a zip archive"


HANDLES = Handles()

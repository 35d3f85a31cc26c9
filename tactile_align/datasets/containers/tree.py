"""The form in which every container shows its episodes: groups of arrays, each with one entry per row of an episode.

A container is a format of recordings: HDF5, Zarr or LeRobot. Which array is which stream is stated by a layout, for all
containers in the same way. HDF5 objects are used as they are, through the guard `datasets.hdf5`; a module of another
container provides subclasses of `Group` and `Array`. The functions of this module accept both.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeGuard

import h5py
import numpy as np

from tactile_align.datasets import hdf5
from tactile_align.errors import EpisodeError

Container = Literal["hdf5", "zarr", "lerobot"]


class Array(ABC):
    """Array of a container other than HDF5; its first axis is the rows of one episode.

    Attributes:
        name: Path in the container.
        shape: Shape; () for a single value.
        dtype: Data type; `h5py.vlen_dtype(np.uint8)` for encoded images of different lengths.
        chunks: Shape of the parts that are decompressed together; None if rows are stored on their own.
        compression: Name of the compression; None if there is none.
        attrs: Attributes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: Mapping[str, Any] = MappingProxyType({})
    chunks: tuple[int, ...] | None = None
    compression: str | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple):
            return np.asarray(self.row(index[0])[index[1:]])
        return self.all() if index == () else self.row(index)

    @abstractmethod
    def row(self, t: int) -> np.ndarray:
        """Return row t.

        Raises:
            EpisodeError: The row is damaged, or its size exceeds a limit.
        """

    def all(self) -> np.ndarray:
        """Return all rows; the errors are those of `row`."""
        return np.stack([self.row(t) for t in range(len(self))]) if len(self) else np.zeros(self.shape, self.dtype)


class Group(ABC):
    """Group of a container other than HDF5: the whole recording (`file` is the group itself), or one episode.

    Attributes:
        name: Path in the container; "/" for the whole recording.
        file: The whole recording.
        attrs: Attributes.
        container: Format of the recording.
    """

    name: str
    file: "Group"
    attrs: Mapping[str, Any]
    container: Container

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def __getitem__(self, key: str) -> "Group | Array":
        found = reach(self, key, Path())
        if found is None:
            raise KeyError(key)
        return found  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the files that are open; a later read opens them again."""
        return None

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Return the names of the members, in the order of the recording."""

    @abstractmethod
    def member(self, name: str) -> "Group | Array | None":
        """Return the member of a name; None if there is none.

        Raises:
            EpisodeError: The member cannot be read.
        """

    def files(self) -> tuple[Path, ...]:
        """Return files and folders whose change shows that the content changed."""
        return ()


def is_group(item: object) -> TypeGuard[Any]:
    """Return whether an object is a group of any container."""
    return isinstance(item, (h5py.Group, Group))


def is_array(item: object) -> TypeGuard[Any]:
    """Return whether an object is an array of any container."""
    return isinstance(item, (h5py.Dataset, Array))


def container_of(root: Any) -> Container:
    """Return the format of the recording that contains a group."""
    return root.container if isinstance(root, Group) else "hdf5"


def reach(root: Any, key: str, file: Path) -> Any:
    """Return the group or array at `key` below `root`; None when a part of the path is missing; see `hdf5.reach`."""
    if not isinstance(root, Group):
        return hdf5.reach(root, key, file)
    here: Group | Array | None = root
    for part in filter(None, key.split("/")):
        here = here.member(part) if isinstance(here, Group) else None
    return here


def names(group: Any, file: Path) -> tuple[str, ...]:
    """Return the names of a group's members; see `hdf5.names`."""
    return group.names() if isinstance(group, Group) else hdf5.names(group, file)


def array(root: Any, key: str, file: Path) -> Any:
    """Return the array at `key` after checking it; None when it is missing; see `hdf5.dataset`.

    Raises:
        EpisodeError: The key is a group, or the array cannot be read safely.
    """
    if not isinstance(root, Group):
        return hdf5.dataset(root, key, file)
    found = reach(root, key, file)
    if isinstance(found, Group):
        text = "is a group, expected an array; check that the layout is the right one"
        raise hdf5.fault("group-instead-of-data", file, hdf5.full_name(root, key), text)
    return found


def read_low_dim(data: Any, file: Path, key: str) -> np.ndarray:
    """Return all of an array of numbers, after checking its size; see `hdf5.read_low_dim`."""
    if not isinstance(data, Array):
        return hdf5.read_low_dim(data, file, key)
    hdf5.require_low_dim(data.shape, data.dtype.itemsize, file, key)
    return data.all()


def read_row(data: Any, row: int, file: Path, key: str) -> np.ndarray:
    """Return one row of an array; see `hdf5.read_row`."""
    return data.row(row) if isinstance(data, Array) else hdf5.read_row(data, row, file, key)


DEEPEST = 8  # largest depth of nested groups that are searched


def below(group: Any, file: Path, under: str, seen: set[int | str]) -> Iterator[tuple[str, Any]]:
    """Yield the path and the object of everything below a group, except objects whose address is in `seen`.

    Each object is yielded once, because hard links may form cycles. The object is None for a link, damage, or a path
    deeper than DEEPEST.
    """
    holder = sound(group, under, file)
    try:
        inside = names(holder, file) if is_group(holder) else ()
    except EpisodeError:
        return
    for name in inside:
        key = f"{under}/{name}".strip("/")
        item = sound(group, key, file) if key.count("/") <= DEEPEST + 1 else None
        if item is None or address(item) not in seen:
            yield key, item
        if item is not None and address(item) not in seen:
            seen.add(address(item))
            if is_group(item):
                yield from below(group, file, key, seen)


def sound(group: Any, key: str, file: Path) -> Any:
    """Return the group or array at `key` below `group`; None if it is missing, a link or damaged."""
    try:
        return reach(group, key, file)
    except EpisodeError:
        return None


def attributes(item: Any, file: Path) -> dict[str, Any]:
    """Return the attributes of a group or array by name, with values as `plain` returns them.

    Attributes whose name is not text, or whose HDF5 type numpy lacks, are left out; `convert.left_behind` names them.

    Raises:
        EpisodeError: An attribute is damaged; the message names it.
    """
    found: dict[str, Any] = {}
    with hdf5.reading(file, f"{item.name} (attributes)"):
        names = [name for name in item.attrs if isinstance(name, str)]
    for name in names:
        with hdf5.reading(file, f"{item.name}@{name}"), suppress(TypeError):
            value = item.attrs[name]
            dtype = None if isinstance(item, (Group, Array)) else item.attrs.get_id(name).dtype
            is_enum = dtype is not None and h5py.check_enum_dtype(dtype)  # h5py drops the labels of a single value
            found[name] = np.asarray(value, dtype) if is_enum else plain(value)
    return found


def plain(value: Any) -> Any:
    """Return the value of an attribute, a single number or text as a Python value; text that is not UTF-8 as bytes."""
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return value.item()
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode() if b"\0" not in value else value
    if isinstance(value, str) and any("\udc80" <= character <= "\udcff" for character in value):
        with suppress(UnicodeEncodeError):  # h5py shows bytes that are not UTF-8 in this form, and writes them back
            return np.bytes_(value.encode("utf-8", "surrogateescape"))
    return value


def one_text(value: Any) -> str | None:
    """Return the text in an attribute, also if it is bytes or an array of one text; None if it is no text of UTF-8."""
    with suppress(ValueError):  # lists of different lengths, and text that UTF-8 cannot encode
        texts = np.ravel(np.asarray(value)).tolist()
        text = plain(texts[0]) if len(texts) == 1 else None
        if isinstance(text, str):
            text.encode()
            return text
    return None


def one_number(value: Any) -> float | None:
    """Return the number in an attribute, also if it is text or an array of equal numbers; None if it is no number."""
    try:
        values = np.asarray(value)
        numbers = np.unique(values.astype(np.float64)) if values.dtype.kind in "fiuSUO" else np.zeros(0)
    except (TypeError, ValueError):  # also for lists of different lengths
        return None
    return float(numbers[0]) if len(numbers) == 1 and not np.isnan(numbers[0]) else None


def address(item: Any) -> int | str:
    """Return what identifies a group or array in its recording; hard links to one HDF5 object have one address."""
    if isinstance(item, (Group, Array)):
        return item.name
    return int(h5py.h5o.get_info(item.id).addr)

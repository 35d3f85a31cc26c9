"""Layouts of episode files: pydantic models of the TOML files in the folder `datasets/`.

A layout states the paths of joints, cameras and touches in an HDF5 file, the storage of frames and their channel order.
A lab with another layout adds a TOML file; the code does not change.
"""

from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from tactile_align.datasets.times import Unit
from tactile_align.errors import InputError
from tactile_align.facts import Strict, fact_names, parse, read_fact

Kind = Literal["raw", "padded_jpeg", "vlen_jpeg"]
Channels = Literal["rgb", "bgr"]
ActionKind = Literal["absolute", "delta"]


def _plain(path: str) -> str:
    """Return a path relative to the episode, without the leading slash that HDF5 tools print."""
    return "/".join(part for part in path.split("/") if part)


def _named(path: str) -> str:
    if not path:
        raise InputError("expected the path of a dataset, got an empty path. Give a path such as 'observations/qpos'")
    return path


Place = Annotated[str, AfterValidator(_plain)]
Data = Annotated[Place, AfterValidator(_named)]


class State(Strict):
    """Paths of joints, velocities and actions in the episode. If several paths are listed, their columns are joined.

    An action is `absolute` (a target) or `delta` (a change of the state). `action_is` and the units are one value for
    all columns, or one per column.
    """

    qpos: tuple[Data, ...] = Field(min_length=1)
    qvel: tuple[Data, ...] = ()
    action: tuple[Data, ...] = Field(min_length=1)
    optional: tuple[Data, ...] = ()  # paths of qpos and action that a recording may lack, but not all of them
    action_from: Literal["same", "next"] = "same"  # next: the action of a row is read in the next row; the last repeats
    carried: tuple[Data, ...] = ()  # further (T, ...) arrays that `trim` and `convert` copy
    dtype: Literal["float32", "float64"] = "float32"  # for writing; any float type is read
    action_is: ActionKind | tuple[ActionKind, ...] | None = None  # None: guessed from the episodes
    qpos_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    qpos_units: str | tuple[str, ...] = ()
    action_units: str | tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> "State":
        for key, names in (("qpos_names", self.qpos_names), ("action_names", self.action_names)):
            if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                raise InputError(f"{key} contains {', '.join(twice)} twice; each column needs its own name. Rename one")
        return self

    @property
    def arrays(self) -> tuple[tuple[str, tuple[str, ...], bool], ...]:
        """For each of qpos, action and qvel: its name, its paths, and whether every episode must contain it."""
        return ("qpos", self.qpos, True), ("action", self.action, True), ("qvel", self.qvel, False)


class Cameras(Strict):
    """Camera streams: the HDF5 datasets in `group` whose name matches `names`, except touches and depth."""

    group: Place
    names: tuple[str, ...] = ("*",)
    order: tuple[str, ...] = ()  # order in which streams are written, and order of the rows of compress_len
    known: tuple[str, ...] = ()  # patterns that every camera must match in a file of this layout; empty: any name


class NoContact(Strict):
    """Place of a no-contact reference: an image of a touch sensor that nothing touches.

    It is an image file, or the median of some frames of an episode.
    """

    file: str | None = None
    """Image file, or episode that contains the sensor's stream; None: each episode contains its own reference."""
    frames: Annotated[int, Field(ge=0)] | tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = None
    """Row of an episode, or first row and the row after the last one; None for an image file."""

    @property
    def rows(self) -> range:
        """Rows of the episode that show the sensor without contact."""
        first, end = self.frames if isinstance(self.frames, tuple) else (self.frames or 0, (self.frames or 0) + 1)
        return range(first, end)

    @property
    def is_image(self) -> bool:
        """Whether the reference is an image file."""
        return self.file is not None and self.frames is None

    @model_validator(mode="after")
    def _names_frames(self) -> "NoContact":
        if self.file is None and self.frames is None:
            raise InputError(
                'needs a file or frames, but got neither. Write { file = "rest.png" } or { frames = [0, 10] }'
            )
        if not self.rows:
            raise InputError(f"frames = {self.frames} contains no row. Write [first, end] with end > first")
        return self


def place_no_contact(part: Any, folder: Path) -> None:
    """Take the file of the no-contact reference in `part`, a parsed TOML table, as relative to `folder`.

    The path becomes absolute, so that it stays valid in a copy of the table that is saved elsewhere.
    """
    place = part.get("no_contact") if isinstance(part, dict) else None
    if isinstance(place, dict) and isinstance(place.get("file"), str):
        place["file"] = str((folder / place["file"]).absolute())


class Touches(Strict):
    """Touch streams: HDF5 datasets in `groups` whose name matches `names`. New files store them in the first group.

    `no_contact` is the no-contact reference of all touch streams; a rig's reference for a sensor has precedence.
    """

    groups: tuple[Place, ...] = ()
    names: tuple[str, ...] = ("tactile*",)
    no_contact: NoContact | None = None


class Depth(Strict):
    """Depth streams: HDF5 datasets in the cameras' group whose name matches `names`. They are copied, not decoded."""

    names: tuple[str, ...] = ("*_depth",)


class Storage(Strict):
    """Storage of frames: new files use `kind`. A layout is recognised in files that use any kind in `found`."""

    kind: Kind
    found: tuple[Kind, ...] = ()
    """Kinds by which the layout is recognised; empty: `kind` alone."""
    padding: Literal["shared", "per_stream"] = "per_stream"
    quality: int = Field(default=95, ge=1, le=100)
    touch_codec: Literal["jpeg", "png"] = "jpeg"

    @property
    def recognised(self) -> tuple[Kind, ...]:
        """Kinds of storage by which the layout is recognised."""
        return self.found or (self.kind,)


class ChannelOrder(Strict):
    """Channel order of raw frames, and of encoded frames after a standard decoder; `streams`: exceptions by name."""

    encoded: Channels = "rgb"
    raw: Channels = "rgb"
    streams: dict[str, Channels] = Field(default_factory=dict)


class Times(Strict):
    """Times at which rows and frames were recorded, for streams with clocks of their own.

    `rows` is the path of the times of the rows of qpos and action, `streams` the path of the times of the frames of
    each stream, by its name; all are in `unit`, of one clock. A stream that is listed may have any number of frames. To
    each row belongs the frame that is nearest in time; a row without a frame within `within_s` is a fault.
    """

    rows: Data
    streams: dict[str, Data] = Field(default_factory=dict)
    unit: Unit
    within_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _has_distance(self) -> "Times":
        if self.streams and self.within_s is None:
            text = "streams are aligned by time, but within_s, the largest distance of a frame from its row, is missing"
            raise InputError(f"{text}. Add it, such as within_s = 0.02")
        return self


class Lengths(Strict):
    """Table of the encoded frames' lengths, bytes, at the path `key`, one row per stream, in the order `rows`.

    Only the recorder's own software needs the table.
    """

    key: Data
    rows: Literal["written", "alphabetical"]


class Layout(Strict):
    """Layout of recordings. Paths are relative to the episode's group; a leading slash is removed.

    `episode_group` is the pattern of the episodes' groups, such as `data/demo_*`, in a file with several episodes, and
    empty when a file is one episode. `fps` is the recorder's fixed rate, for files that do not store a rate.
    """

    name: str
    title: str
    source: str
    container: Literal["hdf5", "zarr", "lerobot"] = "hdf5"
    file_name: str = "episode_{index}.hdf5"
    episode_group: Place = ""
    fps: float | None = Field(default=None, gt=0)
    writable: bool = True
    state: State
    cameras: Cameras
    touches: Touches = Touches()
    depth: Depth = Depth()
    storage: Storage
    channels: ChannelOrder = ChannelOrder()
    times: Times | None = None
    lengths: Lengths | None = None
    requires: tuple[Data, ...] = ()  # further paths that must exist for the layout to be recognised
    attributes: dict[str, bool | int | float | str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> "Layout":
        reads = self.container != "hdf5" or self.state.action_from == "next" or self.state.optional or self.times
        if self.writable and reads:
            text = "container, action_from, optional and times are for reading, but the layout is writable"
            raise InputError(f"{text}. Add the line writable = false")
        if "{index}" not in self.file_name:
            raise InputError(f"file_name must contain {{index}}; got {self.file_name!r}. Add {{index}}")
        if self.lengths is not None and self.storage.kind == "raw":
            raise InputError("[lengths] is for encoded frames, but storage.kind is 'raw'. Remove the table [lengths]")
        return self

    def is_touch(self, name: str) -> bool:
        """Return whether a stream of this name is a touch stream."""
        return _matches(name, self.touches.names)

    def is_depth(self, name: str) -> bool:
        """Return whether a stream of this name is a depth stream."""
        return _matches(name, self.depth.names)

    def is_camera(self, name: str) -> bool:
        """Return whether a stream of this name in the camera group is a camera."""
        return _matches(name, self.cameras.names) and not self.is_touch(name) and not self.is_depth(name)

    def camera_rank(self, name: str) -> tuple[int, str]:
        """Return the sort key of a camera stream: first the layout's order, then the alphabetical order."""
        order = self.cameras.order
        return (order.index(name) if name in order else len(order), name)

    def knows_camera(self, name: str) -> bool:
        """Return whether recordings of this layout have a camera of this name."""
        return not self.cameras.known or _matches(name, self.cameras.known)

    def channel_order(self, stream: str, encoded: bool) -> Channels:
        """Return the channel order of a stream's raw pixels, or if `encoded`, of the pixels from a standard decoder."""
        return self.channels.streams.get(stream, self.channels.encoded if encoded else self.channels.raw)

    def each(self, key: str, count: int) -> tuple[str, ...]:
        """Return the value of a key of [state] for each of `count` columns; () if it is not stated.

        Raises:
            InputError: The value is a list, but not of one entry per column.
        """
        value = getattr(self.state, key)
        values: tuple[str, ...] = (value,) * count if isinstance(value, str) else tuple(value or ())
        if values and len(values) != count:
            what = key.partition("_")[0]
            raise InputError(
                f"layout {self.name}: [state] {key} has {len(values)} entries, but {what} has {count} columns; one "
                f"entry for each column is needed. Correct {key}"
            )
        return values

    def labels(self, what: Literal["qpos", "action"], count: int) -> tuple[str, ...]:
        """Return a label of each of the `count` columns of qpos or action, such as "width [m]" or "column 0"."""
        names = self.each(f"{what}_names", count) or tuple(f"column {i}" for i in range(count))
        units = self.each(f"{what}_units", count)
        return tuple(f"{name} [{unit}]" for name, unit in zip(names, units, strict=True)) if units else names


def load_layout(name_or_path: str | Path) -> Layout:
    """Return a layout, read by name ("xtrainer") or from a TOML file.

    Raises:
        InputError: The layout does not exist; a key is unknown, missing or of the wrong type; or the argument is
            neither a name nor a path.
    """
    if not isinstance(name_or_path, (str, Path)):
        text = f"layout must be a name or the path of a file; got a {type(name_or_path).__name__} object"
        raise InputError(f"{text}. Give the name or path from which it was loaded")
    if str(name_or_path).endswith(".toml"):
        return _read(name_or_path)  # read again each time, because a lab may be editing the file
    return _shipped(str(name_or_path))


@lru_cache(maxsize=64)
def _shipped(name: str) -> Layout:
    return _read(name)


def _read(name_or_path: str | Path) -> Layout:
    data, source = read_fact("datasets", name_or_path)
    place_no_contact(data.get("touches"), Path(source).parent)
    return parse(Layout, data, source)


@lru_cache(maxsize=1)
def all_layouts() -> tuple[Layout, ...]:
    """Return all shipped layouts, sorted by name."""
    return tuple(load_layout(name) for name in fact_names("datasets"))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

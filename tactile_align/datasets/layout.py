"""Layouts of episode files: the facts in `datasets/*.toml`, typed.

A layout states the paths of joints, cameras and touches in an HDF5 file, how frames are stored and which channel
comes first. A lab with another layout adds a TOML file; no code changes.
"""

from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict, fact_names, parse, read_fact

Kind = Literal["raw", "padded_jpeg", "vlen_jpeg"]
Channels = Literal["rgb", "bgr"]


def _plain(path: str) -> str:
    """Return a path relative to the episode: HDF5 tools print it with a leading slash."""
    return "/".join(part for part in path.split("/") if part)


def _named(path: str) -> str:
    if not path:
        raise InputError("the path of a dataset is needed, such as 'observations/qpos'; got the episode itself")
    return path


Place = Annotated[str, AfterValidator(_plain)]
Data = Annotated[Place, AfterValidator(_named)]


class State(Strict):
    """Paths of the low-dimensional streams inside the episode; several paths are joined column by column."""

    qpos: tuple[Data, ...] = Field(min_length=1)
    qvel: tuple[Data, ...] = ()
    action: tuple[Data, ...] = Field(min_length=1)
    carried: tuple[Data, ...] = ()  # further (T, ...) arrays that trimming and converting take along
    dtype: Literal["float32", "float64"] = "float32"  # written; any float is read

    @property
    def arrays(self) -> tuple[tuple[str, tuple[str, ...], bool], ...]:
        """(name, paths, whether an episode needs it) of qpos, action and qvel."""
        return ("qpos", self.qpos, True), ("action", self.action, True), ("qvel", self.qvel, False)


class Cameras(Strict):
    """The camera streams: datasets of `group` that match `names`, without touches and depth."""

    group: Place
    names: tuple[str, ...] = ("*",)
    order: tuple[str, ...] = ()  # the order of writing, which is the order of the rows of compress_len
    known: tuple[str, ...] = ()  # only files whose cameras all match are taken for this layout; empty: any name


class Touches(Strict):
    """The groups of touch streams; they are written to the first."""

    groups: tuple[Place, ...] = ()
    names: tuple[str, ...] = ("tactile*",)


class Depth(Strict):
    """The depth streams among the cameras; they are copied, never decoded."""

    names: tuple[str, ...] = ("*_depth",)


class Storage(Strict):
    """The storage of frames: how they are written, and the kinds by which the layout is recognised."""

    kind: Kind
    found: tuple[Kind, ...] = Field(min_length=1)
    padding: Literal["shared", "per_stream"] = "per_stream"
    quality: int = Field(default=95, ge=1, le=100)
    touch_codec: Literal["jpeg", "png"] = "jpeg"


class ChannelOrder(Strict):
    """First channel of raw frames, and of encoded ones after a standard decoder; by stream where they differ."""

    encoded: Channels = "rgb"
    raw: Channels = "rgb"
    streams: dict[str, Channels] = Field(default_factory=dict)


class Lengths(Strict):
    """The (streams, T) table of encoded lengths. Written for the original software, not needed to read."""

    key: Data
    rows: Literal["written", "alphabetical"]


class Layout(Strict):
    """One recording layout. Paths are relative to the episode; a leading slash is dropped.

    `episode_group` is a pattern such as `data/demo_*` in a file with many episodes, empty where the file is
    the episode. `fps` is the fixed rate of the recorder when files do not store one.
    """

    name: str
    title: str
    source: str
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
    lengths: Lengths | None = None
    requires: tuple[Data, ...] = ()  # further paths that must exist for a file to be taken for this layout
    attributes: dict[str, bool | int | float | str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> "Layout":
        if "{index}" not in self.file_name:
            raise InputError(f"file_name needs an {{index}} in it; got {self.file_name!r}")
        if self.lengths is not None and self.storage.kind == "raw":
            raise InputError("a [lengths] table needs encoded frames, but storage.kind is 'raw'; remove one of them")
        return self

    def is_touch(self, name: str) -> bool:
        """Return whether a stream of this name is a touch."""
        return _matches(name, self.touches.names)

    def is_depth(self, name: str) -> bool:
        """Return whether a stream of this name is depth."""
        return _matches(name, self.depth.names)

    def is_camera(self, name: str) -> bool:
        """Return whether a stream of this name in the camera group is a camera."""
        return _matches(name, self.cameras.names) and not self.is_touch(name) and not self.is_depth(name)

    def camera_rank(self, name: str) -> tuple[int, str]:
        """Return the sort key of a camera stream: the layout's order, then the alphabet."""
        order = self.cameras.order
        return (order.index(name) if name in order else len(order), name)

    def knows_camera(self, name: str) -> bool:
        """Return whether recordings of this layout have a camera of this name."""
        return not self.cameras.known or _matches(name, self.cameras.known)

    def channel_order(self, stream: str, encoded: bool) -> Channels:
        """Return the channel order of a stream, as stored (raw) or after a standard decoder (encoded)."""
        return self.channels.streams.get(stream, self.channels.encoded if encoded else self.channels.raw)


def load_layout(name_or_path: str | Path) -> Layout:
    """Read a layout by name ("xtrainer") or from a TOML file.

    Raises:
        FileNotFoundError: No such layout.
        InputError: A key is unknown, missing or of the wrong type, and named; or the argument is not a name or path.
    """
    if not isinstance(name_or_path, (str, Path)):
        text = f"a layout is given by its name or the path of its file; got a {type(name_or_path).__name__} object"
        raise InputError(f"{text}. Give the name or path that it was loaded from")
    if str(name_or_path).endswith(".toml"):
        return _read(name_or_path)  # anew each time: a lab may be editing it
    return _shipped(str(name_or_path))


@lru_cache(maxsize=64)
def _shipped(name: str) -> Layout:
    return _read(name)


def _read(name_or_path: str | Path) -> Layout:
    data, source = read_fact("datasets", name_or_path)
    return parse(Layout, data, source)


def all_layouts() -> tuple[Layout, ...]:
    """Return every shipped layout, by name."""
    return tuple(load_layout(name) for name in fact_names("datasets"))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

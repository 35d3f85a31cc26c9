"""References to episodes: list the episodes of a path, recognise their layout, find an episode in an open file."""

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import h5py

from tactile_align.config.data import EPISODE_FILES
from tactile_align.datasets import hdf5
from tactile_align.datasets.containers import tree
from tactile_align.datasets.handles import CONVERT_FIRST, Stamp, is_recording, open_file
from tactile_align.datasets.layout import Layout, all_layouts, load_layout
from tactile_align.datasets.streams import Found, described, frame_places, kind_of, present
from tactile_align.errors import EpisodeError


@lru_cache(maxsize=4096)  # the folders of files are the same
def natural(text: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key that compares the numbers in a text by value, so that episode_2 comes before episode_10."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part)


def episode_groups(file: h5py.File, layout: Layout, path: Path) -> tuple[str, ...]:
    """Return the group paths of the episodes in a file, in natural order; ("",) if the file is one episode."""
    if not layout.episode_group:
        return ("",)
    parent, _, pattern = layout.episode_group.rpartition("/")
    holder = tree.reach(file, parent, path) if parent else file
    if not tree.is_group(holder):
        return ()
    matching = [name for name in tree.names(holder, path) if fnmatchcase(name, pattern)]
    return tuple(f"{parent}/{name}".strip("/") for name in sorted(matching, key=natural))


def guess_layout(file: h5py.File, path: Path, group: str | None = None) -> Layout:
    """Return the layout of a file: the layout that the file states, or the shipped layout that fits the file.

    If the file is damaged and therefore fits no layout, the most similar layout is returned; opening the episode then
    reports the fault.

    Args:
        file: The open file.
        path: The file's path, for error messages.
        group: The episode's group; None: the first episode.

    Raises:
        EpisodeError: No layout fits, or several layouts fit but read the file differently; the message lists them.
    """
    layouts = tuple(layout for layout in all_layouts() if layout.container == tree.container_of(file))
    stated = stated_layout(file)
    if named := [layout for layout in layouts if layout.name == stated]:
        return named[0]
    fits = {layout.name: how_it_fits(file, layout, path, group) for layout in layouts}
    fitting = [layout for layout in layouts if fits[layout.name].well]
    if not fitting:
        near = [layout for layout in layouts if fits[layout.name].damaged]
        if near:
            return near[0]
        seen = f"contains {', '.join(_first_arrays(file, path)) or 'no arrays'} and matches no known layout"
        remedy = f"Draft a layout with: tactile-align init {shlex.quote(str(path))}, and give it with --layout"
        raise hdf5.fault("layout", path, "", f"{seen}. {remedy} (in Python layout=)")
    readings = {_reading(file, layout, path, group) for layout in fitting}
    if len(readings) > 1:
        text = f"matches several layouts that read it differently ({', '.join(layout.name for layout in fitting)})"
        raise hdf5.fault("layout", path, "", f"{text}. Choose one with --layout (in Python layout=)")
    return max(fitting, key=lambda layout: len(layout.requires))


def _first_arrays(file: h5py.File, path: Path, most: int = 4) -> list[str]:
    shown: list[str] = []
    if isinstance(file, tree.Group):
        episode = tree.reach(file, file.names()[0], path)
        arrays = ((name, tree.reach(episode, name, path)) for name in tree.names(episode, path))
        return [described(name, data) for name, data in arrays if tree.is_array(data)][:most]

    def add(key: str, item: h5py.Group | h5py.Dataset) -> bool | None:
        if isinstance(item, h5py.Dataset):
            shown.append(described(key, item))
        return True if len(shown) == most else None  # True ends the visit

    with hdf5.reading(path, ""):
        file.visititems(add)
    return shown


@dataclass(frozen=True)
class Fit:
    """Result of matching a layout with a file.

    Attributes:
        why: Why the layout does not fit; "" when it fits.
        damaged: Whether damage of the file is the only reason why the layout does not fit.
    """

    why: str = ""
    damaged: bool = False

    @property
    def well(self) -> bool:
        """Whether the layout fits the file."""
        return not self.why


def how_it_fits(file: h5py.File, layout: Layout, path: Path, group: str | None = None) -> Fit:
    """Return whether, and if not why not, a layout fits one episode of a file; `group` None: the first episode."""
    try:
        if group is None:
            groups = episode_groups(file, layout, path)
            if not groups:
                return Fit(f"no group {layout.episode_group}")
            group = groups[0]
        elif bool(group) != bool(layout.episode_group):
            return Fit("one file is one episode" if group else f"episodes are in {layout.episode_group}")
        episode = tree.reach(file, group, path) if group else file
        if not tree.is_group(episode):
            return Fit(f"no group {group}")
        missing = [key for key in layout.requires if tree.reach(episode, key, path) is None]
        if missing:
            return Fit(f"no {missing[0]}")
        fit = _how_frames_fit(episode, layout, path)
        if not fit.well:
            return fit
        there = [key for key in layout.state.qpos if tree.reach(episode, key, path) is not None]
        needed = (present(episode, keys, layout, path) for keys in (layout.state.qpos, layout.state.action))
        for key in (key for keys in needed for key in keys):
            if tree.reach(episode, key, path) is None:
                # Without joints, only cameras by name show that it is this layout and not an unknown one.
                return Fit(f"no {key}", damaged=bool(there or layout.cameras.known))
        return fit
    except EpisodeError as error:
        return Fit(error.faults[0].text, damaged=True)


def _how_frames_fit(episode: h5py.Group, layout: Layout, path: Path) -> Fit:
    holder = tree.reach(episode, layout.cameras.group, path)
    if not tree.is_group(holder):
        near = any(tree.reach(episode, key, path) is not None for key in layout.state.qpos)
        return Fit(f"no {layout.cameras.group}", damaged=near)
    cameras = [name for role, name, _ in frame_places(episode, layout, path, Found()) if role == "camera"]
    strangers = [name for name in cameras if not layout.knows_camera(name)]
    if strangers:
        return Fit(f"the camera {strangers[0]} is unknown")
    if not cameras:
        near = any(tree.reach(episode, key, path) is not None for key in layout.state.qpos)
        return Fit("no camera stream", damaged=near)
    for name in cameras:
        data = tree.array(holder, name, path)
        kind = None if data is None else kind_of(data)
        if kind is None:
            raw = data is not None and data.ndim > 2
            return Fit(
                f"{name} contains no frames",
                damaged=any((found == "raw") == raw for found in layout.storage.recognised),
            )
        if kind not in layout.storage.recognised:
            return Fit(f"{name} is stored as {kind}")
    widths = _row_widths(episode, layout, path)
    if len(widths) > 1 and layout.storage.kind == "padded_jpeg":
        shared = len(set(widths)) == 1
        if shared != (layout.storage.padding == "shared"):
            return Fit(f"row widths {'are equal' if shared else 'differ'} between streams", damaged=True)
    return Fit()


def _row_widths(episode: h5py.Group, layout: Layout, path: Path) -> list[int]:
    """Return the row width of every padded camera and touch stream, bytes."""
    places = frame_places(episode, layout, path, Found())
    streams = [tree.array(episode, key, path) for role, _, key in places if role != "depth"]
    padded = [data for data in streams if data is not None and kind_of(data) == "padded_jpeg"]
    return [hdf5.byte_count(data.shape[1:], data.dtype.itemsize) for data in padded]


def stated_layout(file: h5py.File) -> str:
    """Return the name of the layout that the attribute `layout` of a file states; "" if there is none."""
    try:
        stated = tree.one_text(file.attrs.get("layout", ""))
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        return ""  # without a readable attribute, the structure of the file decides
    return (stated or "").strip()


def _reading(file: h5py.File, layout: Layout, path: Path, group: str | None) -> tuple[object, ...]:
    """Return the paths and channel orders that a layout uses in the file; equal results mean equal reading."""
    if group is None:
        group = episode_groups(file, layout, path)[0]
    episode = file[group] if group else file
    channels = []
    for role, name, key in frame_places(episode, layout, path, Found()):
        data = tree.array(episode, key, path)
        encoded = data is not None and kind_of(data) != "raw"
        channels.append((name, role, layout.channel_order(name, encoded)))
    return layout.state.qpos, layout.state.action, layout.cameras.group, tuple(channels)


@dataclass(frozen=True, order=True)
class EpisodeRef:
    """Reference to one episode.

    Attributes:
        path: The file.
        group: The episode's group in a file with several episodes; "" if the file is one episode.
        layout: Name or path of the layout; None if unknown.
    """

    path: Path
    group: str = ""
    layout: str | None = None

    def __str__(self) -> str:
        return f"{self.path}#{self.group.rpartition('/')[2]}" if self.group else str(self.path)


def list_episodes(path: str | Path, layout: str | Path | None = None) -> tuple[EpisodeRef, ...]:
    """Return references to the episodes of a folder (with its subfolders) or of one recording, in natural order.

    A recording is an HDF5 file, a LeRobotDataset, or a Zarr store in a folder or a zip file. It is opened only to find
    out whether it contains several episodes. A file that was listed before in this process and has not changed since is
    not opened again. A damaged recording is listed too, and opening its episode raises an error.

    Args:
        path: A folder of recordings, or one recording.
        layout: Name or TOML file of the layout; recognised from each file when None.

    Raises:
        FileNotFoundError: The path does not exist, or the folder contains no recording.
    """
    place = Path(path)
    if is_recording(place):
        files = [place]
    elif place.is_dir():
        files = list(_recordings_below(place))
        files.sort(key=lambda f: [natural(part) for part in f.parts])
        if not files:
            what, todo = _what_folder_it_is(place)
            raise FileNotFoundError(f"{place}: no {' or '.join(EPISODE_FILES)} file found{what}. {todo}")
    elif place.is_file():
        files = [place]
    else:
        raise FileNotFoundError(f"{place}: no such file or folder. Give an episode or a folder of episodes")
    return tuple(ref for file in files for ref in _listed(file, layout))


_LISTED: dict[tuple[Stamp, str | None], tuple[EpisodeRef, ...]] = {}
MOST_LISTED = 50_000  # files whose episodes are kept, about 2 kB each


def _listed(path: Path, layout: str | Path | None) -> tuple[EpisodeRef, ...]:
    """Return the episodes of one recording; those of a file are kept until it changes."""
    if path.is_dir() or not (layout is None or (isinstance(layout, str) and not layout.endswith(".toml"))):
        return tuple(_episodes_in(path, layout))  # a layout in a file may change as well
    key = Stamp.of(path), layout
    if key not in _LISTED:
        if len(_LISTED) >= MOST_LISTED:
            _LISTED.clear()
        _LISTED[key] = tuple(_episodes_in(path, layout))
    return _LISTED[key]


def _recordings_below(folder: Path) -> Iterator[Path]:
    """Yield the recordings below a folder that is no recording itself, except those with hidden names.

    Files with hidden names are partial files of an interrupted writer.
    """
    for root, folders, files in os.walk(folder):
        inner = [name for name in folders if not name.startswith(".") and is_recording(Path(root, name))]
        folders[:] = [name for name in folders if name not in inner]
        named = (name for name in files if not name.startswith("."))
        zips = (name for name in files if name.endswith(".zip") and not name.startswith("."))
        yield from (Path(root, name) for name in inner)
        yield from (Path(root, name) for name in named if name.endswith(EPISODE_FILES))
        yield from (Path(root, name) for name in zips if is_recording(Path(root, name)))


def _what_folder_it_is(folder: Path) -> tuple[str, str]:
    """Return what a folder without episodes is, as the end of a sentence, and what to do."""
    if any((folder / "observation").glob("*.pkl")):
        return (
            "; it is a raw X-Trainer recording",
            f"Convert it first: tactile-align convert {folder} FOLDER --to xtrainer",
        )
    if (folder / "metadata.yaml").is_file():
        return "; it is a ROS 2 bag", CONVERT_FIRST
    return "", "Choose a folder with episodes"


def _episodes_in(path: Path, layout: str | Path | None) -> Iterator[EpisodeRef]:
    known = load_layout(layout) if layout is not None else None
    name = None if layout is None else str(layout)
    if known is not None and not known.episode_group:
        yield EpisodeRef(path, "", name)
        return
    try:
        with open_file(path) as file:
            facts = known or guess_layout(file, path)
            groups = episode_groups(file, facts, path)
    except EpisodeError:
        yield EpisodeRef(path, "", name)  # listed, so that opening it reports the fault
        return
    if not groups:
        yield EpisodeRef(path, "", name)
    for group in groups:
        yield EpisodeRef(path, group, facts.name if known is None else name)


def locate(
    file: h5py.File, where: EpisodeRef | str | Path, layout: str | Path | None
) -> tuple[EpisodeRef, Layout, h5py.Group]:
    """Return the complete reference, the layout and the group of one episode in an open file.

    Raises:
        EpisodeError: No layout fits, the group is missing, or the file has several episodes and `where` does not state
            which.
    """
    ref = parse_ref(where)
    chosen = layout if layout is not None else ref.layout
    group = _group_of(file, ref)
    known = load_layout(chosen) if chosen is not None else guess_layout(file, ref.path, group)
    if group is None:
        groups = episode_groups(file, known, ref.path)
        if not groups:
            text = f"was not found, but layout {known.name} stores its episodes there. Choose another with --layout"
            raise hdf5.fault("missing", ref.path, known.episode_group, text)
        if len(groups) != 1:
            some = ", ".join(g.rpartition("/")[2] for g in groups[:3])
            text = f"has {len(groups)} episodes ({some}, ...), but one is needed. Give {ref.path.name}#NAME"
            raise hdf5.fault("which-episode", ref.path, known.episode_group, text)
        group = groups[0]
    holder = tree.reach(file, group, ref.path) if group else file
    if not tree.is_group(holder):
        text = "is missing; list the file's episodes with: tactile-align inspect"
        raise hdf5.fault("missing", ref.path, group, text)
    return EpisodeRef(ref.path, group, known.name if chosen is None else str(chosen)), known, holder


def parse_ref(where: EpisodeRef | str | Path) -> EpisodeRef:
    """Return the EpisodeRef of a text "FILE" or "FILE#demo_3"; an EpisodeRef is returned unchanged."""
    if isinstance(where, EpisodeRef):
        return where
    text = str(where)
    if "#" in text and not Path(text).exists():
        file, _, group = text.rpartition("#")
        return EpisodeRef(Path(file), group)
    return EpisodeRef(Path(text))


def _group_of(file: h5py.File, ref: EpisodeRef) -> str | None:
    """Return the full path of the episode's group ("demo_3" may mean data/demo_3); None if `ref` has no group."""
    if not ref.group:
        return None
    if tree.is_group(tree.reach(file, ref.group.strip("/"), ref.path)):
        return ref.group.strip("/")
    holders = [name for name in tree.names(file, ref.path) if "/" not in ref.group and not isinstance(file, tree.Group)]
    for full in (f"{holder}/{ref.group}" for holder in holders):
        if tree.is_group(tree.reach(file, full, ref.path)):
            return full
    text = "was not found in the file; list its episodes with: tactile-align inspect"
    raise hdf5.fault("missing", ref.path, ref.group, text)

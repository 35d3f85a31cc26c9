"""Conversion between HDF5 layouts. Every frame is compared after writing, and every loss is listed."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from tactile_align.datasets import hdf5
from tactile_align.datasets.action_kinds import guessed_kinds
from tactile_align.datasets.containers import tree
from tactile_align.datasets.episodes import Episode, EpisodeRef, list_episodes, open_episode
from tactile_align.datasets.handles import open_file
from tactile_align.datasets.layout import Layout, load_layout
from tactile_align.datasets.refs import episode_groups, locate
from tactile_align.datasets.streams import Found, described, frame_places
from tactile_align.datasets.times import nearest
from tactile_align.datasets.writer import ABOUT_STORAGE, copied_attributes, write_episode
from tactile_align.errors import InputError, printable

MOST_NAMED = 8  # largest number of arrays of one group that a loss lists by name


def other_arrays(
    group: h5py.Group, layout: Layout, places: Iterable[tuple[str, str, str]], file: Path
) -> dict[str, h5py.Dataset]:
    """Return the arrays of an episode that its layout does not list, by their path below `group`.

    Arrays whose entries have no fixed size, such as texts of variable length, are excluded; `left_behind` names them.

    Args:
        group: The episode.
        layout: Its layout.
        places: Role (camera, touch or depth), name and path of each stream of frames in the episode.
        file: The file's path, for error messages.

    Raises:
        EpisodeError: The episode contains a link, or data that are stored in another file.
    """
    return _below(group, _known(layout, places), file, "")


def untaken_streams(
    group: h5py.Group, layout: Layout, places: Iterable[tuple[str, str, str]], file: Path, steps: int
) -> list[str]:
    """Return descriptions of likely streams that the layout does not list, such as 'obs/gel (90, 240, 320, 3) uint8'.

    A likely stream has as many rows as the episode, or at least three axes, or contains encoded frames. The group
    `truth` of a simulated episode is excluded. The descriptions are for remarks only: objects that cannot be reached
    (links, damage) are skipped, and no data are read.

    Args:
        group: The episode.
        layout: Its layout.
        places: Role (camera, touch or depth), name and path of each stream of frames in the episode.
        file: The file's path, for error messages.
        steps: Number of rows of the episode; 0 if unknown.
    """
    taken = (tree.sound(group, key, file) for key in ("", "truth", *layout.state.carried, *_known(layout, places)))
    seen = {tree.address(item) for item in taken if item is not None}
    return [
        described(key, data)
        for key, data in tree.below(group, file, "", seen)
        if tree.is_array(data)
        and data.shape
        and (data.shape[0] == steps > 0 or _holds_bytes(data) or (len(data.shape) >= 3 and data.dtype.kind in "biuf"))
    ]


def _known(layout: Layout, places: Iterable[tuple[str, str, str]]) -> set[str]:
    state = layout.state
    known = {*state.qpos, *state.action, *state.qvel, *(key for _, _, key in places)}
    known |= {layout.times.rows, *layout.times.streams.values()} if layout.times else set()
    return known | ({layout.lengths.key} if layout.lengths else set())


def _holds_bytes(data: h5py.Dataset) -> bool:
    return bool(h5py.check_vlen_dtype(data.dtype) == np.uint8)


def _below(group: h5py.Group, known: set[str], file: Path, under: str) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    holder = tree.reach(group, under, file) if under else group
    if not tree.is_group(holder) or under.count("/") > tree.DEEPEST:
        return found
    for name in tree.names(holder, file):
        key = f"{under}/{name}".strip("/")
        if key in known:
            continue
        item = tree.reach(group, key, file)
        if tree.is_group(item):
            found.update(_below(group, known, file, key))
        elif tree.is_array(item) and _has_fixed_size(item):
            data = tree.array(group, key, file)
            if data is not None:
                found[key] = data
    return found


def _has_fixed_size(item: h5py.Dataset) -> bool:
    try:
        return item.shape is not None and not item.dtype.hasobject
    except TypeError:
        return False  # numpy has no such type


def left_behind(episode: EpisodeRef, taken: Iterable[str]) -> list[str]:
    """Return a sentence for each kind of content of an episode's file that a copy of the episode does not contain.

    These are arrays (more than MOST_NAMED in a group as its name and their number), links, and the attributes of groups
    and arrays. Attributes of the episode itself are listed only if no copy can contain them. Other episodes in the file
    are not listed.

    Args:
        episode: Complete reference to the episode.
        taken: Paths, below the episode, of the arrays outside the layout that the copy contains.
    """
    with open_file(episode.path) as file:
        _, layout, group = locate(file, episode, None)
        places = frame_places(group, layout, episode.path, Found())
        whole = tree.container_of(file) == "hdf5"  # other containers have nothing beside their episodes
        groups = episode_groups(file, layout, episode.path) if whole else ()
        others = [tree.sound(file, name, episode.path) for name in groups]
        seen = {tree.address(item) for item in others if item is not None and item != group}
        known = [hdf5.full_name(group, key) for key in (*_known(layout, places), *taken)]
        copied = {tree.address(item) for key in known if (item := tree.sound(file, key, episode.path)) is not None}
        top = "" if whole else episode.group
        items = {top: file if whole else group}
        items |= {f"{top}/{key}".strip("/"): item for key, item in tree.below(items[top], episode.path, "", seen)}
        lost, attributes = [], []
        for key, item in items.items():
            shown = "" if key == episode.group else key.removeprefix(f"{episode.group}/")
            if item is None or (tree.is_array(item) and tree.address(item) not in copied):
                lost.append(shown)
            if item is not None:
                own = tree.attributes(item, episode.path) if key == episode.group else {}
                kept = (*_OF_AXES, *(ABOUT_STORAGE if own else ()), *copied_attributes(own))
                attributes += [f"{shown or '/'}@{name}" for name in item.attrs if name not in kept]
    count = Counter(key.partition("/")[0] for key in lost)
    many = {top for top, number in count.items() if number > MOST_NAMED}
    names = [key for key in lost if key.partition("/")[0] not in many]
    names += [f"{top}/ ({count[top]} arrays)" for top in sorted(many)]
    kinds = (f"arrays that layout {layout.name} does not list", names), ("attributes of groups and arrays", attributes)
    return [f"{kind} are left out: {', '.join(map(printable, some))}" for kind, some in kinds if some]


_OF_AXES = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS")
"""Attributes by which HDF5 itself connects datasets with the scales of their axes."""


@dataclass(frozen=True)
class Converted:
    """Result of a conversion.

    Attributes:
        paths: The new files, including those that were kept.
        lossy: One sentence for each loss, such as data that the target format cannot store.
        kept: Number of files that already contained the converted episode and were therefore kept.
        costs: One sentence for each stream of a LeRobotDataset: how it is stored, and how fast it is read.
    """

    paths: tuple[Path, ...]
    lossy: tuple[str, ...]
    kept: int = 0
    costs: tuple[str, ...] = ()


def convert_episodes(
    source: str | Path,
    out: str | Path,
    *,
    to: str | Path,
    layout: str | Path | None = None,
    fps: float | None = None,
    overwrite: bool = False,
) -> Converted:
    """Convert every episode of a file or folder to another layout, and write the new files to the folder `out`.

    Encoded frames are copied byte for byte if the target layout stores encoded frames in the same channel order. They
    are decoded if the target stores raw frames. Frames are encoded again only if the source is raw or the channel order
    differs. An existing file that contains the same episode is kept, so an interrupted conversion resumes.

    Args:
        source: An episode, a file with several episodes, or a folder.
        out: Output folder; files are named and numbered as in the target layout.
        to: Target layout.
        layout: Source layout; recognised from the file when None.
        fps: Frames per second, used when the source does not state its rate.
        overwrite: Whether existing files may be replaced.

    Raises:
        InputError: An episode cannot be read, a frame does not read back as written, or an output file is also a source
            file.
        FileExistsError: An output file exists and contains something else.
    """
    target = load_layout(to)
    paths: list[Path] = []
    lossy: dict[str, None] = {}
    kept = 0
    refs = list_episodes(source, layout)
    for index, ref in enumerate(refs):
        path = Path(out) / target.file_name.format(index=index)
        with open_episode(ref, layout) as episode:
            if path.exists() and not overwrite:
                _require_same(episode, path, to, fps)
                kept += 1
            else:
                require_other_than(path, *(source.path for source in refs))
                _convert(episode, path, to, target, fps, overwrite)
            paths.append(path)
            with open_episode(EpisodeRef(path), to) as copy:
                lossy.update(dict.fromkeys(_losses(episode, copy, fps)))
    return Converted(tuple(paths), tuple(lossy), kept)


def resample_episode(
    where: EpisodeRef | str | Path,
    out: str | Path,
    *,
    fps: float,
    within_s: float | None = None,
    to: str | Path = "xtrainer",
    layout: str | Path | None = None,
    overwrite: bool = False,
) -> Converted:
    """Write an episode at another rate: at each multiple of 1 / `fps` the row that is nearest in time.

    The times of the rows are those that the layout states ([times]), or else follow from the rate of the episode. No
    value is interpolated. If the layout reads an action in the next row, it is read in the next row that is taken, and
    the last row is left out.

    Args:
        where: The episode: a reference, a file, or "FILE#demo_3".
        out: The new file.
        fps: Rows per second of the new file.
        within_s: Largest time between a row and the time for which it is taken, s; None: half the time between two new
            rows, so that no row is taken twice.
        to: Layout of the new file.
        layout: Layout of the episode; recognised from the file when None.
        overwrite: Whether an existing file may be replaced.

    Raises:
        FileExistsError: `out` exists.
        InputError: No row is near enough to one of the times, a row would be taken for two times, the times are
            unknown, or the actions are changes, of which rows cannot be left out.
    """
    if not (np.isfinite(fps) and fps > 0):
        raise InputError(f"fps must be a positive number; got {fps}. Give the rate of the new episode")
    target, path = load_layout(to), Path(out)
    with open_episode(where, layout) as episode:
        _require_targets(episode)
        if episode.times is None and episode.fps is None:
            text = "resampling needs the times of the rows, but neither times nor a rate are recorded"
            raise InputError(f"{episode.ref}: {text}. State [times] or fps in a layout, and give it with --layout")
        times = np.arange(len(episode)) / (episode.fps or 1) if episode.times is None else episode.times
        grid = times[0] + np.arange(int((times[-1] - times[0]) * fps + 1e-6) + 1) / fps
        rows, apart = nearest(times, grid)
        most = 0.5 / fps if within_s is None else within_s
        if over := np.flatnonzero(apart > most * (1 + 1e-9)).tolist():
            text = (
                f"the row nearest to {grid[over[0]] - times[0]:.3f} s, row {rows[over[0]]}, is {apart[over[0]]:.3g} s "
            )
            text += f"away, and {len(over)} of {len(grid)} rows are farther away than {most:.3g} s"
            raise InputError(f"{episode.ref}: {text}. Choose a lower fps, or state the distance with --within-s")
        read_next = episode.layout.state.action_from == "next"
        if (within_s is None or read_next) and (twice := np.flatnonzero(np.diff(rows) == 0)).size:
            text = f"row {rows[twice[0]]} would be taken for two times, {grid[twice[0]] - times[0]:.3f} s and the next"
            raise InputError(f"{episode.ref}: {text}. Choose a lower fps")
        if read_next and len(rows) == 1:
            text = "actions are read in the next row, but only one row would be taken"
            raise InputError(f"{episode.ref}: {text}. Choose a higher fps")
        require_other_than(path, episode.path)
        chosen = episode.at_rows(rows[:-1] if read_next else rows, fps)
        if read_next:
            chosen.action = episode.action[rows[1:] - 1]  # the action stored in a row is that of the row before
        _convert(chosen, path, to, target, fps, overwrite)
        lossy = [f"{len(episode)} rows became {len(chosen)}; each is at most {1e3 * apart.max():.3g} ms from its time"]
        with open_episode(EpisodeRef(path), to) as copy:
            return Converted((path,), (*lossy, *_losses(chosen, copy, fps)))


def _require_targets(episode: Episode) -> None:
    kinds, labels = episode.layout.each("action_is", episode.action.shape[1]), range(episode.action.shape[1])
    if not kinds and episode.action.shape == episode.qpos.shape:
        named = tuple(f"column {i}" for i in labels)
        kinds, _ = guessed_kinds([(episode.qpos, episode.action)], tuple(labels), named)
    if "delta" in kinds:
        raise InputError(
            f"{episode.ref}: resampling needs actions that are targets, but column {kinds.index('delta')} is a change "
            f"of the state, and changes of rows that are left out would be lost. If it is a target, state "
            f"action_is = 'absolute' in [state] of the layout"
        )


def require_other_than(path: Path, *sources: Path) -> None:
    """Raise an error if an output path exists and is one of `sources`, or lies in a folder of `sources`.

    Raises:
        InputError: The path belongs to the source; the message contains the path.
    """
    for source in sources:
        if path.exists() and path.resolve().is_relative_to(source.resolve()):
            raise InputError(f"{path} belongs to the source, which is never changed. Choose another name or folder")


def _require_same(episode: Episode, path: Path, to: str | Path, fps: float | None) -> None:
    """Raise an error if an existing file is not this episode in the target layout. The frames are compared later.

    Raises:
        FileExistsError: The file is not this episode; the message lists the file and the differences.
    """
    differs = "it is not a complete episode"
    try:
        with open_episode(EpisodeRef(path), to) as there:
            differs = ", ".join(_different(episode, there, episode.fps if episode.fps is not None else fps))
    except InputError as cause:
        differs = f"{differs} ({cause})"
    if differs:
        raise FileExistsError(f"{path} exists and is not a conversion of {episode.ref} ({differs}). Use another folder")


def _different(episode: Episode, there: Episode, fps: float | None) -> Iterator[str]:
    dtype = there.layout.state.dtype
    for what in ("qpos", "action"):
        if not np.array_equal(getattr(episode, what).astype(dtype), getattr(there, what).astype(dtype)):
            yield f"another {what}"
    if set(episode.cameras) != set(there.cameras) or set(episode.sensors) != set(there.sensors):
        yield f"other streams: {', '.join((*there.cameras, *there.sensors))}"
    if fps is not None and there.fps != fps:
        yield f"another rate: {there.fps} frames per second"


def _convert(episode: Episode, path: Path, to: str | Path, target: Layout, fps: float | None, overwrite: bool) -> Path:
    streams = {name: _frames(episode, name, target) for name in (*episode.cameras, *episode.sensors)}
    depth = {name: _stack(episode, name) for name in episode.depth}
    return write_episode(
        path,
        qpos=episode.qpos,
        action=episode.action,
        qvel=episode.qvel if target.state.qvel else None,
        images={name: streams[name] for name in episode.cameras},
        touches={name: streams[name] for name in episode.sensors},
        depth=depth,
        fps=episode.fps if episode.fps is not None else fps,
        attributes={k: v for k, v in copied_attributes(episode.attributes).items() if k != "fps"},
        extra={key: episode.carried_array(key) for key in episode.carried},
        layout=to,
        overwrite=overwrite,
    )


def _frames(episode: Episode, name: str, target: Layout) -> Iterator[np.ndarray | bytes]:
    copied = _copied(episode, name, target)
    for t in range(len(episode)):
        data = episode.encoded(name, t) if copied else None
        yield episode.image(name, t) if data is None else data


def _copied(episode: Episode, name: str, target: Layout) -> bool:
    stream = episode.stream(name)
    same = stream.channels == target.channel_order(name, encoded=True)
    return stream.kind != "raw" and target.storage.kind != "raw" and same


def _stack(episode: Episode, name: str) -> np.ndarray:
    return np.stack([episode.depth_image(name, t) for t in range(len(episode))])


def _losses(episode: Episode, copy: Episode, fps: float | None) -> Iterator[str]:
    """Yield a sentence for each difference between an episode and its converted copy.

    Raises:
        InputError: Joints, actions, velocities or a stream that must be the same in both files differ.
    """
    for what in ("qpos", "action", "qvel"):
        before, after = getattr(episode, what), getattr(copy, what)
        if before is not None and after is not None:
            if not np.array_equal(before.astype(copy.layout.state.dtype), after):
                text = f"{what} does not read back as it was written; the disk may be failing"
                raise InputError(f"{copy.path}: {text}. Write to another disk")
            yield from rounding(what, before, copy.layout.state.dtype)
    if episode.qvel is not None and copy.qvel is None:
        yield f"qvel is left out, because layout {copy.layout.name} cannot store qvel"
    yield from left_behind(episode.ref, episode.carried)
    if episode.times is not None:
        yield "the times of rows and frames are left out"
    for name, apart in episode.apart_s.items():
        yield f"{name} has the frames that are nearest to the rows in time (at most {1e3 * apart:.3g} ms away)"
    if episode.fps is None and "fps" in episode.attributes:
        yield f"the attribute fps = {episode.attributes['fps']!r} is left out, because it is not one number"
    if episode.fps is None and fps is None and copy.fps is not None:
        yield (
            f"the rate was not recorded; readers of layout {copy.layout.name} assume {copy.fps:g} frames per second. "
            f"Give the true rate with --fps"
        )
    for name in (*episode.cameras, *episode.sensors):
        worst = min(psnr(episode.image(name, t), copy.image(name, t)) for t in range(len(episode)))
        exact = copy.stream(name).kind == "raw" or _copied(episode, name, copy.layout)
        if exact and worst != np.inf:
            text = f"{name} does not read back as it was written ({worst:.1f} dB); the disk may be failing"
            raise InputError(f"{copy.path}: {text}. Write to another disk")
        if worst < 25:
            text = f"{name} differs from the source by more than a JPEG loss ({worst:.1f} dB, at least 25 expected)"
            raise InputError(f"{copy.path}: {text}. Check the channel order of both layouts")
        if not exact and worst < np.inf:
            yield f"{name} is encoded as JPEG again (every frame keeps more than {int(worst)} dB)"


def rounding(name: str, values: np.ndarray, dtype: str) -> list[str]:
    """Return the sentence that numbers are rounded when they are stored as `dtype`, in a list; [] if they are exact."""
    change = float(np.abs(values - values.astype(dtype)).max())
    return [f"{name} is rounded to {dtype}; it changes by at most {_power_of_ten(change)}"] if change > 0 else []


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two uint8 images, dB; infinite when the images are equal."""
    if a.shape != b.shape:
        raise ValueError(f"images differ in shape: {a.shape} and {b.shape}. Resize one of them")
    error = float(np.mean((a.astype(np.float32) - b) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def _power_of_ten(value: float) -> str:
    return f"1e{int(np.ceil(np.log10(value)))}"

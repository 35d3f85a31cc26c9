"""Export and import of LeRobotDataset v3.0 without the package `lerobot` (extra `lerobot`: pyarrow and PyAV)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tactile_align.datasets import codec
from tactile_align.datasets.containers.lerobot_parquet import (
    ACTION,
    COUNTERS,
    IMAGES,
    STATE,
    TASKS_PATH,
    VELOCITY,
    DatasetWriter,
    Info,
    episode_rows,
    episode_table,
    read_info,
    read_video,
    require_spans,
    require_times,
    task_texts,
)
from tactile_align.datasets.convert import Converted, left_behind, psnr, rounding
from tactile_align.datasets.episodes import Episode, EpisodeRef, list_episodes, open_episode, write_episode
from tactile_align.datasets.layout import load_layout
from tactile_align.datasets.writer import ABOUT_STORAGE
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.files import building

Form = Literal["video", "image"]
MAX_STAT_FRAMES = 50


def export_lerobot(
    source: str | Path,
    out: str | Path,
    *,
    fps: float | None = None,
    cameras: Form = "video",
    touches: Form = "image",
    task: str | None = None,
    robot_type: str | None = None,
    layout: str | Path | None = None,
) -> Converted:
    """Export all episodes of a file or folder to one LeRobotDataset, compare it with the source, and return the result.

    Joints become `observation.state`, velocities `observation.velocity`, and streams `observation.images.NAME`. Touches
    are stored as PNG by default, because video changes their texture.

    Args:
        source: An episode, a file with several episodes, or a folder.
        out: The folder to create; it must not exist.
        fps: Frames per second; the rate of the episodes when None.
        cameras: Storage of camera frames. video: H.264, lossy. image: PNG, lossless.
        touches: Storage of touches, video or image as for `cameras`.
        task: Description of the task; the episode's attribute `task` when None.
        robot_type: Robot type that is written to the metadata.
        layout: Layout of the source; recognised from the files when None.

    Raises:
        FileExistsError: `out` exists.
        InputError: The rate is unknown, the episodes differ in their streams, or an episode cannot be read.
        OSError: The disk is full; the message contains the folder, the space that it needs and the free space.
    """
    target = Path(out)
    if target.exists():
        raise FileExistsError(f"{target} exists, but the export needs a new folder. Choose another name")
    refs = list_episodes(source, layout)
    lossy: dict[str, None] = {}
    with open_episode(refs[0], layout) as first:
        rate = _rate(first, fps)
        features, width_height = _features(first, rate, cameras, touches), _shapes(first)
    with building(target) as partial:
        with DatasetWriter(partial, features, rate, robot_type) as writer:
            for ref in refs:
                with open_episode(ref, layout) as episode:
                    shapes, own_rate = _shapes(episode), _rate(episode, fps)
                    if shapes != width_height or own_rate != rate:
                        text = f"has streams {shapes} at {own_rate} fps, {refs[0]} has {width_height}"
                        raise InputError(f"{ref} {text} at {rate} fps; both must be equal. Export the two separately")
                    _add(writer, episode, task or str(episode.attributes.get("task", "not described")))
                    if episode.depth:
                        lossy[f"depth ({', '.join(episode.depth)}) is left out, because v3.0 cannot store it"] = None
                    lossy.update(dict.fromkeys(_left_out(episode)))
        lossy.update(dict.fromkeys(_compare(partial, [open_episode(ref, layout) for ref in refs])))
        partial.replace(target)
    return Converted((target,), tuple(lossy))


def import_lerobot(
    source: str | Path, out: str | Path, *, to: str | Path = "xtrainer", overwrite: bool = False
) -> Converted:
    """Import every episode of a LeRobotDataset v3.x as an HDF5 file in the folder `out`, and return the result.

    An existing file that contains the same episode is kept, so an interrupted import resumes.

    Args:
        source: The dataset's folder.
        out: The output folder.
        to: Target layout; its name patterns decide which streams are touches.
        overwrite: Whether existing files may be replaced.

    Raises:
        FileNotFoundError: A file of the dataset is missing.
        FileExistsError: An output file exists and contains something else.
        InputError: The dataset is not version 3, is damaged, has paths that lead outside its folder, or its metadata
            disagree: the parts of the videos with the numbers of rows, or the timestamps with the rate.
    """
    info, target = read_info(Path(source)), load_layout(to)
    texts = task_texts(info)
    paths, lossy, left_out, kept = [], dict[str, None](), dict.fromkeys(info.unread), 0
    rows = list(episode_rows(info))
    require_spans(info, rows)
    stored = (STATE, ACTION, *([VELOCITY] if target.state.qvel else ()))
    for row in rows:
        table = episode_table(info, row, stored)
        require_times(info, row, table)
        steps = len(table[ACTION])
        streams = {name: _read_stream(info, key, row, table, steps) for name, key in info.images.items()}
        low = {key: table[key] for key in stored if key in table}
        for key, values in low.items():
            lossy.update(dict.fromkeys(rounding(key, values, target.state.dtype)))
        numbers = dict.fromkeys(table.get("task_index", ()))
        tasks = [texts[number] for number in numbers if number in texts]
        known = (*low, *info.images.values(), *info.depth, *COUNTERS)
        lost = [f"column {key}" for key in table if key not in known]
        lost += [f"the task {text!r}, which only later rows have," for text in tasks[1:]]
        lost += [f"task {number}, which {TASKS_PATH} does not list," for number in numbers if number not in texts]
        left_out.update(dict.fromkeys(lost))
        path = Path(out) / target.file_name.format(index=row["episode_index"])
        paths.append(path)
        if path.exists() and not overwrite:
            _require_import(path, to, low, {_plain(name) for name in streams}, info.fps)
            kept += 1
            continue
        write_episode(
            path,
            qpos=low[STATE],
            action=low[ACTION],
            qvel=low.get(VELOCITY),
            images={_plain(name): data for name, data in streams.items() if not target.is_touch(name)},
            touches={_plain(name): data for name, data in streams.items() if target.is_touch(name)},
            fps=info.fps,
            attributes={"task": tasks[0]} if any(tasks[:1]) else None,
            layout=to,
            overwrite=overwrite,
        )
    if target.storage.kind != "raw":
        lossy[f"frames are encoded as JPEG {target.storage.quality}"] = None
    left_out.update(dict.fromkeys(f"{key}, a depth map," for key in info.depth))
    return Converted(tuple(paths), (*lossy, *(f"{what} is left out" for what in left_out)), kept)


def _require_import(path: Path, to: str | Path, low: dict[str, np.ndarray], streams: set[str], fps: float) -> None:
    """Raise an error if an existing file is not the import of this episode, so that an interrupted import resumes.

    Raises:
        FileExistsError: The file differs in its joints, actions, streams or rate.
    """
    try:
        with open_episode(EpisodeRef(path), to) as there:
            dtype = there.layout.state.dtype
            pairs = (low[STATE], there.qpos), (low[ACTION], there.action)
            same = all(np.array_equal(values.astype(dtype), stored.astype(dtype)) for values, stored in pairs)
            same = same and {*there.cameras, *there.sensors} == streams and there.fps == fps
    except InputError:
        same = False
    if not same:
        raise FileExistsError(
            f"{path} exists and is not the import of this episode. Use another folder, or replace it: --overwrite"
        )


def _rate(episode: Episode, fps: float | None) -> float:
    rate = fps if fps is not None else episode.fps
    if rate is None:
        raise InputError(f"{episode.ref}: the rate is not recorded, but LeRobot needs a rate. Give it with --fps")
    return rate


def _shapes(episode: Episode) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {n: episode.width_height(n) for n in (*episode.cameras, *episode.sensors)}
    return shapes | {key: values.shape[1:] for key, values in _low(episode).items()}


def _features(episode: Episode, fps: float, cameras: Form, touches: Form) -> dict[str, dict[str, Any]]:
    widths = {key: values.shape[1] for key, values in _low(episode).items()}
    features: dict[str, dict[str, Any]] = {
        key: {"dtype": "float32", "shape": [width], "names": None} for key, width in widths.items()
    }
    for name in (*episode.cameras, *episode.sensors):
        width, height = episode.width_height(name)
        form = touches if name in episode.sensors else cameras
        feature: dict[str, Any] = {"dtype": form, "shape": [height, width, 3], "names": ["height", "width", "channels"]}
        if form == "video":
            video = {"height": height, "width": width, "codec": "h264", "pix_fmt": "yuv420p", "is_depth_map": False}
            video |= {"fps": fps, "channels": 3}
            feature["info"] = {**{f"video.{key}": value for key, value in video.items()}, "has_audio": False}
        features[f"{IMAGES}{name}"] = feature
    return features


def _low(episode: Episode) -> dict[str, np.ndarray]:
    """Return joints, actions and, if recorded, velocities by feature name."""
    velocity = {} if episode.qvel is None else {VELOCITY: episode.qvel}
    return {STATE: episode.qpos, ACTION: episode.action, **velocity}


def _add(writer: DatasetWriter, episode: Episode, task: str) -> None:
    sampled = set(evenly(len(episode), MAX_STAT_FRAMES).tolist())
    samples, pngs = dict[str, list[np.ndarray]](), dict[str, list[bytes]]()
    for name in (*episode.cameras, *episode.sensors):
        key = f"{IMAGES}{name}"
        for t in range(len(episode)):
            frame = episode.image(name, t)
            if t in sampled:
                samples.setdefault(key, []).append(frame)
            if writer.features[key]["dtype"] == "video":
                writer.add_video_frame(key, frame)
            else:
                pngs.setdefault(key, []).append(codec.encode_png(frame))
    writer.add_episode(_low(episode), pngs, samples, task)


def _left_out(episode: Episode) -> Iterator[str]:
    """Yield a sentence for each kind of content of an episode, except depth, that a LeRobotDataset cannot contain."""
    if episode.carried:
        yield f"{', '.join(episode.carried)} is left out"
    own = {"task", *ABOUT_STORAGE, *(["fps"] if episode.fps is not None else [])}
    usual = {name: np.asarray(value) for name, value in episode.layout.attributes.items()}
    others = [(name, value) for name, value in episode.attributes.items() if name not in own]
    if names := [name for name, value in others if name not in usual or not np.array_equal(usual[name], value)]:
        yield f"attributes of the episode are left out: {', '.join(names)}"
    yield from left_behind(episode.ref, episode.carried)


def _compare(root: Path, episodes: list[Episode]) -> Iterator[str]:
    """Read a written dataset back and yield a sentence for each difference from the source episodes."""
    info = read_info(root)
    worst: dict[str, float] = {}
    for row, episode in zip(episode_rows(info), episodes, strict=True):
        table = episode_table(info, row)
        for key, values in _low(episode).items():
            if not np.array_equal(table[key], values.astype(np.float32)):
                raise InputError(f"{root}: {key} does not read back as written; the disk may be failing. Use another")
            yield from rounding(key, values, "float32")
        with episode:
            for name in (*episode.cameras, *episode.sensors):
                frames = _read_stream(info, info.images[name], row, table, len(episode))
                for t, frame in enumerate(frames):
                    worst[name] = min(worst.get(name, np.inf), psnr(episode.image(name, t), frame))
    for name, decibel in worst.items():
        if info.features[info.images[name]]["dtype"] == "video":
            yield f"{name} is encoded as video (every frame keeps at least {decibel:.1f} dB)"
        elif decibel != np.inf:
            raise InputError(f"{root}: {name} does not read back as written; the disk may be failing. Use another")


def _read_stream(info: Info, key: str, row: dict[str, Any], table: dict[str, Any], steps: int) -> Iterator[np.ndarray]:
    if info.features[key]["dtype"] == "image":
        for t, cell in enumerate(table[key]):
            try:
                yield codec.decode((cell.get("bytes") if isinstance(cell, dict) else None) or b"")
            except InputError as cause:
                raise InputError(f"{info.root}: {key} row {t} of episode {row['episode_index']} {cause}") from cause
        return
    chunk, number, start = (row[f"videos/{key}/{n}"] for n in ("chunk_index", "file_index", "from_timestamp"))
    path = info.file(info.video_path, chunk, number, key)
    yield from read_video(path, round(start * info.fps), steps, info.fps)


def _plain(name: str) -> str:
    return name.replace("/", "_")

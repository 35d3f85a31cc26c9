"""Export of LeRobotDataset v3.0, and import of v2.1 and v3, without the package `lerobot` (extra `lerobot`)."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tactile_align.datasets import codec
from tactile_align.datasets.containers import tree
from tactile_align.datasets.containers.lerobot_parquet import (
    ACTION,
    COUNTERS,
    IMAGES,
    LOSSLESS_PIXELS,
    STATE,
    TACTILE,
    TASKS_JSONL,
    TASKS_PATH,
    VELOCITY,
    column_names,
    counter_column,
    episode_columns,
    episode_rows,
    read_info,
    require_spans,
    task_texts,
)
from tactile_align.datasets.containers.lerobot_writer import DatasetWriter
from tactile_align.datasets.convert import Converted, convert_episodes, left_behind, psnr, rounding
from tactile_align.datasets.episodes import Episode, EpisodeRef, list_episodes, open_episode
from tactile_align.datasets.inspect import frame_costs
from tactile_align.datasets.layout import load_layout
from tactile_align.datasets.writer import ABOUT_STORAGE
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.files import building

logger = logging.getLogger(__name__)

Form = Literal["video", "lossless", "image"]
TouchGroup = Literal["images", "tactile"]
MAX_STAT_FRAMES = 50


def export_lerobot(
    source: str | Path,
    out: str | Path,
    *,
    fps: float | None = None,
    cameras: Form = "video",
    touches: Form = "image",
    touch_group: TouchGroup = "images",
    task: str | None = None,
    robot_type: str | None = None,
    layout: str | Path | None = None,
) -> Converted:
    """Export all episodes of a file or folder to one LeRobotDataset, compare it with the source, and return the result.

    Joints become `observation.state`, velocities `observation.velocity`, and streams `observation.images.NAME`. Touches
    are stored as PNG by default, because a video with loss changes their texture.

    Args:
        source: An episode, a file with several episodes, or a folder.
        out: The folder to create; it must not exist.
        fps: Frames per second; the rate of the episodes when None.
        cameras: Storage of camera frames. video: H.264 with a loss, which the result states. lossless: H.264 that keeps
            every pixel. image: PNG, which keeps every pixel; LeRobot up to 0.6.1 decodes the PNG of every row of an
            action chunk, but one frame of a video. Where width or height is odd, video becomes lossless.
        touches: Storage of touches, as for `cameras`.
        touch_group: images: touches become `observation.images.NAME`. tactile: they become `observation.tactile.NAME`.
        task: Description of the task; the episode's attribute `task` when None.
        robot_type: Robot type that is written to the metadata.
        layout: Layout of the source; recognised from the files when None.

    Raises:
        FileExistsError: `out` exists.
        InputError: The rate is unknown, the episodes differ in their streams, an episode cannot be read, or touches
            shall be stored as `observation.tactile.NAME` under names that are not read as touches.
        OSError: The disk is full; the message contains the folder, the space that it needs and the free space.
    """
    target = Path(out)
    if target.exists():
        raise FileExistsError(f"{target} exists, but the export needs a new folder. Choose another name")
    refs = list_episodes(source, layout)
    lossy: dict[str, None] = {}
    with open_episode(refs[0], layout) as first:
        rate = _rate(first, fps)
        keys = _frame_keys(first, touch_group)
        features, width_height = _features(first, keys, rate, cameras, touches), _shapes(first)
    with building(target) as partial:
        with DatasetWriter(partial, features, rate, robot_type) as writer:
            for ref in refs:
                with open_episode(ref, layout) as episode:
                    shapes, own_rate = _shapes(episode), _rate(episode, fps)
                    if shapes != width_height or own_rate != rate:
                        text = f"has streams {shapes} at {own_rate} fps, {refs[0]} has {width_height}"
                        raise InputError(f"{ref} {text} at {rate} fps; both must be equal. Export the two separately")
                    stated = tree.one_text(episode.attributes.get("task"))
                    _add(writer, episode, keys, task or stated or "not described")
                    if episode.depth:
                        lossy[f"depth ({', '.join(episode.depth)}) is left out, because no depth is exported"] = None
                    lossy.update(dict.fromkeys(_left_out(episode)))
        stored = {name: _stored(features[key]) for name, key in keys.items()}
        lossy.update(dict.fromkeys(_compare(partial, refs, layout, stored)))
        costs = tuple(_costs(partial, stored))
        partial.replace(target)
    return Converted((target,), tuple(lossy), costs=costs)


def import_lerobot(
    source: str | Path,
    out: str | Path,
    *,
    to: str | Path = "xtrainer",
    layout: str | Path | None = None,
    overwrite: bool = False,
) -> Converted:
    """Convert every episode of a LeRobotDataset v2.1 or v3 to an HDF5 file in the folder `out`; return the result.

    Images that are stored as PNG or JPEG are copied. An existing file that contains the same episode is kept, so an
    interrupted import resumes.

    Args:
        source: The dataset's folder.
        out: The output folder.
        to: Target layout.
        layout: Layout of the dataset, which states its touch streams; None: recognised.
        overwrite: Whether existing files may be replaced.

    Raises:
        FileNotFoundError: The folder contains no dataset.
        FileExistsError: An output file exists and contains something else.
        InputError: The dataset has another version, is damaged, has paths that lead outside its folder, or its metadata
            disagree: the parts of the videos with the numbers of rows, or the timestamps with the rate.
    """
    info = read_info(Path(source))
    rows = episode_rows(info)
    require_spans(info, rows)
    texts, lost = task_texts(info), dict.fromkeys(info.unread)
    done = convert_episodes(source, out, to=to, layout=layout, overwrite=overwrite)
    for row in rows:
        table = episode_columns(info, row, ["task_index"])
        listed = (*info.features, *COUNTERS)
        lost |= dict.fromkeys(f"column {name}" for name in column_names(info, row) if name not in listed)
        numbers = dict.fromkeys(counter_column(info, row, table, "task_index"))
        known = [texts[number] for number in numbers if number in texts]
        lost |= dict.fromkeys(f"the task {text!r}, which only later rows have," for text in known[1:])
        tasks = TASKS_JSONL if info.by_episode else TASKS_PATH
        lost |= dict.fromkeys(f"task {n}, which {tasks} does not list," for n in numbers if n not in texts)
    lost |= dict.fromkeys(f"{key}, a depth map," for key in info.depth if key not in info.depth_forms)
    return Converted(done.paths, (*done.lossy, *(f"{what} is left out" for what in lost)), done.kept)


def _rate(episode: Episode, fps: float | None) -> float:
    rate = fps if fps is not None else episode.fps
    if rate is None:
        raise InputError(f"{episode.ref}: the rate is not recorded, but LeRobot needs a rate. Give it with --fps")
    return rate


def _shapes(episode: Episode) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {n: episode.width_height(n) for n in (*episode.cameras, *episode.sensors)}
    return shapes | {key: values.shape[1:] for key, values in _low(episode).items()}


def _frame_keys(episode: Episode, touch_group: TouchGroup) -> dict[str, str]:
    """Return the key of the feature of each stream of frames, by the stream's name.

    Logs a warning if touches of these names will be read as cameras.

    Raises:
        InputError: `touch_group` is "tactile", but touches of these names will not be read there.
    """
    known = load_layout("lerobot")
    if strange := [name for name in episode.sensors if not known.is_touch(name)]:
        text = f"{', '.join(strange)} is called like no touch of a LeRobotDataset ({', '.join(known.touches.names)})"
        remedy = "Rename the streams in the source, or read the dataset with a layout whose [touches] state their names"
        if touch_group == "tactile":
            raise InputError(f"{episode.ref}: {text}. Rename the streams in the source, or use --touch-group images")
        logger.warning(f"{text}, so it will be read as a camera. {remedy}")
    group = TACTILE if touch_group == "tactile" else IMAGES
    return {n: f"{group if n in episode.sensors else IMAGES}{n}" for n in (*episode.cameras, *episode.sensors)}


def _features(
    episode: Episode, keys: dict[str, str], fps: float, cameras: Form, touches: Form
) -> dict[str, dict[str, Any]]:
    widths = {key: values.shape[1] for key, values in _low(episode).items()}
    features: dict[str, dict[str, Any]] = {
        key: {"dtype": "float32", "shape": [width], "names": None} for key, width in widths.items()
    }
    for name, key in keys.items():
        width, height = episode.width_height(name)
        form = touches if name in episode.sensors else cameras
        if form == "video" and (width % 2 or height % 2):
            why = f"its frames are {width}x{height}, but a video with loss needs even sizes"
            logger.warning(f"{name} is stored as a lossless video: {why}")
            form = "lossless"
        feature: dict[str, Any] = {"dtype": "image" if form == "image" else "video", "shape": [height, width, 3]}
        feature["names"] = ["height", "width", "channels"]
        if form != "image":
            pixels = LOSSLESS_PIXELS if form == "lossless" else "yuv420p"
            video = {"height": height, "width": width, "codec": "h264", "pix_fmt": pixels, "is_depth_map": False}
            video |= {"fps": fps, "channels": 3}
            feature["info"] = {**{f"video.{entry}": value for entry, value in video.items()}, "has_audio": False}
        features[key] = feature
    return features


def _low(episode: Episode) -> dict[str, np.ndarray]:
    """Return joints, actions and, if recorded, velocities by feature name."""
    velocity = {} if episode.qvel is None else {VELOCITY: episode.qvel}
    return {STATE: episode.qpos, ACTION: episode.action, **velocity}


def _add(writer: DatasetWriter, episode: Episode, keys: dict[str, str], task: str) -> None:
    sampled = set(evenly(len(episode), MAX_STAT_FRAMES).tolist())
    samples, pngs = dict[str, list[np.ndarray]](), dict[str, list[bytes]]()
    for name, key in keys.items():
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
    own = {*ABOUT_STORAGE, *(["fps"] if episode.fps is not None else [])}
    own |= set() if tree.one_text(episode.attributes.get("task")) is None else {"task"}
    usual = {name: np.asarray(value) for name, value in episode.layout.attributes.items()}
    others = [(name, value) for name, value in episode.attributes.items() if name not in own]
    if names := [name for name, value in others if name not in usual or not np.array_equal(usual[name], value)]:
        yield f"attributes of the episode are left out: {', '.join(names)}"
    yield from left_behind(episode.ref, episode.carried)


def _stored(feature: dict[str, Any]) -> Form:
    """Return how the frames of a feature are stored."""
    if feature["dtype"] == "image":
        return "image"
    return "lossless" if feature["info"]["video.pix_fmt"] == LOSSLESS_PIXELS else "video"


def _compare(
    root: Path, sources: Iterable[EpisodeRef], layout: str | Path | None, stored: dict[str, Form]
) -> Iterator[str]:
    """Read a written dataset back and yield a sentence for each difference from the source episodes."""
    kept: dict[str, list[float]] = {}
    for ref, source in zip(list_episodes(root, "lerobot"), sources, strict=True):
        with open_episode(source, layout) as episode, open_episode(ref) as copy:
            low = _low(copy)
            for key, values in _low(episode).items():
                if not np.array_equal(low[key], values.astype(np.float32)):
                    raise InputError(
                        f"{root}: {key} does not read back as written; the disk may be failing. Use another"
                    )
                yield from rounding(key, values, "float32")
            for name in stored:
                for t in range(len(episode)):
                    same = psnr(episode.image(name, t), copy.image(name.replace("/", "_"), t))
                    kept.setdefault(name, []).append(same)
    for name, decibels in kept.items():
        worst, median = min(decibels), sorted(decibels)[len(decibels) // 2]
        if worst != np.inf and stored[name] == "video":
            yield f"{name} is encoded as video (every frame keeps at least {worst:.1f} dB, the median {median:.1f} dB)"
        elif worst != np.inf:
            raise InputError(f"{root}: {name} does not read back as written; the disk may be failing. Use another")


def _costs(root: Path, stored: dict[str, Form]) -> Iterator[str]:
    """Yield a sentence for each stream of a written dataset: its storage, and how fast its frames are read."""
    with open_episode(list_episodes(root, "lerobot")[0]) as episode:
        costs = frame_costs(episode, seconds=0.05)
    forms = {"image": "PNG", "lossless": "video without loss", "video": "video with a loss"}
    for name, form in stored.items():
        rate = f"{1 / costs[name.replace('/', '_')]:.0f} frames a CPU-second in random order"
        yield f"{name} is stored as {forms[form]}: {rate}"
    if "image" in stored.values():
        yield "LeRobot up to 0.6.1 decodes the PNG of every row of an action chunk, but only one frame of a video"

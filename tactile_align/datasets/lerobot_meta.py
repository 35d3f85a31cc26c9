"""What the files under `meta/` of a LeRobotDataset v3.0 say, checked before anything is done with it.

Source: huggingface/lerobot v0.4.4, lerobot/datasets/utils.py, and datasets written by it.
"""

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tactile_align.errors import InputError
from tactile_align.files import read_json

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TASKS_PATH, INFO_PATH, STATS_PATH = "meta/tasks.parquet", "meta/info.json", "meta/stats.json"
STATE, VELOCITY, ACTION, IMAGES = "observation.state", "observation.velocity", "action", "observation.images."
COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


@dataclass(frozen=True)
class Info:
    """The part of info.json that is needed to read episodes."""

    root: Path
    fps: float
    episodes: int
    data_path: str
    video_path: str
    features: dict[str, dict[str, Any]]

    @property
    def images(self) -> dict[str, str]:
        """Stream name -> feature key, of images and videos."""
        keys = [key for key, feature in self.features.items() if feature.get("dtype") in ("image", "video")]
        return {key.removeprefix(IMAGES): key for key in keys}

    def file(self, template: str, chunk: int, number: int, video_key: str = "") -> Path:
        """Fill a path template and make sure that the file lies inside the dataset.

        Raises:
            InputError: The template uses other fields, or attributes, or leaves the folder.
        """
        for _, name, _, _ in string.Formatter().parse(template):
            if name is not None and name not in ("chunk_index", "file_index", "video_key"):
                text = f"the path template {template!r} uses {name!r}; only chunk_index, file_index and video_key are"
                raise InputError(f"{self.root / INFO_PATH}: {text} filled in. Is the dataset from a source you trust?")
        filled = PurePosixPath(template.format(chunk_index=int(chunk), file_index=int(number), video_key=video_key))
        path = self.root.joinpath(*filled.parts)
        if filled.is_absolute() or ".." in filled.parts or not path.resolve().is_relative_to(self.root.resolve()):
            text = f"the path template {template!r} leaves the dataset's folder ({filled})"
            raise InputError(f"{self.root / INFO_PATH}: {text}. Is the dataset from a source you trust?")
        return path


def read_info(root: Path) -> Info:
    """Read and check `meta/info.json`.

    Raises:
        FileNotFoundError: No such file.
        InputError: Another version, a missing or wrong key.
    """
    path = root / INFO_PATH
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a LeRobotDataset has one")
    data = read_json(path)
    version = data.get("codebase_version") if isinstance(data, dict) else None
    if not isinstance(version, str) or not version.startswith("v3."):
        text = f"codebase_version is {version!r}, v3.0 is read; LeRobot's convert_dataset_v21_to_v30 makes it from v2.1"
        raise InputError(f"{path}: {text}")
    fps, features, episodes = data.get("fps"), data.get("features"), data.get("total_episodes")
    if not isinstance(fps, (int, float)) or not 0 < fps < 10_000:
        raise InputError(f"{path}: fps must be frames a second; got {fps!r}")
    if not isinstance(features, dict) or not all(isinstance(f, dict) and "dtype" in f for f in features.values()):
        raise InputError(f"{path}: features must name the columns and their dtype; got {type(features).__name__}")
    if not isinstance(episodes, int) or episodes < 0:
        raise InputError(f"{path}: total_episodes must be a count; got {episodes!r}")
    for needed in (STATE, ACTION):
        if needed not in features:
            raise InputError(f"{path}: no feature {needed}; there are: {', '.join(features)}")
    paths = str(data.get("data_path", DATA_PATH)), str(data.get("video_path") or VIDEO_PATH)
    return Info(root, float(fps), episodes, *paths, features)


def info_json(
    features: dict[str, dict[str, Any]], fps: float, robot_type: str | None, episodes: int, frames: int, tasks: int
) -> str:
    """Return `meta/info.json`."""
    counters = {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in COUNTERS.items()}
    info = {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(fps) if float(fps).is_integer() else fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": {**features, **counters},
    }
    return json.dumps(info, indent=4) + "\n"


@dataclass
class Stats:
    """Minimum, maximum, mean and standard deviation of one column over one episode, or pooled over several."""

    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    count: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Stats":
        """Of (n, ...) rows."""
        values = np.asarray(values, np.float64)
        return cls(values.min(0), values.max(0), values.mean(0), values.var(0), len(values))

    @classmethod
    def of_frames(cls, frames: Sequence[np.ndarray], count: int) -> "Stats":
        """Of RGB frames, by channel in 0..1, shape (3, 1, 1); `count` is that of the episode."""
        pixels = np.concatenate([frame[::4, ::4].reshape(-1, 3) for frame in frames]) / 255.0
        low, high, mean, var = (
            m.reshape(3, 1, 1) for m in (pixels.min(0), pixels.max(0), pixels.mean(0), pixels.var(0))
        )
        return cls(low, high, mean, var, count)

    @classmethod
    def pooled(cls, parts: Sequence["Stats"]) -> "Stats":
        """Of all parts together."""
        weight = np.array([part.count for part in parts], np.float64)
        mean = np.average([part.mean for part in parts], axis=0, weights=weight)
        inner = np.average([part.var for part in parts], axis=0, weights=weight)
        outer = np.average([(part.mean - mean) ** 2 for part in parts], axis=0, weights=weight)
        lowest, highest = np.min([p.min for p in parts], axis=0), np.max([p.max for p in parts], axis=0)
        return cls(lowest, highest, mean, inner + outer, int(weight.sum()))

    def plain(self) -> dict[str, list[Any]]:
        """For JSON and parquet."""
        numbers = {"min": self.min, "max": self.max, "mean": self.mean, "std": np.sqrt(self.var)}
        return {**{name: np.atleast_1d(value).tolist() for name, value in numbers.items()}, "count": [self.count]}


@dataclass
class Tasks:
    """Task texts in order of appearance."""

    texts: list[str] = field(default_factory=list)

    def index(self, text: str) -> int:
        """Number of a task, a new one if it is new."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text)

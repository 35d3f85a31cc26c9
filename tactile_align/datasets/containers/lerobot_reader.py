"""LeRobotDatasets v2.1 and v3, read in place without the package `lerobot` (extra `lerobot`: pyarrow and PyAV).

The episodes are shown as the groups episode_0, episode_1, ..., named by their index. The dots in the key of a feature
separate groups: observation.state is observation/state. In observation/images and observation/tactile, a stream keeps
its other dots, and a slash in its name becomes an underscore. The name of a depth map ends in _depth.
"""

from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tactile_align.config.data import LEROBOT_MARKS, has_mark
from tactile_align.datasets import hdf5
from tactile_align.datasets.containers.lerobot_parquet import (
    COUNTERS,
    EPISODES_JSONL,
    IMAGES,
    INFO_PATH,
    TACTILE,
    counter_column,
    episode_columns,
    episode_rows,
    number_column,
    read_info,
    require_spans,
    require_times,
    task_texts,
)
from tactile_align.datasets.containers.lerobot_video import VideoReader
from tactile_align.datasets.containers.tree import Array, Group
from tactile_align.errors import EpisodeError, InputError

MAX_VIDEOS = 16  # video files that a process keeps open for each dataset
MAX_EPISODES = 16  # episodes whose columns of numbers a process keeps for each dataset
MAX_COLUMNS = 256  # columns of encoded images of whole episodes that a process keeps for each dataset
MAX_IMAGE_BYTES = 2**28  # their size


_State = tuple[Path, int, int]


class LeRobotRecording(Group):
    """LeRobotDataset in a folder; its members are the episodes."""

    container = "lerobot"

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.file, self.attrs = path, "/", self, {}
        try:
            self.info = read_info(path)
            self.rows = {f"episode_{row['episode_index']}": row for row in episode_rows(self.info)}
            self.texts = task_texts(self.info)
        except (InputError, FileNotFoundError) as cause:
            raise hdf5.fault("lerobot", path, "", f"cannot be used: {cause}") from cause
        self._videos: OrderedDict[_State, VideoReader] = OrderedDict()
        self._images: OrderedDict[tuple[_State, str, str], Any] = OrderedDict()
        self._episodes: OrderedDict[str, tuple[tuple[_State, ...], _Episode]] = OrderedDict()

    def close(self) -> None:
        self._episodes.clear()
        for video in self._videos.values():
            video.close()
        self._videos.clear()
        self._images.clear()

    def names(self) -> tuple[str, ...]:
        return tuple(self.rows)

    def member(self, name: str) -> Group | None:
        if name not in self.rows:
            return None
        state = tuple(map(_state, self.files_of(self.rows[name])))
        known = self._episodes.get(name)
        if known is None or known[0] != state:
            known = self._episodes[name] = state, _Episode(self, name, self.rows[name])
            while len(self._episodes) > MAX_EPISODES:
                self._episodes.popitem(last=False)
        return known[1]

    def files_of(self, row: dict[str, Any]) -> tuple[Path, ...]:
        """Return the existing files that contain an episode.

        Raises:
            EpisodeError: A path leads outside the dataset.
        """
        try:
            files = [self.info.file(row), *(self.info.file(row, key) for key in self.info.videos)]
        except InputError as cause:
            raise hdf5.fault("lerobot", self.path, "", f"cannot be used: {cause}") from cause
        return tuple(file for file in files if file.is_file())

    def video(self, path: Path) -> VideoReader:
        """Return the reader of a video file; its errors are those of `VideoReader`."""
        key = _state(path) if path.is_file() else (path, 0, 0)
        if key not in self._videos:
            self._videos[key] = VideoReader(path, self.info.fps)
            while len(self._videos) > MAX_VIDEOS:
                self._videos.popitem(last=False)[1].close()
        self._videos.move_to_end(key)
        return self._videos[key]

    def images(self, episode: str, key: str) -> Any:
        """Return the column of encoded images of an episode; the errors are those of `episode_columns`."""
        place = _state(self.info.file(self.rows[episode])), episode, key
        if place not in self._images:
            table = episode_columns(self.info, self.rows[episode], [key])
            if key not in table.column_names:
                file = self.info.file(self.rows[episode])
                raise InputError(f"{file}: has no column {key}, which meta/info.json lists. Export the dataset again")
            self._images[place] = table[key]
            size = sum(column.nbytes for column in self._images.values())
            while len(self._images) > 1 and (size > MAX_IMAGE_BYTES or len(self._images) > MAX_COLUMNS):
                size -= self._images.popitem(last=False)[1].nbytes
        self._images.move_to_end(place)
        return self._images[place]


class _Folder(Group):
    """Features of one episode whose keys begin alike."""

    container = "lerobot"

    def __init__(self, episode: "_Episode", under: str) -> None:
        self.episode, self.file, self.under, self.attrs = episode, episode.file, under, {}
        self.name = f"{episode.name}/{under}"

    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p[len(self.under) + 1 :].split("/")[0] for p in self.episode.keys_below(self.under)))

    def member(self, name: str) -> Group | Array | None:
        return self.episode.at(f"{self.under}/{name}")


class _Episode(Group):
    """One episode; its members are the features."""

    container = "lerobot"

    def __init__(self, recording: LeRobotRecording, name: str, row: dict[str, Any]) -> None:
        self.recording, self.file, self.row, self.key = recording, recording, row, name
        self.name, self.info = f"/{name}", recording.info
        self.depth = self.info.depth_forms
        unread = (*COUNTERS, *(key for key in self.info.depth if key not in self.depth))
        shown = [key for key in self.info.features if key not in unread]
        self._keys = {_path(key, key in self.depth): key for key in shown}
        self.attrs = self._attributes()

    def files(self) -> tuple[Path, ...]:
        return self.recording.files_of(self.row)

    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path.split("/")[0] for path in self._keys))

    def member(self, name: str) -> Group | Array | None:
        return self.at(name)

    def keys_below(self, under: str) -> list[str]:
        """Return the paths of the features in a folder."""
        return [path for path in self._keys if path.startswith(f"{under}/")]

    def at(self, path: str) -> Group | Array | None:
        """Return the feature or the folder at a path; None if there is none."""
        key = self._keys.get(path)
        if key is None:
            return _Folder(self, path) if self.keys_below(path) else None
        if key in self.depth:
            return _Depth(self, path, key)
        dtype = self.info.features[key]["dtype"]
        if dtype == "image":
            return _Images(self, path, key)
        return _Video(self, path, key) if dtype == "video" else _Numbers(self, path, key)

    @cached_property
    def table(self) -> Any:
        """Columns of numbers, as a pyarrow table."""
        kept = [key for key, feature in self.info.features.items() if feature["dtype"] not in ("image", "video")]
        return episode_columns(self.info, self.row, kept)

    def _attributes(self) -> dict[str, Any]:
        attributes: dict[str, Any] = {"fps": self.info.fps}
        with _Faults(self, ""):
            require_spans(self.info, [self.row])
            require_times(self.info, self.row, counter_column(self.info, self.row, self.table, "timestamp"))
            for number in self.tasks()[:1]:
                if self.recording.texts.get(number):
                    attributes["task"] = self.recording.texts[number]
        return attributes

    def tasks(self) -> list[int]:
        """Return the numbers of the tasks of the rows, each once."""
        return list(dict.fromkeys(counter_column(self.info, self.row, self.table, "task_index")))


class _Faults:
    """Context manager that turns errors about the dataset's files into an EpisodeError about a feature."""

    def __init__(self, episode: _Episode, path: str, row: int | None = None) -> None:
        self.file, self.key, self.row = episode.recording.path, f"{episode.key}/{path}".strip("/"), row

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (InputError, FileNotFoundError)) and not isinstance(error, EpisodeError):
            raise hdf5.fault("lerobot", self.file, self.key, f"cannot be used: {error}", self.row) from error


class _Column(Array):
    def __init__(self, episode: _Episode, path: str, key: str) -> None:
        self.episode, self.path, self.key, self.name = episode, path, key, f"{episode.name}/{path}"

    def _stored_image(self, t: int) -> bytes:
        """Return the encoded image of row t; b"" if the cell is empty."""
        cell = self.episode.recording.images(self.episode.key, self.key)[self._index(t)].as_py()
        return (cell.get("bytes") if isinstance(cell, dict) else None) or b""

    def _frame_of(self, t: int) -> tuple[VideoReader, int]:
        """Return the video, and the number in it of the frame of row t."""
        row, info = self.episode.row, self.episode.info
        start = 0.0 if info.by_episode else row[f"videos/{self.key}/from_timestamp"]
        return self.episode.recording.video(info.file(row, self.key)), round(start * info.fps) + t

    def _index(self, t: int) -> int:
        if not -len(self) <= t < len(self):
            raise IndexError(f"{self.name}: index {t} is not in 0 to {len(self) - 1}. Use an index in this range")
        return t % len(self)


class _Numbers(_Column):
    """Numbers of each row; text and lists of lists are shown, but are not read."""

    def __init__(self, episode: _Episode, path: str, key: str) -> None:
        super().__init__(episode, path, key)
        feature = episode.info.features[key]
        shape = tuple(feature.get("shape") or ())
        plain = len(shape) <= 1 and str(feature["dtype"]).startswith(("float", "int", "uint", "bool"))
        self.dtype = np.dtype(np.float64 if plain else object)
        self.shape = (int(episode.row["length"]), *shape) if not plain else self._values.shape

    @cached_property
    def _values(self) -> np.ndarray:
        with _Faults(self.episode, self.path):
            return number_column(self.episode.info, self.episode.row, self.episode.table, self.key)

    def all(self) -> np.ndarray:
        if self.dtype.hasobject:
            text = "contains text or more than one axis per row, which are not read. Store a list of numbers"
            raise hdf5.fault("dtype", self.episode.recording.path, self.name.strip("/"), text)
        return self._values

    def row(self, t: int) -> np.ndarray:
        return np.asarray(self.all()[self._index(t)])


class _Images(_Column):
    """Images that are stored as PNG or JPEG in the data file."""

    dtype = h5py.vlen_dtype(np.uint8)

    def __init__(self, episode: _Episode, path: str, key: str) -> None:
        super().__init__(episode, path, key)
        self.shape = (int(episode.row["length"]),)

    def row(self, t: int) -> np.ndarray:
        with _Faults(self.episode, self.path, t):
            return np.frombuffer(self._stored_image(t), np.uint8)


class _Video(_Column):
    """Frames of a video; `chunks` is None, because a video states no such parts."""

    dtype = np.dtype(np.uint8)

    def __init__(self, episode: _Episode, path: str, key: str) -> None:
        super().__init__(episode, path, key)
        with _Faults(episode, path):
            video, _ = self._frame_of(0)
        self.shape = (int(episode.row["length"]), video.height, video.width, 3)

    def row(self, t: int) -> np.ndarray:
        with _Faults(self.episode, self.path, t):
            video, number = self._frame_of(self._index(t))
            return video.frame(number)


class _Depth(_Column):
    """Depth maps, from images or a video."""

    def __init__(self, episode: _Episode, path: str, key: str) -> None:
        super().__init__(episode, path, key)
        self._form = episode.depth[key]
        self.dtype = self._form.dtype
        self.shape = (int(episode.row["length"]), self._form.height, self._form.width)

    def row(self, t: int) -> np.ndarray:
        with _Faults(self.episode, self.path, t):
            if self.episode.info.features[self.key]["dtype"] == "image":
                return self._form.from_image(self._stored_image(t))
            video, number = self._frame_of(self._index(t))
            return self._form.from_codes(video.codes(number, self.shape[1:]))


def _state(path: Path) -> _State:
    """Return what changes when a file changes."""
    stat = path.stat()
    return path, stat.st_mtime_ns, stat.st_size


def _path(key: str, depth: bool) -> str:
    if depth:
        return f"{_path(key, False).removesuffix('_depth')}_depth"
    for group in (IMAGES, TACTILE):
        if key.startswith(group):
            return f"{group.replace('.', '/')}{key.removeprefix(group).replace('/', '_')}"
    return "/".join(filter(None, key.replace(".", "/").split("/")))


def is_recording(path: Path) -> bool:
    """Return whether a path is a LeRobotDataset."""
    return has_mark(path, LEROBOT_MARKS)


def marks(folder: Path) -> tuple[Path, ...]:
    """Return the files whose change shows that the list of episodes in a dataset changed."""
    tables = sorted((folder / "meta" / "episodes").glob("*/*.parquet"))
    return tuple(path for path in (folder / INFO_PATH, folder / EPISODES_JSONL, *tables) if path.is_file())


open_recording = LeRobotRecording

"""Writer of a LeRobotDataset v3.0: its parquet tables, metadata, statistics and videos."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from tactile_align.datasets.containers.lerobot_parquet import (
    ACTION,
    COUNTERS,
    DATA_PATH,
    EPISODES_PATH,
    INFO_PATH,
    LOSSLESS_PIXELS,
    STATS_PATH,
    TASKS_PATH,
    VERSION,
    VIDEO_PATH,
    need_arrow,
)
from tactile_align.datasets.containers.lerobot_video import VideoWriter


def info_json(
    features: dict[str, dict[str, Any]], fps: float, robot_type: str | None, episodes: int, frames: int, tasks: int
) -> str:
    """Return the text of the file `meta/info.json`, from the features and the numbers of episodes, frames, tasks."""
    counters = {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in COUNTERS.items()}
    info: dict[str, Any] = {"codebase_version": VERSION, "robot_type": robot_type}
    info |= {"total_episodes": episodes, "total_frames": frames, "total_tasks": tasks}
    info |= {"chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200}
    info |= {"fps": int(fps) if float(fps).is_integer() else fps, "splits": {"train": f"0:{episodes}"}}
    info |= {"data_path": DATA_PATH, "video_path": VIDEO_PATH, "features": {**features, **counters}}
    return json.dumps(info, indent=4) + "\n"


class Stats(NamedTuple):
    """Statistics of one column over one or several episodes: minimum, maximum, mean, variance, row count."""

    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    rows: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Stats":
        """Return the statistics over the first axis of an array."""
        values = np.asarray(values, np.float64)
        return cls(values.min(0), values.max(0), values.mean(0), values.var(0), len(values))

    @classmethod
    def of_frames(cls, frames: Sequence[np.ndarray], count: int) -> "Stats":
        """Return the statistics of RGB frames for each channel, in arrays (3, 1, 1), with pixel values 0..1.

        `count` is the number of frames of the episode; `frames` may be a sample of them.
        """
        pixels = np.concatenate([frame[::4, ::4].reshape(-1, 3) for frame in frames]) / 255.0
        return cls.of(pixels[..., None, None])._replace(rows=count)

    @classmethod
    def pooled(cls, parts: Sequence["Stats"]) -> "Stats":
        """Return the statistics of all rows together, given the statistics of each part of the rows."""
        weight = np.array([part.rows for part in parts], np.float64)
        mean = np.average([part.mean for part in parts], axis=0, weights=weight)
        inner = np.average([part.var for part in parts], axis=0, weights=weight)
        outer = np.average([(part.mean - mean) ** 2 for part in parts], axis=0, weights=weight)
        lowest, highest = np.min([p.min for p in parts], axis=0), np.max([p.max for p in parts], axis=0)
        return cls(lowest, highest, mean, inner + outer, int(weight.sum()))

    def plain(self) -> dict[str, list[Any]]:
        """Return the statistics as plain data for JSON and parquet."""
        numbers = {"min": self.min, "max": self.max, "mean": self.mean, "std": np.sqrt(self.var)}
        return {**{name: np.atleast_1d(value).tolist() for name, value in numbers.items()}, "count": [self.rows]}


MAX_DATA_BYTES, MAX_VIDEO_BYTES = 100 * 2**20, 200 * 2**20  # the limits that info.json states


class DatasetWriter:
    """Writer of a LeRobotDataset. It adds each episode to the current data and video files until a file is full."""

    def __init__(self, root: Path, features: dict[str, dict[str, Any]], fps: float, robot_type: str | None) -> None:
        self.root, self.features, self.fps, self.robot_type = root, features, fps, robot_type
        self.tasks, self.rows, self.index = list[str](), list[dict[str, Any]](), 0
        self.stats: dict[str, list[Stats]] = {}
        self._data: Any = None
        self._data_number = -1
        self._data_path = root
        self._videos: dict[str, VideoWriter] = {}
        self._video_number: dict[str, int] = {}
        self._begun: dict[str, int] = {}

    def __enter__(self) -> "DatasetWriter":
        self.root.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for video in self._videos.values():
            video.close()
        if self._data is not None:
            self._data.close()
        if error is None:
            self._finish()

    def add_video_frame(self, key: str, frame: np.ndarray) -> None:
        """Append one (H, W, 3) uint8 RGB frame of the current episode to the video stream of the feature `key`."""
        if key not in self._begun:
            if key in self._videos and self._videos[key].written > MAX_VIDEO_BYTES:
                self._videos.pop(key).close()
            if key not in self._videos:
                self._video_number[key] = self._video_number.get(key, -1) + 1
                path = VIDEO_PATH.format(video_key=key, chunk_index=0, file_index=self._video_number[key])
                height, width = frame.shape[:2]
                lossless = self.features[key]["info"]["video.pix_fmt"] == LOSSLESS_PIXELS
                self._videos[key] = VideoWriter(self.root / path, self.fps, width, height, lossless)
            self._begun[key] = self._videos[key].frames
        self._videos[key].add(frame)

    def add_episode(
        self, low: dict[str, np.ndarray], pngs: dict[str, list[bytes]], samples: dict[str, list[np.ndarray]], task: str
    ) -> None:
        """Write the current episode, after all its video frames have been added.

        Args:
            low: Joints, actions and other numbers of T steps, D per step, (T, D), by feature key.
            pngs: T frames as PNG bytes, by key of the image feature.
            samples: Frames from which the statistics are computed, by key of the image or video feature.
            task: Description of the task.
        """
        steps, number = len(low[ACTION]), len(self.rows)
        if task not in self.tasks:
            self.tasks.append(task)
        counters = {
            "timestamp": np.arange(steps) / self.fps,
            "frame_index": np.arange(steps),
            "episode_index": np.full(steps, number),
            "index": self.index + np.arange(steps),
            "task_index": np.full(steps, self.tasks.index(task)),
        }
        stats = {key: Stats.of(values) for key, values in {**low, **counters}.items()}
        stats |= {key: Stats.of_frames(frames, steps) for key, frames in samples.items()}
        for key, part in stats.items():
            self.stats.setdefault(key, []).append(part)
        self._write_rows(low, pngs, counters)
        row: dict[str, Any] = {"episode_index": number, "tasks": [task], "length": steps}
        row |= {"data/chunk_index": 0, "data/file_index": self._data_number}
        row |= {"dataset_from_index": self.index, "dataset_to_index": self.index + steps}
        for key, begun in self._begun.items():
            place: dict[str, float] = {"chunk_index": 0, "file_index": self._video_number[key]}
            place |= {"from_timestamp": begun / self.fps, "to_timestamp": (begun + steps) / self.fps}
            row |= {f"videos/{key}/{name}": value for name, value in place.items()}
        for key, part in stats.items():
            row |= {f"stats/{key}/{name}": value for name, value in part.plain().items()}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        self.rows.append(row)
        self.index += steps
        self._begun = {}

    def _write_rows(
        self, low: dict[str, np.ndarray], pngs: dict[str, list[bytes]], counters: dict[str, np.ndarray]
    ) -> None:
        pa, pq = need_arrow()
        columns, described = dict[str, Any](), dict[str, Any]()
        for key, values in low.items():
            width, item = values.shape[1], {"dtype": "float32", "_type": "Value"}
            columns[key], described[key] = pa.array(values.astype(np.float32).ravel()), item
            if width > 1:  # LeRobot stores a feature of shape (1,) as a plain number
                columns[key] = pa.FixedSizeListArray.from_arrays(columns[key], width)
                described[key] = {"feature": item, "length": width, "_type": "List"}
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        for key, frames in pngs.items():
            cells = [{"bytes": data, "path": f"frame-{t:06d}.png"} for t, data in enumerate(frames)]
            columns[key], described[key] = pa.array(cells, kind), {"_type": "Image"}
        for key, values in counters.items():
            columns[key] = pa.array(values.astype(COUNTERS[key]))
            described[key] = {"dtype": COUNTERS[key], "_type": "Value"}
        note = json.dumps({"info": {"features": described}})
        table = pa.table(columns).replace_schema_metadata({"huggingface": note})
        if self._data is not None and self._data_path.stat().st_size > MAX_DATA_BYTES:
            self._data.close()
            self._data = None
        if self._data is None:
            self._data_number += 1
            self._data_path = self.root / DATA_PATH.format(chunk_index=0, file_index=self._data_number)
            self._data_path.parent.mkdir(parents=True, exist_ok=True)
            self._data = pq.ParquetWriter(self._data_path, table.schema, compression="snappy")
        self._data.write_table(table)

    def _finish(self) -> None:
        pa, pq = need_arrow()
        path = self.root / EPISODES_PATH.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self.rows), path)
        texts = self.tasks
        table = pa.table({"task_index": pa.array(range(len(texts)), pa.int64()), "__index_level_0__": texts})
        # LeRobot looks up tasks by the index of a pandas frame; only this note declares which column is the index.
        described = [_pandas("task_index", "task_index", "int64"), _pandas(None, "__index_level_0__", "object")]
        note = {"index_columns": ["__index_level_0__"], "column_indexes": [], "columns": described}
        note["pandas_version"] = "2.2.0"
        pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(note)}), self.root / TASKS_PATH)
        pooled = {key: Stats.pooled(parts).plain() for key, parts in self.stats.items()}
        (self.root / STATS_PATH).write_text(json.dumps(pooled, indent=4) + "\n", encoding="utf-8")
        info = info_json(self.features, self.fps, self.robot_type, len(self.rows), self.index, len(texts))
        (self.root / INFO_PATH).write_text(info, encoding="utf-8")


def _pandas(name: str | None, column: str, kind: str) -> dict[str, Any]:
    shown = "unicode" if kind == "object" else kind
    return {"name": name, "field_name": column, "pandas_type": shown, "numpy_type": kind, "metadata": None}

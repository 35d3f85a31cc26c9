"""The parquet files of a LeRobotDataset v3.0, written and read with pyarrow."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tactile_align.datasets.lerobot_meta import (
    ACTION,
    COUNTERS,
    DATA_PATH,
    EPISODES_PATH,
    INFO_PATH,
    STATE,
    STATS_PATH,
    TASKS_PATH,
    VIDEO_PATH,
    Info,
    Stats,
    Tasks,
    info_json,
)
from tactile_align.datasets.video import VideoWriter
from tactile_align.errors import InputError
from tactile_align.extras import need

MAX_DATA_BYTES, MAX_VIDEO_BYTES = 100 * 2**20, 200 * 2**20  # as info.json promises


def need_arrow() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet.

    Raises:
        ModuleNotFoundError: pyarrow is not installed; says how to get it.
    """
    arrow, parquet = (need(name, "a LeRobot dataset", "pyarrow", "lerobot") for name in ("pyarrow", "pyarrow.parquet"))
    return arrow, parquet


class DatasetWriter:
    """Write episode after episode; several share a file until it is full."""

    def __init__(self, root: Path, features: dict[str, dict[str, Any]], fps: float, robot_type: str | None) -> None:
        self.root, self.features, self.fps, self.robot_type = root, features, fps, robot_type
        self.tasks, self.rows, self.index = Tasks(), list[dict[str, Any]](), 0
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
        """Append a frame of the episode that is being written."""
        if key not in self._begun:
            full = key in self._videos and self._videos[key].written > MAX_VIDEO_BYTES
            if full:
                self._videos.pop(key).close()
            if key not in self._videos:
                self._video_number[key] = self._video_number.get(key, -1) + 1
                path = VIDEO_PATH.format(video_key=key, chunk_index=0, file_index=self._video_number[key])
                height, width = frame.shape[:2]
                self._videos[key] = VideoWriter(self.root / path, self.fps, width, height)
            self._begun[key] = self._videos[key].frames
        self._videos[key].add(frame)

    def add_episode(
        self,
        low: dict[str, np.ndarray],
        pngs: dict[str, list[bytes]],
        samples: dict[str, list[np.ndarray]],
        task: str,
    ) -> None:
        """Finish an episode whose video frames have been added.

        Args:
            low: By feature, (T, D) numbers.
            pngs: By image feature, T encoded frames.
            samples: By image or video feature, some frames for the statistics.
            task: What the robot does.
        """
        steps, number = len(low[ACTION]), len(self.rows)
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
            row[f"videos/{key}/chunk_index"] = 0
            row[f"videos/{key}/file_index"] = self._video_number[key]
            row[f"videos/{key}/from_timestamp"] = begun / self.fps
            row[f"videos/{key}/to_timestamp"] = (begun + steps) / self.fps
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
        columns: dict[str, Any] = {}
        described: dict[str, Any] = {}
        for key, values in low.items():
            flat = pa.array(values.astype(np.float32).ravel())
            if values.shape[1] == 1:  # LeRobot takes shape (1,) for a plain number
                columns[key], described[key] = flat, {"dtype": "float32", "_type": "Value"}
                continue
            columns[key] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
            item = {"dtype": "float32", "_type": "Value"}
            described[key] = {"feature": item, "length": values.shape[1], "_type": "List"}
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
        texts = self.tasks.texts
        table = pa.table({"task_index": pa.array(range(len(texts)), pa.int64()), "__index_level_0__": texts})
        # LeRobot looks tasks up by the index of a pandas frame, which only this note declares.
        note = {
            "index_columns": ["__index_level_0__"],
            "column_indexes": [],
            "columns": [_pandas("task_index", "task_index", "int64"), _pandas(None, "__index_level_0__", "object")],
            "pandas_version": "2.2.0",
        }
        pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(note)}), self.root / TASKS_PATH)
        pooled = {key: Stats.pooled(parts).plain() for key, parts in self.stats.items()}
        (self.root / STATS_PATH).write_text(json.dumps(pooled, indent=4) + "\n", encoding="utf-8")
        info = info_json(self.features, self.fps, self.robot_type, len(self.rows), self.index, len(texts))
        (self.root / INFO_PATH).write_text(info, encoding="utf-8")


def _pandas(name: str | None, column: str, kind: str) -> dict[str, Any]:
    shown = "unicode" if kind == "object" else kind
    return {"name": name, "field_name": column, "pandas_type": shown, "numpy_type": kind, "metadata": None}


def episode_rows(info: Info) -> Iterator[dict[str, Any]]:
    """Yield the rows of meta/episodes, without their statistics.

    Raises:
        FileNotFoundError: There is none.
        InputError: One cannot be read, or there are fewer or more than info.json says.
    """
    files = sorted((info.root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise FileNotFoundError(f"{info.root}: no meta/episodes/*/*.parquet; is the dataset complete?")
    tables = [_read(file) for file in files]
    listed = sum(table.num_rows for table in tables)
    if listed != info.episodes:
        text = f"meta/episodes lists {listed} episodes, meta/info.json says {info.episodes}; copy the dataset again"
        raise InputError(f"{info.root}: {text}")
    for table in tables:
        yield from table.to_pylist()


def episode_table(info: Info, row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of one episode as lists.

    Raises:
        FileNotFoundError: The data file is missing.
        InputError: It cannot be read or does not hold the episode.
    """
    place = row.get("data/chunk_index"), row.get("data/file_index")
    if None in place:
        raise InputError(f"{info.root}: meta/episodes does not say in which file episode {row['episode_index']} lies")
    file = info.file(info.data_path, int(place[0] or 0), int(place[1] or 0))
    table = _read(file, [("episode_index", "=", row["episode_index"])])
    missing = [key for key in (STATE, ACTION) if key not in table.column_names]
    if table.num_rows != row["length"] or missing:
        text = f"holds {table.num_rows} rows of episode {row['episode_index']}, meta/episodes says {row['length']}"
        raise InputError(f"{file}: {f'has no {missing[0]}' if missing else text}; copy the dataset again")
    return {name: table[name].to_pylist() for name in table.column_names}


def task_texts(info: Info) -> dict[int, str]:
    """Task texts by number, from tasks.parquet; empty where it is missing."""
    path = info.root / TASKS_PATH
    if not path.is_file():
        return {}
    table = _read(path)
    names = [name for name in table.column_names if name != "task_index"]
    if "task_index" not in table.column_names or not names:
        return {}
    return {
        int(i): str(text) for i, text in zip(table["task_index"].to_pylist(), table[names[0]].to_pylist(), strict=True)
    }


def _read(file: Path, filters: list[tuple[str, str, Any]] | None = None) -> Any:
    pa, pq = need_arrow()
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; the dataset's metadata promise it")
    try:
        columns = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
        return pq.read_table(file, columns=columns, filters=filters)
    except (pa.ArrowException, OSError) as cause:
        said = " ".join(str(cause).split())
        raise InputError(f"{file}: cannot be read as parquet ({said}); copy it again") from cause

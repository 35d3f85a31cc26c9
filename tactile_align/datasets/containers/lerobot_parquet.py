"""Files of a LeRobotDataset v2.1 or v3: parquet tables and metadata."""

import json
import re
import string
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from tactile_align.datasets.containers.lerobot_depth import DepthForm, depth_form
from tactile_align.errors import InputError
from tactile_align.extras import need
from tactile_align.files import read_json, read_text

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TASKS_PATH, INFO_PATH, STATS_PATH = "meta/tasks.parquet", "meta/info.json", "meta/stats.json"
STATE, VELOCITY, ACTION, IMAGES = "observation.state", "observation.velocity", "action", "observation.images."
TACTILE = "observation.tactile."
LOSSLESS_PIXELS = "gbrp"  # pixel format of a video that keeps every RGB pixel
EPISODES_JSONL, TASKS_JSONL = "meta/episodes.jsonl", "meta/tasks.jsonl"
DATA_PATH_2 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH_2 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
COUNTERS = {"timestamp": "float32"} | dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")


@dataclass(frozen=True)
class Info:
    """Entries of a dataset's meta/info.json that are needed to read the dataset in the folder `root`.

    `unread` lists the other entries that describe the recordings, such as the names of the joints. `by_episode` is true
    for v2, which has a data file and its videos for each episode, in folders of `chunk_size` episodes.
    """

    root: Path
    fps: float
    episodes: int
    data_path: str
    video_path: str
    features: dict[str, dict[str, Any]]
    unread: tuple[str, ...] = ()
    by_episode: bool = False
    chunk_size: int = 1000

    @property
    def images(self) -> dict[str, str]:
        """Key in `features` of each image or video stream, by stream name, without depth."""
        keys = [key for key, feature in self.features.items() if feature.get("dtype") in ("image", "video")]
        return {key.removeprefix(IMAGES): key for key in keys if key not in self.depth}

    @property
    def depth(self) -> tuple[str, ...]:
        """Keys in `features` of the streams that are depth maps, which contain distances instead of colours."""
        notes = {key: (feature.get("info"), feature.get("video_info")) for key, feature in self.features.items()}
        marks = ("video.is_depth_map", "is_depth_map")
        is_depth = {
            k: any(isinstance(n, dict) and any(n.get(m) for m in marks) for n in both) for k, both in notes.items()
        }
        return tuple(key for key, depth in is_depth.items() if depth)

    @property
    def depth_forms(self) -> dict[str, DepthForm]:
        """Storage of those streams of `depth` that state it, and are therefore read, by their key."""
        forms = {key: depth_form(self.features[key]) for key in self.depth}
        return {key: form for key, form in forms.items() if form is not None}

    @property
    def videos(self) -> list[str]:
        """Keys in `features` of the streams that are stored as video and read."""
        keys = (*self.images.values(), *self.depth_forms)
        return [key for key in keys if self.features[key]["dtype"] == "video"]

    def file(self, row: dict[str, Any], video_key: str = "") -> Path:
        """Return the path of the data file or of a video of an episode, after checking that it is inside the dataset.

        Args:
            row: The episode, from `episode_rows`.
            video_key: Feature key of the video; "": the data file.

        Raises:
            InputError: The template of paths gives no path, uses unknown fields or attributes, or leads outside the
                folder.
        """
        template, index = self.video_path if video_key else self.data_path, int(row["episode_index"])
        place = f"videos/{video_key}" if video_key else "data"
        fields: dict[str, Any] = {"video_key": video_key}
        if self.by_episode:
            fields |= {"episode_index": index, "episode_chunk": index // self.chunk_size}
        else:
            fields |= {name: row[f"{place}/{name}"] for name in ("chunk_index", "file_index")}
        correct = "Correct the template, or export the dataset again"
        try:
            used = {name: form or "" for _, name, form, _ in string.Formatter().parse(template) if name is not None}
            if unknown := [name for name in used if name not in fields]:
                text = f"path template {template!r} uses {unknown[0]!r}; allowed are {', '.join(fields)}"
                raise InputError(f"{self.root / INFO_PATH}: {text}. {correct}")
            if wide := [form for form in used.values() if not re.fullmatch(r"(\d{1,2}d)?", form)]:
                raise ValueError(f"a field has the form {wide[0]!r}, expected one such as 03d")
            filled = PurePosixPath(template.format(**fields))
            path = self.root.joinpath(*filled.parts)
            inside = path.resolve().is_relative_to(self.root.resolve())
            path.is_file()  # raises an error if the name is too long
        except InputError:
            raise
        except (ValueError, OSError, RuntimeError) as cause:  # RuntimeError: links that form a loop
            text = f"the path template {template[:200]!r} gives no path ({str(cause)[:200]})"
            raise InputError(f"{self.root / INFO_PATH}: {text}. {correct}") from cause
        if filled.is_absolute() or ".." in filled.parts or not inside:
            text = f"the path template {template!r} leads outside the dataset's folder ({filled})"
            raise InputError(f"{self.root / INFO_PATH}: {text}. Do not use a dataset from an untrusted source")
        return path


def read_info(root: Path) -> Info:
    """Return the content of `meta/info.json`, after checking it.

    Raises:
        FileNotFoundError: The file does not exist.
        InputError: The dataset has a version other than 2 and 3, or a key is missing or wrong.
    """
    path = root / INFO_PATH
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Give the folder of a LeRobotDataset, which contains it")
    data = read_json(path)
    version = data.get("codebase_version") if isinstance(data, dict) else None
    if not isinstance(version, str) or not version.startswith(("v2.", "v3.")):
        text = f"codebase_version is {version!r}, expected v2.x or v3.x. Convert the dataset with the package lerobot"
        raise InputError(f"{path}: {text}")
    fps, features, episodes = data.get("fps"), data.get("features"), data.get("total_episodes")
    if not isinstance(fps, (int, float)) or not 0 < fps < 10_000:
        raise InputError(f"{path}: fps is {fps!r}, expected a positive number of frames per second. Export it again")
    columns = features.values() if isinstance(features, dict) else [None]
    if not all(isinstance(f, dict) and "dtype" in f and isinstance(f.get("shape") or [], list) for f in columns):
        text = "features is not a table of columns with a dtype and a list as shape each"
        raise InputError(f"{path}: {text}. Copy the dataset again")
    if not isinstance(episodes, int) or episodes < 0:
        raise InputError(f"{path}: total_episodes is {episodes!r}, expected 0 or more. Copy the dataset again")
    by_episode, size = version.startswith("v2."), data.get("chunks_size", 1000)
    if by_episode and (type(size) is not int or size < 1):
        raise InputError(f"{path}: chunks_size is {size!r}, expected 1 or more. Copy the dataset again")
    usual = (DATA_PATH_2, VIDEO_PATH_2) if by_episode else (DATA_PATH, VIDEO_PATH)
    paths = str(data.get("data_path") or usual[0]), str(data.get("video_path") or usual[1])
    unread = [f"{key} of {INFO_PATH}" for key, value in data.items() if key not in _INFO_KEYS and value is not None]
    named = [key for key, f in features.items() if f.get("names") and f["dtype"] not in ("image", "video")]
    unread += [f"names of the columns of {key}" for key in named]
    return Info(root, float(fps), episodes, *paths, features, tuple(unread), by_episode, size)


_INFO_KEYS = {
    *("codebase_version", "fps", "features", "data_path", "video_path", "splits", "chunks_size"),
    *("total_episodes", "total_frames", "total_tasks", "total_videos", "total_chunks"),
    *("data_files_size_in_mb", "video_files_size_in_mb"),
}
"""Keys of info.json that are read, or that describe only the dataset's files."""


def need_arrow() -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`, imported only when needed.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    arrow, parquet = (need(name, "a LeRobot dataset", "pyarrow", "lerobot") for name in ("pyarrow", "pyarrow.parquet"))
    return arrow, parquet


def episode_rows(info: Info) -> list[dict[str, Any]]:
    """Return one row per episode: episode_index, length, and for v3 the places of its data, without statistics.

    The cells that state the index, the length and the files of an episode are checked and returned as numbers.

    Raises:
        FileNotFoundError: No table exists.
        InputError: A table cannot be read, a column or cell is missing or wrong, two rows have the same index, or the
            number of episodes differs from info.json. The message contains file, column and row.
    """
    needed, ends = ["episode_index", "length"], list[str]()
    if info.by_episode:
        files = [info.root / EPISODES_JSONL]
    else:
        videos = [key for key, feature in info.features.items() if feature["dtype"] == "video"]
        ends = [f"videos/{key}/to_timestamp" for key in videos]
        needed += ["data/chunk_index", "data/file_index"]
        needed += [f"videos/{key}/{name}" for key in videos for name in ("chunk_index", "file_index", "from_timestamp")]
        files = sorted((info.root / "meta" / "episodes").glob("*/*.parquet"))
    if not files or not files[0].is_file():
        what = EPISODES_JSONL if info.by_episode else "meta/episodes/*/*.parquet"
        raise FileNotFoundError(f"{info.root}: no {what} found. Copy the complete dataset")
    found: dict[int, dict[str, Any]] = {}
    for file in files:
        if info.by_episode:
            rows = _lines(file, needed)
        else:
            table = _read(file)
            _require_columns(file, table, needed)
            rows = _rows(file, table)
        for number, row in enumerate(rows):
            for name in (*needed, *(name for name in ends if row.get(name) is not None)):
                row[name] = _number(file, name, number, row[name], whole=not name.endswith("timestamp"))
            if row["episode_index"] in found:
                text = f"row {number} is {row['episode_index']} like an earlier row; each episode needs its own index"
                raise InputError(f"{file}: column episode_index, {text}. {_CORRECT}")
            found[row["episode_index"]] = row
    if len(found) != info.episodes:
        listed = EPISODES_JSONL if info.by_episode else "meta/episodes"
        text = f"{listed} lists {len(found)} episodes, meta/info.json states {info.episodes}. Copy the dataset again"
        raise InputError(f"{info.root}: {text}")
    return list(found.values())


def episode_columns(info: Info, row: dict[str, Any], columns: Sequence[str]) -> Any:
    """Return columns of one episode as a pyarrow table, in the order of the frames.

    Args:
        info: The dataset.
        row: The episode, from `episode_rows`.
        columns: Names of the columns; those that the file lacks are left out.

    Raises:
        FileNotFoundError: The data file is missing.
        InputError: The data file cannot be read, or does not contain the whole episode.
    """
    file, index = info.file(row), row["episode_index"]
    table = _read(file, None if info.by_episode else index, [*columns, "frame_index"])
    if table.num_rows != row["length"]:
        text = f"has {table.num_rows} rows of episode {index}, the metadata state {row['length']}"
        raise InputError(f"{file}: {text}. Copy the dataset again")
    if "frame_index" in table.column_names:
        cells = _cells(file, table, "frame_index")
        order = [_number(file, "frame_index", i, cell) for i, cell in enumerate(cells)]
        if order != sorted(order):
            table = table.take(np.argsort(order, kind="stable"))
    return table


def column_names(info: Info, row: dict[str, Any]) -> list[str]:
    """Return the names of the columns in the data file of an episode.

    Raises:
        FileNotFoundError: The data file is missing.
        InputError: The data file is no Parquet table, or its path leads outside the dataset.
    """
    return list(_described(info.file(row)).schema.names)


def number_column(info: Info, row: dict[str, Any], table: Any, name: str) -> np.ndarray:
    """Return a column of numbers as (T, D) float64, for T rows of D numbers; `table` is from `episode_columns`.

    Raises:
        InputError: The column is missing, or a cell is wrong. The message contains file, column and row.
    """
    file = info.file(row)
    _require_columns(file, table, [name])
    return _matrix(file, name, _cells(file, table, name), row["episode_index"])


def counter_column(info: Info, row: dict[str, Any], table: Any, name: str) -> list[Any]:
    """Return the numbers of the column `task_index` or `timestamp`, []: without it; errors as in `number_column`."""
    if name not in table.column_names:
        return []
    file = info.file(row)
    cells = _cells(file, table, name)
    return [_number(file, name, i, cell, name == "task_index") for i, cell in enumerate(cells)]


def require_spans(info: Info, rows: Iterable[dict[str, Any]]) -> None:
    """Check that the part of a video that each episode uses has as many frames as the episode has rows.

    The timestamps of a video may also begin with frames of another take; then every frame would belong to a later row.

    Raises:
        InputError: The part of a video is longer or shorter than its episode.
    """
    for row in rows:
        for key in info.videos:
            start, stop = (row.get(f"videos/{key}/{name}") for name in ("from_timestamp", "to_timestamp"))
            if start is None or stop is None:
                continue
            frames = round((stop - start) * info.fps)
            if frames != row["length"]:
                raise InputError(
                    f"{info.root}: meta/episodes gives episode {row['episode_index']} {row['length']} rows, but "
                    f"{frames} frames of {key} ({start:g} to {stop:g} s at {info.fps:g} fps), so it is unknown which "
                    f"frame belongs to which row. Correct from_timestamp and to_timestamp, or leave the episode out"
                )


def require_times(info: Info, row: dict[str, Any], timestamps: Sequence[float]) -> None:
    """Check that the timestamps of an episode, s, agree with the rate of the dataset.

    Raises:
        InputError: The time of a row differs by more than half a frame from its number divided by the rate.
    """
    times = np.asarray(timestamps, np.float64)
    expected = times[:1] + np.arange(len(times)) / info.fps
    apart = np.flatnonzero(~(np.abs(times - expected) < 0.5 / info.fps))
    if len(apart):
        first, span = int(apart[0]), times[-1] - times[0]
        rate = f" All its timestamps together give {(len(times) - 1) / span:.3g} fps." if span > 0 else ""
        raise InputError(
            f"{info.root}: row {first} of episode {row['episode_index']} has timestamp {times[first]:g} s, but fps = "
            f"{info.fps:g} in {INFO_PATH} gives {expected[first]:g} s.{rate} Correct fps or the timestamps"
        )


def task_texts(info: Info) -> dict[int, str]:
    """Return the text of each task by the task's number; an empty dictionary if no file lists the tasks.

    Raises:
        InputError: The file cannot be read, or a number or text is missing or wrong.
    """
    path, name = info.root / (TASKS_JSONL if info.by_episode else TASKS_PATH), "task"
    if not path.is_file():
        return {}
    if info.by_episode:
        rows = _lines(path, ["task_index", name])
    else:
        table = _read(path)
        name = next((other for other in table.column_names if other != "task_index"), name)
        _require_columns(path, table, ["task_index", name])
        rows = _rows(path, table)
    texts: dict[int, str] = {}
    for number, row in enumerate(rows):
        text = row[name]
        if not isinstance(text, str):
            raise InputError(f"{path}: column {name}, row {number} is {text!r}, expected a text. {_CORRECT}")
        texts[_number(path, "task_index", number, row["task_index"])] = text
    return texts


_CORRECT = "Correct the cell, or export the dataset again"


def _require_columns(file: Path, table: Any, needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        text = f"has no column {', '.join(missing)} (found: {', '.join(table.column_names)})"
        raise InputError(f"{file}: {text}. Export the dataset again")


def _number(file: Path, column: str, row: int, value: Any, whole: bool = True) -> Any:
    """Return the number in a cell; a whole number may be stored as a float, as pandas does beside empty cells."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**53
    if not good or (whole and value != int(value)):
        need = "a whole number of 0 or more" if whole else "a number of 0 or more"
        raise InputError(f"{file}: column {column}, row {row} is {value!r}, expected {need}. {_CORRECT}")
    return int(value) if whole else float(value)


def _matrix(file: Path, column: str, cells: list[Any], episode: int) -> np.ndarray:
    """Return the cells of a column as (T, D) float64, one number or list of D numbers for each of T rows."""
    width = len(np.atleast_1d(cells[0])) if cells else 0
    for i, cell in enumerate(cells):
        values = np.asarray(cell if isinstance(cell, list) else [cell])
        if values.shape != (width,) or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            text = f"row {i} of episode {episode} is {cell!r}, expected {width} finite numbers"
            raise InputError(f"{file}: column {column}, {text}. {_CORRECT}")
    return np.asarray(cells, np.float64).reshape(len(cells), width)


def _lines(file: Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    """Return the objects of a file with one JSON object per line, after checking that each has the keys `needed`."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(filter(str.strip, read_text(file).splitlines())):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as cause:
            raise InputError(f"{file}: row {number} is not valid JSON ({cause}). Copy the dataset again") from cause
        if missing := [key for key in needed if not isinstance(row, dict) or key not in row]:
            raise InputError(f"{file}: row {number} has no column {', '.join(missing)}. Export the dataset again")
        rows.append(row)
    return rows


_EPISODE = "episode_index"
MAX_EPISODE_BYTES = 2**31  # largest size of the columns of an episode that are read together
FEW_CELLS = 16


def _read(file: Path, episode: int | None = None, only: Collection[str] | None = None) -> Any:
    """Return the columns `only` of a parquet file, without statistics; of the rows of one episode, or of all rows."""
    pa, pq = need_arrow()
    about = _described(file)
    names = about.schema.names
    if episode is not None and (_EPISODE not in names or not pa.types.is_integer(about.schema.field(_EPISODE).type)):
        have = str(about.schema.field(_EPISODE).type) if _EPISODE in names else "missing"
        raise InputError(f"{file}: column {_EPISODE} is {have}, expected whole numbers. Export the dataset again")
    columns = [n for n in names if not n.startswith("stats/") and (only is None or n in only)]
    read = columns if episode is None else [*columns, _EPISODE]
    with _parquet(file):
        reader = pq.ParquetFile(file, metadata=about.meta)
        parts, size = [reader.read_row_groups([], columns=read)], 0
        # A file may repeat a large cell any number of times, so cells of bytes are read a few at a time.
        step = FEW_CELLS if only is not None and about.has_bytes(columns) else 2**16
        for batch in reader.iter_batches(step, about.groups(episode), read):
            part = pa.Table.from_batches([batch])
            if episode is not None:
                rows = np.flatnonzero(np.asarray(batch[_EPISODE]) == episode)
                together = len(rows) and rows[-1] - rows[0] + 1 == len(rows)
                part = part.slice(rows[0], len(rows)) if together else part.take(rows)
            parts += [part] if len(part) else []
            size += part.nbytes
            if size > MAX_EPISODE_BYTES:
                text = f"has more than {MAX_EPISODE_BYTES:,} bytes of one episode in {', '.join(columns)}"
                raise InputError(f"{file}: {text}. Store its frames as video, or in shorter episodes")
        return pa.concat_tables(parts).select(columns)


class _Described(NamedTuple):
    """Description of a parquet file, and the smallest and largest index of an episode in each of its groups of rows."""

    meta: Any
    schema: Any
    first: np.ndarray
    last: np.ndarray

    def groups(self, episode: int | None) -> list[int]:
        """Return the groups of rows that may contain rows of an episode; None: all groups."""
        inside = np.full(len(self.first), episode is None) | (
            (self.first <= (episode or 0)) & ((episode or 0) <= self.last)
        )
        return [int(group) for group in np.flatnonzero(inside)]

    def has_bytes(self, columns: list[str]) -> bool:
        """Return whether one of the columns contains bytes or texts."""
        places = [self.meta.schema.column(i) for i in range(self.meta.num_columns)]
        return any(c.physical_type == "BYTE_ARRAY" and c.path.startswith(tuple(columns)) for c in places)


def _described(file: Path) -> _Described:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, but the metadata list it. Copy the dataset again")
    stat = file.stat()
    return _described_in(file, stat.st_ino, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _described_in(file: Path, *state: int) -> _Described:
    """Return the description of a parquet file; `state` changes when the file changes.

    A file may contain thousands of episodes, so its description is not read again for each.
    """
    with _parquet(file):
        meta = need_arrow()[1].read_metadata(file)
        schema = meta.schema.to_arrow_schema()
        names = schema.names  # names that are no text are refused here
        if len(set(names)) < len(names):
            raise InputError(f"{file}: has two columns of one name. Export the dataset again")
        first, last = np.full(meta.num_row_groups, -np.inf), np.full(meta.num_row_groups, np.inf)
        column = next((i for i in range(meta.num_columns) if meta.schema.column(i).path == _EPISODE), None)
        for group in range(0 if column is None else meta.num_row_groups):
            stated = meta.row_group(group).column(column).statistics
            if stated is not None and stated.has_min_max and isinstance(stated.min, int):
                first[group], last[group] = stated.min, stated.max
    return _Described(meta, schema, first, last)


def _rows(file: Path, table: Any) -> list[dict[str, Any]]:
    with _parquet(file):
        rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _cells(file: Path, table: Any, name: str) -> list[Any]:
    with _parquet(file):
        cells: list[Any] = table[name].to_pylist()
    return cells


@contextmanager
def _parquet(file: Path) -> Iterator[None]:
    """Convert the errors of pyarrow inside the `with` block to an InputError that contains the file."""
    try:
        yield
    except (need_arrow()[0].ArrowException, OSError, UnicodeDecodeError) as cause:
        reason = " ".join(str(cause).split())
        raise InputError(f"{file}: cannot be read as parquet ({reason}). Copy it again") from cause

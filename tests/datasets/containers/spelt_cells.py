"""Damaged cells in the tables of a LeRobotDataset, and what is wrong with the error of the import."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tactile_align.datasets.containers.lerobot import export_lerobot, import_lerobot
from tactile_align.datasets.episodes import write_episode
from tactile_align.errors import InputError
from tests.datasets.making import frames, parts

EPISODES, DATA = "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"
BAD = (float("nan"), None, "x", -1, 0.5, True, b"\xff", float("inf"), [1], {"a": 1})
"""Cells that are no whole number."""


def recordings(folder: Path) -> list[Path]:
    """Three episodes of different lengths."""
    return [
        write_episode(
            folder / f"episode_init_{i}.hdf5",
            **{**parts(7 + i), "images": {"top": frames(i, 7 + i), "left_wrist": frames(10 + i, 7 + i, 80, 56)}},
            attributes={"task": f"task {i % 2}"},
            fps=20,
        )
        for i in range(3)
    ]


def dataset_in(folder: Path) -> Path:
    """Write a dataset of three episodes with one video and one image feature."""
    recordings(folder / "in")
    return export_lerobot(folder / "in", folder / "set").paths[0]


def with_cell(root: Path, file: str, column: str, row: int, value: Any) -> None:
    """Put a value into a cell of a table, or remove the column when the value is ...; other cells keep their values."""
    table = pq.read_table(root / file)
    cells = table[column].to_pylist()
    table = table.drop_columns([column])
    if value is not ...:
        cells[row] = value
        try:
            column_of = pa.array(cells)
        except (pa.ArrowException, TypeError, ValueError):
            column_of = pa.array([str(cell) for cell in cells])  # as a table that holds mixed types as text
        table = table.append_column(column, column_of)
    pq.write_table(table, root / file)


def one_change(rng: np.random.Generator) -> tuple[str, str, int, Any]:
    """File, column, row and new value of a random damaged cell."""
    video = "videos/observation.images.top/"
    whole = ("episode_index", "length", "data/chunk_index", "data/file_index", f"{video}chunk_index")
    column = str(rng.choice([*whole, f"{video}from_timestamp", "action", "observation.state", "task_index", "text"]))
    bad: list[Any] = [*BAD, ...]
    if column.startswith(("videos/", "data/", "length", "episode")):
        bad = [value for value in bad if not (column.endswith("timestamp") and value in (0.5, True))]
        return EPISODES, column, int(rng.integers(3)), bad[int(rng.integers(len(bad)))]
    if column == "text":
        return "meta/tasks.parquet", "__index_level_0__", int(rng.integers(2)), [None, ...][int(rng.integers(2))]
    file, rows = (DATA, 24) if column != "task_index" or rng.integers(2) else ("meta/tasks.parquet", 2)
    if column == "task_index":
        bad.remove(...) if file == DATA else None  # a table without tasks is sound
    else:
        bad = [None, [1.0], [float("nan")] * 14, ["x"] * 14, ...]
    return file, column, int(rng.integers(rows)), bad[int(rng.integers(len(bad)))]


def fault_of(folder: Path, rng: np.random.Generator) -> str:
    """Return what is wrong with the answer to a dataset with a random damaged cell; it must be named in one error."""
    whole, root, back = folder / "set", folder / "damaged", folder / "back"
    if not whole.exists():
        dataset_in(folder)
    for made in (root, back):
        shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(whole, root)
    file, column, row, value = one_change(rng)
    with_cell(root, file, column, row, value)
    what = f"{file} {column} row {row} = {value!r}"
    try:
        import_lerobot(root, back, to="aloha")
    except InputError as error:
        text = str(error)
        is_named = str(root / file) in text and (column in text or "no column task" in text)
        is_named &= value is ... or "row" in text or "whole numbers" in text
        left = file != DATA and list(back.glob("*"))
        return "" if is_named and not left else f"{what}: {text}{', and files are left' if left else ''}"
    return f"{what}: read"

"""Boxes drawn by hand or found by a detector: a CSV with one row per box."""

import csv
import math
from pathlib import Path

from tactile_align.calibration.evidence import Labels

COLUMNS = ("episode", "frame", "camera", "sensor", "u0", "v0", "u1", "v1")


def read_labels(path: str | Path) -> Labels:
    """Read boxes from a CSV with the columns episode, frame, camera, sensor, u0, v0, u1, v1, or a folder of such.

    `tactile-align label` draws them, a file for each camera and sensor. `episode` is the episode's file name (with
    #NAME where the file holds several), `frame` counts from 0, the box is in pixels of the stored frame where pixel
    i covers [i - 0.5, i + 0.5].

    Raises:
        FileNotFoundError: No such file, or a folder without a CSV.
        ValueError: A column is missing, a number is none, a box is empty or named twice; names file and line.
    """
    place = Path(path)
    files = sorted(place.glob("*.csv")) if place.is_dir() else [place]
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f"{place}: no such file. Needed: a CSV with the columns {', '.join(COLUMNS)}")
    labels: Labels = {}
    for file in files:
        _read_into(labels, file)
    if not labels:
        raise ValueError(f"{place}: no box in it; draw some 20 over several gripper openings: tactile-align label")
    return labels


def _read_into(labels: Labels, file: Path) -> None:
    with file.open(encoding="utf-8-sig", newline="") as handle:
        rows = csv.DictReader(handle)
        lacks = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if lacks:
            raise ValueError(
                f"{file}: line 1 lacks the column '{lacks[0]}'; it needs {', '.join(COLUMNS)} and has "
                f"{', '.join(rows.fieldnames or ())}"
            )
        for row in rows:
            where = f"{file}: line {rows.line_num}"
            try:
                frame = int(row["frame"])
                box = tuple(float(row[name]) for name in COLUMNS[4:])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}: frame and u0, v0, u1, v1 must be numbers; got {row}") from error
            if not (all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]):
                raise ValueError(f"{where}: a box needs u0 < u1 and v0 < v1; got {box}")
            boxes = labels.setdefault((row["episode"], row["camera"], row["sensor"]), {})
            if frame in boxes:
                raise ValueError(f"{where}: frame {frame} of {row['episode']} has two boxes; keep one")
            boxes[frame] = box  # type: ignore[assignment]  # four of them

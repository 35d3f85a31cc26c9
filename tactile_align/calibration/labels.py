"""Boxes drawn by hand or found by a detector: a CSV with one row per box."""

import csv
import math
from pathlib import Path

from tactile_align.calibration.evidence import Labels

COLUMNS = ("episode", "frame", "camera", "sensor", "u0", "v0", "u1", "v1")


def read_labels(path: str | Path) -> Labels:
    """Read boxes from a CSV with the columns episode, frame, camera, sensor, u0, v0, u1, v1.

    `episode` is the episode's file name, `frame` counts from 0, the box is in pixels of the stored frame where
    pixel i covers [i - 0.5, i + 0.5].

    Raises:
        FileNotFoundError: No such file.
        ValueError: A column is missing, a number is none, a box is empty or named twice; names file and line.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file. Needed: a CSV with the columns {', '.join(COLUMNS)}")
    labels: Labels = {}
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
    if not labels:
        raise ValueError(f"{file}: no box in it; draw some 20 over several gripper openings")
    return labels

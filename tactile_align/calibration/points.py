"""Points of a board that were found elsewhere, from a CSV."""

from pathlib import Path

import numpy as np

from tactile_align.calibration.boards import Board
from tactile_align.calibration.views import View
from tactile_align.errors import InputError
from tactile_align.files import read_csv


def read_points(path: Path, board: Board) -> dict[str, View]:
    """Read points found elsewhere: a CSV with the columns view, id, u, v.

    Raises:
        FileNotFoundError: No such file.
        InputError: A missing column, an id the board has not, numbers that are none; names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; needed the columns view, id, u, v")
    by_view: dict[str, list[tuple[int, float, float]]] = {}
    (_, header), *rows = read_csv(path) or [(1, [])]
    lacks = [name for name in ("view", "id", "u", "v") if name not in header]
    if lacks:
        raise InputError(f"{path}: line 1 lacks the column '{lacks[0]}'; needed view, id, u, v")
    for line, cells in rows:
        row = dict(zip(header, cells, strict=False))
        try:
            view, entry = row["view"], (int(row["id"]), float(row["u"]), float(row["v"]))
        except (KeyError, ValueError) as error:
            raise InputError(f"{path}: line {line}: id, u, v must be numbers; got {row}") from error
        if not (0 <= entry[0] < len(board.points) and np.isfinite(entry[1:]).all()):
            raise InputError(f"{path}: line {line}: id must be below {len(board.points)} and u, v finite; got {entry}")
        by_view.setdefault(view, []).append(entry)
    out = {}
    for name, entries in by_view.items():
        ids = np.array([entry[0] for entry in entries])
        readings = [board.points[turn[ids]] for turn in board.turns]
        out[name] = View(name, readings[0], np.array([entry[1:] for entry in entries]), tuple(readings[1:]))
    return out

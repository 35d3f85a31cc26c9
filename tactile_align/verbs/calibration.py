"""Verbs on rigs: print a board, verify. Heavy modules are imported by the verb that needs them."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from tactile_align.verbs import FAILED, GOOD, UNUSABLE


def verify(
    path: Positional[Path | None] = None,
    rig: str | None = None,
    layout: str | None = None,
    most: int | None = None,
    write: bool = False,
    poses: Path | None = None,
    arm: str | None = None,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Tell whether a rig explains the recordings: a table of checks with pass, warn, fail, and what to do next.

    With --poses and --arm it holds the arm's kinematics against poses that the controller reported instead.

    Args:
        path: Folder of episodes, or one file.
        rig: Name or path of the rig; rig.toml beside the episodes when left out.
        layout: Name or path of the episode layout; recognised when left out.
        most: Look at no more than this many episodes, evenly spread.
        write: Write the verdict into the rig file.
        poses: CSV of joints and controller poses.
        arm: Name or path of the arm for --poses.
        as_json: Machine-readable.
    """
    if (path is None) == (poses is None) or (poses is None) != (arm is None):
        print("error: give either PATH of episodes, or both --poses CSV and --arm ARM", file=sys.stderr)
        return UNUSABLE
    if poses is not None and arm is not None:
        from tactile_align.kinematics.controller import check_controller_poses

        report = check_controller_poses(poses, arm)
        print(json.dumps(report.as_dict(), indent=2, default=str) if as_json else report.text())
        return FAILED if report.verdict == "fail" else GOOD
    from tactile_align.calibration.verify import verify_episodes

    assert path is not None
    into = None
    if write:
        into = Path(rig) if rig is not None else (path if path.is_dir() else path.parent) / "rig.toml"
    found = verify_episodes(path, rig, layout=layout, most=most, write_into=into)
    print(found.json() if as_json else found.text())
    return FAILED if found.verdict == "fail" else GOOD


def board(
    out: Positional[Path],
    kind: Literal["charuco", "chessboard", "circles", "tag"] = "charuco",
    columns: int = 7,
    rows: int = 5,
    square_mm: float = 30.0,
    marker_mm: float | None = 22.0,
    dictionary: str = "DICT_4X4_50",
    id: int = 0,
    paper: str = "A4",
) -> int:
    """Print a calibration board as PDF and PNG, with its true size and how to measure it on the page.

    Args:
        out: File to write, without or with ending.
        kind: charuco is the most robust.
        columns: Squares along x (chessboard: inner corners; circles: circles).
        rows: The same along y.
        square_mm: Side of a square, distance of circles, or side of a tag, mm.
        marker_mm: Side of a ChArUco marker, mm.
        dictionary: ArUco dictionary.
        id: Which tag.
        paper: Paper size.
    """
    from tactile_align.calibration.board_page import describe, write_page
    from tactile_align.calibration.boards import Board

    marker = marker_mm / 1000 if kind == "charuco" and marker_mm is not None else None
    made = Board(
        kind=kind,
        columns=1 if kind == "tag" else columns,
        rows=1 if kind == "tag" else rows,
        square_m=square_mm / 1000,
        marker_m=marker,
        dictionary=dictionary,
        id=id,
    )
    for path in write_page(made, out, paper):
        print(path)
    print(describe(made), file=sys.stderr)
    return GOOD

"""Verbs on rigs: print a board, calibrate, verify. Heavy modules are imported by the verb that needs them."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from tactile_align.errors import InputError
from tactile_align.verbs import GOOD

if TYPE_CHECKING:
    from tactile_align.checks import Report

logger = logging.getLogger(__name__)


def verify(
    path: Positional[Path | None] = None,
    rig: str | None = None,
    layout: str | None = None,
    most: int | None = None,
    write: bool = False,
    poses: Path | None = None,
    arm: str | None = None,
    base: str | None = None,
    tip: str | None = None,
    labels: Path | None = None,
    page: Path | None = None,
    pictures: Path | None = None,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Tell whether a rig explains the recordings: a table of checks with pass, warn, fail, and what to do next.

    With --poses and --arm it holds the arm's kinematics against poses that the controller reported instead.

    Args:
        path: Folder of episodes, one file, or a calibration session (a folder with session.toml).
        rig: Name or path of the rig; rig.toml beside the episodes when left out.
        layout: Name or path of the episode layout; recognised when left out.
        most: Look at no more than this many episodes, evenly spread.
        write: Write the verdict into the rig file.
        poses: CSV of joints and controller poses.
        arm: Name or path of the arm for --poses.
        base: The link of a URDF --arm that the arm starts at; its root when left out.
        tip: The link of a URDF --arm that is the flange; its only end when left out.
        labels: CSV of sensor boxes drawn by hand.
        page: HTML page to write.
        pictures: Folder for a picture per view of a session, worst first.
        as_json: Machine-readable.
    """
    if (path is None) == (poses is None) or (poses is None) != (arm is None):
        raise InputError("give either PATH of episodes, or both --poses CSV and --arm ARM")
    if poses is not None and arm is not None:
        from tactile_align.kinematics.controller import check_controller_poses

        return _show(check_controller_poses(poses, arm, base, tip).report, as_json)
    assert path is not None
    if base is not None or tip is not None:
        raise InputError("--base and --tip go with --poses; for episodes set base and tip of the arm in the rig")
    into = None
    if write:
        into = Path(rig) if rig is not None else (path if path.is_dir() else path.parent) / "rig.toml"
    if pictures is not None and not (path / "session.toml").is_file():
        raise InputError("--pictures needs a calibration session; for episodes use: tactile-align overlay")
    from tactile_align.verify.labels import read_labels
    from tactile_align.verify.verify import verify as judge

    report = judge(
        path,
        rig,
        pictures=pictures,
        page=page,
        write_into=into,
        labels=None if labels is None else read_labels(labels),
        layout=layout,
        most=most,
    )
    return _show(report, as_json)


def _show(report: "Report", as_json: bool) -> int:
    print(report.json() if as_json else report.text())
    return report.exit_code


def board(
    out: Positional[Path],
    kind: Literal["charuco", "chessboard", "circles", "asymmetric_circles", "tag"] = "charuco",
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
    from tactile_align.facts import parse

    marker = marker_mm / 1000 if kind == "charuco" and marker_mm is not None else None
    stated = {
        "kind": kind,
        "columns": 1 if kind == "tag" else columns,
        "rows": 1 if kind == "tag" else rows,
        "square_m": square_mm / 1000,
        "marker_m": marker,
        "dictionary": dictionary,
        "id": id,
    }
    made = parse(Board, stated, "board")
    for path in write_page(made, out, paper):
        print(path)
    logger.info(describe(made))
    return GOOD


def label(
    episodes: Positional[Path],
    camera: str,
    sensor: str,
    rig: str | None = None,
    count: int = 20,
    layout: str | None = None,
    out: Path = Path("label.html"),
    overwrite: bool = False,
) -> int:
    """Write a page on which you draw boxes around a sensor, for calibrate finger and verify --labels.

    One HTML file that opens from disk, offline; its button saves the CSV.

    Args:
        episodes: Folder of episodes, or one file.
        camera: Camera to look through.
        sensor: Sensor to look for, by its name in the rig.
        rig: Name or path of the rig; rig.toml beside the episodes when left out. It spreads frames over the openings.
        count: How many frames.
        layout: Name or path of the episode layout; recognised when left out.
        out: Page to write.
        overwrite: Replace an existing page.
    """
    from tactile_align.viz.label.page import label_page

    print(label_page(episodes, camera, sensor, out, rig=rig, count=count, layout=layout, overwrite=overwrite))
    logger.info("open it in a browser, draw, save the CSV: then calibrate finger or verify, with --labels")
    return GOOD


def calibrate(
    what: Positional[Literal["intrinsics", "hand-eye", "finger"]],
    folder: Positional[Path],
    rig: str,
    labels: Path | None = None,
    tag: Path | None = None,
    camera: str | None = None,
    sensor: str | None = None,
    layout: str | None = None,
    model: Literal["pinhole", "brown", "rational", "fisheye"] = "brown",
    loose_robot: bool = False,
    accept_doubtful: bool = False,
    out: Path | None = None,
    dry_run: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Calibrate a camera's lens, where it sits, or where a sensor sits on its finger; exit 1 when nothing is written.

    A result that fails its checks is never written, nor is a finger's that no box asks for. A dry run exits as the
    run itself would.

    Args:
        what: intrinsics and hand-eye take a calibration session, finger takes episodes and labelled boxes or a tag.
        folder: The session (session.toml, images, poses), or the episodes.
        rig: Name or path of the rig.
        labels: CSV of labelled sensor boxes, for finger; drawn with: tactile-align label.
        tag: Tag file (id, side_m, dictionary, where it is glued), for finger, in place of labels.
        camera: Camera of the labels or the tag, for finger; may be left out where there is only one.
        sensor: Sensor of the labels, for finger; may be left out where they name only one.
        layout: Name or path of the episode layout, for finger; recognised when left out.
        model: Lens model.
        loose_robot: For hand-eye with an arm that repeats poorly: let each pose move by about 0.5 mm and 0.05 degrees.
        accept_doubtful: For finger: write a sensor or stroke found far off, or a change that is not needed.
        out: Rig file to write; the rig's own file when left out.
        dry_run: Only report.
        as_json: Machine-readable.
    """
    target = None if dry_run else out or Path(rig)
    if target is not None and target.suffix != ".toml":
        raise InputError(f"'{rig}' is a shipped rig, which is not overwritten; name a file with --out, or --dry-run")
    needed = True
    if what == "finger":
        report, needed = _finger(folder, rig, labels, tag, camera, sensor, layout, accept_doubtful, target)
    else:
        from tactile_align.sessions.calibrate import calibrate_hand_eye, calibrate_intrinsics_of

        if what == "intrinsics":
            report = calibrate_intrinsics_of(folder, rig, model=model, out=target).report
        else:
            from tactile_align.calibration.bundle_adjustment import Prior

            prior = Prior() if loose_robot else None
            report = calibrate_hand_eye(folder, rig, prior=prior, model=model, out=target).report
    status = _show(report, as_json)
    if status != GOOD or not (needed or accept_doubtful):
        why = "no change needed" if not needed else "see what failed"
        logger.info(f"not written ({why}): {target or rig}")
    else:
        logger.info(f"not written (dry run): {rig}" if target is None else f"written: {target}")
    return status


def _finger(
    folder: Path,
    rig: str,
    labels: Path | None,
    tag: Path | None,
    camera: str | None,
    sensor: str | None,
    layout: str | None,
    accept: bool,
    out: Path | None,
) -> "tuple[Report, bool]":
    """Return the report, and whether a change is needed at all."""
    if (labels is None) == (tag is None):
        raise InputError(
            "calibrate finger needs either --labels, boxes drawn with `tactile-align label`, or --tag, a tag's file"
        )
    if labels is not None:
        from tactile_align.finger.from_boxes import calibrate_finger
        from tactile_align.verify.labels import read_labels

        drawn = read_labels(labels)
        found = calibrate_finger(
            folder, rig, drawn, camera=camera, sensor=sensor, layout=layout, accept=accept, out=out
        )
        return found.report, found.needed
    from tactile_align.finger.from_tag import calibrate_finger_by_tag
    from tactile_align.finger.tag_fit import read_tag

    assert tag is not None
    tagged = calibrate_finger_by_tag(folder, rig, read_tag(tag), camera=camera, layout=layout, accept=accept, out=out)
    return tagged.report, True

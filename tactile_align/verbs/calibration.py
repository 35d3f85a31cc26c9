"""Verbs on rigs: verify, board, label, calibrate. Heavy modules are imported by the verb that needs them."""

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from tactile_align.calibration.lens_models import LensModel
from tactile_align.errors import InputError
from tactile_align.verbs import GOOD, show

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
    """Check a rig against recordings: a table of checks with pass, warn or fail, and advice; exit 1 when one fails.

    With --poses and --arm it checks the arm's kinematics against poses that the robot controller reported.

    Args:
        path: Folder of episodes, one file, or a calibration session (a folder with session.toml).
        rig: Name or path of the rig; default rig.toml beside the episodes.
        layout: Name or path of the episode layout; recognised by default.
        most: Largest number of episodes to check, evenly spread.
        write: Write the verdict into the rig file.
        poses: CSV of joint angles and controller poses.
        arm: Name or path of the arm for --poses.
        base: Base link of the arm in a URDF given by --arm; default its root.
        tip: Flange link of the arm in a URDF given by --arm; default its only end.
        labels: CSV of sensor boxes drawn by hand, see: tactile-align label.
        page: HTML page to write.
        pictures: Folder to write a picture of each view of a calibration session into, numbered from the worst.
        as_json: Print JSON.
    """
    if (path is None) == (poses is None) or (poses is None) != (arm is None):
        raise InputError("give either PATH of episodes, or both --poses CSV and --arm ARM")
    if poses is not None and arm is not None:
        from tactile_align.kinematics.controller import check_controller_poses

        return show(check_controller_poses(poses, arm, base, tip).report, as_json)
    assert path is not None
    if base is not None or tip is not None:
        raise InputError("--base and --tip go with --poses; for episodes set base and tip of the arm in the rig")
    if pictures is not None and not (path / "session.toml").is_file():
        raise InputError("--pictures needs a calibration session; for episodes use: tactile-align overlay")
    from tactile_align.verify.labels import read_labels
    from tactile_align.verify.verify import verify as judge

    folder = path if path.is_dir() else path.parent
    into = Path(rig or folder / "rig.toml") if write else None
    boxes = None if labels is None else read_labels(labels)
    report = judge(path, rig, layout=layout, most=most, labels=boxes, page=page, pictures=pictures, write_into=into)
    return show(report, as_json)


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
    """Write a calibration board as PDF and PNG to print, with its size and measuring instructions on the page.

    Args:
        out: File to write, with or without ending.
        kind: Pattern; charuco is the most robust.
        columns: Number of squares along x (chessboard: inner corners; circles: circles).
        rows: The same along y.
        square_mm: Side of a square, distance between circles, or side of a tag, mm.
        marker_mm: Side of a ChArUco marker, mm.
        dictionary: ArUco dictionary.
        id: Number of the tag in the dictionary.
        paper: Paper size.
    """
    from tactile_align.calibration.board_page import describe, write_page
    from tactile_align.calibration.boards import Board
    from tactile_align.facts import parse

    marker = marker_mm / 1000 if kind == "charuco" and marker_mm is not None else None
    columns, rows = (1, 1) if kind == "tag" else (columns, rows)
    size = {"columns": columns, "rows": rows, "square_m": square_mm / 1000, "marker_m": marker}
    made = parse(Board, {"kind": kind, **size, "dictionary": dictionary, "id": id}, "board")
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
    """Write an HTML page for drawing boxes around a sensor, for calibrate finger and verify --labels.

    The page works offline, opened from disk; its button saves the boxes as CSV.

    Args:
        episodes: Folder of episodes, or one file.
        camera: Camera whose frames are shown.
        sensor: Sensor to draw boxes around, by its name in the rig.
        rig: Name or path of the rig, which spreads the frames over the gripper's openings; default rig.toml beside the
            episodes.
        count: Number of frames.
        layout: Name or path of the episode layout; recognised by default.
        out: Page to write.
        overwrite: Replace an existing page.
    """
    from tactile_align.viz.label.page import label_page

    print(label_page(episodes, camera, sensor, out, rig=rig, count=count, layout=layout, overwrite=overwrite))
    logger.info("open the page in a browser, draw boxes and save the CSV; then run calibrate finger or verify --labels")
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
    model: LensModel = "brown",
    loose_robot: bool = False,
    accept_doubtful: bool = False,
    out: Path | None = None,
    dry_run: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Calibrate a camera's lens, a camera's pose, or a sensor's pose on its finger; exit 1 when a check fails.

    A result that fails its checks is not written, nor is a finger calibration when the boxes need no change. A dry run
    has the exit status of the run itself.

    Args:
        what: intrinsics: the lens, hand-eye: the camera's pose, both from a calibration session; finger: the sensor's
            pose, from episodes with labelled boxes or a tag.
        folder: Calibration session (session.toml, images, poses), or episodes.
        rig: Name or path of the rig.
        labels: For finger: CSV of labelled sensor boxes, drawn with tactile-align label.
        tag: For finger, instead of labels: tag file (id, side_m, dictionary, pose on the finger).
        camera: For finger: camera of the labels or of the tag; optional if there is only one.
        sensor: For finger: sensor of the labels; optional if they name only one.
        layout: For finger: name or path of the episode layout; recognised by default.
        model: Lens model.
        loose_robot: For hand-eye with an arm of low repeatability: let poses vary by about 0.5 mm and 0.05 degrees.
        accept_doubtful: For finger: also write a sensor pose or stroke far from the present one, or an unneeded change.
        out: Rig file to write; default the rig's own file.
        dry_run: Report only.
        as_json: Print JSON.
    """
    target = None if dry_run else out or Path(rig)
    if target is not None and target.suffix != ".toml":
        raise InputError(f"'{rig}' is a shipped rig, which is not overwritten; name a file with --out, or --dry-run")
    options: dict[str, Any] = {"camera": camera, "layout": layout, "accept": accept_doubtful, "out": target}
    needed = True
    if what == "intrinsics":
        from tactile_align.sessions.calibrate import calibrate_intrinsics_of

        report = calibrate_intrinsics_of(folder, rig, model=model, out=target).report
    elif what == "hand-eye":
        from tactile_align.calibration.bundle_adjustment import Prior
        from tactile_align.sessions.calibrate import calibrate_hand_eye

        prior = Prior() if loose_robot else None
        report = calibrate_hand_eye(folder, rig, prior=prior, model=model, out=target).report
    elif (labels is None) == (tag is None):
        raise InputError(
            "calibrate finger needs either --labels, drawn with `tactile-align label`, or --tag, a tag file"
        )
    elif labels is not None:
        from tactile_align.finger.from_boxes import calibrate_finger
        from tactile_align.verify.labels import read_labels

        finger = calibrate_finger(folder, rig, read_labels(labels), sensor=sensor, **options)
        report, needed = finger.report, finger.needed
    else:
        from tactile_align.finger.from_tag import calibrate_finger_by_tag
        from tactile_align.finger.tag_fit import read_tag

        assert tag is not None
        report = calibrate_finger_by_tag(folder, rig, read_tag(tag), **options).report
    status = show(report, as_json)
    if status != GOOD or not (needed or accept_doubtful):
        why = "no change needed" if not needed else "see what failed"
        logger.info(f"not written ({why}): {target or rig}")
    else:
        logger.info(f"not written (dry run): {rig}" if target is None else f"written: {target}")
    return status

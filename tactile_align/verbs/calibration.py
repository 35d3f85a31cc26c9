"""Commands for rigs: `verify`, `board`, `label`, `calibrate`. Each command imports heavy modules only when it runs."""

import logging
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from tactile_align.calibration import LensModel
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
    everything: Annotated[bool, arg(name="all")] = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Check a rig against recordings and print a table of checks with advice; the exit status is 1 if a check fails.

    With --poses, check an arm's kinematics against poses that the robot controller reported: those of a CSV file (with
    --arm), or of an array in the recordings.

    Args:
        path: Folder of episodes, one file, or a calibration session (a folder with session.toml).
        rig: Name or path of the rig; default: rig.toml beside the episodes, or the rig that the recording carries.
        layout: Name or path of the episode layout; default: detect the layout.
        most: Maximum number of episodes to check; they are spread evenly over the folder.
        write: Write the verdict into the rig file.
        poses: CSV file with joint angles and the poses that the controller reported; with PATH, an array of the
            recordings with the poses of the flange, such as robot/tcp_pose.
        arm: Name or path of the arm for --poses; with PATH, the name of the arm in the rig (default: its only arm).
        base: Base link, if --arm is a URDF; default: the root of the URDF.
        tip: Flange link, if --arm is a URDF; default: the only leaf link of the URDF.
        labels: CSV file of sensor boxes drawn by hand with `tactile-align label`.
        page: HTML file to write the result to.
        pictures: Folder to write one picture per board image to; only for a calibration session. Picture 1 shows the
            board image with the largest error.
        everything: Also print the checks that passed, and the tables.
        as_json: Print the result as JSON, with all checks and tables.
    """
    if poses is not None:
        idle: dict[str, Any] = {"--most": most, "--write": write or None, "--labels": labels}
        idle |= {"--page": page, "--pictures": pictures}
        idle |= {"--rig": rig, "--layout": layout} if path is None else {"--base": base, "--tip": tip}
        if given := ", ".join(name for name, value in idle.items() if value is not None):
            need = "ARRAY takes the arm from the rig" if path else "FILE.csv takes the arm from --arm"
            raise InputError(
                f"verify --poses {need} and only prints its checks; got {given}. Remove these options: they have no "
                f"effect on it"
            )
    if path is not None and poses is not None:
        from tactile_align.verify.verify import verify_poses

        return show(verify_poses(path, poses.as_posix(), rig, arm=arm, layout=layout), as_json, everything)
    if (path is None) == (poses is None) or (poses is None) != (arm is None):
        options = {"PATH": path, "--poses": poses, "--arm": arm}
        given = ", ".join(name for name, value in options.items() if value is not None) or "none of them"
        raise InputError(
            f"verify needs either PATH alone, or --poses together with --arm; got {given}. Give PATH to check a rig, "
            f"or --poses and --arm to check an arm"
        )
    if poses is not None and arm is not None:
        from tactile_align.kinematics.controller import check_controller_poses

        return show(check_controller_poses(poses, arm, base, tip).report, as_json, everything)
    assert path is not None
    if base is not None or tip is not None:
        raise InputError(
            "--base and --tip need --poses, but --poses was not given. To verify episodes, remove --base and --tip and "
            "set base and tip of the arm in the rig file"
        )
    if pictures is not None and not (path / "session.toml").is_file():
        raise InputError(
            f"--pictures needs a calibration session, but {path} does not contain session.toml. To draw pictures of "
            f"episodes, run: tactile-align overlay"
        )
    from tactile_align.verify.labels import read_labels
    from tactile_align.verify.verify import verify as judge

    into = _verdict_file(path, rig) if write else None
    boxes = None if labels is None else read_labels(labels)
    report = judge(path, rig, layout=layout, most=most, labels=boxes, page=page, pictures=pictures, write_into=into)
    return show(report, as_json, everything)


def _verdict_file(path: Path, rig: str | None) -> Path:
    """Return the rig file that receives the verdict: that of --rig, or rig.toml beside the recordings."""
    from tactile_align.config.data import rig_places

    place = path if path.exists() else Path(str(path).partition("#")[0])
    files = rig_places(place) if rig is None else (Path(rig),)
    file = next((file for file in files if file.suffix == ".toml" and file.is_file()), None)
    if file is None:
        raise InputError(
            f"--write needs a rig file (.toml) for the verdict; got {rig or f'no rig.toml beside {place}'}. Choose a "
            f"file with --rig FILE.toml, or remove --write"
        )
    return file


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
    """Write a calibration board as PDF and PNG for printing; the page states the size and how to measure the print.

    Args:
        out: File to write, with or without extension.
        kind: Pattern of the board; charuco is the most robust.
        columns: Number along x. charuco: squares. chessboard: inner corners. circles, asymmetric_circles: circles.
        rows: Number along y. charuco: squares. chessboard: inner corners. circles, asymmetric_circles: circles.
        square_mm: Side of a square, distance between the centres of two circles, or side of a tag, mm.
        marker_mm: For charuco: side of a marker, mm.
        dictionary: ArUco dictionary of the markers, by its OpenCV name.
        id: For tag: ID of the tag in the dictionary.
        paper: Paper size, for example A4 or A3.
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
    count: int = 12,
    layout: str | None = None,
    not_in: Path | None = None,
    out: Path = Path("label.html"),
    overwrite: bool = False,
) -> int:
    """Write an HTML page on which you draw boxes around a sensor, for `calibrate finger` and `verify`.

    Open the page in a browser; it works offline. The button "Save CSV" saves the boxes as a CSV file. Pass that file to
    `calibrate finger` or `verify` with --labels.

    Args:
        episodes: Folder of episodes, or one file.
        camera: Camera whose frames are shown.
        sensor: Sensor around which you draw boxes, by its name in the rig.
        rig: Name or path of the rig; default: rig.toml beside the episodes, or the rig that the recording carries, if
            there is one. With a rig, the frames cover the range of gripper openings.
        count: Number of frames. 12 are enough to verify and for `calibrate finger`; `calibrate camera` needs 20.
        layout: Name or path of the episode layout; default: detect the layout.
        not_in: CSV file of boxes, or a folder of such files; their frames of this camera are left out.
        out: HTML page to write.
        overwrite: Replace an existing page.
    """
    from tactile_align.verify.labels import read_labels
    from tactile_align.viz.label.page import label_page

    drawn = None if not_in is None else read_labels(not_in)
    options: dict[str, Any] = {"count": count, "layout": layout, "not_in": drawn, "overwrite": overwrite}
    print(label_page(episodes, camera, sensor, out, rig=rig, **options))
    logger.info(
        "open the page, draw boxes and save the CSV file; then run `verify` with --labels, and `calibrate finger` only "
        "if `verify` advises it"
    )
    return GOOD


def calibrate(
    what: Positional[Literal["intrinsics", "hand-eye", "finger", "camera"]],
    folder: Positional[Path],
    rig: str | None = None,
    labels: Path | None = None,
    tag: Path | None = None,
    camera: str | None = None,
    sensor: str | None = None,
    layout: str | None = None,
    model: LensModel = "brown",
    loose_robot: bool = False,
    keep_stroke: bool = False,
    accept_doubtful: bool = False,
    out: Path | None = None,
    dry_run: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Calibrate a camera's lens, a camera's pose, or the poses of a gripper's sensors; exit status 1 if a check fails.

    A result that fails its checks is not written. A result from boxes is also not written if the current rig already
    fits the boxes well: then no change is needed, and the exit status is 0. A dry run writes nothing and returns the
    same exit status as a normal run.

    Args:
        what: What to calibrate. intrinsics: the camera's lens, from a calibration session. hand-eye: the camera's pose,
            from a calibration session. finger: the poses of a gripper's sensors on their fingers, and the stroke, from
            episodes with labelled boxes or a tag. camera: the camera's pose, fixed or on a hand, from episodes with
            labelled boxes over several arm poses; the sensors must be right already.
        folder: Folder of a calibration session (session.toml, images, poses), or of episodes.
        rig: Name or path of the rig. For intrinsics it may be left out: --out then receives a new rig that contains
            only the camera.
        labels: For finger and camera: CSV file of sensor boxes drawn with `tactile-align label`, or a folder of such
            files.
        tag: For finger, instead of --labels: TOML file of a printed tag (id, side_m, dictionary, pose on the finger).
        camera: For finger and camera: camera of the labels or of the tag; can be omitted if there is only one.
        sensor: For finger and camera: the only sensor of the labels to use; default: all of them.
        layout: For finger and camera: name or path of the episode layout; default: detect the layout.
        model: Lens model.
        loose_robot: For hand-eye with an arm of low repeatability: treat the robot poses as uncertain, with standard
            deviations of 0.5 mm and 0.05 degrees.
        keep_stroke: For finger with --labels: keep the gripper's stroke of the rig, because it is known, and fit only
            the sensors' poses.
        accept_doubtful: For finger and camera: also write a result that is far from the current rig, or that improves
            too little.
        out: Rig file to write; default: the file given by --rig. A new file is a copy of it with the new values.
        dry_run: Print the report, write nothing.
        as_json: Print the result as JSON.
    """
    if rig is None and (what != "intrinsics" or (out is None and not dry_run)):
        rest = ", or start a rig with --out NEW.toml" if what == "intrinsics" else ""
        raise InputError(f"`calibrate {what}` needs a rig, but --rig was not given. Give --rig RIG{rest}")
    target = None if dry_run else out or (Path(rig) if rig else None)
    if target is not None and target.suffix != ".toml":
        fault = "its name does not end in .toml" if out else "it is a shipped rig, which is never overwritten"
        raise InputError(f"cannot write '{target}': {fault}. Give a .toml file with --out, or use --dry-run")
    if keep_stroke and (what != "finger" or labels is None):
        raise InputError("--keep-stroke needs `calibrate finger` with --labels. Give these, or remove --keep-stroke")
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
    elif tag is not None and what == "finger" and labels is None:
        from tactile_align.finger.from_tag import calibrate_finger_by_tag
        from tactile_align.finger.tag_fit import read_tag

        assert rig is not None
        report = calibrate_finger_by_tag(folder, rig, read_tag(tag), **options).report
    elif labels is None or tag is not None:
        flags = {"--labels": labels, "--tag": tag}
        given = " and ".join(flag for flag, value in flags.items() if value is not None) or "neither"
        need = "either --labels (drawn with `tactile-align label`) or --tag", "Give exactly one of them"
        if what == "camera":
            by_tag = "for a camera on the hand that carries a tag, use `calibrate finger --tag`"
            need = "--labels (drawn with `tactile-align label`) and no --tag", f"Give --labels alone; {by_tag}"
        raise InputError(f"`calibrate {what}` needs {need[0]}; got {given}. {need[1]}")
    else:
        from tactile_align.finger.camera_from_boxes import calibrate_camera
        from tactile_align.finger.from_boxes import calibrate_finger
        from tactile_align.verify.labels import read_labels

        assert rig is not None
        solve = partial(calibrate_finger, keep_stroke=keep_stroke) if what == "finger" else calibrate_camera
        fitted = solve(folder, rig, read_labels(labels), sensor=sensor, **options)
        report, needed = fitted.report, fitted.needed
    status = show(report, as_json)
    if status != GOOD or not (needed or accept_doubtful):
        why = "no change needed" if not needed else "a check failed, see above"
        logger.info(f"not written ({why}): {target or rig}")
    else:
        logger.info(f"not written (dry run): {rig or folder}" if target is None else f"written: {target}")
        if labels is not None and target is not None:
            logger.info(f"to prove it, draw other boxes (`tactile-align label` with --not-in {labels}), then `verify`")
    return status

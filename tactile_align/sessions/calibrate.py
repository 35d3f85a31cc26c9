"""Calibration of a camera's intrinsics and pose from a session folder, and verification of a session."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tactile_align.calibration.bundle_adjustment import Prior
from tactile_align.calibration.camera import Camera, LensModel
from tactile_align.calibration.hand_eye import MIN_VIEWS, HandEye, solve_hand_eye
from tactile_align.calibration.intrinsics import Intrinsics, calibrate_intrinsics
from tactile_align.calibration.rig import Rig, RigCamera, load_rig
from tactile_align.checks import Check, Report, graded
from tactile_align.errors import InputError
from tactile_align.geometry.frames import invert, rotation_log
from tactile_align.sessions.diagnosis import find_faults
from tactile_align.sessions.report import LIMITS, draw_views, judge, write_page
from tactile_align.sessions.session import Session, read_session
from tactile_align.sessions.write_rig import place_camera, save_unless_failed, write_verdict


@dataclass(frozen=True)
class Calibrated:
    """Result of a calibration and its checks.

    Attributes:
        session: The session that was read.
        camera: Camera model of the session's images; its intrinsics were given or were calibrated.
        intrinsics: Result of the intrinsics calibration; None if the intrinsics were known.
        hand_eye: Result of the hand-eye calibration; None if only intrinsics were calibrated or a fault prevents it.
        faults: Known faults of the session, as checks with ids "fault/NAME"; if one fails, no pose is computed.
        report: All checks.
        rig: The rig that contains the result; None if no rig was given or no pose was computed.
    """

    session: Session
    camera: Camera
    intrinsics: Intrinsics | None
    hand_eye: HandEye | None
    faults: tuple[Check, ...]
    report: Report
    rig: Rig | None


def calibrate_intrinsics_of(
    folder: str | Path,
    rig: str | Path | Rig | None = None,
    *,
    model: LensModel = "brown",
    compare: bool = True,
    out: str | Path | None = None,
) -> Calibrated:
    """Return the intrinsics of a camera, calibrated from the images of a session.

    Args:
        folder: The session's folder.
        rig: The rig whose camera, named in session.toml, receives the result; None: `out` receives a new rig that
            contains only this camera, at the origin of `world` until `calibrate_hand_eye` finds its pose.
        model: The lens model.
        compare: Whether to compare lens models on held-out views.
        out: Where to write the rig; None: do not write (a dry run). A result with a failed check is never written.

    Raises:
        FileNotFoundError: A file of the session or of the rig was not found.
        InputError: A file or value cannot be used; the message states file and key.
    """
    if rig is None and out is not None and Path(out).exists():
        raise InputError(f"{out}: needed a new file, because no rig is given; this file exists. Give it as the rig")
    session = read_session(folder)
    name = session.fact.camera
    intrinsics = calibrate_intrinsics(session.views, session.width, session.height, model, name=name, compare=compare)
    camera = intrinsics.camera
    report = judge(session, camera, intrinsics, None, ())
    changed = None
    lens = {key: getattr(camera, key) for key in ("width", "height", "model", "distortion", "valid_radius")}
    lens |= {"K": tuple(map(tuple, camera.K.tolist()))}
    if rig is None and out is not None:
        place = {"parent": "world", "translation_m": (0.0, 0.0, 0.0), "quat_wxyz": (1.0, 0.0, 0.0, 0.0)}
        changed = Rig(name=Path(out).stem, status="nominal", cameras={name: RigCamera.model_validate(lens | place)})
        save_unless_failed(changed, out, report, rig)
    elif rig is not None:
        known = rig if isinstance(rig, Rig) else load_rig(rig)
        if session.fact.episode is not None and name in known.cameras and known.cameras[name].image_map:
            raise InputError(
                f"{session.name}: intrinsics need raw frames, but the recorder changed the episode's frames (image_map "
                f"of camera {name}). Take images with the camera itself"
            )
        changed = known.with_camera(name, **lens)
        save_unless_failed(changed, out, report, rig)
    return Calibrated(session, camera, intrinsics, None, (), report, changed)


def calibrate_hand_eye(
    folder: str | Path,
    rig: str | Path | Rig | None = None,
    *,
    prior: Prior | None = None,
    model: LensModel = "brown",
    out: str | Path | None = None,
) -> Calibrated:
    """Return the pose of a session's camera, calibrated from the robot's poses and the images of a board.

    The intrinsics come from session.toml, or from the rig, or are calibrated from the views, in this order. The pose
    of a fixed camera is given in `world`, unless its parent is an arm's base.

    Args:
        folder: The session's folder. In session.toml, `mounted` states what moves and `parent` states the camera's
            parent frame.
        rig: The rig that receives the result; None: the result is only reported.
        prior: Standard deviations by which each robot pose may be corrected; None: robot poses are exact.
        model: Lens model, used if the intrinsics are calibrated from the views.
        out: Where to write the rig; None: do not write (a dry run). A result with a failed check is never written.

    Raises:
        FileNotFoundError: A file of the session or of the rig was not found.
        InputError: A file or value cannot be used; the message states file and key.
    """
    session = read_session(folder)
    known = rig if rig is None or isinstance(rig, Rig) else load_rig(rig)
    camera, intrinsics = _camera_of(session, known, model)
    mounted = session.fact.mounted
    if mounted is None:
        raise InputError(
            f"{session.name}: session.toml does not state whether camera or board is on the arm. "
            f'Add mounted = "moving" (camera on the arm) or "fixed" (board on the arm)'
        )
    if len(session.views) < MIN_VIEWS:
        lost = f" (unusable: {', '.join(session.lost[:3])})" if session.lost else ""
        raise InputError(
            f"{session.name}: hand-eye needs at least {MIN_VIEWS} usable views, preferably 15; got "
            f"{len(session.views)}{lost}. Take more images"
        )
    hand_eye: HandEye | None = None
    faults = tuple(find_faults(session, camera))
    if not any(fault.status == "fail" for fault in faults):
        hand_eye = solve_hand_eye(camera, session.T_base_link(), session.views, mounted, prior=prior)
    report = judge(session, camera, intrinsics, hand_eye, faults)
    changed = None
    if known is not None and hand_eye is not None:
        changed = place_camera(known, session, hand_eye)
        save_unless_failed(changed, out, report, rig)
    return Calibrated(session, camera, intrinsics, hand_eye, faults, report, changed)


def verify_session(
    folder: str | Path,
    rig: str | Path | Rig | None = None,
    *,
    pictures: str | Path | None = None,
    page: str | Path | None = None,
    write_into: str | Path | None = None,
) -> Report:
    """Return the report on a calibration session; with a rig, the report also covers the rig's camera pose.

    Args:
        folder: The session's folder.
        rig: The rig whose camera pose is compared with the calibrated pose; None: judge the session alone.
        pictures: A folder that receives one picture for each of the views with the largest errors; None: no pictures.
        page: Where to write an HTML page; None: no page.
        write_into: A rig file whose [verified] table receives the verdict; None: do not write the verdict.

    Raises:
        FileNotFoundError: A file of the session or of the rig was not found.
        InputError: A file or value cannot be used; the message states file and key.
    """
    known = rig if rig is None or isinstance(rig, Rig) else load_rig(rig)
    calibrated = calibrate_hand_eye(folder, known)
    result, hand_eye, session = replace(calibrated.report, command="verify"), calibrated.hand_eye, calibrated.session
    if known is not None and calibrated.rig is not None and hand_eye is not None:
        checks = _rig_against(known, calibrated.rig, session.fact.camera, hand_eye)
        result = replace(result, checks=(*result.checks, *checks), subject=f"rig {known.name} against {result.subject}")
    files: list[Path] = []
    if pictures is not None and hand_eye is not None:
        files = draw_views(session, calibrated.camera, hand_eye, Path(pictures))
    if page is not None:
        write_page(result, page, files)
    if write_into is not None:
        write_verdict(result, write_into)
    return result


def _rig_against(known: Rig, solved: Rig, name: str, hand_eye: HandEye) -> list[Check]:
    """Return the checks of a rig's camera pose against the pose that was calibrated from the session."""
    old, new = known.cameras[name], solved.cameras[name]
    if old.parent != new.parent:
        advice = f"Set the same parent for camera {name} in the rig and in session.toml."
        title = "Parent of the rig's camera"
        return [Check("camera-parent", title, "fail", old.parent, limit=new.parent, advice=advice)]
    off = invert(new.T_parent_this) @ old.T_parent_this
    advice = "Write this session's pose into the rig: `tactile-align calibrate hand-eye SESSION --rig RIG`."
    checks = []
    for kind, scale, vector, deviations in (
        ("camera-translation", 1e3, off[:3, 3], hand_eye.sigma_t_m),
        ("camera-rotation", np.degrees(1.0), rotation_log(off[:3, :3]), hand_eye.sigma_r_rad),
    ):
        # Errors below what the session can resolve must not count against the rig.
        limit, sigma = LIMITS[kind], scale * float(np.linalg.norm(deviations))
        limit = replace(limit, good=max(limit.good, 3 * sigma), poor=max(limit.poor, 6 * sigma))
        checks.append(graded({kind: limit}, kind, scale * float(np.linalg.norm(vector)), advice=advice))
    return checks


def _camera_of(session: Session, rig: Rig | None, model: LensModel) -> tuple[Camera, Intrinsics | None]:
    name = session.fact.camera
    if session.fact.intrinsics is not None:
        return session.fact.intrinsics.camera(name), None
    if rig is not None and name in rig.cameras:
        known = rig.cameras[name]
        # Images of a folder are raw frames or frames as the recorder stores them; those of an episode are the latter.
        if session.fact.episode is None and (session.width, session.height) == (known.width, known.height):
            return known.raw, None
        return known.stored, None
    intrinsics = calibrate_intrinsics(session.views, session.width, session.height, model, name=name)
    return intrinsics.camera, intrinsics

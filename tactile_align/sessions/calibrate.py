"""Calibration of intrinsics and hand-eye from a session folder, with the result written into a rig file."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tactile_align.calibration.bundle_adjustment import Prior
from tactile_align.calibration.camera import Camera, LensModel
from tactile_align.calibration.hand_eye import MIN_VIEWS, HandEye, solve_hand_eye
from tactile_align.calibration.intrinsics import Intrinsics, calibrate_intrinsics
from tactile_align.calibration.rig import Rig, load_rig
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
        session: What was read.
        camera: The camera of the session's images, as used or calibrated.
        intrinsics: Evidence for the camera; None where it was taken as known.
        hand_eye: Evidence for its pose; None where only intrinsics were asked for or no pose could be found.
        faults: Checks "fault/NAME"; where one fails there is no pose.
        report: All checks.
        rig: The rig with the result in it; None without a rig.
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
    """Calibrate a camera from the images of a session.

    Args:
        folder: The session.
        rig: The rig whose camera (named in session.toml) takes the result; None: only report.
        model: The lens model.
        compare: Whether to compare lens models on held-out views.
        out: Where to write the rig; None: do not write (a dry run). A result that fails is never written.

    Raises:
        FileNotFoundError, InputError: What cannot be used, by file and key.
    """
    session = read_session(folder)
    name = session.fact.camera
    intrinsics = calibrate_intrinsics(session.views, session.width, session.height, model, name=name, compare=compare)
    camera = intrinsics.camera
    report = judge(session, intrinsics, None, ())
    changed = None
    if rig is not None:
        known = rig if isinstance(rig, Rig) else load_rig(rig)
        if session.fact.episode is not None and name in known.cameras and known.cameras[name].image_map:
            raise InputError(
                f"{session.name}: K belongs to the raw frame, but the episode's frames went through image_map of "
                f"camera {name}; take images from the camera itself"
            )
        lens = {key: getattr(camera, key) for key in ("width", "height", "model", "distortion", "valid_radius")}
        changed = known.with_camera(name, K=tuple(map(tuple, camera.K.tolist())), **lens)
        save_unless_failed(changed, out, report)
    return Calibrated(session, camera, intrinsics, None, (), report, changed)


def calibrate_hand_eye(
    folder: str | Path,
    rig: str | Path | Rig | None = None,
    *,
    prior: Prior | None = None,
    model: LensModel = "brown",
    out: str | Path | None = None,
) -> Calibrated:
    """Find where a session's camera sits; intrinsics come from the session, else from the rig, else from the views.

    A fixed camera seen through an arm that does not stand at the world's origin gets its pose in `world`.

    Args:
        folder: The session; session.toml states what moves (`mounted`) and what the camera hangs on (`parent`).
        rig: The rig that takes the result; None: only report.
        prior: Let each robot pose move by about this much.
        model: Lens model where intrinsics come from the views.
        out: Where to write the rig; None: do not write (a dry run). A result that fails is never written.

    Raises:
        FileNotFoundError, InputError: What cannot be used, by file and key.
    """
    session = read_session(folder)
    known = rig if rig is None or isinstance(rig, Rig) else load_rig(rig)
    camera, intrinsics = _camera_of(session, known, model)
    mounted = session.fact.mounted
    if mounted is None:
        raise InputError(
            f'{session.name}: session.toml needs mounted = "moving" (camera on the arm) or "fixed" (board on the arm)'
        )
    if len(session.views) < MIN_VIEWS:
        lost = f" ({', '.join(session.lost[:3])} lost)" if session.lost else ""
        raise InputError(
            f"{session.name}: hand-eye needs at least {MIN_VIEWS} usable views, better 15; got "
            f"{len(session.views)}{lost}"
        )
    hand_eye: HandEye | None = None
    faults = tuple(find_faults(session, camera))
    if not any(fault.status == "fail" for fault in faults):
        hand_eye = solve_hand_eye(camera, session.T_base_link(), session.views, mounted, prior=prior)
    report = judge(session, intrinsics, hand_eye, faults)
    changed = None
    if known is not None and hand_eye is not None:
        changed = place_camera(known, session, hand_eye)
        save_unless_failed(changed, out, report)
    return Calibrated(session, camera, intrinsics, hand_eye, faults, report, changed)


def verify_session(
    folder: str | Path,
    rig: str | Path | Rig | None = None,
    *,
    pictures: str | Path | None = None,
    page: str | Path | None = None,
    write_into: str | Path | None = None,
) -> Report:
    """Judge a calibration session and, with a rig, whether the rig's camera pose explains it.

    Args:
        folder: The session.
        rig: The rig whose camera pose is compared with the session's.
        pictures: A folder for a picture per view, worst first; None: none.
        page: Where to write an HTML page; None: nowhere.
        write_into: A rig file that shall remember the verdict in [verified].

    Raises:
        FileNotFoundError, InputError: What cannot be used, by file and key.
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
    """Compare a rig's camera pose with the one that the session gives."""
    old, new = known.cameras[name], solved.cameras[name]
    if old.parent != new.parent:
        advice = f"Set parent of camera {name} in the rig, or in session.toml."
        title = "Rig's camera, parent"
        return [Check("camera-parent", title, "fail", old.parent, limit=new.parent, advice=advice)]
    off = invert(new.T_parent_this) @ old.T_parent_this
    advice = "Take this session's result (calibrate hand-eye --out RIG)."
    checks = []
    for kind, scale, vector, deviations in (
        ("camera-translation", 1e3, off[:3, 3], hand_eye.sigma_t_m),
        ("camera-rotation", np.degrees(1.0), rotation_log(off[:3, :3]), hand_eye.sigma_r_rad),
    ):
        # An error that the session cannot resolve does not count against the rig.
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
        # Session images are either the raw frames or what the recorder stores; an episode's are the latter.
        if session.fact.episode is None and (session.width, session.height) == (known.width, known.height):
            return known.raw, None
        return known.stored, None
    intrinsics = calibrate_intrinsics(session.views, session.width, session.height, model, name=name)
    return intrinsics.camera, intrinsics

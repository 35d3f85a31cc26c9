"""Checks of a calibration session, with their limits, HTML page and pictures."""

import base64
import hashlib
from collections.abc import Sequence
from functools import partial
from importlib import resources
from math import inf
from pathlib import Path

import cv2
import numpy as np

from tactile_align.calibration.boards import read_grey
from tactile_align.calibration.camera import Camera
from tactile_align.calibration.hand_eye import HandEye, chain
from tactile_align.calibration.intrinsics import Intrinsics
from tactile_align.checks import Check, Limit, Report, Table, graded
from tactile_align.files import write_atomically, write_text_atomically
from tactile_align.geometry.frames import apply, invert
from tactile_align.sessions.session import SUFFIXES, Session, shots_of_episode
from tactile_align.sessions.write_rig import provenance

FEW = "Too few views support the result"
LIMITS = {
    "images-lost": Limit("Images without a board or pose", 0.3, inf, form=".0%", why="Much of the session is lost"),
    "intrinsics-rms": Limit(
        "Intrinsics, RMS per 1000 px of width", 0.6, 1.2, " px", why="A suitable lens model leaves less error"
    ),
    "intrinsics-views": Limit("Views used for the intrinsics", 12, 6, form=".0f", why=FEW),
    "image-covered": Limit("Image area covered", 0.6, 0.3, form=".0%", why="Elsewhere the lens is unknown"),
    "tilt-range": Limit("Tilt range", 30, 10, " deg", why="Only tilt separates focal length from distance"),
    "lens-model": Limit("Held-out error relative to the best model", 1.1, inf, why="Another lens model fits better"),
    "hand-eye-views": Limit("Views used for the pose", 12, 6, form=".0f", why=FEW),
    "rotation-axes": Limit(
        "Rotation-axis spread", 0.10, 0.02, why="Rotations about one axis do not reveal the offset along it"
    ),
    "largest-rotation": Limit("Largest relative rotation", 45, 20, " deg", why="Small rotations magnify errors"),
    "hand-eye-rms": Limit("RMS of the bundle adjustment", 1.5, 3.0, " px", why="Robot poses and images disagree"),
    "left-out-ratio": Limit("RMS of left-out / fitted views", 1.30, 2.0, why=FEW),
    "views-far-off": Limit("Views far off", 0.0, 0.1, form=".0%", why="Some images or poses are wrong"),
    "board-scale": Limit("Relative error of the board's size", 0.01, 0.03, why="A board 2 % too large still fits"),
    "translation-sigma": Limit("Sigma of the translation", 1.0, 3.0, " mm", why="The pose is too uncertain"),
    "rotation-sigma": Limit("Sigma of the rotation", 0.1, 0.3, " deg", why="The pose is too uncertain"),
    "camera-translation": Limit("Translation error of the rig's camera", 1.0, 3.0, " mm", why="The camera moved"),
    "camera-rotation": Limit("Rotation error of the rig's camera", 0.15, 0.5, " deg", why="The camera turned"),
}
"""Limits of a session's checks, chosen from real recordings.

Good recordings reach an RMS of 0.6 to 1.5 px and standard deviations of 0.3 to 0.5 mm and of 0.03 to 0.08 deg.
`verify_session` widens the last two limits if the session's own uncertainty is larger.
"""


def judge(
    session: Session, camera: Camera, intrinsics: Intrinsics | None, hand_eye: HandEye | None, faults: Sequence[Check]
) -> Report:
    """Return the report of a calibration: first the checks in `faults`, then checks of its results against LIMITS.

    `camera` is the camera model of the session's images. `intrinsics` and `hand_eye` are the results of the two
    calibrations; None if that calibration was not made.
    """
    checks, tables = list(faults), []
    if session.lost:
        share = len(session.lost) / (len(session.lost) + len(session.views))
        measured = f"{len(session.lost)} ({', '.join(session.lost[:5])}{', ...' if len(session.lost) > 5 else ''})"
        advice = "Light the board evenly. Keep the whole board in view and sharp."
        checks.append(graded(LIMITS, "images-lost", share, measured=measured, advice=advice))
    if session.orientations:
        tags = " and ".join(map(str, sorted(set(session.orientations.values()))))
        names = ", ".join([*session.orientations][:5]) + (", ..." if len(session.orientations) > 5 else "")
        measured = f"tag {tags} in {len(session.orientations)} images ({names}); all pixels are used as stored"
        checks.append(Check("orientation", "EXIF orientation", "info", measured, len(session.orientations)))
    fact, advice = camera.early_end
    if fact:
        checks.append(Check("lens-end", "Lens model", "warn", fact, advice=advice))
    if intrinsics is not None:
        checks += _intrinsics(session, intrinsics)
        # Rows run from the image's top to its bottom. In cells without points the lens is unknown.
        rows = [
            {"": row, **{str(column): int(count) for column, count in enumerate(counts)}}
            for row, counts in enumerate(intrinsics.coverage)
        ]
        tables.append(Table.of("board points found in each part of the image", rows))
    if hand_eye is not None:
        checks += _hand_eye(hand_eye)
        errors = np.stack([hand_eye.per_view, hand_eye.left_out, hand_eye.pnp], axis=1).tolist()
        views = tuple((hand_eye.names[i], *errors[i]) for i in np.argsort(-hand_eye.per_view)[:10])
        tables.append(Table("errors by view, worst first", ("view", "fitted px", "left out px", "alone px"), views))
    elif session.fact.poses is not None and intrinsics is None:
        advice = "First correct the fault listed above."
        checks.append(Check("hand-eye", "Pose of the camera", "fail", "not computed", limit="a pose", advice=advice))
    subject = f"session {session.name}: {len(session.views)} views of {session.width}x{session.height} px"
    return Report("calibrate", subject, tuple(checks), tuple(tables), provenance([_digest(session)]))


def _intrinsics(session: Session, fit: Intrinsics) -> list[Check]:
    tilt = float(np.degrees(fit.tilt[1] - fit.tilt[0]))
    sharp = "Take sharp images of a flat board. Check rows, columns and layout in [board]."
    checks = [
        graded(LIMITS, "intrinsics-rms", fit.rms * 1000 / session.width, advice=sharp),
        graded(LIMITS, "intrinsics-views", len(fit.per_view), advice="Take at least 15 views."),
        graded(LIMITS, "image-covered", fit.covered, advice="Show the board in the image's corners too."),
        graded(LIMITS, "tilt-range", tilt, advice="Tilt the board by up to 45 degrees in several directions."),
    ]
    if fit.dropped:
        names = ", ".join(f"{name} ({error:.2f} px)" for name, error in fit.dropped.items())
        checks.append(Check("views-dropped", "Views dropped as outliers", "info", names))
    if fit.deviations:
        text = ", ".join(f"{key} {value:.2g}" for key, value in fit.deviations.items())
        checks.append(Check("intrinsics-sigma", "Standard deviations of the intrinsics", "info", text))
    if fit.held_out:
        best = min(fit.held_out, key=fit.held_out.__getitem__)
        text = ", ".join(f"{model} {error:.3f}" for model, error in fit.held_out.items())
        ratio = fit.held_out.get(fit.camera.model, np.inf) / fit.held_out[best]
        advice = f"Calibrate with --model {best}."
        checks.append(graded(LIMITS, "lens-model", ratio, measured=f"{text} px", advice=advice))
    return checks


def _hand_eye(fit: HandEye) -> list[Check]:
    sigma_mm, sigma_deg = float(fit.sigma_t_m.max()) * 1e3, float(np.degrees(fit.sigma_r_rad.max()))
    alone = fit.rms / max(float(np.sqrt(np.mean(fit.pnp**2))), 1e-9)
    frame, turn = "link" if fit.mounted == "moving" else "base", float(np.degrees(fit.spread.turn))
    far = f"{len(fit.outliers)}{': ' + ', '.join(fit.outliers) if fit.outliers else ''}"
    look = "Look at these images and poses. Remove them or take them again."
    scale = f"{(fit.scale - 1) * 100:+z.2f} % (sigma {fit.scale_sigma * 100:.2f} %)"
    ruler = "Measure a long row of squares and correct square_m."
    to_alone = f"{alone:.1f} (a large ratio means that the robot's poses are off, not the camera)"
    return [
        graded(LIMITS, "hand-eye-views", len(fit.names), advice="Take at least 15 views."),
        graded(LIMITS, "rotation-axes", fit.spread.axes, advice="Turn about more axes: roll, pitch AND yaw."),
        graded(LIMITS, "largest-rotation", turn, advice="Turn the camera further between views."),
        graded(LIMITS, "hand-eye-rms", fit.rms, advice="Look at the worst views."),
        graded(LIMITS, "left-out-ratio", fit.left_out_rms / max(fit.rms, 1e-9), advice="Take more, different views."),
        graded(LIMITS, "views-far-off", len(fit.outliers) / len(fit.names), measured=far, advice=look),
        graded(LIMITS, "board-scale", abs(fit.scale - 1), measured=scale, advice=ruler),
        graded(LIMITS, "translation-sigma", sigma_mm, advice="Take more views, closer and more tilted."),
        graded(LIMITS, "rotation-sigma", sigma_deg, advice="Take more views, with larger rotations."),
        Check("joint-to-alone", "RMS of fitted / single views", "info", to_alone, alone),
        Check("pose", f"T_{frame}_camera", "info", _place(fit.X)),
        Check("pose-inverse", f"T_camera_{frame}", "info", _place(np.asarray(invert(fit.X)))),
    ]


def _place(T: np.ndarray) -> str:
    return "t = " + " ".join(f"{v * 1e3:+z.2f}" for v in T[:3, 3]) + " mm"


def _digest(session: Session) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(session.rows).tobytes())
    for view in session.views:
        digest.update(view.name.encode())
        digest.update(np.ascontiguousarray(view.uv).tobytes())
    return digest.hexdigest()


def write_page(report: Report, path: str | Path, pictures: Sequence[Path] = ()) -> Path:
    """Write a report as one self-contained HTML page with verdict, checks, advice and PNG pictures; return its path."""
    from jinja2 import Environment

    source = resources.files("tactile_align.sessions").joinpath("page.html").read_text(encoding="utf-8")
    images = [(picture.stem, base64.b64encode(picture.read_bytes()).decode()) for picture in pictures]
    page = Environment(autoescape=True).from_string(source).render(report=report, pictures=images)
    write_text_atomically(Path(path), page)
    return Path(path)


def draw_views(session: Session, camera: Camera, hand_eye: HandEye, out: Path, most: int = 6) -> list[Path]:
    """Write pictures of the views with the largest errors, at most `most`, to the folder `out`; return their paths.

    The view with the largest error comes first. Each picture shows the detected points (green), the points predicted by
    the calibration (red) and, in orange, ellipses of two standard deviations around the predicted points. For a session
    without images the background is grey.
    """
    parts = zip(session.views, chain(session.T_base_link(), hand_eye.mounted), strict=True)
    views = {view.name: (view, B) for view, B in parts}
    files = []
    for rank, i in enumerate(np.argsort(-hand_eye.per_view)[:most]):
        name = hand_eye.names[i]
        view, B = views[name]
        T = invert(hand_eye.X) @ B @ hand_eye.Z
        canvas = cv2.cvtColor(_image(session, name), cv2.COLOR_GRAY2BGR)
        uv, valid = camera.project(apply(T, view.points))
        band = hand_eye.sigma_px(camera, apply(hand_eye.X @ T, view.points))
        for seen, predicted, sigma, good in zip(view.uv, uv, band, valid, strict=True):
            cv2.drawMarker(canvas, _px(seen), (0, 200, 0), cv2.MARKER_CROSS, 9, 1, cv2.LINE_AA)
            if good:
                cv2.circle(canvas, _px(predicted), 2, (0, 0, 230), -1, cv2.LINE_AA)
                axes = [max(int(2 * value), 1) for value in sigma]
                cv2.ellipse(canvas, _px(predicted), axes, 0, 0, 360, (0, 160, 255), 1, cv2.LINE_AA)
        text = f"{name}: {hand_eye.per_view[i]:.2f} px, left out {hand_eye.left_out[i]:.2f} px"
        (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
        cv2.rectangle(canvas, (0, 0), (wide + 16, high + 16), (0, 0, 0), -1)
        cv2.putText(canvas, text, (8, high + 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        files.append(out / f"{rank + 1:02d}_{name}.png")
        write_atomically(files[-1], partial(Path.write_bytes, data=cv2.imencode(".png", canvas)[1].tobytes()))
    return files


def _px(uv: np.ndarray) -> tuple[int, int]:
    return round(float(uv[0])), round(float(uv[1]))


def _image(session: Session, name: str) -> np.ndarray:
    place = Path(session.name)
    if session.fact.episode is not None:
        frame = int(name.removeprefix("frame_"))
        return next(shots_of_episode(str(place / session.fact.episode), session.fact.camera, (frame,))).image
    for suffix in SUFFIXES:
        path = place / session.fact.images / f"{name}{suffix}"
        if path.is_file():
            return read_grey(path)
    return np.full((session.height, session.width), 200, np.uint8)

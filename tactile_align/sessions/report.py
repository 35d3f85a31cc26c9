"""The table for a calibration session, and its page: does this calibration deserve trust?

Thresholds: measured on real recordings, where good sets reach 0.6 to 1.5 px joint RMS, 0.3 to 0.5 mm and 0.03 to
0.08 deg, and a board whose size is 2 % off still fits well.
"""

import base64
import hashlib
import html
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tactile_align.calibration.boards import read_grey
from tactile_align.calibration.camera import Camera
from tactile_align.calibration.hand_eye import HandEye, chain
from tactile_align.calibration.intrinsics import Intrinsics
from tactile_align.files import write_atomically, write_text_atomically
from tactile_align.geometry.frames import apply, invert
from tactile_align.sessions.diagnosis import Fault
from tactile_align.sessions.session import SUFFIXES, Session, shots_of_episode
from tactile_align.verdict import Check, Verification, graded


def judge(
    session: Session,
    camera: Camera,
    intrinsics: Intrinsics | None,
    hand_eye: HandEye | None,
    faults: tuple[Fault, ...] | list[Fault],
) -> Verification:
    """Hold a calibration against the thresholds."""
    checks = [
        Check(f"fault: {fault.name}", fault.evidence, "none", "fail" if fault.fatal else "warn", fault.advice)
        for fault in faults
    ]
    if session.lost:
        share = len(session.lost) / (len(session.lost) + len(session.views))
        checks.append(
            Check(
                "images without a board or pose",
                f"{len(session.lost)} ({', '.join(session.lost[:5])}{', ...' if len(session.lost) > 5 else ''})",
                "few",
                "warn" if share > 0.3 else "info",
                "Much is lost: light the board evenly, keep it whole in sight and sharp." if share > 0.3 else "",
            )
        )
    if intrinsics is not None:
        checks += _intrinsics(session, intrinsics)
    if hand_eye is not None:
        checks += _hand_eye(hand_eye)
    elif session.fact.poses is not None and intrinsics is None:
        checks.append(Check("hand-eye", "no pose found", "a pose", "fail", "Mend the fault named above first."))
    details: dict[str, list[dict[str, Any]]] = {}
    if intrinsics is not None:
        # From the image's top to its bottom; an empty cell is where the lens is not known.
        details["points seen in each part of the image"] = [
            {"": row, **{str(column): int(count) for column, count in enumerate(counts)}}
            for row, counts in enumerate(intrinsics.coverage)
        ]
    if hand_eye is not None:
        order = np.argsort(-hand_eye.per_view)
        details["worst views first"] = [
            {
                "view": hand_eye.names[i],
                "joint px": float(hand_eye.per_view[i]),
                "left out px": float(hand_eye.left_out[i]),
                "alone px": float(hand_eye.pnp[i]),
            }
            for i in order[:10]
        ]
    return Verification(
        f"session {session.name}: {len(session.views)} views of {session.width}x{session.height} px",
        tuple(checks),
        _digest(session),
        details=details,
    )


def _intrinsics(session: Session, found: Intrinsics) -> list[Check]:
    scale = 1000 / session.width
    checks = [
        graded(
            "intrinsics RMS per 1000 px width",
            found.rms * scale,
            0.6,
            1.2,
            " px",
            "Take sharp images of a flat board; check rows, columns and layout in [board].",
        ),
        graded("views used", len(found.per_view), 12, 6, form=".0f", advice="Take 15 views or more."),
        graded(
            "image area covered",
            found.covered,
            0.6,
            0.3,
            form=".0%",
            advice="Bring the board into the image's corners too.",
        ),
        graded(
            "tilt range",
            float(np.degrees(found.tilt[1] - found.tilt[0])),
            30,
            10,
            " deg",
            "Tilt the board by up to 45 degrees in several directions.",
        ),
    ]
    if found.dropped:
        names = ", ".join(f"{name} ({error:.2f} px)" for name, error in found.dropped.items())
        checks.append(Check("views dropped as outliers", names))
    if found.deviations:
        text = ", ".join(f"{key} {value:.2g}" for key, value in found.deviations.items())
        checks.append(Check("standard deviations, px and 1", text))
    if found.held_out:
        best = min(found.held_out, key=found.held_out.__getitem__)
        text = ", ".join(f"{model} {error:.3f}" for model, error in found.held_out.items())
        mine = found.held_out.get(found.camera.model, np.inf)
        poor = mine > 1.1 * found.held_out[best]
        checks.append(
            Check(
                "lens models on held-out views",
                f"{text} px",
                f"{found.camera.model} within 10 % of the best",
                "warn" if poor else "pass",
                f"Calibrate with --model {best}." if poor else "",
            )
        )
    return checks


def _hand_eye(found: HandEye) -> list[Check]:
    t, r = float(found.sigma_t_m.max()) * 1e3, float(np.degrees(found.sigma_r_rad.max()))
    far = len(found.outliers) / len(found.names)
    checks = [
        graded("views", len(found.names), 12, 6, form=".0f", advice="Take 15 views or more."),
        graded(
            "rotation-axis spread",
            found.spread.axes,
            0.10,
            0.02,
            advice="Turn about further axes: roll, pitch AND yaw.",
        ),
        graded(
            "largest relative rotation",
            float(np.degrees(found.spread.turn)),
            45,
            20,
            " deg",
            "Turn the camera further between views.",
        ),
        graded(
            "joint RMS", found.rms, 1.5, 3.0, " px", "The robot's poses and the views disagree: see the worst views."
        ),
        graded(
            "left-out / joint RMS",
            found.left_out_rms / max(found.rms, 1e-9),
            1.30,
            2.0,
            advice="Few views carry the result: take more, and more different ones.",
        ),
        graded(
            "views far off",
            far,
            0.0,
            0.1,
            form=".0%",
            measured=f"{len(found.outliers)}{': ' + ', '.join(found.outliers) if found.outliers else ''}",
            advice="Look at these images and poses; drop them or take them again.",
        ),
        graded(
            "board scale - 1",
            abs(found.scale - 1),
            0.01,
            0.03,
            measured=f"{(found.scale - 1) * 100:+.2f} % (sigma {found.scale_sigma * 100:.2f} %)",
            advice="Measure a long row of squares and correct square_m.",
        ),
        graded("sigma of translation", t, 1.0, 3.0, " mm", "Take more views, nearer and more tilted."),
        graded("sigma of rotation", r, 0.1, 0.3, " deg", "Take more views, with larger turns."),
        Check(
            "joint / single-view RMS",
            f"{found.rms / max(float(np.sqrt(np.mean(found.pnp**2))), 1e-9):.1f}; large: the robot, not the camera",
        ),
    ]
    X = found.X
    parent = "T_link_camera" if found.mounted == "moving" else "T_base_camera"
    checks.append(Check(parent, "t = " + " ".join(f"{v * 1e3:+.2f}" for v in X[:3, 3]) + " mm"))
    back = invert(X)
    checks.append(
        Check(
            f"{parent[:2]}{'_'.join(reversed(parent[2:].split('_')))}",
            "t = " + " ".join(f"{v * 1e3:+.2f}" for v in back[:3, 3]) + " mm",
        )
    )
    return checks


def _digest(session: Session) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(session.rows).tobytes())
    for view in session.views:
        digest.update(view.name.encode())
        digest.update(np.ascontiguousarray(view.uv).tobytes())
    return digest.hexdigest()


def write_page(result: Verification, path: str | Path, pictures: list[Path] | None = None) -> Path:
    """Write one self-contained HTML page: verdict, table, what to do, pictures."""
    rows = "".join(
        f"<tr class={c.outcome}><td>{html.escape(c.name)}<td>{html.escape(c.measured)}<td>{html.escape(c.needed)}"
        f"<td>{c.outcome}</tr>"
        for c in result.checks
    )
    todo = "".join(f"<li><b>{html.escape(c.name)}</b>: {html.escape(c.advice)}" for c in result.checks if c.advice)
    images = ""
    for picture in pictures or []:
        data = base64.b64encode(picture.read_bytes()).decode()
        images += f'<figure><img src="data:image/png;base64,{data}">'
        images += f"<figcaption>{html.escape(picture.stem)}</figcaption></figure>"
    page = (
        "<!doctype html><meta charset=utf-8><title>verify</title><style>body{font:15px sans-serif;max-width:1000px;"
        "margin:2em auto}td,th{padding:.3em .8em;text-align:left;border-bottom:1px solid #ddd}.pass td:last-child"
        "{color:#080}.warn td:last-child{color:#b60}.fail td:last-child{color:#c00;font-weight:bold}img{max-width:100%}"
        f"</style><h1>verdict: {result.verdict}</h1><p>{html.escape(result.subject)}, {result.when}, data "
        f"{result.data_hash[:12]}</p><table><tr><th>check<th>measured<th>needed<th>verdict</tr>{rows}</table>"
        + (f"<h2>What to do next</h2><ul>{todo}</ul>" if todo else "")
        + (f"<h2>Worst views first</h2><p>Green: seen. Red: predicted, with 2 sigma.</p>{images}" if images else "")
    )
    write_text_atomically(Path(path), page)
    return Path(path)


def draw_views(session: Session, camera: Camera, hand_eye: HandEye, out: Path, most: int = 6) -> list[Path]:
    """Write a picture per view, worst first: points seen (green), points predicted (red), with a band of 2 sigma.

    Sessions without images are drawn on grey.
    """
    B = dict(zip([view.name for view in session.views], chain(session.T_base_link(), hand_eye.mounted), strict=True))
    views = {view.name: view for view in session.views}
    files = []
    for rank, i in enumerate(np.argsort(-hand_eye.per_view)[:most]):
        name = hand_eye.names[i]
        view = views[name]
        T = invert(hand_eye.X) @ B[name] @ hand_eye.Z
        canvas = cv2.cvtColor(_image(session, name), cv2.COLOR_GRAY2BGR)
        uv, valid = camera.project(apply(T, view.points))
        band = hand_eye.sigma_px(camera, apply(hand_eye.X @ T, view.points))
        for seen, predicted, sigma, good in zip(view.uv, uv, band, valid, strict=True):
            cv2.drawMarker(canvas, _px(seen), (0, 200, 0), cv2.MARKER_CROSS, 9, 1, cv2.LINE_AA)
            if good:
                cv2.circle(canvas, _px(predicted), 2, (0, 0, 230), -1, cv2.LINE_AA)
                axes = (max(int(2 * sigma[0]), 1), max(int(2 * sigma[1]), 1))
                cv2.ellipse(canvas, _px(predicted), axes, 0, 0, 360, (0, 160, 255), 1, cv2.LINE_AA)
        text = f"{name}: {hand_eye.per_view[i]:.2f} px, left out {hand_eye.left_out[i]:.2f} px"
        (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
        cv2.rectangle(canvas, (0, 0), (wide + 16, high + 16), (0, 0, 0), -1)
        cv2.putText(canvas, text, (8, high + 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        data = cv2.imencode(".png", canvas)[1].tobytes()
        path = out / f"{rank + 1:02d}_{name}.png"
        write_atomically(path, partial(Path.write_bytes, data=data))
        files.append(path)
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

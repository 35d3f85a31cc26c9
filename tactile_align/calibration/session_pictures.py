"""Pictures of a calibration session: what was seen, what the result predicts and how sure it is of it."""

from functools import partial
from pathlib import Path

import cv2
import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.compat import read_grey
from tactile_align.calibration.hand_eye import HandEye, chain
from tactile_align.calibration.session import Session
from tactile_align.calibration.session_images import SUFFIXES, shots_of_episode
from tactile_align.files import write_atomically
from tactile_align.geometry.frames import apply, invert


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

"""Views of a board: the points detected in one image, and the board poses that fit a single view."""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from tactile_align.calibration.boards import Board, Detection, standard_flag
from tactile_align.calibration.camera import Camera
from tactile_align.errors import InputError
from tactile_align.files import read_csv
from tactile_align.geometry.frames import apply, pose, rotation_exp, skew


@dataclass(frozen=True)
class View:
    """Points of a board detected in one image.

    Attributes:
        name: Name of the image, for messages.
        points: (N, 3) board coordinates of the points, m.
        uv: (N, 2) pixels of the points.
        others: For each other orientation of the board that looks the same in the image, such as a chessboard rotated
            by 180 degrees, the board coordinates (N, 3), m, of the points.
    """

    name: str
    points: np.ndarray
    uv: np.ndarray
    others: tuple[np.ndarray, ...] = ()

    @classmethod
    def of(cls, name: str, board: Board, detection: Detection) -> "View":
        """Return the view that contains the points of a detection."""
        readings = [board.points[turn[detection.ids]] for turn in board.turns]
        return cls(name, readings[0], detection.uv, tuple(readings[1:]))

    def read_as(self, reading: int) -> "View":
        """Return this view with the points renumbered as if the board were seen in another orientation.

        A symmetric board looks the same in several orientations. `reading` 0 is the current numbering, and
        `reading` i is entry i - 1 of `others`.
        """
        if reading == 0:
            return self
        others = (self.points, *(points for i, points in enumerate(self.others) if i != reading - 1))
        return replace(self, points=self.others[reading - 1], others=others)


@dataclass(frozen=True)
class BoardPose:
    """Pose of the board in one view.

    Attributes:
        T_camera_board: (4, 4) pose of the board in the camera frame, m.
        rms: RMS distance between detected and projected points, px.
    """

    T_camera_board: np.ndarray
    rms: float


def slopes(camera: Camera, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (N, 2) of points p (N, 3), m, in the camera frame, and derivatives d pixel / d point, (N, 2, 3).

    Points without a pixel (behind the camera or beyond the lens model) have nan pixels.
    """
    uv, valid = camera.project(p)
    safe = np.where(valid[:, None], p, [0.0, 0.0, 1.0])
    x, y, z = safe[:, 0] / safe[:, 2], safe[:, 1] / safe[:, 2], safe[:, 2, None]
    h = 1e-6
    dx = (np.stack(camera.uv(x + h, y), axis=-1) - np.stack(camera.uv(x - h, y), axis=-1)) / (2 * h)
    dy = (np.stack(camera.uv(x, y + h), axis=-1) - np.stack(camera.uv(x, y - h), axis=-1)) / (2 * h)
    return uv, np.stack([dx / z, dy / z, -(dx * x[:, None] + dy * y[:, None]) / z], axis=-1)


def pose_slopes(T_camera_board: np.ndarray, points: np.ndarray, J: np.ndarray) -> np.ndarray:
    """Return the derivatives d pixel / d pose (2 N, 6) of N points (N, 3), m, on the board.

    Columns 0 to 2 are for the translation, m, columns 3 to 5 for a rotation vector w, rad, that changes the rotation R
    to R exp(w). J (N, 2, 3) contains the derivatives d pixel / d point from `slopes`.
    """
    turn = -T_camera_board[:3, :3] @ skew(points)
    return np.asarray((J @ np.concatenate([np.broadcast_to(np.eye(3), turn.shape), turn], axis=-1)).reshape(-1, 6))


def moved(T: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return a pose (4, 4) changed by a step (6,): translation, m, then rotation vector w, rad (R becomes R exp(w))."""
    return np.asarray(pose(T[:3, :3] @ rotation_exp(step[3:]), T[:3, 3] + step[:3]))


def rms(camera: Camera, T_camera_board: np.ndarray, view: View) -> float:
    """Return the RMS distance in px between the detected and the projected points of a view.

    The result is inf if a point has no pixel.
    """
    uv, valid = camera.project(apply(T_camera_board, view.points))
    if not valid.all():
        return np.inf
    return float(np.sqrt(((uv - view.uv) ** 2).sum(-1).mean()))


def board_poses(camera: Camera, view: View) -> list[BoardPose]:
    """Return the board poses that fit a view of a flat board, best first.

    A small flat board far away has two poses that fit nearly equally well. IPPE (a closed-form solver for flat
    boards) gives both, and both are refined to minimise the error in pixels.

    Raises:
        InputError: No pose fits the view.
    """
    rays = camera.unproject(view.uv, np.ones(len(view.uv)))
    good = np.isfinite(rays).all(-1)
    if good.sum() < 4:
        got = f"only {good.sum()} of {len(good)} points lie inside the lens model of camera {camera.name}"
        raise InputError(f"{view.name}: {got}; a pose needs 4. Check that K belongs to these images")
    points, uv = view.points[good], rays[good, :2]
    starts: list[np.ndarray] = []
    centre = points.mean(0)
    for method in ("SOLVEPNP_IPPE", "SOLVEPNP_ITERATIVE"):
        if any((apply(start, points)[:, 2] > 0).all() for start in starts):
            break  # IPPE can put a board behind the camera and report success; only then is the other method needed
        try:
            _, turns, shifts, _ = cv2.solvePnPGeneric(points - centre, uv, np.eye(3), None, flags=standard_flag(method))
        except cv2.error:  # ITERATIVE needs six points, a tag has four; IPPE needs a flat board
            continue
        for w, t in zip(turns, shifts, strict=True):
            R, _ = cv2.Rodrigues(w)
            starts.append(pose(R, t.ravel() - R @ centre))
    candidates: list[BoardPose] = []
    for start in starts:
        if (apply(start, points)[:, 2] <= 0).any():
            continue
        refined = _refine(camera, start, View(view.name, points, view.uv[good]))
        if not any(np.allclose(refined.T_camera_board, known.T_camera_board, atol=1e-4) for known in candidates):
            candidates.append(refined)
    if not candidates:
        raise InputError(f"{view.name}: no board pose in front of the camera fits the points. Remove this view")
    return sorted(candidates, key=lambda candidate: candidate.rms)


def _refine(camera: Camera, T: np.ndarray, view: View, steps: int = 15) -> BoardPose:
    """Return the pose refined by Levenberg-Marquardt on its six parameters."""
    best, damping = rms(camera, T, view), 1e-4
    for _ in range(steps):
        p = apply(T, view.points)
        uv, J = slopes(camera, p)
        r = (uv - view.uv).ravel()
        if not np.isfinite(r).all():
            break
        G = pose_slopes(T, view.points, J)
        H, g = G.T @ G, G.T @ r
        step = np.linalg.solve(H + damping * np.diag(np.diag(H)), -g)
        trial = moved(T, step)
        error = rms(camera, trial, view)
        gain = best - error
        T, best, damping = (trial, error, damping / 10) if gain > 0 else (T, best, damping * 10)
        if 0 < gain < 1e-6 * best or damping > 1e4:
            break
    return BoardPose(T, best)


def read_points(path: Path, board: Board) -> dict[str, View]:
    """Return views by name from points that another tool detected: a CSV with the columns view, id, u, v.

    Raises:
        FileNotFoundError: No such file.
        InputError: A column is missing, the board has no point with an id, or a value is not a number. The message
            contains file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Give a CSV with the columns view, id, u, v")
    by_view: dict[str, list[tuple[int, float, float]]] = {}
    (_, header), *rows = read_csv(path) or [(1, [])]
    lacks = [name for name in ("view", "id", "u", "v") if name not in header]
    if lacks:
        raise InputError(f"{path}: line 1 lacks the column '{lacks[0]}'. Give the columns view, id, u, v")
    for line, cells in rows:
        row = dict(zip(header, cells, strict=False))
        try:
            view, entry = row["view"], (int(row["id"]), float(row["u"]), float(row["v"]))
        except (KeyError, ValueError) as error:
            raise InputError(f"{path}: line {line}: id, u, v must be numbers; got {row}. Correct the line") from error
        if not (0 <= entry[0] < len(board.points) and np.isfinite(entry[1:]).all()):
            known = f"the board has ids 0 to {len(board.points) - 1}. Correct id or the board"
            wrong = "u and v must be finite. Remove the line" if 0 <= entry[0] < len(board.points) else known
            raise InputError(f"{path}: line {line}: id, u, v are {', '.join(map(str, entry))}, but {wrong}")
        by_view.setdefault(view, []).append(entry)
    points = {name: np.array(entries) for name, entries in by_view.items()}
    return {
        name: View.of(name, board, Detection(array[:, 0].astype(int), array[:, 1:])) for name, array in points.items()
    }

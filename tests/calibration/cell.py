"""Simulated calibration sessions: a board in the cell, a wrist or a fixed camera, noise of known size."""

from dataclasses import dataclass

import numpy as np

from tactile_align.calibration.boards import Board
from tactile_align.calibration.camera import Camera
from tactile_align.calibration.views import View
from tactile_align.geometry.frames import apply, invert, pose, rotation_exp, rotation_log
from tactile_align.kinematics.arm import forward_kinematics, jacobian, link_poses, load_arm

ARM = load_arm("nova2")
HOME = np.array([0.298, -0.294, -1.911, 0.634, 1.571, -1.273])
BOARD = Board(kind="charuco", columns=7, rows=5, square_m=0.030, marker_m=0.022)
K = np.array([[600.0, 0, 319.5], [0, 600.0, 239.5], [0, 0, 1]])
CAMERA = Camera("wrist", 640, 480, K, "brown", (-0.10, 0.05, 0.0005, -0.0003, 0.0))


@dataclass(frozen=True)
class Captured:
    """A session with its truth: q (N, 6) as recorded, views, X = T_parent_camera, Z = T_other_board."""

    q: np.ndarray
    q_true: np.ndarray
    views: list[View]
    X: np.ndarray
    Z: np.ndarray
    mounted: str

    @property
    def T_base_flange(self) -> np.ndarray:
        return np.asarray(forward_kinematics(ARM, self.q))


def inverse_kinematics(T: np.ndarray, q: np.ndarray) -> np.ndarray | None:
    """Damped least squares from q; None where it does not arrive within the limits."""
    for _ in range(30):
        now = forward_kinematics(ARM, q)
        off = np.concatenate([T[:3, 3] - now[:3, 3], rotation_log(T[:3, :3] @ now[:3, :3].T)])
        if np.abs(off).max() < 1e-10:
            return q if (q < ARM.upper).all() and (q > ARM.lower).all() else None
        J = jacobian(ARM, q)
        q = q + np.clip(J.T @ np.linalg.solve(J @ J.T + 1e-6 * np.eye(6), off), -0.3, 0.3)
    return None


def capture(
    seed: int,
    *,
    views: int = 20,
    px: float = 0.3,
    joint_deg: float = 0.005,
    mounted: str = "moving",
    tilt: tuple[float, float] = (0.1, 0.65),
    roll: float = 0.9,
    plane: bool = False,
    board: Board = BOARD,
    camera: Camera = CAMERA,
) -> Captured:
    """Draw a session: the board is seen from random sides at 0.22 to 0.42 m.

    plane: turn about one axis only.
    """
    rng = np.random.default_rng(seed)
    centre = board.points.mean(0)
    if mounted == "moving":
        turn = rotation_exp(np.array([0.1, -0.15, 1.5]) + rng.normal(0, 0.1, 3))
        X = np.asarray(pose(turn, np.array([0.06, 0.02, 0.04]) + rng.normal(0, 0.01, 3)))
        ahead = pose(rotation_exp(rng.normal(0, 0.05, 3)), np.array([0, 0, 0.35]))
        Z = np.asarray(forward_kinematics(ARM, HOME) @ X @ ahead @ pose(np.eye(3), -centre))
    else:
        Z = np.asarray(pose(rotation_exp(rng.normal(0, 0.2, 3)), np.array([0.0, 0.0, 0.05]) + rng.normal(0, 0.01, 3)))
        Z = np.asarray(Z @ pose(np.eye(3), -centre))
        ahead = pose(rotation_exp(rng.normal(0, 0.05, 3)), np.array([0, 0, 0.40]) + centre * 0)
        X = np.asarray(forward_kinematics(ARM, HOME) @ Z @ pose(np.eye(3), centre) @ invert(ahead))
    q, truth, seen = [], [], []
    tries = 0
    while len(q) < views:
        tries += 1
        if tries > 4000:
            raise RuntimeError(f"seed {seed}: no more reachable views; loosen the session")
        w = rng.normal(0, 1, 3)
        w[2] = 0.0
        if plane:
            w = np.array([1.0, 0.0, 0.0])
        w *= rng.choice([-1, 1]) * rng.uniform(*tilt) / np.linalg.norm(w)
        spin = 0.0 if plane else rng.uniform(-roll, roll)
        R = np.asarray(rotation_exp(w) @ rotation_exp(np.array([0, 0, spin])))
        t = np.array([rng.uniform(-0.04, 0.04), rng.uniform(-0.03, 0.03), rng.uniform(0.22, 0.42)])
        C = np.asarray(pose(R, t - R @ centre))
        T = Z @ invert(C) @ invert(X) if mounted == "moving" else X @ C @ invert(Z)
        joints = inverse_kinematics(T, HOME.copy())
        if joints is None:
            continue
        uv, ok = camera.project(apply(C, board.points))
        edge = [camera.width - 6, camera.height - 6]
        ok = ok & (uv > 5).all(-1) & (uv < edge).all(-1)
        if ok.sum() < min(12, len(board.points)):
            continue
        truth.append(joints)
        q.append(joints + rng.normal(0, np.radians(joint_deg), 6))
        noisy = uv + rng.normal(0, px, uv.shape)
        readings = [board.points[turn] for turn in board.turns]
        others = tuple(one[ok] for one in readings[1:])
        seen.append(View(f"view_{len(q):02d}", board.points[ok], noisy[ok], others))
    return Captured(np.array(q), np.array(truth), seen, X, Z, mounted)


def capture_from_link5(seed: int, views: int = 20) -> Captured:
    """Draw a session of a camera on link 5, which the last joint does not turn; X = T_link5_camera."""
    rng = np.random.default_rng(seed)
    to_camera = np.asarray(forward_kinematics(ARM, HOME) @ pose(np.eye(3), np.array([0.06, 0.02, 0.04])))
    X = np.asarray(invert(link_poses(ARM, HOME)[4]) @ to_camera)
    Z = to_camera @ pose(np.eye(3), np.array([0.0, 0.0, 0.35]) - BOARD.points.mean(0))
    q, truth, seen = [], [], []
    while len(q) < views:
        joints = HOME + np.append(rng.uniform(-0.45, 0.45, 5), rng.uniform(-2, 2))
        C = invert(X) @ invert(link_poses(ARM, joints)[4]) @ Z
        uv, ok = CAMERA.project(apply(C, BOARD.points))
        if not (ok & (uv > 5).all(-1) & (uv < [634, 474]).all(-1)).all():
            continue
        truth.append(joints)
        q.append(joints + rng.normal(0, np.radians(0.005), 6))
        seen.append(View(f"view_{len(q):02d}", BOARD.points, uv + rng.normal(0, 0.3, uv.shape)))
    return Captured(np.array(q), np.array(truth), seen, X, Z, "moving")

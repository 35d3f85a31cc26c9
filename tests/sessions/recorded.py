"""Sound sessions made from real recordings, as the files would give them; tests put faults into them.

doosan: 31 real poses of a wrist camera. moveit: 50 real poses of a fixed camera, about a metre from the board.
chessboard: 13 real images; their robot is made up, with noise of half a millimetre and a twentieth of a degree.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from tactile_align.calibration.boards import Board, read_grey
from tactile_align.calibration.camera import Camera
from tactile_align.calibration.views import View, board_poses
from tactile_align.geometry.frames import apply, invert, pose, rotation_exp
from tactile_align.sessions.robot_poses import PoseFormat
from tactile_align.sessions.session import Session, SessionFact
from tests.calibration.recordings import recording

Case = tuple[Session, Camera]
BOARD = Board(kind="charuco", columns=7, rows=5, square_m=0.030, marker_m=0.022)
MATRIX = PoseFormat(of="tool", rotation="matrix")


@cache
def doosan() -> Case:
    """Return the wrist camera's session, poses in mm as recorded; corners from the recorded board poses."""
    folder = recording("doosan_charuco_wrist")
    robot = np.loadtxt(folder / "robot_poses_mm.csv", delimiter=",", skiprows=1)[:, 1:]
    seen = np.loadtxt(folder / "board_in_camera_m.csv", delimiter=",", skiprows=1)[:, 1:]
    C = np.asarray(pose(rotation_exp(seen[:, :3]), seen[:, 3:]))
    K = np.array([[898.9444, 0, 649.0022], [0, 901.7457, 362.4919], [0, 0, 1]])
    camera = Camera("wrist", 1280, 720, K, "brown", (0.008384, 0.753342, 0.000521, -0.000361, -2.536853))
    fmt = MATRIX.model_copy(update={"length": "mm"})
    return _session("doosan", "moving", BOARD, fmt, _projected(camera, BOARD, C, 0.2), robot, camera)


@cache
def moveit() -> Case:
    """Return the fixed camera's session: recorded poses, corners of a board of 20 cm seen through a made-up lens."""
    pairs = np.array(json.loads((recording("moveit_pose_pairs") / "pose_samples.json").read_text()))
    K = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])
    camera = Camera("above", 640, 480, K)
    return _session(
        "moveit",
        "fixed",
        BOARD,
        MATRIX,
        _projected(camera, BOARD, pairs[:, 1], 0.2),
        pairs[:, 0].reshape(-1, 16),
        camera,
    )


@cache
def chessboard() -> Case:
    """Return real images of a chessboard, and a robot that would have held the camera."""
    folder = recording("opencv_chessboard_left")
    board = Board(kind="chessboard", columns=9, rows=6, square_m=0.025)
    K = np.array([[532.83, 0, 342.49], [0, 532.95, 233.86], [0, 0, 1]])
    camera = Camera("left", 640, 480, K, "brown", (-0.281, 0.025, 0.001, 0.0, 0.16))
    views = []
    for file in sorted(folder.glob("left*.jpg")):
        detection = board.detect(read_grey(file))
        if detection is not None:
            views.append(View.of(file.stem, board, detection))
    C = np.stack([board_poses(camera, view)[0].T_camera_board for view in views])
    X = pose(rotation_exp(np.array([0.1, -0.15, 1.5])), np.array([0.06, 0.02, 0.04]))
    rng = np.random.default_rng(0)
    Z = pose(rotation_exp(np.array([3.0, 0.2, 0.1])), np.array([0.5, 0.1, 0.0]))
    noise = pose(rotation_exp(rng.normal(0, 0.001, (len(C), 3))), rng.normal(0, 0.0005, (len(C), 3)))
    T = Z @ invert(C) @ invert(X) @ noise
    return _session("chessboard", "moving", board, MATRIX, tuple(views), T.reshape(-1, 16), camera)


RECORDED: dict[str, Callable[[], Case]] = {"doosan": doosan, "moveit": moveit, "chessboard": chessboard}


def _projected(camera: Camera, board: Board, C: np.ndarray, px: float) -> tuple[View, ...]:
    rng = np.random.default_rng(0)
    uv = [camera.project(apply(c, board.points))[0] for c in C]
    return tuple(View(f"{i:03d}", board.points, one + rng.normal(0, px, one.shape)) for i, one in enumerate(uv))


def _session(
    name: str, mounted: str, board: Board, fmt: PoseFormat, views: tuple[View, ...], rows: np.ndarray, camera: Camera
) -> Case:
    fact = SessionFact(mounted=mounted, board=board, poses=fmt)  # type: ignore[arg-type]
    return Session(name, fact, camera.width, camera.height, views, rows), camera


def lens_times(factor: float) -> Callable[[Case], Case]:
    """Return a change of a session: its K belongs to frames `factor` times as wide."""

    def changed(case: Case) -> Case:
        K = case[1].K.copy()
        K[:2] *= factor
        K[:2, 2] += 0.5 * factor - 0.5
        return case[0], replace(case[1], K=K)

    return changed


def crop(case: Case) -> Case:
    """Change a session: its K belongs to frames of which the images are the middle."""
    K = case[1].K.copy()
    K[:2, 2] += (80, 60)
    return case[0], replace(case[1], K=K)


def exchange(case: Case, i: int = 3, j: int = 9) -> Case:
    """Change a session: two of its poses are exchanged."""
    rows = case[0].rows.copy()
    rows[[i, j]] = rows[[j, i]]
    return replace(case[0], rows=rows), case[1]

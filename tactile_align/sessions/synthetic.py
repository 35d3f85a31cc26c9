"""Synthetic calibration sessions: rendered images of a board in a rig's camera, to rehearse a calibration.

A camera on the arm sees a board that lies in front of it. A fixed camera sees a board on an arm's flange. Gripper and
fingers are not rendered. Joint readings contain noise as large as the arm's repeatability, and images contain blur and
noise, so that the results are about as good as those of a good real session.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from tactile_align.calibration.board_page import board_size, write_page
from tactile_align.calibration.boards import Board, read_grey
from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.errors import InputError
from tactile_align.facts import toml_text
from tactile_align.geometry.frames import Array, apply, invert, pose, rotation_exp, rotation_log
from tactile_align.kinematics.arm import Arm, forward_kinematics, jacobian, link_poses

BOARD = Board(kind="charuco", columns=7, rows=5, square_m=0.030, marker_m=0.022)
HOME_RAD = (0.298, -0.294, -1.911, 0.634, 1.571, -1.273)
"""Joints of a Nova arm above its table with the tool pointing down."""
NOISE_GREY = 2.0
STEEPEST = np.cos(np.radians(50.0))
"""Cosine of the largest tilt of the board; markers of a board tilted further are hard to read."""
Draw = Callable[[], tuple[np.ndarray, np.ndarray | None]]
"""Function that draws a random view: T_camera_board (4, 4), m, and its joints (n,), rad; None if out of reach."""
FINE = 2
"""Rays per pixel along each axis."""


def rehearse(
    out: str | Path,
    rig: str | Path | Rig = "cell",
    camera: str = "left_wrist",
    *,
    board: Board = BOARD,
    board_arm: str | None = None,
    views: int = 20,
    joint_noise_deg: float = 0.005,
    seed: int = 0,
) -> Path:
    """Write a synthetic calibration session (session.toml, poses.csv and images) and return its folder.

    Args:
        out: The session's folder; it must not exist yet.
        rig: The rig; the images are rendered with the pose and lens that it gives its camera, which are the truth.
        camera: Name of the rig's camera that takes the images; it is on an arm's flange or link, or fixed.
        board: The board. For a fixed camera one metre away, use squares of 5 cm.
        board_arm: The arm that holds the board in front of a fixed camera. None: the rig's first arm.
        views: Number of images to render.
        joint_noise_deg: Standard deviation of the joint readings, deg.
        seed: Seed of all random numbers.

    Returns:
        The session's folder.

    Raises:
        FileExistsError: The folder exists already.
        InputError: The camera is on a finger, the arm does not exist, or the arm reaches too few views.
    """
    folder = Path(out)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already and is not overwritten. Choose another folder")
    known = rig if isinstance(rig, Rig) else load_rig(rig)
    mount = known.camera(camera)
    lens, parent = mount.raw, mount.parent
    fixed = parent == "world" or parent.endswith("/base")
    name = (board_arm or next(iter(known.arms))) if fixed else parent.partition("/")[0]
    if name not in known.arms:
        raise InputError(f"rig {known.name} has no arm '{name}'. Choose one of: {', '.join(known.arms)}")
    arm = known.arms[name].arm
    rng = np.random.default_rng(seed)
    draw = _before_fixed(known, camera, name, board, rng) if fixed else _before_moving(known, camera, board, rng)
    page, to_page = _page(board)
    (folder / "images").mkdir(parents=True)
    lines = ["view," + ",".join(f"{joint}_deg" for joint in arm.joint_names)]
    tries = 0
    while len(lines) <= views:
        tries += 1
        if tries > 200 * views:
            raise InputError(
                f"{folder}: arm {name} reaches only {len(lines) - 1} of the {views} views of camera {camera}. Choose "
                f"fewer views, or another arm as board_arm for a fixed camera"
            )
        C, q = draw()
        uv, valid = lens.project(apply(C, board.points))
        inside = valid & (uv > 3).all(-1) & (uv < [lens.width - 4, lens.height - 4]).all(-1)
        # The image border may cut a ChArUco board; only then do board points reach the image's corners.
        if q is None or inside.mean() < (0.5 if board.kind == "charuco" else 1.0):
            continue
        view = f"view_{len(lines):02d}"
        read = np.degrees(q) + rng.normal(0, joint_noise_deg, arm.dof)
        lines.append(f"{view}," + ",".join(f"{value:.5f}" for value in read))
        image = photograph(lens, C, page, to_page, rng)
        (folder / "images" / f"{view}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (folder / "poses.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    facts = {"camera": camera, **known.arms[name].model_dump(include={"base", "tip"}), "arm": known.arms[name].model}
    facts |= {"mounted": "fixed", "board_arm": name} if fixed else {"mounted": "moving"}
    facts |= {"parent": parent, "images": "images", "poses_file": "poses.csv"}
    facts |= {"board": board.model_dump(exclude_none=True), "poses": {"of": "joints", "angle": "deg"}}
    (folder / "session.toml").write_text(toml_text(facts), encoding="utf-8")
    return folder


def _before_moving(rig: Rig, camera: str, board: Board, rng: np.random.Generator) -> Draw:
    """Return a function that draws views of a board that lies 35 cm in front of a camera on an arm."""
    mount = rig.camera(camera)
    name, _, node = mount.parent.partition("/")
    arm, X, home = rig.arms[name].arm, mount.T_parent_this, np.array(HOME_RAD)
    centre = board.points.mean(0)
    ahead = pose(np.eye(3), np.array([0.0, 0.0, 0.35]) - centre)
    if node == "flange":
        Z = forward_kinematics(arm, home) @ X @ ahead

        def draw() -> tuple[np.ndarray, np.ndarray | None]:
            C = _look(rng, centre)
            return C, _inverse(arm, Z @ invert(C) @ invert(X), home)

        return draw
    if not node.startswith("link"):
        raise InputError(f"camera {camera} must be on a flange or link; it is on '{mount.parent}'. Use another camera")
    link = int(node.removeprefix("link")) - 1
    Z = link_poses(arm, home)[link] @ X @ ahead

    def draw_joints() -> tuple[np.ndarray, np.ndarray | None]:
        # Joints beyond the link do not move the camera, so it cannot reach every pose.
        q = home + rng.uniform(-0.45, 0.45, arm.dof)
        C = np.asarray(invert(X) @ invert(link_poses(arm, q)[link]) @ Z)
        return C, q if C[2, 2] > STEEPEST else None

    return draw_joints


def _before_fixed(rig: Rig, camera: str, name: str, board: Board, rng: np.random.Generator) -> Draw:
    """Return a function that draws views of a board on the flange of arm `name`, in front of a fixed camera."""
    arm, home, centre = rig.arms[name].arm, np.array(HOME_RAD), board.points.mean(0)
    parent, X = rig.camera(camera).parent, rig.camera(camera).T_parent_this
    if parent != "world":
        X = rig.arms[parent.partition("/")[0]].T_parent_this @ X
    X = invert(rig.arms[name].T_parent_this) @ X
    at_home = forward_kinematics(arm, home)
    tool = (invert(X) @ at_home)[:3, 3]
    if tool[2] < 0.2:
        where = "behind" if tool[2] < 0 else "in front of"
        raise InputError(
            f"the flange of arm {name} must be at least 0.2 m in front of camera {camera}; it is {abs(tool[2]):.2f} m "
            f"{where} the camera. Choose another board_arm"
        )
    # The board is mounted on the flange so that it faces the camera when the arm is at home.
    Z = invert(at_home) @ X @ pose(np.eye(3), tool - centre)
    middle = tool * [0.5, 0.5, 1.0]

    def draw() -> tuple[np.ndarray, np.ndarray | None]:
        C = _look(rng, centre, middle)
        return C, _inverse(arm, X @ C @ invert(Z), home)

    return draw


def photograph(
    camera: Camera, T_camera_board: Array, page: np.ndarray, to_page: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return a rendered photograph (H, W), uint8 grey, of a printed page, with blur and noise.

    Args:
        camera: The camera, with its lens.
        T_camera_board: (4, 4) pose of the board in the camera frame, m.
        page: (H, W) uint8 image of the printed page.
        to_page: (3, 3) homography from board coordinates, m, to pixels of the page.
        rng: Generator of the noise.
    """
    offsets = (np.arange(FINE) + 0.5) / FINE - 0.5
    edges = [(np.arange(length)[:, None] + offsets).ravel() for length in (camera.width, camera.height)]
    uv = np.stack(np.meshgrid(*edges), axis=-1)
    rays = camera.unproject(uv, np.ones(uv.shape[:2]))
    # H maps (x, y, 1) of the board's plane z = 0 to a ray in the camera's frame.
    H = np.stack([T_camera_board[:3, 0], T_camera_board[:3, 1], T_camera_board[:3, 3]], axis=-1)
    hit = rays @ np.linalg.inv(H).T @ to_page.T
    with np.errstate(invalid="ignore", divide="ignore"):
        at = (hit[..., :2] / hit[..., 2:]).astype(np.float32)
    u, v = np.moveaxis(np.where(np.isfinite(at), at, np.float32(-1)), -1, 0)
    fine = cv2.remap(page, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(150.0,))
    image = fine.reshape(camera.height, FINE, camera.width, FINE).astype(np.float64).mean((1, 3))
    image = 30 + 0.75 * cv2.GaussianBlur(image, (0, 0), 0.6) + rng.normal(0, NOISE_GREY, image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _page(board: Board) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (H, W) of the printed page and the homography (3, 3) from board coordinates, m, to its pixels."""
    paper = "A4" if max(board_size(board)) < 0.25 else "A3"
    with tempfile.TemporaryDirectory() as folder:
        _, png = write_page(board, Path(folder) / "page", paper)
        full = read_grey(png)
    detection = board.detect(full)
    if detection is None:
        raise InputError(
            f"the {board.kind} board was not detected in a rendered image of its printed page. Use larger squares"
        )
    H, _ = cv2.findHomography(board.points[detection.ids][:, :2], detection.uv)
    shrink = 1 / 3  # 100 dots per inch: about what a wrist camera resolves
    small = cv2.resize(full, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    scale = np.array(small.shape[::-1]) / np.array(full.shape[::-1])
    S = np.array([[scale[0], 0, 0.5 * scale[0] - 0.5], [0, scale[1], 0.5 * scale[1] - 0.5], [0, 0, 1]])
    return small, S @ H


def _look(rng: np.random.Generator, centre: np.ndarray, around: np.ndarray | None = None) -> np.ndarray:
    """Return a random T_camera_board (4, 4), m, tilted by up to 43 degrees and turned by up to 50 degrees.

    The board's centre lies 0.25 to 0.42 m in front of the camera, or within 20 cm of `around` (3,), m, along each axis
    of the camera's frame.
    """
    w = np.append(rng.normal(0, 1, 2), 0.0)
    w *= rng.uniform(0.05, 0.75) / np.linalg.norm(w)
    R = rotation_exp(w) @ rotation_exp(np.array([0.0, 0.0, rng.uniform(-0.9, 0.9)]))
    t = np.array([rng.uniform(-0.12, 0.12), rng.uniform(-0.09, 0.09), rng.uniform(0.25, 0.42)])
    if around is not None:
        t = around + rng.uniform(-0.2, 0.2, 3)
    return np.asarray(pose(R, t - R @ centre))


def _inverse(arm: Arm, T: Array, q: np.ndarray) -> np.ndarray | None:
    """Return joints (n,), rad, that put the flange at T (4, 4), by damped least squares; None if T is out of reach."""
    for _ in range(30):
        now = forward_kinematics(arm, q)
        off = np.concatenate([T[:3, 3] - now[:3, 3], rotation_log(T[:3, :3] @ now[:3, :3].T)])
        if np.abs(off).max() < 1e-10:
            return q if bool((q < arm.upper).all() and (q > arm.lower).all()) else None
        J = jacobian(arm, q)
        q = q + np.clip(J.T @ np.linalg.solve(J @ J.T + 1e-6 * np.eye(6), off), -0.3, 0.3)
    return None

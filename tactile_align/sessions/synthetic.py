"""Rehearsal of a calibration: a session of a drawn board photographed by a rig's camera, before the real one is free.

A camera on the arm looks at a board that lies before it; a fixed camera at a board on an arm's flange. Gripper and
fingers are not drawn. Joint readings carry the arm's repeatability, images blur and noise, so what comes out is about
what a good real session gives.
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
"""A Nova above its table, tool down."""
NOISE_GREY = 2.0
STEEPEST = np.cos(np.radians(50.0))
"""Markers of a board tilted further are hard to read."""
Draw = Callable[[], tuple[np.ndarray, np.ndarray | None]]
"""Draws a view: T_camera_board (4, 4) and the joints (n,) that give it, None where the arm does not reach it."""
FINE = 2
"""Rays per pixel and axis."""


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
    """Write a calibration session: session.toml, poses.csv and images.

    Args:
        out: The session's folder; must not exist.
        rig: The rig; its camera's pose and lens are the truth.
        camera: Its camera, on an arm's flange or link, or fixed.
        board: The board; a fixed camera a metre away wants squares of 5 cm.
        board_arm: The arm that holds the board before a fixed camera; the first arm when None.
        views: How many images.
        joint_noise_deg: Standard deviation of the joint readings, deg.
        seed: Of all that is drawn by chance.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder is there already.
        InputError: The camera hangs on a finger, there is no such arm, or too few views can be reached.
    """
    folder = Path(out)
    if folder.exists():
        raise FileExistsError(f"{folder}: is there already; nothing is overwritten. Name another folder")
    known = rig if isinstance(rig, Rig) else load_rig(rig)
    mount = known.camera(camera)
    lens, parent = mount.raw, mount.parent
    fixed = parent == "world" or parent.endswith("/base")
    name = (board_arm or next(iter(known.arms))) if fixed else parent.partition("/")[0]
    if name not in known.arms:
        raise InputError(f"rig {known.name} has no arm '{name}'; it has {', '.join(known.arms)}")
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
                f"{folder}: only {len(lines) - 1} of {views} views of camera {camera} can be reached with arm {name}; "
                f"ask for fewer, or hold the board with another arm"
            )
        C, q = draw()
        uv, valid = lens.project(apply(C, board.points))
        inside = valid & (uv > 3).all(-1) & (uv < [lens.width - 4, lens.height - 4]).all(-1)
        # A ChArUco board may be cut by the border, which is how the image's corners are reached.
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
    """Draw views of a board that lies 35 cm before a camera on an arm."""
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
        raise InputError(f"camera {camera} hangs on '{mount.parent}', which moves with the gripper; needed a link")
    link = int(node.removeprefix("link")) - 1
    Z = link_poses(arm, home)[link] @ X @ ahead

    def draw_joints() -> tuple[np.ndarray, np.ndarray | None]:
        # Joints beyond the link do not move the camera, so it cannot be put just anywhere.
        q = home + rng.uniform(-0.45, 0.45, arm.dof)
        C = np.asarray(invert(X) @ invert(link_poses(arm, q)[link]) @ Z)
        return C, q if C[2, 2] > STEEPEST else None

    return draw_joints


def _before_fixed(rig: Rig, camera: str, name: str, board: Board, rng: np.random.Generator) -> Draw:
    """Draw views of a board on an arm's flange, moved about before a fixed camera at the arm's usual distance."""
    arm, home, centre = rig.arms[name].arm, np.array(HOME_RAD), board.points.mean(0)
    parent, X = rig.camera(camera).parent, rig.camera(camera).T_parent_this
    if parent != "world":
        X = rig.arms[parent.partition("/")[0]].T_parent_this @ X
    X = invert(rig.arms[name].T_parent_this) @ X
    at_home = forward_kinematics(arm, home)
    tool = (invert(X) @ at_home)[:3, 3]
    if tool[2] < 0.2:
        raise InputError(f"arm {name} works behind camera {camera}, or within 20 cm of it; hold the board with another")
    # Glued to the flange such that it faces the camera when the arm is at home.
    Z = invert(at_home) @ X @ pose(np.eye(3), tool - centre)
    middle = tool * [0.5, 0.5, 1.0]

    def draw() -> tuple[np.ndarray, np.ndarray | None]:
        C = _look(rng, centre, middle)
        return C, _inverse(arm, X @ C @ invert(Z), home)

    return draw


def photograph(
    camera: Camera, T_camera_board: Array, page: np.ndarray, to_page: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return a grey image (H, W) uint8 of a printed page, with blur and noise.

    Args:
        camera: The camera, with its lens.
        T_camera_board: (4, 4), m.
        page: (H, W) uint8 picture of the page.
        to_page: (3, 3) from board coordinates (m, homogeneous) to pixels of the page.
        rng: Of the noise.
    """
    offsets = (np.arange(FINE) + 0.5) / FINE - 0.5
    edges = [(np.arange(length)[:, None] + offsets).ravel() for length in (camera.width, camera.height)]
    uv = np.stack(np.meshgrid(*edges), axis=-1)
    rays = camera.unproject(uv, np.ones(uv.shape[:2]))
    # The plane z = 0 of the board, from the camera's centre: H takes (x, y, 1) of the board to a ray.
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
    """Return a picture of the printed page and the map from board coordinates to its pixels."""
    paper = "A4" if max(board_size(board)) < 0.25 else "A3"
    with tempfile.TemporaryDirectory() as folder:
        _, png = write_page(board, Path(folder) / "page", paper)
        full = read_grey(png)
    detection = board.detect(full)
    if detection is None:
        raise InputError(f"the {board.kind} board cannot be found on its own page; take larger squares")
    H, _ = cv2.findHomography(board.points[detection.ids][:, :2], detection.uv)
    shrink = 1 / 3  # 100 dots an inch: about what a wrist camera resolves
    small = cv2.resize(full, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    scale = np.array(small.shape[::-1]) / np.array(full.shape[::-1])
    S = np.array([[scale[0], 0, 0.5 * scale[0] - 0.5], [0, scale[1], 0.5 * scale[1] - 0.5], [0, 0, 1]])
    return small, S @ H


def _look(rng: np.random.Generator, centre: np.ndarray, around: np.ndarray | None = None) -> np.ndarray:
    """Draw T_camera_board: tilted by up to 43 degrees, turned by up to 50.

    The board's centre comes 0.25 to 0.42 m before the camera, or within 20 cm of `around` (3,), in its frame.
    """
    w = np.append(rng.normal(0, 1, 2), 0.0)
    w *= rng.uniform(0.05, 0.75) / np.linalg.norm(w)
    R = rotation_exp(w) @ rotation_exp(np.array([0.0, 0.0, rng.uniform(-0.9, 0.9)]))
    t = np.array([rng.uniform(-0.12, 0.12), rng.uniform(-0.09, 0.09), rng.uniform(0.25, 0.42)])
    if around is not None:
        t = around + rng.uniform(-0.2, 0.2, 3)
    return np.asarray(pose(R, t - R @ centre))


def _inverse(arm: Arm, T: Array, q: np.ndarray) -> np.ndarray | None:
    """Return joints that put the flange at T, by damped least squares; None where they do not get there."""
    for _ in range(30):
        now = forward_kinematics(arm, q)
        off = np.concatenate([T[:3, 3] - now[:3, 3], rotation_log(T[:3, :3] @ now[:3, :3].T)])
        if np.abs(off).max() < 1e-10:
            return q if bool((q < arm.upper).all() and (q > arm.lower).all()) else None
        J = jacobian(arm, q)
        q = q + np.clip(J.T @ np.linalg.solve(J @ J.T + 1e-6 * np.eye(6), off), -0.3, 0.3)
    return None

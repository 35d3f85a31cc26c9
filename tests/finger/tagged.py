"""Episodes of a tag on a finger, drawn into noise by a homography of our own: the known answer of the tag route."""

from pathlib import Path

import cv2
import numpy as np

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import write_episode

SIDE_M = 0.014
T_SENSOR_TAG = np.array([[0, 0, -1.0, 0.0102], [0, 1, 0, -0.006], [1, 0, 0, 0.002], [0, 0, 0, 1]])
"""On the sensor's side that faces the wrist camera: x along the finger, z into the sensor."""
FINE, HALF = 4, 48  # subpixels; half the side of the neighbourhood, px
JOINTS = (0.1, -0.4, 1.6, 0.3, -1.5, 0.2)


def fraction(frames: int) -> np.ndarray:
    """(T,) how far open: closing and opening again."""
    return 0.55 + 0.4 * np.cos(np.linspace(0, 2 * np.pi, frames))


def picture(T_camera_tag: np.ndarray, K: np.ndarray, rng: np.random.Generator, number: int = 7) -> np.ndarray:
    """(480, 640, 3) a tag with a white rim on a wavy ground, with pixel noise; its pixels have their centres at i."""
    cells, rim = 240, 40
    face = cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50), number, cells)
    face = cv2.copyMakeBorder(face, rim, rim, rim, rim, cv2.BORDER_CONSTANT, value=255)
    s = SIDE_M / cells
    # Pixel i of the drawing covers [i, i + 1] from the rim's corner; the tag's centre is the origin.
    metres = np.array([[s, 0, (0.5 - rim - cells / 2) * s], [0, s, (0.5 - rim - cells / 2) * s], [0, 0, 1]])
    seen = K @ np.column_stack([T_camera_tag[:3, 0], T_camera_tag[:3, 1], T_camera_tag[:3, 3]]) @ metres
    # Only the tag's neighbourhood is drawn finely.
    u0, v0 = (np.round(seen[:2] @ [cells / 2 + rim, cells / 2 + rim, 1] / (seen[2] @ [160, 160, 1])) - HALF).astype(int)
    fine = np.array([[FINE, 0, (0.5 - u0) * FINE - 0.5], [0, FINE, (0.5 - v0) * FINE - 0.5], [0, 0, 1]]) @ seen
    v, u = np.mgrid[0:480, 0:640]
    ground = (110 + 40 * np.sin(u / 23) + 30 * np.sin(v / 31)).astype(np.uint8)
    near = ground[v0 : v0 + 2 * HALF, u0 : u0 + 2 * HALF]
    large = np.repeat(np.repeat(near, FINE, axis=0), FINE, axis=1)
    cv2.warpPerspective(face, fine, large.shape[::-1], large, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
    near[:] = cv2.resize(large, near.shape[::-1], interpolation=cv2.INTER_AREA)
    noisy = ground[..., None].astype(float) + rng.normal(0, 4, (480, 640, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def record(
    folder: Path,
    frames: int = 24,
    seed: int = 0,
    *,
    moved: np.ndarray | None = None,
    stands: np.ndarray | None = None,
    pressed: slice = slice(0, 0),
) -> Rig:
    """Write one episode of the cell's hand with a tag on tactile1, and return the true rig.

    Args:
        folder: Where.
        frames: T.
        seed: Of the noise.
        moved: (T,) how far open the fingers truly are; None: as the reading says.
        stands: (T,) the reading; None: closing and opening again.
        pressed: Frames in which the gel is pressed.
    """
    rng = np.random.default_rng(seed)
    rig = load_rig("cell")
    reading = fraction(frames) if stands is None else stands
    true = reading if moved is None else moved
    flange, sensor = rig.cameras["left_wrist"].T_parent_this, rig.sensors["tactile1"].T_parent_this
    K = np.array(rig.cameras["left_wrist"].K)
    images, touches = [], []
    for t in range(len(reading)):
        finger = np.eye(4)
        finger[1, 3] = -0.045 * true[t]  # the cell's law: 45 mm along -y
        images.append(picture(np.linalg.inv(flange) @ finger @ sensor @ T_SENSOR_TAG, K, rng))
        gel = 110 + rng.normal(0, 1.5, (80, 60, 3))
        gel[30:50, 20:40] += 60 if pressed.start <= t < pressed.stop else 0
        touches.append(np.clip(gel, 0, 255).astype(np.uint8))
    qpos = np.column_stack([np.tile(JOINTS, (len(reading), 1)), reading])
    write_episode(
        folder / "episode_init_0.hdf5",
        qpos=qpos,
        action=qpos,
        images={"left_wrist": images},
        touches={"tactile1": touches},
    )
    return rig

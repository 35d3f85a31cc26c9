"""Recordings of a hand with two facing sensors, seen by a scene camera, and boxes drawn in them with known errors."""

from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import write_episode
from tactile_align.geometry.frames import rotation_exp
from tactile_align.projection.sensor_box import other_finger, sensor_boxes
from tactile_align.verify.evidence import Labels

SENSORS = ("tactile1", "tactile2")
NAME = "episode_0.hdf5"
DRAWN_PX = 0.7
JOINTS = np.array([0.1, -0.4, 1.6, 0.3, -1.5, 0.2])
REACH = np.array([0.5, 0.35, 0.35, 0.6, 0.6, 0.8])
"""(6,) half range of the joints about JOINTS, rad."""


def two_sensor_rig() -> Rig:
    """Return the cell with a second sensor that faces the first; its gripper reports measured openings."""
    rig = load_rig("cell").with_gripper("left", reading="measured")
    return rig.with_sensor("tactile2", other_finger(rig, "tactile1"), stream="tactile2")


def states(rig: Rig, poses: int, openings: int, rng: np.random.Generator, camera: str = "top") -> np.ndarray:
    """Return qpos (poses * openings, 7) of arm poses, each at some openings, with both sensors whole in the camera."""
    rows: list[np.ndarray] = []
    while len(rows) < poses:
        q = JOINTS + rng.uniform(-1, 1, 6) * REACH
        share = np.linspace(0.1, 1.0, openings) if openings > 1 else rng.uniform(0.1, 1.0, 1)
        qpos = np.column_stack([np.tile(q, (openings, 1)), share])
        if all((sensor_boxes(rig, camera, sensor, qpos).inside > 0.999).all() for sensor in SENSORS):
            rows.append(qpos)
    return np.concatenate(rows)


def drawn(rig: Rig, qpos: np.ndarray, rng: np.random.Generator, camera: str = "top") -> Labels:
    """Return the true boxes of both sensors in every row, each edge with an error of DRAWN_PX."""
    labels: Labels = {}
    for sensor in SENSORS:
        boxes = np.asarray(sensor_boxes(rig, camera, sensor, qpos).box) + rng.normal(0, DRAWN_PX, (len(qpos), 4))
        labels[NAME, camera, sensor] = {t: tuple(map(float, box)) for t, box in enumerate(boxes)}  # type: ignore[misc]
    return labels


def write(folder: Path, rig: Rig, qpos: np.ndarray, cameras: tuple[str, ...] = ("top",)) -> Path:
    """Write an episode of grey frames with these states, and return the folder."""
    size = {name: (rig.cameras[name].stored.height, rig.cameras[name].stored.width, 3) for name in cameras}
    images = {name: [np.full(size[name], 128, np.uint8)] * len(qpos) for name in cameras}
    gel = [np.full((24, 32, 3), 110, np.uint8)] * len(qpos)
    write_episode(folder / NAME, qpos=qpos, action=qpos, images=images, touches=dict.fromkeys(SENSORS, gel))
    return folder


def displaced(rig: Rig, camera: str, metres: float, degrees: float, rng: np.random.Generator) -> Rig:
    """Return the rig with a camera shifted and turned by these amounts in random directions."""
    shift, axis = rng.normal(size=(2, 3))
    T = rig.cameras[camera].T_parent_this.copy()
    T[:3, 3] += metres * shift / np.linalg.norm(shift)
    T[:3, :3] = T[:3, :3] @ rotation_exp(np.radians(degrees) * axis / np.linalg.norm(axis))
    return rig.with_camera(camera, matrix=T.tolist())

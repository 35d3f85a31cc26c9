"""Errors of projected boxes on the simulated cell, measured against MuJoCo's kinematics and pixel masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import Episode, open_episode
from tactile_align.datasets.truth import read_truth
from tactile_align.errors import InputError
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.projection.episode_boxes import episode_boxes, hand_of, hold_sensors, recorded_contact
from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.simulation.looks import draw_look
from tactile_align.simulation.world import HOME, true_sensor_boxes

ROUNDS = 100  # largest number of batches of random poses that are tried


@dataclass(frozen=True)
class BoxErrors:
    """Errors of N projected boxes of a sensor. The true box tightly encloses the whole sensor's mask, hidden parts too.

    Attributes:
        iou: (N,) intersection over union (IoU) of each projected box with its true box.
        edges: (N, 4) signed errors of the edges u0, v0, u1, v1, px; positive to the right or down.
    """

    iou: np.ndarray
    edges: np.ndarray

    @property
    def centre_distance(self) -> np.ndarray:
        """Distance between the centres of each projected box and its true box, (N,), px."""
        return np.asarray(np.linalg.norm((self.edges[:, :2] + self.edges[:, 2:]) / 2, axis=1))

    def text(self) -> str:
        """Return the summary of the errors in one line."""
        signed = " ".join(f"{value:+z.2f}" for value in np.median(self.edges, axis=0))
        return (
            f"{len(self.iou)} boxes: IoU median {np.median(self.iou):.3f}, 5th percentile "
            f"{np.quantile(self.iou, 0.05):.3f}; median signed edge error {signed} px; median distance of centres "
            f"{np.median(self.centre_distance):.2f} px; {100 * np.mean(np.abs(self.edges) <= 1.0):.1f} % of edges "
            f"within 1 px"
        )


def errors(projected: np.ndarray, truth: np.ndarray) -> BoxErrors:
    """Return the errors of projected boxes (N, 4) against true boxes (N, 4), px.

    Rows in which either box contains nan are left out.

    Raises:
        InputError: No row has both boxes.
    """
    both = np.isfinite(projected).all(axis=1) & np.isfinite(truth).all(axis=1)
    if not both.any():
        raise InputError("no moment has both a projected and a true box. Choose a camera that sees the sensor")
    projected, truth = projected[both], truth[both]
    return BoxErrors(intersection_over_union(projected, truth), projected - truth)


def recorded_boxes(
    episodes: Sequence[Path], rig: Rig, camera: str, sensor: str, *, hold: bool = False, in_contact: bool = False
) -> BoxErrors:
    """Return the errors of projected boxes against the ground truth in simulated episodes.

    Args:
        episodes: Simulated episode files.
        rig: The rig of the episodes.
        camera: Name of a camera of the rig.
        sensor: Name of a sensor of the rig.
        hold: Whether to hold a commanded opening at its value at contact onset; contact is detected in touch images.
        in_contact: Whether to compare only moments in which the gel is truly in contact.

    Raises:
        InputError: An episode has no ground truth, or no moment has both boxes.
    """
    arm = hand_of(rig, sensor)
    holding = hold_sensors(rig, arm) if hold and arm else ()
    projected, truth = [], []
    for path in episodes:
        with open_episode(path) as episode:
            contact = recorded_contact(episode, rig, holding)
            boxes = episode_boxes(rig, camera, sensor, episode.qpos, contact, episode.fps, min_side_px=1).boxes
            keep = _required_truth(episode, "contact").astype(bool) if in_contact else slice(None)
            projected.append(boxes.box[keep])
            truth.append(_required_truth(episode, f"box/{camera}", 4)[keep])
    return errors(np.concatenate(projected), np.concatenate(truth))


def _required_truth(episode: Episode, key: str, *shape: int) -> np.ndarray:
    values = read_truth(episode, key, *shape)
    if values is None:
        raise InputError(f"{episode.ref}: ground truth truth/{key} is missing. Use an episode recorded by `simulate`")
    return values


def posed_boxes(rig: Rig, truth_rig: Rig, camera: str, sensor: str, poses: int = 500, seed: int = 0) -> BoxErrors:
    """Return the errors of projected boxes in raw frames against MuJoCo's masks, over random poses of the arm.

    For a camera that is fixed to the base, the boxes depend on all six joints.

    Args:
        rig: The rig to test. Its boxes are computed from joints and true openings, without gripper lag.
        truth_rig: The rig from which the simulated cell is built.
        camera: Name of a camera of both rigs.
        sensor: Name of a sensor of both rigs.
        poses: Number of poses with the whole sensor in view.
        seed: Seed of the random poses.

    Raises:
        InputError: Too few random poses have the whole sensor in the camera's view.
    """
    rng = np.random.default_rng(seed)
    look = draw_look(rng)
    bare = rig.with_camera(camera, image_map=())
    boxes, truth, count = [], [], 0
    for _ in range(ROUNDS):
        q = HOME + rng.uniform(-0.45, 0.45, (poses, 6))
        opening = np.repeat(rng.uniform(0.0, 0.045, (poses, 1)), 2, axis=1)
        qpos = np.concatenate([q, np.ones((poses, 1))], axis=1)
        projected = sensor_boxes(bare, camera, sensor, qpos, opening)
        whole = projected.visible & (projected.inside > 1 - 1e-9)
        rows = np.flatnonzero(whole)[: poses - count]
        boxes.append(projected.box[rows])
        truth.append(true_sensor_boxes(truth_rig, camera, q[rows], opening[rows], look) if len(rows) else boxes[-1])
        count += len(rows)
        if count == poses:
            return errors(np.concatenate(boxes), np.concatenate(truth))
    got = f"found {count} among {ROUNDS * poses} random poses. Choose another camera, or fewer poses"
    raise InputError(f"expected {poses} poses with all of {sensor} in the view of {camera}; {got}")

"""When the arm moves, what stands still in the world must move in a camera on the arm as the camera's motion says."""

import cv2
import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.motion import PAIRS, Motion, near_in_time, stroke_of
from tactile_align.calibration.rig import Rig
from tactile_align.calibration.rig_readings import readings_of
from tactile_align.datasets.episodes import Episode
from tactile_align.evenly import evenly
from tactile_align.geometry.frames import apply, invert

REST_STROKE = 0.02
"""A resting gripper moves less than this share of its stroke; a moving one would be taken for the world."""
FLOW = (0.02, 0.14)
"""How far what stands NEAR_M away may move between two frames, as shares of the image's width."""
NEAR_M = 0.25
INVERSE_DEPTHS = np.linspace(0.02, 16.0, 60)
"""Depths at which a still point is looked for: 50 m to 6 cm, evenly in 1/z."""
TRACKS, MIN_TRACKS = 250, 15
"""Points followed from frame to frame, at most and at least."""


def world_motion(episode: Episode, rig: Rig, camera: str) -> Motion | None:
    """Hold what a camera on an arm sees while it moves against each reading of the rig.

    Args:
        episode: The episode.
        rig: The rig that holds for it.
        camera: A camera of both.

    Returns:
        None where the camera stands in the world; no scores where too little can be followed from frame to frame.
    """
    entry = rig.cameras[camera]
    if entry.parent == "world":
        return None
    T = rig.T_from_to("world", entry.parent, episode.qpos) @ entry.T_parent_this
    tracked = []
    for i, j in _pairs_of_views(episode, rig, camera, T):
        a, b = (episode.image(camera, t) for t in (i, j))
        p, q = _tracks(a, b)
        if len(p) >= MIN_TRACKS:
            tracked.append((i, j, p, q))
    if not tracked:
        return Motion(camera, None, {}, {})
    scores, advice = {}, {}
    for reading in readings_of(rig, camera):
        mount = reading.rig.cameras[camera]
        moving = reading.rig.T_from_to("world", mount.parent, episode.qpos)
        T = moving @ mount.T_parent_this
        scores[reading.name] = np.array([_explained(mount.stored, invert(T[j]) @ T[i], p, q) for i, j, p, q in tracked])
        advice[reading.name] = reading.advice
    return Motion(camera, None, scores, advice)


def _pairs_of_views(episode: Episode, rig: Rig, camera: str, T_world_camera: np.ndarray) -> np.ndarray:
    """Return (P, 2) rows of frames between which the camera moves far enough to tell while its gripper rests."""
    entry = rig.cameras[camera]
    focal = abs(float(entry.stored.K[0, 0])) / entry.stored.width
    i, j = near_in_time(episode)
    gripper = rig.arms[entry.parent.partition("/")[0]].gripper
    if gripper is not None:
        opening = gripper.opening(episode.qpos)[:, 0]
        rests = np.abs(opening[i] - opening[j]) < REST_STROKE * stroke_of(gripper)
        i, j = i[rests], j[rests]
    step = invert(T_world_camera[i]) @ T_world_camera[j]
    turn = np.arccos(np.clip((np.trace(step[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1))
    flow = focal * (turn + np.linalg.norm(step[:, :3, 3], axis=1) / NEAR_M)
    fit = np.flatnonzero((flow > FLOW[0]) & (flow < FLOW[1]))
    fit = fit[evenly(len(fit), PAIRS)]
    return np.stack([i[fit], j[fit]], axis=1)


def _tracks(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (N, 2) of points in two frames; what moves along with the camera, such as the hand, is left out."""
    a, b = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    start = cv2.goodFeaturesToTrack(a, TRACKS, 0.005, 10)
    if start is None or not len(start):
        return np.zeros((0, 2)), np.zeros((0, 2))
    end, ok, _ = cv2.calcOpticalFlowPyrLK(a, b, start, np.empty_like(start), winSize=(21, 21), maxLevel=4)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(b, a, end, np.empty_like(start), winSize=(21, 21), maxLevel=4)
    p, q, r = (np.asarray(uv, dtype=np.float64).reshape(-1, 2) for uv in (start, end, back))
    held = (ok.ravel() > 0) & (ok_back.ravel() > 0) & (np.linalg.norm(p - r, axis=1) < 0.5)
    keep = held & (np.linalg.norm(p - q, axis=1) > 0.005 * a.shape[1])
    return p[keep], q[keep]


def _explained(camera: Camera, T_second_first: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    """Return the share of points (N, 2) that lie in the second frame where the camera's motion puts them."""
    depth = 1 / INVERSE_DEPTHS[:, None, None]
    uv, _ = camera.project(apply(T_second_first, camera.unproject(p, np.ones(len(p))) * depth))
    start, along = uv[:-1], uv[1:] - uv[:-1]
    share = ((q - start) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
    off = np.linalg.norm(start + np.clip(share, 0, 1)[..., None] * along - q, axis=-1)
    nearest = np.where(np.isfinite(off), off, np.inf).min(axis=0)
    allowed = 0.0025 * camera.width + 0.05 * np.linalg.norm(p - q, axis=1)
    return float((nearest < allowed).mean())

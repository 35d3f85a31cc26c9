"""Which single change of a rig would bring its boxes to where the sensor was seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tactile_align.calibration.evidence import View
from tactile_align.calibration.rig import Rig
from tactile_align.calibration.verdict import Check
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.geometry.frames import quaternion_from_rotation, rotation_exp
from tactile_align.projection.sensor_box import project_solids

WRONG = 0.75
"""Median IoU below which an explanation is looked for."""
EXPLAINED = 0.8
"""Median IoU that a change must reach; boxes of a few pixels, drawn by hand, reach no more."""
DRAWN_PX, DRAWN = 1.5, 0.02
"""How far edges may then still be off in the median, px or share of the box's side: drawn boxes are no better."""
AS_GOOD = 0.015
"""Changes whose median IoU differs by less cannot be told apart: drawn boxes are no better."""
MOST = 60
"""Boxes looked at, evenly spread."""
FACTOR = float(np.log(4.0))
"""A focal length is looked for between a quarter and four times what the rig says."""
TURN = 0.5
"""A camera is turned by no more than this about each of its axes, rad."""
REACH_MM = 200.0
"""A camera or a sensor is looked for this far along each of its axes."""
FAR_PX = 1e3
"""Counts as the error of a box that left the image: far, yet finite, so that a fit may start there."""

Boxes = Callable[[np.ndarray], np.ndarray]
"""Parameters -> boxes (N, 4), px."""


@dataclass(frozen=True)
class Change:
    """One change of the rig.

    Attributes:
        edit: The key and its new value, as in the rig file.
        iou: Median IoU of the boxes after it.
    """

    edit: str
    iou: float


def one_change(rig: Rig, camera: str, sensor: str, T_camera_sensor: np.ndarray, seen: np.ndarray) -> list[Change]:
    """Return the single changes that would explain boxes, the best first.

    Tried are the camera's focal length, how it is turned, where it sits, and where the sensor sits.

    Args:
        rig: The rig whose boxes are off.
        camera: Name of the camera.
        sensor: Name of the sensor.
        T_camera_sensor: (N, 4, 4) as the rig has it, metres.
        seen: (N, 4) where the sensor was seen, stored px, finite.
    """
    from scipy.optimize import least_squares  # only rigs that failed need it; `verify` starts faster without

    lens, touch = rig.camera(camera), rig.sensor(sensor)
    at, K = T_camera_sensor, np.asarray(lens.K)

    def scaled(p: np.ndarray) -> np.ndarray:
        factor = float(np.exp(p[0]))
        return K * np.array([[factor, 1, 1], [1, factor, 1], [1, 1, 1]])

    def by_focal_length(p: np.ndarray) -> np.ndarray:
        stored = lens.model_copy(update={"K": scaled(p).tolist()}).stored
        return np.asarray(project_solids(stored, at, touch.body, 0.0).box)

    def by_turn(p: np.ndarray) -> np.ndarray:
        turned = at.copy()
        turned[:, :3] = np.asarray(rotation_exp(p)).T @ at[:, :3]
        return np.asarray(project_solids(lens.stored, turned, touch.body, 0.0).box)

    def by_camera(p: np.ndarray) -> np.ndarray:
        moved = at.copy()
        moved[:, :3, 3] -= p / 1e3
        return np.asarray(project_solids(lens.stored, moved, touch.body, 0.0).box)

    def by_sensor(p: np.ndarray) -> np.ndarray:
        moved = at.copy()
        moved[:, :3, 3] += at[:, :3, :3] @ (p / 1e3)
        return np.asarray(project_solids(lens.stored, moved, touch.body, 0.0).box)

    def fitted(boxes: Boxes, start: Sequence[float], limit: float) -> tuple[np.ndarray, float]:
        def off(p: np.ndarray) -> np.ndarray:
            return np.asarray(np.where(np.isfinite(d := boxes(p) - seen), d, FAR_PX)).ravel()

        p = least_squares(off, np.array(start), loss="soft_l1", x_scale=limit / 20, bounds=(-limit, limit)).x
        iou = np.asarray(intersection_over_union(boxes(p), seen))
        close = float(np.median(np.abs(off(p)))) <= max(DRAWN_PX, DRAWN * float(np.median(seen[:, 2:] - seen[:, :2])))
        return p, float(np.median(np.where(np.isfinite(iou), iou, 0.0))) if close else 0.0

    starts = np.linspace(-FACTOR, FACTOR, 25)[1:-1, None]
    start = min(starts, key=lambda p: float(np.nan_to_num(np.abs(by_focal_length(p) - seen), nan=FAR_PX).mean()))
    found = []
    p, iou = fitted(by_focal_length, start.tolist(), FACTOR)
    found.append(Change(f"cameras.{camera}.K: fx = {scaled(p)[0, 0]:.1f}, fy = {scaled(p)[1, 1]:.1f}", iou))
    p, iou = fitted(by_turn, (0.0, 0.0, 0.0), TURN)
    quat = np.asarray(quaternion_from_rotation(lens.T_parent_this[:3, :3] @ np.asarray(rotation_exp(p))))
    turn = ", ".join(f"{value:.5f}" for value in quat)
    found.append(Change(f"cameras.{camera}: quat_wxyz = [{turn}], turned {np.degrees(np.linalg.norm(p)):.1f} deg", iou))
    for kind, name, mount, boxes in (
        ("cameras", camera, lens, by_camera),
        ("sensors", sensor, touch, by_sensor),
    ):
        p, iou = fitted(boxes, (0.0, 0.0, 0.0), REACH_MM)
        place = mount.T_parent_this[:3, 3] + mount.T_parent_this[:3, :3] @ (p / 1e3)
        text = ", ".join(f"{value:.4f}" for value in place)
        found.append(Change(f"{kind}.{name}: translation_m = [{text}], {np.linalg.norm(p):.0f} mm off", iou))
    good = sorted((one for one in found if one.iou >= EXPLAINED), key=lambda one: -one.iou)
    return [one for one in good if one.iou >= good[0].iou - AS_GOOD]


def explained(rig: Rig, camera: str, sensor: str, views: Sequence[View]) -> list[Check]:
    """Return the line of the table that names single changes, where the boxes are wrong and some explain them."""
    iou, seen = np.concatenate([view.iou() for view in views]), np.concatenate([view.seen for view in views])
    placed = np.concatenate([view.T_camera_sensor for view in views])
    rows = np.flatnonzero(np.isfinite(seen).all(axis=-1))
    if not len(rows) or np.median(np.nan_to_num(iou[rows])) >= WRONG:
        return []
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, MOST).astype(int))] if len(rows) > MOST else rows
    found = one_change(rig, camera, sensor, placed[rows], seen[rows])
    name = f"one change explains {sensor} in {camera}"
    if not found:
        advice = (
            "Neither a focal length, the camera's pose nor the sensor's place brings the boxes onto the sensor by "
            "itself: more than one thing is off, or the gripper's stroke, which `tactile-align calibrate finger "
            "--dry-run` fits to these boxes."
        )
        return [Check(name, "none", "", "info", advice)]
    said = "; or ".join(f"{one.edit} (IoU {one.iou:.3f})" for one in found)
    advice = f"One change would do: {said}. Measure whether it is true of your rig before you write it."
    if len(found) > 1:
        advice += " Boxes of a second view tell which: where that view passes, it is this camera."
    return [
        Check(
            name,
            f"IoU {found[0].iou:.3f} with the best",
            "",
            "info",
            advice,
            found[0].iou,
        )
    ]

"""Which single change of a rig would bring its boxes to where the sensor was seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tactile_align.calibration.box_causes import (
    Sight,
    camera_shift,
    camera_turn,
    elsewhere,
    focal_length,
    sensor_shift,
)
from tactile_align.calibration.evidence import View
from tactile_align.calibration.rig import Rig
from tactile_align.calibration.rig_readings import OTHER_FINGER, readings_of
from tactile_align.calibration.verdict import Check
from tactile_align.evenly import evenly
from tactile_align.geometry.frames import invert, quaternion_from_rotation, rotation_exp

WRONG = 0.75
"""Median IoU below which an explanation is looked for."""
EXPLAINED = 0.8
"""Median IoU that a change must reach; boxes of a few pixels, drawn by hand, reach no more."""
AS_GOOD = 0.015
"""Changes whose median IoU differs by less cannot be told apart: drawn boxes are no better."""
MOST = 60
"""Boxes looked at, evenly spread."""


@dataclass(frozen=True)
class Change:
    """One change of the rig.

    Attributes:
        edit: The key and its new value, as in the rig file.
        iou: Median IoU of the boxes after it.
    """

    edit: str
    iou: float


def one_change(
    rig: Rig,
    camera: str,
    sensor: str,
    T_camera_sensor: np.ndarray,
    seen: np.ndarray,
    opening: np.ndarray | None,
) -> list[Change]:
    """Return the single changes that would explain boxes, the best first.

    Tried are the camera's focal length, how it is turned, where it sits, where the sensor sits, and the other finger.

    Args:
        rig: The rig whose boxes are off.
        camera: Name of the camera.
        sensor: Name of the sensor.
        T_camera_sensor: (N, 4, 4) as the rig has it, metres.
        seen: (N, 4) where the sensor was seen, stored px, finite.
        opening: (N, 2) metres per finger; None for a sensor on no gripper.
    """
    lens, touch = rig.camera(camera), rig.sensor(sensor)
    sight = Sight((lens.stored,), np.zeros(len(seen), int), T_camera_sensor, touch.body, seen)
    zoom, turn = focal_length(sight), camera_turn(sight)
    fx, fy = (float(lens.K[axis][axis] * zoom.value[0]) for axis in (0, 1))
    quat = _listed(quaternion_from_rotation(lens.T_parent_this[:3, :3] @ np.asarray(rotation_exp(turn.value))), 5)
    deg = np.degrees(np.linalg.norm(turn.value))
    found = [
        (zoom, f"cameras.{camera}.K: fx = {fx:.1f}, fy = {fy:.1f}"),
        (turn, f"cameras.{camera}: quat_wxyz = {quat}, turned {deg:.1f} deg"),
    ]
    for key, mount, shift in (
        (f"cameras.{camera}", lens, camera_shift(sight)),
        (f"sensors.{sensor}", touch, sensor_shift(sight)),
    ):
        place = _listed(mount.T_parent_this[:3, 3] + mount.T_parent_this[:3, :3] @ shift.value, 4)
        found.append((shift, f"{key}: translation_m = {place}, {np.linalg.norm(shift.value) * 1e3:.0f} mm off"))
    for reading in readings_of(rig, camera, sensor) if opening is not None else ():
        if reading.name == OTHER_FINGER:
            other, T = reading.rig.sensors[sensor].parent, touch.T_parent_this
            # Between two fingers of one hand no joint enters.
            between = rig.T_from_to(touch.parent, other, np.zeros((len(seen), 1)), opening)
            there = elsewhere(sight, T_camera_sensor @ invert(T) @ between @ T)
            found.append(
                (there, f'sensors.{sensor}: parent = "{other}", or the axis of its gripper\'s law turned round')
            )
    good = [Change(edit, cause.iou) for cause, edit in found if cause.explains and cause.iou >= EXPLAINED]
    good.sort(key=lambda one: -one.iou)
    return [one for one in good if one.iou >= good[0].iou - AS_GOOD]


def _listed(values: np.ndarray, digits: int) -> str:
    return f"[{', '.join(f'{value:.{digits}f}' for value in np.asarray(values))}]"


def explained(rig: Rig, camera: str, sensor: str, views: Sequence[View]) -> list[Check]:
    """Return the line of the table that names single changes, where the boxes are wrong and some explain them."""
    iou, seen = np.concatenate([view.iou() for view in views]), np.concatenate([view.seen for view in views])
    placed = np.concatenate([view.T_camera_sensor for view in views])
    rows = np.flatnonzero(np.isfinite(seen).all(axis=-1))
    if not len(rows) or np.median(np.nan_to_num(iou[rows])) >= WRONG:
        return []
    held = [view.opening for view in views if view.opening is not None]
    opening = np.concatenate(held) if len(held) == len(views) else None
    rows = rows[evenly(len(rows), MOST)]
    found = one_change(rig, camera, sensor, placed[rows], seen[rows], None if opening is None else opening[rows])
    name = f"one change explains {sensor} in {camera}"
    if not found:
        advice = (
            "Neither a focal length, the camera's pose, the sensor's place nor the other finger brings the boxes onto "
            "the sensor by itself: more than one thing is off, or the gripper's stroke, which `tactile-align "
            "calibrate finger --dry-run` fits to these boxes."
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

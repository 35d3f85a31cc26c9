"""Hypotheses about a rig: each undoes one slip that rig files really have."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.calibration.rig_parts import RigCamera
from tactile_align.geometry.frames import invert, quaternion_from_rotation

AS_WRITTEN, OTHER_FINGER = "as written", "the other finger"
SIZES = (
    (320, 240),
    (424, 240),
    (640, 360),
    (640, 400),
    (640, 480),
    (800, 600),
    (848, 480),
    (960, 540),
    (1024, 768),
    (1280, 720),
    (1280, 800),
    (1280, 960),
    (1600, 1200),
    (1920, 1080),
    (1920, 1200),
    (2560, 1440),
    (3840, 2160),
)
"""Frame sizes (width, height) that cameras deliver, px."""
NEAR_SIZE = 0.06
"""How far a principal point, doubled, may lie from such a size to name it, as a share of it."""
SMALLEST = 64
"""No camera delivers frames smaller than this, px."""


@dataclass(frozen=True)
class Hypothesis:
    """A rig with one thing changed.

    Attributes:
        name: What is changed; AS_WRITTEN for the rig itself.
        advice: What to change in the rig file if this hypothesis holds.
        rig: The rig so changed.
    """

    name: str
    advice: str
    rig: Rig


def hypotheses_of(rig: Rig, camera: str, sensor: str | None = None) -> tuple[Hypothesis, ...]:
    """Return the rig as written, then hypotheses about a camera and, when named, a sensor and its gripper."""
    found = [Hypothesis(AS_WRITTEN, "", rig), *_image_maps(rig, camera), *_lenses(rig, camera), *_poses(rig, camera)]
    return (*found, *(_hands(rig, sensor) if sensor is not None else ()))


def frame_of(camera: RigCamera) -> tuple[int, int]:
    """Return the frame (width, height), px, whose centre is K's principal point; a usual size where one is near."""
    centre = np.array([camera.K[0][2], camera.K[1][2]])
    size = 2 * centre + 1
    off = [float(np.abs(size / np.array(one) - 1).max()) for one in SIZES]
    best = int(np.argmin(off))
    if off[best] < NEAR_SIZE:
        return SIZES[best]
    return max(1, round(float(size[0]))), max(1, round(float(size[1])))


def _image_maps(rig: Rig, camera: str) -> list[Hypothesis]:
    """Turns and mirrors that the recorder did and the rig does not say, or the other way round."""
    steps = rig.cameras[camera].image_map
    found = []
    for turn in ("rotate180", "flip_u", "flip_v"):
        if (turn,) in steps:
            variants = [(f"without {turn}", tuple(step for step in steps if step != (turn,)))]
        else:
            variants = [(turn, ((turn,), *steps))]
            if steps:
                variants.append((f"{turn} last", (*steps, (turn,))))
        found += [
            Hypothesis(
                name, f"Set image_map = {_toml(steps)} of cameras.{camera}.", rig.with_camera(camera, image_map=steps)
            )
            for name, steps in variants
        ]
    return found


def _toml(steps: tuple[tuple[Any, ...], ...]) -> str:
    quoted = [", ".join(f'"{part}"' if isinstance(part, str) else str(part) for part in step) for step in steps]
    return "[" + ", ".join(f"[{step}]" for step in quoted) + "]"


def _lenses(rig: Rig, camera: str) -> list[Hypothesis]:
    """K of frames of another size, or a focal length half or twice as long."""
    entry = rig.cameras[camera]
    found = []
    size = frame_of(entry)
    off = max(abs(size[0] / entry.width - 1), abs(size[1] / entry.height - 1))
    if off > NEAR_SIZE and min(size) >= SMALLEST:
        back: list[tuple[str, tuple[tuple[Any, ...], ...]]] = [
            (f"K of {size[0]}x{size[1]}", (("resize", entry.width, entry.height),))
        ]
        shrink = min(size[0] / entry.width, size[1] / entry.height)
        width, height = round(shrink * entry.width), round(shrink * entry.height)
        if (width, height) != size:
            cut = ("crop", (size[0] - width) // 2, (size[1] - height) // 2, width, height)
            back.append((f"K of {size[0]}x{size[1]}, cropped", (cut, *back[0][1])))
        for name, steps in back:
            steps = (*steps, *entry.image_map)
            found.append(
                Hypothesis(
                    name,
                    f"Set width = {size[0]}, height = {size[1]}, image_map = {_toml(steps)} of cameras.{camera}, or "
                    f"give it the K of {entry.width}x{entry.height} frames.",
                    rig.with_camera(camera, width=size[0], height=size[1], image_map=steps),
                )
            )
    for name, factor in (("focal length halved", 0.5), ("focal length doubled", 2.0)):
        K = np.asarray(entry.K)
        K[:2, :2] *= factor
        advice = (
            f"K of cameras.{camera} is of another resolution: fx = {K[0, 0]:.0f} fits better than {entry.K[0][0]:.0f}."
        )
        found.append(Hypothesis(name, advice, rig.with_camera(camera, K=tuple(tuple(row) for row in K.tolist()))))
    return found


def _poses(rig: Rig, camera: str) -> list[Hypothesis]:
    entry = rig.cameras[camera]
    T = invert(entry.T_parent_this)
    w, x, y, z = entry.quat_wxyz
    turned = tuple(quaternion_from_rotation(T[:3, :3]).tolist())
    found = [
        Hypothesis(
            "quaternion order",
            f"Write quat_wxyz of cameras.{camera} w first.",
            rig.with_camera(camera, quat_wxyz=(z, w, x, y)),
        )
    ]
    if np.abs(T[:3, 3]).max() < 10.0:
        inverted = rig.with_camera(camera, translation_m=tuple(T[:3, 3].tolist()), quat_wxyz=turned)
        advice = f"Give cameras.{camera} T_parent_camera, not T_camera_parent."
        found.append(Hypothesis("pose inverted", advice, inverted))
    return found


def _hands(rig: Rig, sensor: str) -> list[Hypothesis]:
    """The gripper read the other way round, and the sensor on the other finger."""
    entry, arm = rig.sensors[sensor], rig.sensor_arm(sensor)
    gripper = rig.arms[arm].gripper if arm else None
    if gripper is None or not entry.parent.endswith(("finger1", "finger2")):
        return []
    other = f"{arm}/finger{2 if entry.parent.endswith('1') else 1}"
    return [
        Hypothesis(
            "open and closed swapped",
            f"Set open = {gripper.closed:g}, closed = {gripper.open:g} of arms.{arm}.gripper.",
            rig.with_gripper(arm, open=gripper.closed, closed=gripper.open),
        ),
        Hypothesis(
            OTHER_FINGER,
            f'Set parent = "{other}" of sensors.{sensor}, or turn axis of the law of arms.{arm}.gripper round.',
            rig.with_sensor(sensor, parent=other),
        ),
    ]

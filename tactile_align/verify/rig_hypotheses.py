"""Hypotheses about a rig: each is the rig with one mistake corrected that is common in rig files."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.calibration.rig_parts import RigCamera
from tactile_align.checks import Hypothesis
from tactile_align.geometry.frames import invert
from tactile_align.sessions.write_rig import pose_keys

AS_WRITTEN, OTHER_FINGER = "as written", "the other finger"
WIDTHS = (320, 424, 640, 640, 640, 800, 848, 960, 1024, 1280, 1280, 1280, 1600, 1920, 1920, 2560, 3840)
HEIGHTS = (240, 240, 360, 400, 480, 600, 480, 540, 768, 720, 800, 960, 1200, 1080, 1200, 1440, 2160)
SIZES = np.stack([WIDTHS, HEIGHTS], axis=1)
"""(17, 2) frame sizes, width and height, that cameras deliver, px."""
NEAR_SIZE = 0.06
"""Largest relative difference between twice the principal point and a size in SIZES that counts as equal."""
SMALLEST = 64
"""Smallest width or height of a frame that a camera delivers, px."""


Slip = Hypothesis[Rig]
"""Hypothesis whose `changed` is a rig with one mistake corrected; its advice states the change in the rig file."""


def hypotheses_of(rig: Rig, camera: str, sensor: str | None = None) -> tuple[Slip, ...]:
    """Return the rig itself (AS_WRITTEN), then hypotheses about a camera and, if given, a sensor and its gripper."""
    of_camera = Slip(AS_WRITTEN, "", rig), *_image_maps(rig, camera), *_lenses(rig, camera), *_poses(rig, camera)
    return of_camera if sensor is None else (*of_camera, *_hands(rig, sensor))


def frame_of(camera: RigCamera) -> tuple[int, int]:
    """Return the width and height, px, of the frame whose centre is the principal point of the camera's K.

    If a common frame size in SIZES is close, this size is returned.
    """
    centre = np.array([camera.K[0][2], camera.K[1][2]])
    size = 2 * centre + 1
    off = np.abs(size / SIZES - 1).max(axis=1)
    near = SIZES[off.argmin()] if off.min() < NEAR_SIZE else np.maximum(1, size.round())
    return int(near[0]), int(near[1])


def _image_maps(rig: Rig, camera: str) -> Iterator[Slip]:
    """Yield changes of image_map: a missing turn or mirror added, or a stated one removed."""
    steps = rig.cameras[camera].image_map
    for turn in ("rotate180", "flip_u", "flip_v"):
        if (turn,) in steps:
            variants = {f"without {turn}": tuple(step for step in steps if step != (turn,))}
        else:
            variants = {turn: ((turn,), *steps)} | ({f"{turn} last": (*steps, (turn,))} if steps else {})
        for name, variant in variants.items():
            advice = f"Set image_map = {_toml(variant)} of cameras.{camera}."
            yield Slip(name, advice, rig.with_camera(camera, image_map=variant))


def _toml(steps: tuple[tuple[Any, ...], ...]) -> str:
    quoted = [", ".join(f'"{part}"' if isinstance(part, str) else str(part) for part in step) for step in steps]
    return "[" + ", ".join(f"[{step}]" for step in quoted) + "]"


def _lenses(rig: Rig, camera: str) -> Iterator[Slip]:
    """Yield changes of K: K belongs to frames of another size, or the focal length is half or twice as long."""
    entry = rig.cameras[camera]
    size = frame_of(entry)
    off = max(abs(size[0] / entry.width - 1), abs(size[1] / entry.height - 1))
    if off > NEAR_SIZE and min(size) >= SMALLEST:
        resize = ("resize", entry.width, entry.height)
        back: dict[str, tuple[tuple[Any, ...], ...]] = {f"K of {size[0]}x{size[1]}": (resize,)}
        shrink = min(size[0] / entry.width, size[1] / entry.height)
        width, height = round(shrink * entry.width), round(shrink * entry.height)
        if (width, height) != size:
            cut = ("crop", (size[0] - width) // 2, (size[1] - height) // 2, width, height)
            back[f"K of {size[0]}x{size[1]}, cropped"] = (cut, resize)
        for name, steps in back.items():
            steps = (*steps, *entry.image_map)
            advice = (
                f"Set width = {size[0]}, height = {size[1]}, image_map = {_toml(steps)} of cameras.{camera}, or "
                f"give it the K of {entry.width}x{entry.height} frames."
            )
            yield Slip(name, advice, rig.with_camera(camera, width=size[0], height=size[1], image_map=steps))
    for name, factor in (("focal length halved", 0.5), ("focal length doubled", 2.0)):
        K = np.asarray(entry.K)
        K[:2, :2] *= factor
        advice = f"Correct K of cameras.{camera}: fx = {K[0, 0]:.0f} fits better than {entry.K[0][0]:.0f} at this size."
        yield Slip(name, advice, rig.with_camera(camera, K=tuple(map(tuple, K.tolist()))))


def _poses(rig: Rig, camera: str) -> Iterator[Slip]:
    entry = rig.cameras[camera]
    w, x, y, z = entry.quat_wxyz
    advice = f"Write quat_wxyz of cameras.{camera} with w first."
    yield Slip("quaternion order", advice, rig.with_camera(camera, quat_wxyz=(z, w, x, y)))
    T = invert(entry.T_parent_this)
    if np.abs(T[:3, 3]).max() < 10.0:
        advice = f"Write T_parent_camera, not T_camera_parent, into cameras.{camera}."
        yield Slip("pose inverted", advice, rig.with_camera(camera, **pose_keys(T)))


def _hands(rig: Rig, sensor: str) -> Iterator[Slip]:
    """Yield changes of the hand: open and closed swapped, and the sensor on the other finger."""
    entry, arm = rig.sensors[sensor], rig.sensor_arm(sensor)
    gripper = rig.arms[arm].gripper if arm else None
    if gripper is None or not entry.parent.endswith(("finger1", "finger2")):
        return
    advice = f"Set open = {gripper.closed:g}, closed = {gripper.open:g} of arms.{arm}.gripper."
    yield Slip("open and closed swapped", advice, rig.with_gripper(arm, open=gripper.closed, closed=gripper.open))
    other = f"{arm}/finger{2 if entry.parent.endswith('1') else 1}"
    advice = f'Set parent = "{other}" of sensors.{sensor}, or reverse axis in the law of arms.{arm}.gripper.'
    yield Slip(OTHER_FINGER, advice, rig.with_sensor(sensor, parent=other))

"""Hypotheses about a rig: each is the rig with one mistake corrected that is common in rig files."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.calibration.rig_parts import RigCamera
from tactile_align.checks import Hypothesis
from tactile_align.geometry.frames import invert, pose
from tactile_align.kinematics.arm_files import tips_beside
from tactile_align.kinematics.gripper import SliderCrank
from tactile_align.sessions.write_rig import LENGTHS, pose_keys, with_stroke

AS_WRITTEN, OTHER_FINGER = "as written", "the other finger"
LABELS = "Correct the labels"
"""Begin of the advice of a hypothesis that the labels, not the rig, are wrong."""
NEAR_TIPS = 4
"""Largest number of other links of a URDF file that are tried as the flange."""
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


def box_hypotheses_of(rig: Rig, cameras: Sequence[str], sensors: Sequence[str]) -> dict[str, tuple[str, Slip]]:
    """Return hypotheses that need boxes, beside those of `hypotheses_of` for each camera and each sensor.

    They are about the sensors' fingers and their half turn, exchanged sensors, the lengths of the gripper's law, its
    axis, and the arm's tip.

    Args:
        rig: The rig.
        cameras: Names of the cameras that have boxes.
        sensors: Names of the sensors that have boxes.

    Returns:
        By a unique name, the changed part of the rig file ("cameras.top") and the hypothesis. Two hypotheses about one
        part exclude each other.
    """
    slips: dict[str, tuple[str, Slip]] = {}

    def add(part: str, found: Iterable[Slip]) -> None:
        slips.update({f"{part}: {slip.name}": (part, slip) for slip in found if slip.name != AS_WRITTEN})

    for camera in cameras:
        add(f"cameras.{camera}", hypotheses_of(rig, camera))
    for sensor in sensors:
        hand = {slip.name: slip for slip in _hands(rig, sensor)}
        other = hand.pop(OTHER_FINGER, None)
        add(f"arms.{rig.sensor_arm(sensor)}.gripper", hand.values())
        add(f"sensors.{sensor}", _half_turns(rig, sensor, other))
    for first, second in combinations(sensors, 2):
        add("sensors", [_exchanged(rig, first, second)])
    for sensor in sensors:
        add("sensors", (_on_another(rig, sensor, other) for other in rig.sensors if other != sensor))
    for arm in dict.fromkeys(filter(None, map(rig.sensor_arm, sensors))):
        add(f"arms.{arm}", _tips(rig, arm))
        if rig.arms[arm].gripper is not None:
            add(f"arms.{arm}.gripper", (*strokes_of(rig, arm), _axis_reversed(rig, arm)))
    return slips


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
    advice = f'Set parent = "{other}" of sensors.{sensor}.'
    yield Slip(OTHER_FINGER, advice, rig.with_sensor(sensor, parent=other))


def _half_turns(rig: Rig, sensor: str, other: Slip | None) -> Iterator[Slip]:
    """Yield the other finger without and with a half turn of the sensor about the tool axis, and the half turn alone.

    Sensors that face each other differ by this half turn. The tool axis is the flange's z, made perpendicular to the
    gripper's axis.
    """
    if other is None:
        return
    yield other
    axis = np.asarray(rig.gripper(rig.sensor_arm(sensor)).law.axis)
    tool = np.array([0.0, 0.0, 1.0]) - axis[2] * axis
    if np.linalg.norm(tool) < 0.5:
        return
    tool /= np.linalg.norm(tool)
    turn = pose(2 * np.outer(tool, tool) - np.eye(3), np.zeros(3))
    keys = pose_keys(turn @ rig.sensors[sensor].T_parent_this)
    edit = ", ".join(f"{key} = {listed(value)}" for key, value in keys.items())
    parent = other.changed.sensors[sensor].parent
    advice = f'Set parent = "{parent}", {edit} of sensors.{sensor}, half a turn about the tool axis.'
    yield Slip("the other finger, half a turn", advice, rig.with_sensor(sensor, parent=parent, **keys))
    advice = f"Set {edit} of sensors.{sensor}, half a turn about the tool axis: sensors that face each other need it."
    yield Slip("half a turn", advice, rig.with_sensor(sensor, **keys))


GEOMETRY = ("parent", "translation_m", "quat_wxyz", "body", "pad")
"""Keys of a sensor that state where it is and what it looks like, without its stream."""


def _exchanged(rig: Rig, first: str, second: str) -> Slip:
    """Return the hypothesis that two sensors are exchanged."""
    a, b = (rig.sensors[name].model_dump(include={*GEOMETRY}) for name in (first, second))
    advice = f"Exchange `parent` and pose of sensors.{first} and sensors.{second}, or these two names in the labels."
    changed = rig.with_sensor(first, **b).with_sensor(second, **a)
    return Slip(f"{first} and {second} exchanged", advice, changed)


def _on_another(rig: Rig, sensor: str, other: str) -> Slip:
    """Return the hypothesis that the boxes of a sensor lie on another sensor."""
    advice = f"{LABELS}: the boxes of {sensor} lie on {other}."
    changed = rig.with_sensor(sensor, **rig.sensors[other].model_dump(include={*GEOMETRY}))
    return Slip(f"boxes of {sensor} on {other}", advice, changed)


LARGEST_OPENING_M = 0.5
"""Largest opening that a gripper's law accepts, m."""
STROKES = {"opening halved": 0.5, "opening doubled": 2.0}
"""Factors on the opening of a gripper's law, by the name of the hypothesis: the width between the fingers was written
as one finger's distance, or half of that distance."""


def strokes_of(rig: Rig, arm: str) -> Iterator[Slip]:
    """Yield changes of a gripper's law: all openings halved or doubled. The lengths of a crank have no such slip."""
    law = rig.gripper(arm).law
    if isinstance(law, SliderCrank):
        return
    for name, factor in STROKES.items():
        if factor * float(np.max(law.opening(np.array([0.0, 1.0])))) <= LARGEST_OPENING_M:
            changed = with_stroke(rig, arm, factor)
            yield Slip(name, f"Set {law_edit(changed, arm)}; a law's lengths are for ONE finger.", changed)


def law_edit(rig: Rig, arm: str) -> str:
    """Return the lengths in the law of an arm's gripper as an edit of the rig file."""
    law = rig.gripper(arm).law.model_dump()
    values = {key: law[key] for key in law if key in LENGTHS and np.any(law[key])}
    edit = ", ".join(f"{key} = {listed(value)}" for key, value in values.items())
    return f"{edit} of arms.{arm}.gripper.law"


def _axis_reversed(rig: Rig, arm: str) -> Slip:
    law = rig.gripper(arm).law
    axis = tuple(0.0 - value for value in law.axis)
    advice = f"Set axis = {listed(axis)} of arms.{arm}.gripper.law."
    return Slip("axis reversed", advice, rig.with_gripper(arm, law=law.model_dump() | {"axis": axis}))


def _tips(rig: Rig, arm: str) -> Iterator[Slip]:
    """Yield the links of a URDF near the flange as the arm's tip."""
    entry = rig.arms[arm]
    if Path(entry.model).suffix.lower() not in (".urdf", ".xml"):
        return
    for link in tips_beside(Path(entry.model), entry.base, entry.tip)[:NEAR_TIPS]:
        yield Slip(f"tip {link}", f'Set tip = "{link}" of arms.{arm}.', rig.with_arm(arm, tip=link))


def listed(value: float | Sequence[float] | np.ndarray) -> str:
    """Return a number or numbers as TOML, with four digits after the point (five for a quaternion)."""
    numbers = np.atleast_1d(np.asarray(value, dtype=float))
    text = ", ".join(f"{number:z.{5 if len(numbers) == 4 else 4}f}" for number in numbers)
    return text if np.ndim(value) == 0 else f"[{text}]"

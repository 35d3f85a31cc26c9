"""Draft of a rig: arms, grippers, cameras and sensors that a recording shows, with "?" for what it does not contain."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tactile_align.datasets.containers import tree
from tactile_align.datasets.contents import (
    IMAGE_WORDS,
    OTHER_LENSES,
    WIDTH_WORDS,
    WRIST_WORDS,
    ArmColumns,
    Contents,
    StateColumns,
    listed,
)
from tactile_align.datasets.draft_text import DraftText, draft_name, named_streams
from tactile_align.datasets.found_cameras import FoundCamera, found_cameras
from tactile_align.datasets.roles import FRAMES, Array, words
from tactile_align.facts import UNKNOWN, fact_names
from tactile_align.geometry.frames import quaternion_from_rotation
from tactile_align.kinematics.arm_files import Links

FIXED_WORDS = {"scene", "top", "front", "side", "external", "exterior", "overhead", "third", "agentview", "table"}
LEAST_TURN, MOST_TURN, MOST_DEGREES = 1.0, 6.5, 400.0
"""Largest absolute joint value up to which values may be normalised, are radians, and are degrees."""
FINGERS_M = (0.01, 0.3)
"""Range of the widest opening between two fingers, m."""
MOST_OVER = 1.05
"""Largest ratio of a recorded width to the width at the limits of the URDF's fingers."""
CENTRED = 0.15
"""Largest distance of a principal point from the image's centre, as a share of the image, for which K may fit it."""
NEAR, MANY, FOLLOWS = 0.02, 0.2, 0.7
"""A reading is measured if it differs from the scaled command by more than NEAR, as a share of the readings' range, in
at least the share MANY of the rows, and their correlation is at least FOLLOWS."""
LATER = (0, 1, 2)
"""Rows by which a command may precede the readings."""
MODELS = {"plumb_bob": "brown", "rational_polynomial": "rational", "equidistant": "fisheye"}
"""Lens models by their names in ROS; names of the RealSense SDK are valid in a rig."""


def rig_draft(contents: Contents, state: StateColumns, links: Links | None, model: str | None) -> str:
    """Return the text of the draft of a rig; `model` is the arm's URDF, relative to the rig, None if unknown."""
    text = DraftText()
    text.comment(f"Draft of the rig of {contents.path.name}. Poses are T_parent_this: metres, quaternion w x y z.")
    if contents.layout is not None and contents.layout.name in fact_names("calibration"):
        text.comment(f'The shipped rig "{contents.layout.name}" has nominal values of this robot.')
    text.put("name", draft_name(contents))
    text.put(
        "status", "nominal", '"nominal": from drawings. "calibrated": each pose is measured (a sensor by tape will do).'
    )
    cameras, touches, unsure = contents.streams
    named = named_streams(cameras)
    found = found_cameras(contents, named, tuple(arm.name for arm in state.arms))
    hands = {camera.parent.partition("/")[0] for camera in found.values() if camera.parent and "/" in camera.parent}
    if len(hands) == len(state.arms) == 1:
        state.arms[0].name = hands.pop()
    in_world = any(camera.parent == "world" and camera.T_parent_camera is not None for camera in found.values())
    for number, arm in enumerate(state.arms):
        _put_arm(text, contents, state, arm, links, model, first=number == 0 and not in_world)
    for name, camera in named.items():
        _put_camera(text, contents, state, name, camera, found.get(name))
    for name, touch in named_streams(touches).items():
        _put_sensor(text, state, name, touch, links, sole=len(touches) == 1)
    if unsure:
        text.comment(listed("Add a table under cameras or sensors for each of these", unsure))
    return str(text)


def _put_arm(
    text: DraftText,
    contents: Contents,
    state: StateColumns,
    arm: ArmColumns,
    links: Links | None,
    model: str | None,
    first: bool,
) -> None:
    text.table("arms", arm.name)
    shipped = ", ".join(fact_names("kinematics"))
    why = "It starts at the folder of this file: a copy elsewhere needs another path."
    text.put(
        "model", model or UNKNOWN, why if model else f"Path of the arm's URDF from this folder, or one of: {shipped}."
    )
    if links is not None and (links.tip is None or len(links.tips) != 1 or links.finger_axis):
        names = ", ".join(links.tips) or "the file has no single arm"
        if links.tip:
            text.comment(f"A guess: the link that carries the fingers; {arm.name}/flange is its frame. Links: {names}.")
        else:
            ur = ", on a UR often tool0" if "tool0" in links.tips else ""
            text.comment(
                f"{arm.name}/flange is the frame of this link: the parent of your hand-eye calibration{ur}.",
                f"Links at one point may be turned, so the name flange is no reason to choose it. Links: {names}.",
            )
        text.put("tip", links.tip or UNKNOWN)
    if links is not None and links.base is None:
        text.put("base", UNKNOWN, "The first link of the arm; the file has several roots.")
    text.put("parent", "world")
    if first:
        text.comment("A choice: the world frame is the base of this arm.")
    else:
        text.comment("The base of this arm in the world frame, which is also that of the cameras' poses.")
    text.put("translation_m", [0.0, 0.0, 0.0] if first else UNKNOWN)
    text.put("quat_wxyz", [1.0, 0.0, 0.0, 0.0] if first else UNKNOWN)
    unit, why = _unit(contents, state, arm, links)
    text.comment(arm.why or "The recording does not show which columns of qpos are joints.", why)
    text.put("joints", {"columns": list(arm.joints) if arm.joints else UNKNOWN, "unit": unit})
    if arm.gripper is not None:
        _put_gripper(text, contents, state, arm, links)
    else:
        text.comment(
            f"If the arm has a gripper, add its array to state.qpos of the layout, and here [arms.{arm.name}.gripper] "
            f"with column, open, closed, reading and law (calibration/README.md): only then do {arm.name}/finger1 "
            f"and {arm.name}/finger2 exist."
        )


def _unit(contents: Contents, state: StateColumns, arm: ArmColumns, links: Links | None) -> tuple[str, str]:
    """Return the unit of the joints and its reason; the limits of the URDF decide, or else the range."""
    if arm.joints is None:
        return UNKNOWN, "The unit is rad or deg."
    q = contents.joined(array.key for array in state.qpos)[:, list(arm.joints)]
    most = float(np.nanmax(np.abs(q), initial=0.0))
    if links is not None and links.arm is not None and links.arm.dof == len(arm.joints):
        low, high = links.arm.lower - 0.05, links.arm.upper + 0.05
        if np.all((q >= low) & (q <= high)) and most > LEAST_TURN:
            return "rad", "Radians: all recorded values lie within the limits of the URDF."
        if most > MOST_TURN and np.all((np.radians(q) >= low) & (np.radians(q) <= high)):
            return "deg", "Degrees: only then do all recorded values lie within the limits of the URDF."
        return UNKNOWN, f"rad or deg? Values up to {most:.3g} are recorded, which the URDF's limits do not decide."
    if LEAST_TURN < most <= MOST_TURN:
        return "rad", f"A guess: radians, since values up to {most:.3g} are recorded."
    if MOST_TURN < most <= MOST_DEGREES:
        return "deg", f"A guess: degrees, since values up to {most:.3g} are recorded."
    return UNKNOWN, f"rad or deg? Values up to {most:.3g} are recorded; they may be normalised or counts."


def _put_gripper(
    text: DraftText, contents: Contents, state: StateColumns, arm: ArmColumns, links: Links | None
) -> None:
    known = "qpos" not in state.open
    reading = contents.joined(array.key for array in state.qpos)[:, arm.gripper] if known else np.zeros(0)
    reading = reading[np.isfinite(reading)]
    low, high = float(reading.min(initial=np.inf)), float(reading.max(initial=-np.inf))
    wide = bool(WIDTH_WORDS & set(words(arm.gripper_key))) and 0 <= low < high
    metres = wide and FINGERS_M[0] <= high <= FINGERS_M[1]
    text.table("arms", arm.name, "gripper")
    text.put("column", arm.gripper)
    lie = f"They lie from {low:.4g} to {high:.4g} here." if len(reading) else "No reading here is finite."
    lie = lie if known else "layout.toml lists the arrays with their ranges."
    text.comment(f"Readings when fully open and fully closed, as recorded. {lie}")
    text.put("open", round(high, 6) if wide else UNKNOWN, "A guess: the largest recorded width." if wide else "")
    text.put("closed", 0.0 if wide else UNKNOWN, "A guess: a width is 0 when closed." if wide else "")
    value, why = _compared_reading(contents, state, arm) if known else (UNKNOWN, "measured or commanded?")
    if value == UNKNOWN and wide:
        value, why = "measured", "A guess: a width is measured. If it is the last command: commanded."
    text.put("reading", value, why)
    axis = links.finger_axis if links is not None else None
    if axis is not None:
        text.comment("axis: that of the first finger of the URDF, in the frame of `tip`.")
    else:
        sole = " With one sensor, finger1 is its finger." if len(contents.streams[1]) == 1 else ""
        text.comment(
            f"axis: unit vector in the frame of {arm.name}/flange along which finger1 moves when it opens.{sole}"
        )
    open_m: float | str = UNKNOWN
    limit = links.finger_open_m if links is not None and axis is not None else None
    if metres and limit and high > MOST_OVER * 2 * limit:
        text.comment(f"open_m: ONE finger's distance. The URDF's finger slides only {limit:g} m.")
    elif limit and not metres:
        open_m, guess = limit, " A guess: the gripper opened fully in the recording." if wide else ""
        text.comment(f"open_m: ONE finger's distance from the tool axis; the limit of the URDF's finger.{guess}")
    elif metres:
        open_m = round(high / 2, 6)
        text.comment("open_m: ONE finger's distance from the tool axis. A guess: half of the width, in metres.")
    else:
        text.comment(
            "open_m: ONE finger's distance from the tool axis when fully open, m: half of the width between both."
        )
    text.put("law", {"kind": "linear", "axis": list(axis) if axis else UNKNOWN, "closed_m": 0.0, "open_m": open_m})


def _compared_reading(contents: Contents, state: StateColumns, arm: ArmColumns) -> tuple[str, str]:
    """Return whether readings are measured or commanded, and the evidence, from the array of the gripper's commands."""
    commands = [array for array in state.action if array.columns == 1 and array.of_gripper]
    commands = [a for a in commands if len(state.arms) == 1 or a.side == arm.name]
    reading = contents.joined(array.key for array in state.qpos)[:, arm.gripper]
    unknown = UNKNOWN, "measured or commanded?"
    if len(commands) != 1 or len(contents.values[commands[0].key]) != len(reading):
        return unknown
    key, least, most, is_copy = commands[0].key, 1.0, 0.0, False
    for later in LATER:
        command, read = contents.values[key][: len(reading) - later, 0], reading[later:]
        if len(command) < 3 or not np.all(np.isfinite([command, read])) or 0 in (np.ptp(command), np.ptp(read)):
            return unknown
        slope, offset = np.polyfit(command, read, 1)
        off, near = np.abs(slope * command + offset - read), NEAR * np.ptp(reading)
        # Only equality as stored shows a copy: a servo that follows well is as near to its command.
        stored = 1.0 if np.array_equal(read, np.round(read)) else 8 * np.finfo(np.float32).eps * np.abs(read).max()
        is_copy |= later == 0 and bool(np.all(off <= min(stored, near)))
        differs = off > near
        least, most = min(least, float(differs.mean())), max(most, abs(float(np.corrcoef(command, read)[0, 1])))
    if is_copy:
        return "commanded", f"A guess: it equals {key} up to scale. If that was made from the readings: measured."
    if least >= MANY and most >= FOLLOWS:
        return "measured", f"A guess: it follows {key}, but differs in {least:.0%} of the rows. If not: commanded."
    return unknown


def _arm_of(state: StateColumns, array: Array) -> str:
    names = [arm.name for arm in state.arms]
    return array.side if array.side in names else names[0]


def _put_camera(
    text: DraftText, contents: Contents, state: StateColumns, name: str, camera: Array, found: FoundCamera | None
) -> None:
    inside, arm = set(words(name)), _arm_of(state, camera)
    parent, why = UNKNOWN, f"world, or {arm}/flange for a camera on the hand."
    if WRIST_WORDS & inside and (len(state.arms) == 1 or camera.side):
        parent, why = f"{arm}/flange", "A guess by the name: a camera on the hand."
    elif FIXED_WORDS & inside:
        parent, why = "world", "A guess by the name: a fixed camera."
    text.table("cameras", name)
    if camera.role == "camera or touch":
        text.comment("A guess: it may be a touch sensor, which belongs under sensors.")
    if found is not None:
        text.comment(f"From {found.source}.", *found.remarks)
        parent, why = found.parent or parent, "" if found.parent else why
    text.put("parent", parent, why)
    if found is not None and found.T_parent_camera is not None:
        T = found.T_parent_camera
        text.put("translation_m", [round(float(x), 6) for x in T[:3, 3]])
        text.put("quat_wxyz", [round(float(x), 9) for x in quaternion_from_rotation(T[:3, :3])])
        _put_lens(text, contents, name, camera, found)
        return
    poses = [key for key in _holders(contents, name) if "extrinsic" in key.lower()]
    stored = f" The file contains {poses[0]}, but not from which frame to which." if poses else ""
    text.comment(
        f"Measured, or solved by: tactile-align calibrate.{stored}",
        "As ROS publishes it from the parent to the optical frame, but ROS prints x y z w: move w to the front.",
    )
    text.put("translation_m", UNKNOWN)
    text.put("quat_wxyz", UNKNOWN)
    _put_lens(text, contents, name, camera, found)


def _holders(contents: Contents, camera: str) -> list[str]:
    """Return the paths of numbers that contain the name of a camera, but not the longer name of another camera."""
    every = list(named_streams(contents.streams[0]))
    found = []
    for key in contents.numbers:
        inside = set(words(key))
        matching = [name for name in every if set(_plain_words(name)) <= inside]
        longest = max((len(_plain_words(name)) for name in matching), default=0)
        near = [name for name in matching if len(_plain_words(name)) == longest]
        if near == [camera] and not (OTHER_LENSES & inside - set(words(camera))):
            found.append(key)
    return found


def _plain_words(name: str) -> tuple[str, ...]:
    return tuple(word for word in words(name) if word not in IMAGE_WORDS) or words(name)


def _put_lens(text: DraftText, contents: Contents, name: str, camera: Array, found: FoundCamera | None) -> None:
    """Add width, height, K and distortion; the numbers in the file are taken if they fit the frames."""
    if found is not None and found.K is not None:
        w, h, lens = found.width or camera.width, found.height or camera.height, dict(found.lens)
        text.put("width", w)
        text.put("height", h)
        text.put("K", found.K)
        if (w, h) != (camera.width, camera.height):
            lens.setdefault("image_map", UNKNOWN)
            text.comment(f"image_map: steps from {w}x{h} to the stored {camera.width}x{camera.height}.")
        for key, value in lens.items():
            text.put(key, value)
        return
    numbers: dict[str, Any] = {}
    holders = _holders(contents, name)
    frames = [array for array in contents.of(*FRAMES) if array.parent == camera.parent]
    if len(frames) == 1 and camera.parent in contents.numbers and camera.parent not in holders:
        holders.insert(0, camera.parent)
    for key in holders:
        numbers |= contents.numbers[key]
    several = [K for key in holders if (K := _intrinsics(contents.numbers[key]))]
    K = several[0] if several and several.count(several[0]) == len(several) else None
    width, height = (_count(numbers.get(key)) for key in ("width", "height"))
    stated = width is not None and height is not None and (width, height) != (camera.width, camera.height)
    w, h = (width, height) if stated and width and height else (camera.width, camera.height)
    fits = K is not None and abs(K[0][2] - w / 2) < CENTRED * w and abs(K[1][2] - h / 2) < CENTRED * h
    text.comment("Of the raw frame that K belongs to." if stated else "Of the stored frames.")
    text.put("width", w)
    text.put("height", h)
    if K is not None and fits:
        half = " A centre at exactly half the image often means that a simulator counts from the corner: subtract 0.5."
        on_half = (K[0][2], K[1][2]) == (w / 2, h / 2)
        text.put("K", K, f"From the numbers at {', '.join(holders)} in the file.{half if on_half else ''}")
    else:
        shown = f" The file contains {json.dumps(K)}, which does not fit {w}x{h}." if K is not None else ""
        shown = f" The file contains several: {json.dumps(several)}." if K is None and several else shown
        text.put("K", UNKNOWN, f"[[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], px, of the raw frame.{shown}")
    if stated:
        text.put("image_map", UNKNOWN, f"Steps from {w}x{h} to the stored {camera.width}x{camera.height}.")
    d = np.asarray(numbers.get("d", ()))
    coefficients = d.astype(np.float64).ravel().tolist() if K is not None and d.dtype.kind in "iuf" else []
    if any(coefficients):
        model = numbers.get("model", numbers.get("distortion_model"))
        model = model.decode() if isinstance(model, bytes) else model
        why = "" if model else "The name of the lens model: brown, rational or fisheye."
        known = str(model).removeprefix("distortion.")
        if not model and len(coefficients) in (5, 8):
            known, why = {5: "brown", 8: "rational"}[len(coefficients)], "A guess by the number of coefficients."
        text.put("model", MODELS.get(known, known) if model or "guess" in why else UNKNOWN, why)
        text.put("distortion", coefficients)
    elif d.size == 0:
        text.comment('OpenCV\'s five coefficients, if known: model = "brown" and distortion = [k1, k2, p1, p2, k3].')


def _count(value: Any) -> int | None:
    number = tree.one_number(value)
    return int(number) if number is not None and number > 0 and number.is_integer() else None


def _intrinsics(numbers: Mapping[str, Any]) -> list[list[float]] | None:
    """Return K as rows, from a matrix or from the numbers of a device; None if there is no such K."""
    names = next((keys for keys in (("cx", "cy"), ("ppx", "ppy")) if set(keys) <= set(numbers)), ("cx", "cy"))
    fx, fy, cx, cy = (tree.one_number(numbers.get(key)) for key in ("fx", "fy", *names))
    K = np.asarray(numbers.get("k"))
    if fx is not None and fy is not None and cx is not None and cy is not None:
        K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    if K.size != 9 or K.dtype.kind not in "iuf" or not np.isfinite(K).all():
        return None
    K = K.reshape(3, 3).astype(np.float64)
    plain = np.array_equal(K[2], (0, 0, 1)) and K[1, 0] == 0 and K[0, 1] == 0 and K[0, 0] > 0 and K[1, 1] > 0
    return K.tolist() if plain else None


def _put_sensor(text: DraftText, state: StateColumns, name: str, touch: Array, links: Links | None, sole: bool) -> None:
    arm = _arm_of(state, touch)
    opens = links.finger_axis if links is not None else None
    # Where nothing shows `axis`, the finger of the only sensor can be called finger1.
    first = sole and opens is None and len(state.arms) == 1 and state.arms[0].gripper is not None
    text.table("sensors", name)
    if first:
        text.put("parent", f"{arm}/finger1", "A guess: on a finger, which is called finger1.")
    else:
        text.put("parent", UNKNOWN, f"{arm}/finger1 or {arm}/finger2; finger1 opens along `axis`.")
    flush = (
        "Middle of the gel, from the flange, fingers closed. Flush with the pads: [0.0, 0.0, distance along the tool]."
    )
    text.put("translation_m", UNKNOWN, flush)
    if opens is not None and 1 not in np.abs(opens[:2]):
        text.put("quat_wxyz", UNKNOWN, "On finger1, turn the sensor so that its own x lies along `axis`.")
        text.put("stream", name)
        text.put("body", UNKNOWN, "Housing without cables.")
        text.put("pad", UNKNOWN, "Gel.")
        return
    if first:
        text.put("quat_wxyz", [1.0, 0.0, 0.0, 0.0], "A choice: the sensor has the axes of the flange.")
    else:
        turn = (
            "finger1, axes of the flange: [1, 0, 0, 0]. finger2: [0, 0, 0, 1], half a turn; body and pad as on finger1."
        )
        text.put("quat_wxyz", UNKNOWN, turn)
    text.put("stream", name)
    axis, centre, thick, flat, normal = _along(opens)
    body, pad = f"[{{ center_m = {centre}, size_m = {thick} }}]", f"size_m = {flat}, normal = {normal}"
    text.put("body", UNKNOWN, f"Housing without cables, t from gel to back; `axis` {axis}: {body}.")
    text.put("pad", UNKNOWN, f"Gel, w wide, l long; `axis` {axis}: {{ center_m = [0, 0, 0], {pad} }}.")
    if opens is None:
        text.comment(
            "`axis` y: exchange the first two numbers in each list of body and pad. `axis` -x or -y: change the signs "
            "of center_m and normal."
        )


def _along(axis: tuple[float, float, float] | None) -> tuple[str, ...]:
    """Return `axis`, x if it is not known, and the centre, sizes and normal of a sensor on finger1.

    `axis` is x or y of the flange, with its sign.
    """
    i, sign = next(((i, int(axis[i])) for i in (0, 1) if axis and abs(axis[i]) == 1), (0, 1))
    names = ["w", "w", "l"]

    def row(value: str, others: Sequence[str]) -> str:
        return f"[{', '.join([*others[:i], value, *others[i + 1 :]])}]"

    zeros = ["0", "0", "0"]
    half = "t/2" if sign > 0 else "-t/2"
    return ("-" * (sign < 0) + "xy"[i], row(half, zeros), row("t", names), row("0", names), row(str(-sign), zeros))

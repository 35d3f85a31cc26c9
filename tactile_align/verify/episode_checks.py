"""The lines of verify's table that recorded episodes give, sound or not: streams, joints, contacts, coverage."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.evenly import evenly
from tactile_align.geometry.frames import invert, quaternion_from_rotation, rotation_exp
from tactile_align.verdict import Check, graded
from tactile_align.verify.evidence import Evidence, View, reasons
from tactile_align.verify.rig_hypotheses import OTHER_FINGER, frame_of, readings_of
from tactile_align.verify.single_cause import (
    Sight,
    camera_shift,
    camera_turn,
    elsewhere,
    focal_length,
    sensor_shift,
)

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


def on_sensor(camera: str, sensor: str, views: list[View], contact: np.ndarray, commanded: bool) -> list[Check]:
    """Judge one sensor's boxes in one camera by where it was really seen.

    Args:
        camera: Name of the camera.
        sensor: Name of the sensor.
        views: One per episode.
        contact: (T,) bool over all episodes.
        commanded: Whether some of the openings were only commanded.
    """
    iou = np.concatenate([view.iou() for view in views])
    judged = np.isfinite(iou)
    if not judged.any():
        return [
            Check(
                f"IoU {sensor} in {camera}",
                "no frame has both a box and a truth",
                "some",
                "fail",
                "The sensor was seen, but the rig puts it elsewhere: check the camera's parent and pose.",
            )
        ]
    advice = (
        f"Look with `tactile-align overlay`. If {camera} alone fails: its image_map, K, then its pose (hand-eye). "
        "If all views fail: the gripper's open, closed, column or law, or the sensor on its finger."
    )
    median, low = np.nanmedian(iou), np.nanpercentile(iou, 5)
    checks = [
        graded(f"IoU {sensor} in {camera}, median", median, 0.75, 0.5, advice=advice, form=".3f"),
        graded(f"IoU {sensor} in {camera}, 5th percentile", low, 0.5, 0.25, advice=advice, form=".3f"),
    ]
    seen, box = (np.concatenate([getattr(view, key) for view in views]) for key in ("seen", "box"))
    missed = np.isfinite(seen[:, 0]) & ~np.isfinite(box[:, 0])
    checks.append(
        graded(
            f"sensor seen but no box, {camera}",
            float(missed.sum() / np.isfinite(seen[:, 0]).sum()),
            0.02,
            0.2,
            advice=advice,
            form=".1%",
        )
    )
    edges = np.nanmedian(box - seen, axis=0)
    side = np.nanmedian(np.minimum(seen[:, 2] - seen[:, 0], seen[:, 3] - seen[:, 1]))
    text = " ".join(f"{edge:+.2f}" for edge in edges)
    ratio = np.nanmedian((box[:, 2:] - box[:, :2]) / (seen[:, 2:] - seen[:, :2]), axis=0)
    centre = (edges[:2] + edges[2:]) / 2
    checks.append(
        graded(
            f"edges {sensor} in {camera}, median",
            float(np.abs(edges).max() / side),
            0.05,
            0.2,
            measured=f"{text} px (left top right bottom), side {side:.0f} px",
            unit=" of the side",
            advice=f"The boxes are {ratio[0]:.2f} x {ratio[1]:.2f} times as large as the sensor was seen, and lie "
            f"{abs(centre[0]):.1f} px {'right' if centre[0] > 0 else 'left'} of and {abs(centre[1]):.1f} px "
            f"{'below' if centre[1] > 0 else 'above'} it. Too large or too small: K, how far the camera is, or the "
            "sensor's size; as large, but beside it: a pose is off.",
        )
    )
    true = np.concatenate([view.iou("true_opening") for view in views])
    if np.isfinite(true).any():
        checks.append(_by_true_opening(f"IoU {sensor} in {camera}, true opening", true, float(median)))
    if commanded:
        unheld = np.concatenate([view.iou("unheld") for view in views])
        checks.append(_numbers(f"IoU {sensor} in {camera}, contact, command held at onset", iou[contact]))
        checks.append(_numbers(f"IoU {sensor} in {camera}, contact, command as recorded", unheld[contact]))
    return checks


def _by_true_opening(name: str, true: np.ndarray, plain: float) -> Check:
    """Boxes that fit the true opening but not the recorded one put the blame on the gripper's reading."""
    found = _numbers(name, true)
    if found.value is None or not (found.value >= 0.75 and plain < 0.5):
        return found
    advice = (
        "With the true opening the boxes fit: arm, camera and sensor are right; the gripper's open, closed, column, "
        "law or reading is wrong (swapped?)."
    )
    return Check(name, found.measured, "as good as the recorded opening", "fail", advice, found.value)


def _numbers(name: str, iou: np.ndarray) -> Check:
    if not np.isfinite(iou).any():
        return Check(name, "no frame")
    median, low = np.nanmedian(iou), np.nanpercentile(iou, 5)
    return Check(name, f"{median:.3f} median, {low:.3f} 5th percentile", value=float(median))


def box_drift(evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    """Where the boxes of each episode lie against those of all, the worst first; needs truth or labels."""
    rows: list[dict[str, Any]] = []
    for one in evidence:
        for view in one.views:
            off = ((view.box - view.seen)[:, :2] + (view.box - view.seen)[:, 2:]) / 2
            if not np.isfinite(off).any():
                continue
            u, v = (float(value) for value in np.nanmedian(off, axis=0))
            rows.append(
                {
                    "episode": Path(one.name).name,
                    "camera": view.camera,
                    "sensor": view.sensor,
                    "side px": float(np.nanmedian((view.seen[:, 2:] - view.seen[:, :2]).min(axis=1))),
                    "du px": u,
                    "dv px": v,
                    "IoU": float(np.nanmedian(view.iou())),
                }
            )
    for row in rows:
        alike = [one for one in rows if (one["camera"], one["sensor"]) == (row["camera"], row["sensor"])]
        u, v = (float(np.median([one[key] for one in alike])) for key in ("du px", "dv px"))
        row["drift px"] = float(np.hypot(row["du px"] - u, row["dv px"] - v))
    return sorted(rows, key=lambda row: -row["drift px"])


def drift_checks(drift: list[dict[str, Any]]) -> list[Check]:
    """Judge how far the boxes of single episodes stray from those of all."""
    checks = []
    for camera, sensor in sorted({(row["camera"], row["sensor"]) for row in drift}):
        rows = [row for row in drift if (row["camera"], row["sensor"]) == (camera, sensor)]
        if len(rows) < 2:
            continue
        worst = rows[0]
        checks.append(
            graded(
                f"drift of {sensor} in {camera} between episodes",
                worst["drift px"] / worst["side px"],
                0.05,
                0.2,
                measured=f"{worst['drift px']:.2f} px at most, {worst['episode']}",
                unit=" of the side",
                advice="The mount moved between episodes: give the later ones their own pose in [[override]]."
                if max(row["IoU"] for row in rows) >= 0.75
                else "All episodes are off, each by another amount: the error changes with the opening or the place in "
                "the image. If another view passes, the gripper is right: check this camera's image_map, K and pose. "
                "If all views fail: the gripper's open, closed and column first.",
            )
        )
    return checks


HAND = ("flange", "finger1", "finger2")
OFF_CENTRE = 0.12
"""How far a principal point may lie off the raw frame's middle, as a share of its sides; lenses stay under 0.05."""
FIELD_DEG = (20.0, 170.0)
"""Plausible fields of view across a frame, deg."""


def episode_checks(rig: Rig, evidence: Sequence[Evidence]) -> list[Check]:
    """Return the lines of the table that recorded episodes give."""
    checks = [_status(rig, evidence), _streams(evidence), _joints(evidence), _plausible(evidence)]
    checks += [
        lens_check(rig, name) for name in rig.cameras if any(name not in one.missing_cameras for one in evidence)
    ]
    for sensor in rig.sensors:
        contacts = [one.contact[sensor] for one in evidence if sensor in one.contact]
        if contacts:
            checks += _contact(sensor, contacts, [one.commanded[sensor] for one in evidence if sensor in one.contact])
    pairs = sorted({(view.camera, view.sensor) for one in evidence for view in one.views})
    unproven = []
    for camera, sensor in pairs:
        held = [(one, view) for one in evidence for view in one.views if (view.camera, view.sensor) == (camera, sensor)]
        views = [view for _, view in held]
        checks.append(_coverage(rig, camera, sensor, views))
        if not any(np.isfinite(view.seen).any() for view in views):
            unproven.append((camera, sensor))
        else:
            contact = np.concatenate([one.contact[sensor] for one, _ in held])
            commanded = any(one.commanded[sensor].any() for one, _ in held)
            checks += on_sensor(camera, sensor, views, contact, commanded)
            checks += explained(rig, camera, sensor, views)
    if unproven and len(unproven) == len(pairs):
        checks.append(_unproven("box on sensor", "the boxes lie"))
    else:
        # Boxes of one view prove nothing of the others.
        checks += [_unproven(f"box on {sensor} in {camera}", "its boxes lie") for camera, sensor in unproven]
    return checks


def _unproven(name: str, they: str) -> Check:
    return Check(
        name,
        "no truth or labels",
        "labels, or a passed calibration",
        "warn",
        f"Nothing shows that {they} on the sensor: look at `tactile-align overlay`, and draw boxes on some 20 frames "
        "(`tactile-align label` writes the page) for --labels; a camera you have no use for may leave the rig.",
    )


def _status(rig: Rig, evidence: Sequence[Evidence]) -> Check:
    advice = ""
    if rig.status == "nominal":
        advice = (
            "The placements come from drawings: calibrate cameras (`calibrate hand-eye`) and fingers "
            "(`calibrate finger`)."
        )
    elif rig.status == "exact" and not any(np.isfinite(v.true_opening).any() for one in evidence for v in one.views):
        advice = (
            "Only a simulation knows its rig exactly, and these recordings hold no truth of one. Set status = "
            '"calibrated" (or "nominal"): an exact rig is trained with unverified.'
        )
    return Check("rig status", rig.status, "calibrated, or a simulation's", "warn" if advice else "pass", advice)


def lens_check(rig: Rig, camera: str) -> Check:
    """Judge K by its principal point and field of view: one that belongs to other frames is centred elsewhere."""
    entry = rig.cameras[camera]
    (fx, _, cx), (_, _, cy), _ = entry.K
    du, dv = (cx + 0.5) / entry.width - 0.5, (cy + 0.5) / entry.height - 0.5
    half = entry.width / (2 * fx)
    across = float(np.degrees(2 * (half if entry.model == "fisheye" else np.arctan(half))))
    advice = ""
    if max(abs(du), abs(dv)) > OFF_CENTRE:
        width, height = frame_of(entry)
        advice = (
            f"This K is centred for frames of about {width}x{height}, but the rig says {entry.width}x{entry.height}: "
            f"give that one's K, or set width = {width}, height = {height} and say by image_map "
            f'what the recorder did, e.g. [["resize", {entry.width}, {entry.height}]].'
        )
    elif not FIELD_DEG[0] <= across <= FIELD_DEG[1]:
        advice = f"fx = {fx:g} px is implausible for frames {entry.width} px wide; is K of another resolution?"
    return Check(
        f"K of {camera}",
        f"centre {du:+.0%} {dv:+.0%} off the image's, {across:.0f} deg across",
        f"within {OFF_CENTRE:.0%}, {FIELD_DEG[0]:g} to {FIELD_DEG[1]:g} deg",
        "warn" if advice else "pass",
        advice,
        max(abs(du), abs(dv)),
    )


def _streams(evidence: Sequence[Evidence]) -> Check:
    lacks = sorted({name for one in evidence for name in (*one.missing_cameras, *one.missing_sensors)})
    more = sorted({name for one in evidence for name in one.unknown_cameras})
    said = [f"not recorded: {', '.join(lacks)}"] if lacks else []
    said += [f"not in the rig: {', '.join(more)}"] if more else []
    return Check(
        "streams",
        "; ".join(said) or "all of the rig's, none else",
        "the rig's cameras and sensors",
        "warn" if said else "pass",
        "Streams without a place in the rig get no box; name them in the rig as the recordings do." if said else "",
    )


def _joints(evidence: Sequence[Evidence]) -> Check:
    worst = max(evidence, key=lambda one: one.largest_step)
    return Check(
        "joints within limits",
        f"all; largest step {np.degrees(worst.largest_step):.1f} deg",
        "arm's limits, raw",
        "pass",
        value=worst.largest_step,
    )


def _plausible(evidence: Sequence[Evidence]) -> Check:
    suspect = [one for one in evidence if one.suspicions]
    if not suspect:
        return Check("joints plausible", "nothing suspect", "raw, moving, each arm its own", "pass")
    first = suspect[0]
    return Check(
        "joints plausible",
        f"{len(suspect)} of {len(evidence)} episodes suspect, first {first.name}",
        "raw, moving, each arm its own",
        "warn",
        " ".join(first.suspicions),
    )


def _contact(sensor: str, contacts: list[np.ndarray], commanded: list[np.ndarray]) -> list[Check]:
    contact, command = np.concatenate(contacts), np.concatenate(commanded)
    share = float(contact.mean())
    checks = [
        Check(
            f"contact {sensor}",
            f"{share:.0%} of frames",
            "> 0 %",
            "pass" if share > 0 else "warn",
            "" if share > 0 else "The touch images never change: is this sensor plugged in and recorded?",
            share,
        )
    ]
    if share > 0:
        only = float(command[contact].mean())
        note = "The opening is held at its value at contact onset; record a measured one if the gripper has it."
        checks.append(
            Check(
                f"commanded openings {sensor}",
                f"{only:.0%} of contact frames",
                "",
                "info",
                note if only else "",
                only,
            )
        )
    return checks


def _coverage(rig: Rig, camera: str, sensor: str, views: list[View]) -> Check:
    share = float(np.mean(np.concatenate([view.reason for view in views]) == 0))
    why = reasons(views)
    measured = f"{share:.1%} of frames" + (f" ({why})" if why else "")
    name = f"box {sensor} in {camera}"
    arm, _, node = rig.cameras[camera].parent.partition("/")
    other, _, finger = rig.sensors[sensor].parent.partition("/")
    if arm == other and node in HAND and finger in HAND:
        return graded(
            name,
            share,
            0.95,
            0.5,
            form=".1%",
            measured=measured,
            advice="A camera on the same hand should see the sensor nearly always: is T_flange_camera inverted, in "
            "another unit, or K of another resolution?",
        )
    seen = "" if share > 0 else "This camera never sees the sensor: is that so in the frames, or is its pose wrong?"
    return Check(name, measured, "> 0", "pass" if share > 0 else "warn", seen, share)

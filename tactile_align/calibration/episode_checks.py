"""The lines of verify's table that recorded episodes give, sound or not: streams, joints, contacts, coverage."""

from collections.abc import Sequence

import numpy as np

from tactile_align.calibration.evidence import Evidence, View, reasons
from tactile_align.calibration.one_change import explained
from tactile_align.calibration.rig import Rig
from tactile_align.calibration.rig_readings import frame_of
from tactile_align.calibration.truth_checks import on_sensor
from tactile_align.calibration.verdict import Check, graded

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

"""The lines of verify's table that recorded episodes give.

Thresholds come from real calibrations: a median IoU of 0.9 is what a good one reaches on a 30 mm sensor, and
below 0.5 less than half of the tokens that light up show the sensor.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.calibration.evidence import Evidence, View, reasons
from tactile_align.calibration.rig import Rig
from tactile_align.calibration.verdict import Check, graded

HAND = ("flange", "finger1", "finger2")


def episode_checks(rig: Rig, evidence: Sequence[Evidence]) -> list[Check]:
    """Return the lines of the table that recorded episodes give."""
    checks = [_status(rig), _streams(evidence), _joints(evidence), _plausible(evidence)]
    for sensor in rig.sensors:
        contacts = [one.contact[sensor] for one in evidence if sensor in one.contact]
        if contacts:
            checks += _contact(sensor, contacts, [one.commanded[sensor] for one in evidence if sensor in one.contact])
    pairs = sorted({(view.camera, view.sensor) for one in evidence for view in one.views})
    proven = False
    for camera, sensor in pairs:
        held = [(one, view) for one in evidence for view in one.views if (view.camera, view.sensor) == (camera, sensor)]
        views = [view for _, view in held]
        checks.append(_coverage(rig, camera, sensor, views))
        if any(np.isfinite(view.seen).any() for view in views):
            proven = True
            contact = np.concatenate([one.contact[sensor] for one, _ in held])
            commanded = any(one.commanded[sensor].any() for one, _ in held)
            checks += _on_sensor(camera, sensor, views, contact, commanded)
    if not proven:
        checks.append(
            Check(
                "box on sensor",
                "no truth or labels",
                "labels, or a passed calibration",
                "warn",
                "Nothing shows that the boxes lie on the sensor: look at `tactile-align overlay`, and draw boxes on "
                "some 20 frames over several openings for --labels.",
            )
        )
    return checks


def _status(rig: Rig) -> Check:
    nominal = rig.status == "nominal"
    return Check(
        "rig status",
        rig.status,
        "calibrated or exact",
        "warn" if nominal else "pass",
        "The placements come from drawings: calibrate cameras (`calibrate hand-eye`) and fingers (`calibrate finger`)."
        if nominal
        else "",
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
            measured=measured,
            advice="A camera on the same hand should see the sensor nearly always: is T_flange_camera inverted, in "
            "another unit, or K of another resolution?",
        )
    seen = "" if share > 0 else "This camera never sees the sensor: is that so in the frames, or is its pose wrong?"
    return Check(name, measured, "> 0", "pass" if share > 0 else "warn", seen, share)


def _on_sensor(camera: str, sensor: str, views: list[View], contact: np.ndarray, commanded: bool) -> list[Check]:
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
    checks.append(
        graded(
            f"edges {sensor} in {camera}, median",
            float(np.abs(edges).max() / side),
            0.05,
            0.2,
            measured=f"{text} px (left top right bottom), side {side:.0f} px",
            unit=" of the side",
            advice="+ is right of or below the truth. All edges off the same way: a pose is off; opposite ways: the "
            "sensor's size or K; mixed: both, or K of another frame size.",
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
                "the image. Check the gripper's open, closed and column, and the camera's image_map, first.",
            )
        )
    return checks

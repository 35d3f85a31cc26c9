"""Finger calibration by boxes: poses of sensors on their fingers, fitted to the sensors' boxes at several openings.

All labelled sensors of one gripper are fitted together, because they share its stroke. If the camera is on the same
hand, the chain camera - flange - finger - sensor contains no arm joint. The arm then need not move, and the errors of
the opening and of the finger's own geometry dominate. `from_tag` uses a tag instead of boxes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.checks import Report
from tactile_align.errors import InputError
from tactile_align.finger.box_fit import START, BoxFit, Drawn, fit_boxes, moved, other_cause, other_explanation
from tactile_align.finger.checks import (
    MIN_BOXES,
    STROKES,
    OtherView,
    box_checks,
    free_stroke_advice,
    is_far,
    is_needed,
    reading_checks,
    stroke_checks,
    verdict_of_others,
)
from tactile_align.finger.frames import FingerFrames, Reading, finger_of, labelled_rows, used_frames
from tactile_align.sessions.write_rig import pose_keys, provenance, require_no_override, save_unless_failed, with_stroke
from tactile_align.verify.evidence import Labels, label_name


@dataclass(frozen=True)
class Finger:
    """Result of a finger calibration by boxes.

    Attributes:
        rig: The rig with the new poses of the sensors and the new stroke; unchanged if the stroke is impossible. If
            the stroke stays 1, a sensor whose boxes the old rig explains keeps its pose, unless `accept` was given.
        fits: The fit of each sensor, by name. Their stroke is the same.
        before: Median IoU of the drawn boxes with those that the old rig predicts.
        after: Median IoU of the drawn boxes, each with the box that a fit without it predicts.
        reading: Kind of gripper reading that fits the boxes: "commanded", "measured", or None if the boxes cannot tell.
        needed: Whether the rig must be changed to fit the boxes. An unnecessary change is written only with `accept`.
        report: The checks.
    """

    rig: Rig
    fits: dict[str, BoxFit]
    before: float
    after: float
    reading: Reading | None
    needed: bool
    report: Report

    @property
    def stroke(self) -> float:
        """Factor on the gripper's opening; exactly 1 if the boxes do not show that it differs from 1."""
        return float(next(iter(self.fits.values())).x[6])


def calibrate_finger(
    path: str | Path,
    rig: str | Path | Rig,
    labels: Labels,
    *,
    camera: str | None = None,
    sensor: str | None = None,
    layout: str | Path | None = None,
    keep_stroke: bool = False,
    accept: bool = False,
    out: str | Path | None = None,
) -> Finger:
    """Return the poses of sensors on their fingers and their gripper's stroke, fitted to boxes in recorded frames.

    Args:
        path: The episodes that the labels refer to: a folder or one file.
        rig: The rig, its name or its file. Its camera must be calibrated already.
        labels: At least six boxes of each sensor at several openings, see `verify.labels.read_labels`. Boxes of the
            same sensors in another camera are compared with the fit; the fit fails if they become worse.
        camera: Name of the camera; None: the only camera in the labels.
        sensor: Name of the only sensor to fit; None: all sensors that have labels in this camera.
        layout: The episodes' layout; recognised when None.
        keep_stroke: Keep the rig's stroke, because it is known, and fit only the poses.
        accept: Write the rig even if a sensor or the stroke is far from the rig's, or if no change is needed.
        out: Where to write the rig; None: do not write. A fit that fails is never written.

    Raises:
        FileNotFoundError: No episodes or no rig were found.
        InputError: The labels refer to an unknown episode, hold fewer than six boxes of a sensor, or refer to several
            cameras or to sensors of several grippers; a sensor is not on a finger, or an [[override]] gives it another
            pose in one of the episodes.
    """
    known = rig if isinstance(rig, Rig) else load_rig(rig)
    camera = chosen_camera(labels, camera)
    sensors = chosen_sensors(labels, camera, sensor)
    try:
        arms = {name: finger_of(known, name).partition("/")[0] for name in sensors}
        for name in sensors:
            _require_boxes(path, labels, camera, name)
    except InputError as error:
        if len(sensors) == 1:
            raise
        raise InputError(f"{error}, or choose one sensor with --sensor") from error
    arm = arms[sensors[0]]
    if set(arms.values()) != {arm}:
        held = ", ".join(f"{name} on {of}" for name, of in arms.items())
        raise InputError(
            f"the sensors of one gripper are fitted together, but the labels in {camera} refer to several grippers "
            f"({held}). Choose one sensor with --sensor, or give a folder with the labels of one gripper"
        )
    gripper = known.gripper(arm)
    closed, opened = map(float, gripper.law.opening(np.array([0.0, 1.0])))
    views, digests = _collected(path, known, labels, sensors, layout)
    drawn = [views[camera, name] for name in sensors]
    fits = dict(zip(sensors, fit_boxes(drawn, (closed, opened), keep_stroke), strict=True))
    first = fits[sensors[0]]
    stroke = float(first.x[6])
    plausible = STROKES[0] <= stroke <= STROKES[1]
    checks, doubts, kept = [], {}, set()
    for part in drawn:
        fit = fits[part.sensor]
        x, wanted = fit.x, is_needed(fit.before, fit.after)
        if not accept and stroke == 1 and not wanted:
            kept.add(part.sensor)
            x = START
        others = [
            OtherView(key[0], part.sensor, there.iou(START), there.iou(x))
            for key, there in sorted(views.items())
            if key[1] == part.sensor and key[0] != camera
        ]
        doubt = ""
        if not plausible:
            doubt = "Correct the stroke first: see the check 'Stroke'."
        elif is_far(x):
            doubt = free_stroke_advice(fit, part.sensor, opened, keep_stroke)
            doubt += f"{other_cause(part, camera, known.camera(camera))} {verdict_of_others(others)}"
        doubts[part.sensor] = doubt
        checks += box_checks(fit, x, others, part.sensor, camera, doubt, accept)
        if wanted and not others and not doubt:
            checks.append(other_explanation(part, known.camera(camera)))
    span = float(np.ptp(np.concatenate([part.frames.opening[part.frames.stated] for part in drawn])))
    checks += [
        *stroke_checks(fits, opened, span, doubts, keep_stroke, accept),
        *reading_checks(first.reading, gripper.reading),
    ]
    subject = f"{', '.join(sensors)} in {camera}: {sum(map(len, drawn))} boxes"
    report = Report("calibrate", subject, tuple(checks), facts=provenance(digests))
    changed, needed = known, any(is_needed(fit.before, fit.after) for fit in fits.values())
    if plausible:
        changed = with_stroke(known, arm, stroke)
        for name, fit in fits.items():
            if name not in kept:
                changed = changed.with_sensor(name, **pose_keys(moved(known.sensor(name).T_parent_this, fit.x)))
                changed = changed.with_fitted("sensors", name, {camera: used_frames(labels, camera, name)})
    if needed or accept:
        save_unless_failed(changed, out, report, rig)
    before, after = (
        float(np.median(np.concatenate([getattr(fit, key) for fit in fits.values()]))) for key in ("before", "after")
    )
    return Finger(changed, fits, before, after, first.reading, needed, report)


def chosen_camera(labels: Labels, given: str | None) -> str:
    """Return the camera `given`, or the only camera in the labels.

    Raises:
        InputError: `given` is None and the labels refer to several cameras.
    """
    found = sorted({key[1] for key in labels})
    if given is None and len(found) != 1:
        raise InputError(
            f"the labels refer to {len(found)} cameras ({', '.join(found)}), but one is needed. Choose it with "
            f"--camera (the fit is then compared with the boxes in the others)"
        )
    return found[0] if given is None else given


def chosen_sensors(labels: Labels, camera: str, given: str | None) -> list[str]:
    """Return the names of the sensors to use: `given`, or all that have labels in the camera.

    Raises:
        InputError: The labels contain no box in this camera, or none of the sensor `given`.
    """
    found = sorted({key[2] for key in labels if key[1] == camera})
    if not found or given not in (None, *found):
        cameras = ", ".join(sorted({key[1] for key in labels}))
        fault = f"no box of {given} in {camera}, only of {', '.join(found)}" if found else f"no box in camera {camera}"
        remedy = "Choose one of these with --sensor" if found else f"Choose one of these with --camera: {cameras}"
        raise InputError(f"the labels must contain the boxes to fit; they contain {fault}. {remedy}")
    return found if given is None else [given]


def _require_boxes(path: str | Path, labels: Labels, camera: str, sensor: str) -> None:
    count = sum(len(boxes) for key, boxes in labels.items() if key[1:] == (camera, sensor))
    if count < MIN_BOXES:
        raise InputError(
            f"{path}: finger calibration needs at least {MIN_BOXES} boxes of {sensor} in {camera}, preferably 12, at "
            f"several openings; got {count}. Draw more with `tactile-align label`"
        )


def _collected(
    path: str | Path, rig: Rig, labels: Labels, sensors: Collection[str], layout: str | Path | None
) -> tuple[dict[tuple[str, str], Drawn], list[str]]:
    """Return the boxes of the sensors in every camera, by camera and sensor, and the hashes of the episodes.

    The errors are those of `calibrate_finger`.
    """
    used = {key: boxes for key, boxes in labels.items() if key[2] in sensors}
    parts: dict[tuple[str, str], list[FingerFrames]] = {}
    seen: dict[tuple[str, str], list[Sequence[float]]] = {}
    digests = []
    for episode, evidence, rows in labelled_rows(path, rig, used, layout):
        digests.append(evidence.digest)
        for (camera, sensor), frames in rows.items():
            require_no_override(rig, "sensors", sensor, [episode.path])
            part = FingerFrames.of(episode, rig, camera, finger_of(rig, sensor), evidence, frames)
            parts.setdefault((camera, sensor), []).append(part)
            boxes = labels[label_name(episode.ref), camera, sensor]
            seen.setdefault((camera, sensor), []).extend(boxes[t] for t in frames)
    views = {
        key: Drawn(key[1], rig.sensor(key[1]), FingerFrames.join(part), np.array(seen[key]))
        for key, part in parts.items()
    }
    return views, digests

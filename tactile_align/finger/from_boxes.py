"""Finger calibration by boxes: a sensor's pose on its finger, fitted to the sensor's image boxes at several openings.

If the camera is on the same hand, the chain camera - flange - finger - sensor contains no arm joint. The arm then
need not move, and the errors of the opening and of the finger's own geometry dominate. `from_tag` uses a tag instead of
boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.checks import Report
from tactile_align.datasets.episodes import list_episodes, open_episode
from tactile_align.errors import InputError
from tactile_align.finger.box_fit import START, fit_boxes, iou_of, moved, other_cause
from tactile_align.finger.checks import (
    MIN_BOXES,
    STROKES,
    OtherView,
    box_checks,
    is_far,
    is_needed,
    reading_checks,
    verdict_of_others,
)
from tactile_align.finger.frames import FingerFrames, Reading, finger_of
from tactile_align.sessions.write_rig import pose_keys, provenance, require_no_override, save_unless_failed, with_stroke
from tactile_align.verify.evidence import Labels, gather
from tactile_align.verify.labels import labelled_episodes


@dataclass(frozen=True)
class Finger:
    """Result of a finger calibration by boxes.

    Attributes:
        rig: The rig with the sensor's new pose and the gripper's new stroke; unchanged if the stroke is impossible.
        shift_m: (3,) shift of the sensor in its finger's frame, m.
        turn_rad: (3,) rotation of the sensor as a rotation vector in its finger's axes, rad.
        stroke: Factor on the gripper's opening.
        sigma: (7,) standard deviations of shift (3), rotation (3) and stroke (1), from leaving out a tenth of the boxes
            at a time.
        before: Median IoU of the drawn boxes with those that the old rig predicts.
        after: Median IoU of the drawn boxes, each with the box that a fit without it predicts.
        reading: Kind of gripper reading that fits the boxes: "commanded", "measured", or None if the boxes cannot tell.
        needed: Whether the rig must be changed to fit the boxes. An unnecessary change is written only with `accept`.
        report: The checks.
    """

    rig: Rig
    shift_m: np.ndarray
    turn_rad: np.ndarray
    stroke: float
    sigma: np.ndarray
    before: float
    after: float
    reading: Reading | None
    needed: bool
    report: Report


def calibrate_finger(
    path: str | Path,
    rig: str | Path | Rig,
    labels: Labels,
    *,
    camera: str | None = None,
    sensor: str | None = None,
    layout: str | Path | None = None,
    accept: bool = False,
    out: str | Path | None = None,
) -> Finger:
    """Return a sensor's pose on its finger and the gripper's stroke, fitted to boxes in recorded frames.

    Args:
        path: The episodes that the labels refer to: a folder or one file.
        rig: The rig, its name or its file. Its camera must be calibrated already.
        labels: At least six boxes at several openings, see `verify.labels.read_labels`. Boxes of the same sensor in
            another camera are compared with the fit; the fit fails if they become worse.
        camera: Name of the camera; None: the only camera in the labels.
        sensor: Name of the sensor; None: the only sensor in the labels.
        layout: The episodes' layout; recognised when None.
        accept: Write the rig even if the sensor or the stroke is far from the rig's, or if no change is needed.
        out: Where to write the rig; None: do not write. A fit that fails is never written.

    Raises:
        FileNotFoundError: No episodes or no rig were found.
        InputError: The labels refer to an unknown episode, hold fewer than six boxes, or refer to several cameras or
            sensors; the sensor is not on a finger, or an [[override]] gives it another pose in one of the episodes.
    """
    known = rig if isinstance(rig, Rig) else load_rig(rig)
    camera = _only(camera, sorted({key[1] for key in labels}), "camera")
    sensor = _only(sensor, sorted({key[2] for key in labels}), "sensor")
    finger, touch = finger_of(known, sensor), known.sensor(sensor)
    frames, seen, digests = _collected(path, known, labels, camera, sensor, layout)
    arm = finger.partition("/")[0]
    gripper = known.gripper(arm)
    closed, opened = map(float, gripper.law.opening(np.array([0.0, 1.0])))
    fit = fit_boxes(frames, touch, seen, (closed, opened))
    others = []
    for other in sorted({key[1] for key in labels if key[2] == sensor and key[1] != camera}):
        there, drawn, more = _collected(path, known, labels, other, sensor, layout, least=1)
        before, after = (iou_of(there, touch, drawn, x) for x in (START, fit.x))
        others.append(OtherView(other, before, after))
        digests += more
    doubt, x = "", fit.x
    plausible = STROKES[0] <= x[6] <= STROKES[1]
    if not plausible:
        doubt = "Correct the stroke first: see the check 'Stroke'."
    elif is_far(x):
        doubt = f"{other_cause(frames, touch, seen, camera, known.camera(camera))} {verdict_of_others(others)}"
    checks = [
        *box_checks(fit, float(np.ptp(frames.opening[frames.stated])), others, sensor, camera, doubt, accept),
        *reading_checks(fit.reading, gripper.reading),
    ]
    subject = f"{sensor} in {camera}: {len(seen)} boxes"
    report = Report("calibrate", subject, tuple(checks), facts=provenance(digests))
    changed, needed = known, is_needed(fit)
    if plausible:
        changed = known.with_sensor(sensor, **pose_keys(moved(touch.T_parent_this, x)))
        changed = with_stroke(changed, arm, float(x[6]))
    if needed or accept:
        save_unless_failed(changed, out, report)
    old, new = float(np.median(fit.before)), float(np.median(fit.after))
    return Finger(changed, x[:3], x[3:6], float(x[6]), fit.sigma, old, new, fit.reading, needed, report)


def _collected(
    path: str | Path,
    rig: Rig,
    labels: Labels,
    camera: str,
    sensor: str,
    layout: str | Path | None,
    least: int = MIN_BOXES,
) -> tuple[FingerFrames, np.ndarray, list[str]]:
    """Return one camera's N frames that have boxes, the boxes (N, 4), px, and the hashes of the episodes.

    Raises:
        InputError: There are fewer than `least` boxes, or the labels or the sensor cannot be used, as listed in
            `calibrate_finger`.
    """
    drawn = {key[0]: boxes for key, boxes in labels.items() if key[1:] == (camera, sensor)}
    count = sum(len(boxes) for boxes in drawn.values())
    if count < least:
        raise InputError(
            f"{path}: finger calibration needs at least {least} boxes of {sensor} in {camera}, preferably 20, at "
            f"several openings; got {count}. Draw more with `tactile-align label`"
        )
    refs = labelled_episodes(path, list_episodes(path, layout), drawn)
    require_no_override(rig, "sensors", sensor, (refs[name].path for name in drawn))
    parts, seen, digests = [], [], []
    for name, boxes in drawn.items():
        with open_episode(refs[name]) as episode:
            evidence = gather(episode, rig, labels)
            digests.append(evidence.digest)
            parts.append(FingerFrames.of(episode, rig, camera, finger_of(rig, sensor), evidence, sorted(boxes)))
            seen += [boxes[t] for t in sorted(boxes)]
    return FingerFrames.join(parts), np.array(seen), digests


def _only(given: str | None, found: Sequence[str], what: str) -> str:
    if given is not None:
        return given
    if len(found) != 1:
        raise InputError(
            f"the labels refer to {len(found)} {what}s ({', '.join(found)}), but one is needed. Choose it with --{what}"
            + (" (the fit is then compared with the boxes in the others)" if what == "camera" else "")
        )
    return found[0]

"""Checks of `verify` on recorded episodes: rig status, streams, joints, contact, boxes, and causes of wrong boxes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.calibration.camera import LENS_MODELS
from tactile_align.calibration.rig import OVERRIDABLE, Gripper, Rig
from tactile_align.checks import Check, Status, decided, graded
from tactile_align.kinematics.gripper import Linear
from tactile_align.verify.evidence import Evidence, View, reasons, rigid_sensors
from tactile_align.verify.limits import COVERED, FIELD_DEG, LIMITS
from tactile_align.verify.rig_hypotheses import frame_of
from tactile_align.verify.rig_search import MOST_PAIRED, Search, search

MOST_EXCLUDED = 3
"""Largest number of excluded changes that are listed, the best first."""


def explained(rig: Rig, evidence: Sequence[Evidence]) -> list[Check]:
    """Return checks that name the changes of the rig that explain the true or labelled boxes of all views.

    Episodes to which [[override]] entries give another rig are explained apart, with one check for each such rig. No
    check is returned if no view fails.
    """
    groups: list[tuple[Rig, list[Evidence]]] = [(rig, [])]
    for episode in evidence:
        group = next((group for known, group in groups if known is episode.rig or known == episode.rig), None)
        if group is None:
            groups.append((episode.rig, [episode]))
        else:
            group.append(episode)
    checks = []
    for i, (known, group) in enumerate(groups):
        found = search(known, group)
        if found is not None:
            checks.append(
                _explained(found, f"one-change/override{i}" if i else "one-change", group[0].name if i else "")
            )
    return checks


def _explained(found: Search, id: str, overridden: str) -> Check:
    """Return the check of one search; `overridden` names the first episode of an [[override]]'s rig, '' outside one."""
    title = "Changes of the rig that explain the boxes of all views" + (f" of {overridden}" if overridden else "")
    failing = f"{found.failing.sum()} of {len(found.views)} views fail"
    if not found.offered:
        advice = (
            f"More than one thing is wrong, or something that was not tried. Tried were, alone, and the {MOST_PAIRED} "
            f"closest parts also in pairs: {_tried(found.rig)}."
        )
        measured = f"no change and no pair of changes; {failing}"
        return Check(id, title, "info", measured, advice=advice + _excluded(found))
    edits = [
        f"{_place(found.rig, one.changed, overridden)}{one.advice} It brings the IoU of {one.evidence}."
        for one in found.hypotheses()
    ]
    start = "Two changes together explain" if len(found.offered[0].changes) > 1 else "One change explains"
    advice = f"{start} all views: {edits[0]}"
    if len(edits) > 1:
        advice += (
            f" Or, as likely by these boxes: {' Or: '.join(edits[1:])} To decide, label a second view: boxes of "
            "another camera or sensor."
        )
    advice += f"{_excluded(found)} Check it on your robot before you write it."
    best = float(found.offered[0].iou[found.failing].min())
    return Check(id, title, "info", f"IoU {best:.3f} after the best change; {failing}", best, advice=advice)


def _tried(rig: Rig) -> str:
    """Return the parts of a rig that the search changes, as text."""
    gripper = any(arm.gripper is not None for arm in rig.arms.values())
    parts = {
        "each camera's image_map, K and pose": True,
        f"each sensor's place{', finger and half turn' if gripper else ''}": True,
        "exchanged sensors": len(rig.sensors) > 1,
        "the gripper's ends, axis and lengths": gripper,
        "the arm's base": bool(rig.arms),
        "the URDF's tip": any(arm.tip is not None for arm in rig.arms.values()),
    }
    return ", ".join(part for part, tried in parts.items() if tried)


def _place(rig: Rig, changed: Rig, overridden: str) -> str:
    """Return where to write a change of the rig of the [[override]] of an episode; '' if `overridden` is ''."""
    keys: dict[bool, list[str]] = {True: [], False: []}
    for kind, allowed in OVERRIDABLE.items():
        for name, entry in getattr(rig, kind).items() if overridden else ():
            other = getattr(changed, kind)[name]
            for key in type(entry).model_fields:
                if getattr(entry, key) != getattr(other, key):
                    keys[key in allowed].append(f"{kind}.{name}.{key}")
    if not keys[False]:
        return f"In the [[override]] of {overridden}: " if keys[True] else ""
    fixed = f"An [[override]] cannot hold {', '.join(keys[False])}"
    if not keys[True]:
        return f"{fixed}; write it outside, for all episodes: "
    return f"{fixed}; write that outside, for all episodes, and the rest in the [[override]] of {overridden}: "


def _excluded(found: Search) -> str:
    """Return which changes are excluded and why, as text; '' if there are none."""
    reasons = []
    for one in found.excluded[:MOST_EXCLUDED]:
        row = found.contradiction(one)
        what = " and ".join(f"{change.part}: {change.name}" for change in one.changes)
        view = None if row is None else found.views[row].name
        why = "worse, or not as simple" if row is None else f"IoU {one.iou[row]:.3f} of {view}"
        reasons.append(f"{what} ({why})")
    return f" Excluded: {'; '.join(reasons)}." if reasons else ""


def on_sensor(
    rig: Rig, camera: str, sensor: str, views: list[View], contact: np.ndarray, commanded: bool
) -> list[Check]:
    """Return the checks that compare a sensor's predicted boxes in one camera with the boxes of truth or labels.

    Boxes that a fit of the rig has used are left out if there are others: the fit explains them even if it is wrong.

    Args:
        rig: The rig.
        camera: Name of the camera.
        sensor: Name of the sensor.
        views: One view per episode.
        contact: (T,) bool over the frames of all episodes: whether the sensor touches something.
        commanded: Whether the gripper readings of some frames state the commanded, not the measured opening.
    """
    judge = partial(_judge, camera, sensor)
    unused = [_without_fitted(view) for view in views]
    views = unused if any(np.isfinite(view.seen).any() for view in unused) else views
    iou, true = (np.concatenate([view.iou(boxes) for view in views]) for boxes in ("box", "true_opening"))
    if not np.isfinite(iou).any():
        nowhere = "no frame has both a box and truth or a label"
        advice = "The rig predicts no box where the sensor was seen. Check the camera's parent and pose."
        enough = _enough(camera, sensor, views, "the rig predicts no box")
        return [enough, judge("iou-median", np.nan, advice, nowhere)]
    advice = (
        "Look at `tactile-align overlay`. If only one camera fails, check its image_map, K (`calibrate intrinsics`) "
        "and pose (`calibrate hand-eye`), in this order. "
        "If all views fail, check the gripper's open, closed, column and law, and the sensor's pose on its finger."
    )
    seen, box = (np.concatenate([getattr(view, key) for view in views]) for key in ("seen", "box"))
    in_sight = np.isfinite(seen[:, 0])
    edges, sides = np.nanmedian(box - seen, axis=0), seen[:, 2:] - seen[:, :2]
    side, ratio = np.nanmedian(sides.min(axis=1)), np.nanmedian((box[:, 2:] - box[:, :2]) / sides, axis=0)
    right, down = (edges[:2] + edges[2:]) / 2
    # A shift in mm at the sensor's distance can be compared with a drawing.
    depth = np.nanmedian(np.concatenate([view.T_camera_sensor[:, 2, 3] for view in views])[in_sight])
    aside = np.abs((right, down)) * 1e3 * depth / np.abs(np.diag(rig.cameras[camera].stored.K)[:2])
    median, count = float(np.nanmedian(iou)), int(in_sight.sum())
    measured = (
        f"{' '.join(f'{edge:+z.2f}' for edge in edges)} px (left top right bottom), side {side:.0f} px; "
        f"{ratio[0]:.2f} x as wide and {ratio[1]:.2f} x as high as seen, {abs(right):.1f} px too far "
        f"{'right' if right > 0 else 'left'}, {abs(down):.1f} px too {'low' if down > 0 else 'high'} "
        f"({aside[0]:.1f} and {aside[1]:.1f} mm at the sensor)"
    )
    what = "finger" if _on_one_hand(rig, camera, sensor) else "camera"
    moved = f"the {'sensor' if what == 'finger' else 'camera'} would have to move, and whether that is likely"
    if what == "finger" and not rig.sensors[sensor].parent.endswith(("/finger1", "/finger2")):
        remedy = "check the sensor's pose."
    else:
        remedy = (
            f"`tactile-align calibrate {what} RECORDINGS --rig RIG --camera {camera}`, with the --labels and --layout "
            f"of this `verify`, if any; with --dry-run it only states how far {moved}."
        )
    beside = (
        "If the size of the boxes is wrong by more than 5 %, check K, the camera's distance and the sensor's size. If "
        f"only their position is wrong: {remedy}"
    )
    checks = [
        _enough(camera, sensor, views, f"median IoU {median:.3f}, median edge error {np.abs(edges).max():.1f} px"),
        judge("iou-median", median, advice, f"{median:.3f} ({count} boxes)"),
        judge("iou-p5", np.nanpercentile(iou, 5), advice),
        judge("box-missing", np.isnan(box[in_sight, 0]).mean(), advice),
        judge("edge-error", np.abs(edges).max() / side, beside, measured),
    ]
    if np.isfinite(true).any():
        check = _iou_fact("iou-true-opening", camera, sensor, "true opening", true)
        limit = LIMITS["iou-median"]
        # If boxes fit with the true opening but not with the recorded one, the gripper's reading is wrong.
        if (check.value or 0.0) >= limit.good and median < limit.poor:
            advice = (
                "The boxes fit with the true opening, so arm, camera and sensor are right. Check the gripper's open "
                "and closed (swapped?), column, law and reading."
            )
            check = replace(check, status="fail", limit="recorded opening as good", advice=advice)
        checks.append(check)
    if commanded:
        unheld = np.concatenate([view.iou("unheld") for view in views])[contact]
        checks.append(_iou_fact("iou-held", camera, sensor, "in contact, command held at onset", iou[contact]))
        checks.append(_iou_fact("iou-unheld", camera, sensor, "in contact, command as recorded", unheld))
    return checks


def _without_fitted(view: View) -> View:
    seen = view.seen.copy()
    seen[list(view.fitted)] = np.nan
    return replace(view, seen=seen)


def _enough(camera: str, sensor: str, views: list[View], result: str) -> Check:
    """Return the check whether the boxes of truth or labels are enough; `result` states how well the rig fits them.

    Enough boxes are a fact, not a passed check, so that every report states what its verdict is based on. Boxes that a
    fit of the rig has used do not count.
    """
    drawn = [np.isfinite(_without_fitted(view).seen[:, 0]) for view in views]
    used = sum(len(view.fitted) for view in views)
    count, held = int(sum(flags.sum() for flags in drawn)), sum(bool(flags.any()) for flags in drawn)
    measured, spread = f"{count} in {held} of {len(views)} episodes", held > 1 or len(views) == 1
    widths = [1e3 * view.opening.sum(axis=1) for view in views if view.opening is not None]
    if widths and count:
        every, seen = np.concatenate(widths), np.concatenate(widths)[np.concatenate(drawn)]
        measured += f", openings {seen.min():.0f} to {seen.max():.0f} mm between the fingers"
        spread = spread and bool(np.ptp(seen) >= COVERED * np.ptp(every))
    advice = (
        f"Draw {LIMITS['boxes'].good:.0f} boxes, in several episodes and over the openings that occur in them; "
        "`tactile-align label` chooses such frames."
    )
    if used:
        measured += f", and {used} that the fit of this rig has used"
        advice = (
            "A fit explains the boxes that it has used even if it is wrong. Draw others: `tactile-align label` leaves "
            "out these frames, if --not-in names the file of these boxes."
        )
    check = _judge(camera, sensor, "boxes", count, advice, f"{measured}: {result}")
    if check.status == "pass" and spread:
        return replace(check, status="info", limit="")
    limit = f"{LIMITS['boxes'].text()}, in several episodes, over {COVERED:.0%} of the openings"
    return replace(check, status="warn", limit=limit, why=LIMITS["boxes"].why, advice=advice)


def _judge(camera: str, sensor: str, kind: str, value: float, advice: str, measured: str | None = None) -> Check:
    return graded(LIMITS, kind, float(value), camera, sensor, advice=advice, measured=measured)


def _iou_fact(kind: str, camera: str, sensor: str, what: str, iou: np.ndarray) -> Check:
    id, title = f"{kind}/{camera}/{sensor}", f"IoU of {sensor} in {camera}, {what}"
    if not np.isfinite(iou).any():
        return Check(id, title, "info", "no frame to compare")
    median, low = np.nanmedian(iou), np.nanpercentile(iou, 5)
    return Check(id, title, "info", f"{median:.3f} median, {low:.3f} 5th percentile", float(median))


def box_drift(evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    """Return the drift of the boxes, one dict per episode and view (camera and sensor), the largest drift first.

    In each episode, the centres of the predicted boxes have a median offset from the centres of the true or labelled
    boxes. The drift is the distance between this offset and the median offset over all episodes, px. Episodes without
    truth or labels are left out.
    """
    by_view: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for episode in evidence:
        for view in episode.views:
            off = (view.box - view.seen).reshape(-1, 2, 2).mean(axis=1)
            if not np.isfinite(off).any():
                continue
            row: dict[str, Any] = {"episode": Path(episode.name).name, "camera": view.camera, "sensor": view.sensor}
            row["side px"] = float(np.nanmedian((view.seen[:, 2:] - view.seen[:, :2]).min(axis=1)))
            row["du px"], row["dv px"] = map(float, np.nanmedian(off, axis=0))
            row["IoU"] = float(np.nanmedian(view.iou()))
            by_view.setdefault((view.camera, view.sensor), []).append(row)
    for rows in by_view.values():
        off = np.array([(row["du px"], row["dv px"]) for row in rows])
        for row, drift in zip(rows, np.hypot(*(off - np.median(off, axis=0)).T), strict=True):
            row["drift px"] = float(drift)
    return sorted((row for rows in by_view.values() for row in rows), key=lambda row: -row["drift px"])


def drift_checks(drift: list[dict[str, Any]]) -> list[Check]:
    """Return a check per view of how far its boxes drift between episodes; `drift` is the result of `box_drift`."""
    checks = []
    for camera, sensor in sorted({(row["camera"], row["sensor"]) for row in drift}):
        rows = [row for row in drift if (row["camera"], row["sensor"]) == (camera, sensor)]
        if len(rows) < 2:
            continue
        worst = rows[0]
        advice = (
            "The boxes of all episodes are wrong, each by a different amount. The error depends on the opening or on "
            "the position in the image. If another view passes, the gripper is right: check this camera's image_map, "
            "K and pose. If all views fail, check the gripper's open, closed and column first."
        )
        if max(row["IoU"] for row in rows) >= LIMITS["iou-median"].good:
            advice = "The mount moved between episodes: give the later episodes their own pose in [[override]]."
        measured = f"{worst['drift px']:.2f} px at most, in {worst['episode']}"
        checks.append(_judge(camera, sensor, "box-drift", worst["drift px"] / worst["side px"], advice, measured))
    return checks


HAND = ("flange", "finger1", "finger2")


def episode_checks(rig: Rig, evidence: Sequence[Evidence]) -> list[Check]:
    """Return the checks of a rig on recorded episodes; motion and drift have their own functions."""
    checks = [_status(rig, evidence), _streams(evidence), _joints(evidence), *_plausible(evidence)]
    checks += [*gripper_checks(rig), *_gripper_missing(rig, evidence)]
    for name in rig.cameras:
        if any(name not in episode.missing_cameras for episode in evidence):
            checks += lens_checks(rig, name)
    for sensor in rig.sensors:
        episodes = [episode for episode in evidence if sensor in episode.contact]
        if episodes:
            checks += _contact(sensor, episodes)
    pairs = sorted({(view.camera, view.sensor) for episode in evidence for view in episode.views})
    # Right boxes in one view do not prove that the other views are right.
    unproven = {}
    for camera, sensor in pairs:
        episodes = [one for one in evidence if any((v.camera, v.sensor) == (camera, sensor) for v in one.views)]
        views = [v for one in episodes for v in one.views if (v.camera, v.sensor) == (camera, sensor)]
        checks.append(_coverage(rig, camera, sensor, views))
        if not any(np.isfinite(view.seen).any() for view in views):
            unproven[f"box-proof/{camera}/{sensor}"] = f"Proof that the box of {sensor} is right in {camera}"
        else:
            contact = np.concatenate([episode.contact[sensor] for episode in episodes])
            commanded = any(episode.commanded[sensor].any() for episode in episodes)
            checks += on_sensor(rig, camera, sensor, views, contact, commanded)
    checks += explained(rig, evidence)
    if unproven and len(unproven) == len(pairs):
        unproven = {"box-proof": "Proof that the boxes are right"}
    limit = "labels or truth"
    advice = (
        f"Nothing proves that the boxes lie on the sensor. Look at `tactile-align overlay`, draw boxes on "
        f"{LIMITS['boxes'].good:.0f} frames (`tactile-align label` writes the page), then use --labels."
    )
    if len(rig.cameras) > 1:
        advice += " Remove unused cameras from the rig."
    proof = [
        Check(id, title, "warn", "no truth or labels", limit=limit, advice=advice) for id, title in unproven.items()
    ]
    return [*checks, *proof]


def _status(rig: Rig, evidence: Sequence[Evidence]) -> Check:
    advice = ""
    if rig.status == "nominal":
        advice = (
            "The poses come from drawings. Calibrate the cameras with `tactile-align calibrate hand-eye`, and the "
            "fingers with `tactile-align calibrate finger`."
        )
    elif rig.status == "exact" and not any(np.isfinite(v.true_opening).any() for one in evidence for v in one.views):
        advice = (
            "Only a simulation has an exact rig, but these recordings contain no simulation truth. Set status = "
            '"calibrated" (or "nominal"), because training accepts an exact rig without verification.'
        )
    limit = "calibrated, or exact in a simulation"
    return decided("rig-status", "Status of the rig", not advice, rig.status, limit=limit, advice=advice)


def lens_checks(rig: Rig, camera: str) -> list[Check]:
    """Return the checks of a camera's lens: whether principal point, field of view and lens model are plausible."""
    entry = rig.cameras[camera]
    (fx, _, cx), (_, _, cy), _ = entry.K
    du, dv = (cx + 0.5) / entry.width - 0.5, (cy + 0.5) / entry.height - 0.5
    across = float(np.degrees(2 * LENS_MODELS[entry.model].angle(entry.width / (2 * fx))))
    width, height = frame_of(entry)
    advice = (
        f"This K is centred for frames of about {width}x{height}, but the rig states {entry.width}x{entry.height}. "
        f"Give the K of these frames, or set width = {width}, height = {height} and give the recorder's steps in "
        f'image_map, such as [["resize", {entry.width}, {entry.height}]].'
    )
    measured = f"{du:+z.0%} right, {dv:+z.0%} down"
    centred = graded(LIMITS, "principal-point", max(abs(du), abs(dv)), camera, measured=measured, advice=advice)
    id, title, (least, most) = f"field-of-view/{camera}", f"Field of view of {camera}", FIELD_DEG
    advice = f"fx = {fx:g} px is implausible for frames {entry.width} px wide. Give the K of this resolution."
    measured, limit = f"{across:.0f} deg across", f"{least:g} to {most:g} deg"
    wide = decided(id, title, least <= across <= most, measured, limit=limit, value=across, advice=advice)
    fact, advice = entry.raw.early_end
    ends = [Check(f"lens-end/{camera}", f"Lens model of {camera}", "warn", fact, advice=advice)] if fact else []
    return [centred, wide, *ends]


METRES = (0.01, 0.3)
"""Range in which the span of a gripper's reading is taken for a length in metres."""
WIDEST_M = 0.145
"""Opening between the fingers, m, that common grippers do not exceed (Robotiq 2F-140: 0.140)."""
SAME_SPAN = 0.03
"""Relative difference below which two lengths of a gripper count as equal."""


def gripper_checks(rig: Rig) -> list[Check]:
    """Return one check per gripper whose reading seems to be in metres: whether its law opens as far as the reading.

    Such a reading is the width between the fingers or one finger's distance from the tool axis. No recording is needed.
    """
    checks = []
    for arm, entry in rig.arms.items():
        gripper = entry.gripper
        if gripper is None or not METRES[0] <= (span := abs(gripper.open - gripper.closed)) <= METRES[1]:
            continue
        finger = float(np.diff(gripper.law.opening(np.array([0.0, 1.0])))[0])
        measured = f"reading spans {span:.3f}, law opens {2 * finger:.3f} between the fingers"
        check = Check(f"gripper-stroke/{arm}", f"Stroke of the gripper of {arm}", "pass", measured, 2 * finger, "m")
        limit = "the reading is the width between the fingers"
        if abs(finger / span - 1) <= SAME_SPAN and 2 * finger <= WIDEST_M:
            measured += "; right if the reading is ONE finger's distance from the tool axis"
            checks.append(replace(check, status="info", measured=measured))
        elif min(abs(finger / span - 1), abs(4 * finger / span - 1)) <= SAME_SPAN:
            advice = (
                f"{_stroke_advice(gripper, span / (2 * finger), arm)} Ignore this warning if the reading is not the "
                f"width in metres."
            )
            checks.append(replace(check, status="warn", limit=limit, advice=advice))
        else:
            good = abs(2 * finger / span - 1) <= SAME_SPAN
            checks.append(replace(check, status="pass" if good else "info", limit=limit if good else ""))
    return checks


def _stroke_advice(gripper: Gripper, factor: float, arm: str) -> str:
    """Return the question whether the opening of a gripper must be multiplied by `factor`."""
    law, key = gripper.law, f"arms.{arm}.gripper.law"
    if isinstance(law, Linear):
        closed = f"closed_m = {factor * law.closed_m:g}, " if law.closed_m else ""
        meant = f"{closed}{factor * law.open_m:g}"
        return f"open_m of {key} is ONE finger's distance from the tool axis. Did you mean {meant}?"
    return f"{key} gives ONE finger's distance from the tool axis. Must it be multiplied by {factor:g}?"


def _gripper_missing(rig: Rig, evidence: Sequence[Evidence]) -> list[Check]:
    """Return a check for each sensor that may sit on a gripper that the recordings contain, but the rig does not.

    It warns only of columns that are named like a gripper: a rail or a clock may be the one column that is not read.
    """
    idle = {sensor: found for episode in reversed(evidence) for sensor, found in episode.idle_grippers.items()}
    checks = []
    for sensor in filter(idle.get, rigid_sensors(rig)):
        columns, named = idle[sensor]
        parent = rig.sensors[sensor].parent
        arm = parent.partition("/")[0]
        advice = (
            f"If {sensor} sits on a finger, add the column to state.qpos of the layout, if it is not there, and "
            f"[arms.{arm}.gripper] to the rig (calibration/README.md); then parent is {arm}/finger1 or {arm}/finger2."
        )
        measured = f"{columns}; {sensor} is rigid on {parent}"
        status: Status = "warn" if named else "info"
        checks.append(Check(f"gripper-missing/{sensor}", f"Gripper of {sensor}", status, measured, advice=advice))
    return checks


def _streams(evidence: Sequence[Evidence]) -> Check:
    lacking = sorted({name for one in evidence for name in (*one.missing_cameras, *one.missing_sensors)})
    unknown = sorted({name for one in evidence for name in one.unknown_cameras})
    odd = {"not recorded": lacking, "not in the rig": unknown}
    measured = "; ".join(f"{what}: {', '.join(names)}" for what, names in odd.items() if names)
    limit = "the rig's cameras and sensors"
    advice = "Streams that are not in the rig get no box. Use the same names in the rig as in the recordings."
    return decided(
        "streams", "Streams", not measured, measured or "the same in rig and recordings", limit=limit, advice=advice
    )


def _joints(evidence: Sequence[Evidence]) -> Check:
    step = max(episode.largest_step for episode in evidence)
    measured = f"all; largest step {np.degrees(step):.1f} deg"
    return decided("joint-limits", "Joints within limits", True, measured, limit="within the arm's limits", value=step)


def _plausible(evidence: Sequence[Evidence]) -> list[Check]:
    suspects = {suspicion.id: suspicion for episode in reversed(evidence) for suspicion in episode.suspicions}
    title, limit = "Joints plausible", "raw, moving, arms not swapped"
    if not suspects:
        return [decided("joints-plausible", title, True, "nothing suspicious", limit=limit)]
    checks = []
    for id, first in suspects.items():
        names = [one.name for one in evidence if any(suspicion.id == id for suspicion in one.suspicions)]
        measured = f"{id} in {len(names)} of {len(evidence)} episodes, first in {names[0]}"
        advice = f"{first.message}."
        checks.append(decided(f"joints-plausible/{id}", title, False, measured, limit=limit, advice=advice))
    return checks


def _contact(sensor: str, evidence: Sequence[Evidence]) -> list[Check]:
    contact = np.concatenate([episode.contact[sensor] for episode in evidence])
    share = float(contact.mean())
    id, title, measured = f"contact/{sensor}", f"Contact of {sensor}", f"{share:.0%} of frames"
    advice = "The touch images show no contact. Check that this sensor is plugged in and recorded."
    checks = [decided(id, title, share > 0, measured, limit="> 0 %", value=share, advice=advice)]
    if share > 0:
        only = float(np.concatenate([episode.commanded[sensor] for episode in evidence])[contact].mean())
        note = "The opening is held at its value at contact onset. Record a measured opening if the gripper has one."
        id, title = f"commanded-opening/{sensor}", f"Openings of {sensor} only commanded"
        status: Status = "info" if only else "pass"
        checks.append(Check(id, title, status, f"{only:.0%} of contact frames", only, advice=note if only else ""))
    return checks


def _coverage(rig: Rig, camera: str, sensor: str, views: list[View]) -> Check:
    share = float(np.mean(np.concatenate([view.reason for view in views]) == 0))
    why = reasons(views)
    measured = f"{share:.1%} of frames" + (f" ({why})" if why else "")
    if _on_one_hand(rig, camera, sensor):
        advice = "Check whether T_flange_camera is inverted or in mm, or whether K belongs to another resolution."
        return _judge(camera, sensor, "box-coverage", share, advice, measured)
    id, title = f"box-coverage/{camera}/{sensor}", LIMITS["box-coverage"].title.format(camera, sensor)
    advice = "By the rig, this camera never sees the sensor. If the frames show it, check the camera's pose."
    return decided(id, title, share > 0, measured, limit="> 0", value=share, advice=advice)


def _on_one_hand(rig: Rig, camera: str, sensor: str) -> bool:
    """Return whether camera and sensor are on the same hand, so that no arm joint moves one against the other."""
    arm, _, node = rig.cameras[camera].parent.partition("/")
    other, _, finger = rig.sensors[sensor].parent.partition("/")
    return arm == other and node in HAND and finger in HAND

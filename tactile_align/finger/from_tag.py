"""Finger route by a tag: where the camera sees the finger at each opening, without boxes and without arm motion.

Nine numbers are fitted: a pose, the stroke and the axis. Which pose is written follows from where the tag's place is
known, see `tag_fit.FingerTag`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.checks import Check, Report, graded
from tactile_align.errors import InputError
from tactile_align.finger.checks import LIMITS, STROKES, amounts, moved_check, reading_checks, stroke_check
from tactile_align.finger.frames import Reading
from tactile_align.finger.tag_fit import FingerTag, Holder, Sightings, TagFit, find_tag, fit_tag
from tactile_align.geometry.frames import invert, rotation_log
from tactile_align.sessions.write_rig import pose_keys, provenance, require_no_override, save_unless_failed, with_stroke


@dataclass(frozen=True)
class TaggedFinger:
    """Result of a tag on a finger.

    Attributes:
        rig: The rig with the new pose, stroke and axis; as it was where the stroke is absurd.
        found: "camera NAME" or "sensor NAME", whose pose was found.
        fit: The numbers, with their uncertainty and the error in pixels of each frame.
        looked: How many frames were searched.
        report: The checks.
    """

    rig: Rig
    found: str
    fit: TagFit
    looked: int
    report: Report

    @property
    def reading(self) -> Reading | None:
        """What the gripper reading is; None where the frames cannot tell."""
        return self.fit.reading


def calibrate_finger_by_tag(
    path: str | Path,
    rig: str | Path | Rig,
    tag: FingerTag,
    *,
    camera: str | None = None,
    layout: str | Path | None = None,
    accept: bool = False,
    out: str | Path | None = None,
) -> TaggedFinger:
    """Fit T_camera_finger(opening) to a tag on the finger, found in recorded frames.

    Args:
        path: Episodes in which the gripper opens and closes; the arm may stand still.
        rig: The rig.
        tag: The tag, and where it is glued.
        camera: The camera that sees it, None where the rig has only one; where the camera itself is sought, one on
            the flange of the same hand.
        layout: The episodes' layout; recognised when None.
        accept: Write it even though the sensor or the stroke is far from the rig's.
        out: Where to write the rig; None: do not write. A fit that fails is never written.

    Raises:
        FileNotFoundError, EpisodeError, FactError: What cannot be read.
        InputError: The tag is in no frame, or at too few openings; a camera that it cannot find.
    """
    known = rig if isinstance(rig, Rig) else load_rig(rig)
    if camera is None:
        if len(known.cameras) != 1:
            raise InputError(
                f"rig {known.name} has cameras {', '.join(known.cameras)}; say which sees the tag: --camera"
            )
        camera = next(iter(known.cameras))
    finger, mounted = tag.finger(known), known.camera(camera)
    arm = finger.partition("/")[0]
    sought = tag.parent not in known.sensors
    if sought and mounted.parent != f"{arm}/flange":
        raise InputError(
            f"a tag whose place on {finger} is known finds a camera on {arm}/flange; {camera} hangs on "
            f"'{mounted.parent}'. Give the tag's place on a sensor instead: parent = \"SENSOR\""
        )
    seen = find_tag(path, known, camera, tag, layout=layout)
    require_no_override(
        known, "cameras" if sought else "sensors", camera if sought else tag.parent, (ref.path for ref in seen.refs)
    )
    T = mounted.T_parent_this if sought else known.sensor(tag.parent).T_parent_this
    fit = fit_tag(seen, Holder(T, tag.T_parent_this, sought, tag.corners))
    name = f"camera {camera}" if sought else f"sensor {tag.parent}"
    subject = f"tag {tag.id} in {camera}: {len(seen.uv)} of {seen.looked} frames, for {name}"
    checks = _checks(fit, T, sought, seen, accept) + reading_checks(fit.reading, known.gripper(arm).reading)
    report = Report("calibrate", subject, tuple(checks), facts=provenance(seen.digests))
    changed = known
    if STROKES[0] <= fit.stroke <= STROKES[1]:
        axis = fit.axis if finger.endswith("1") else -fit.axis
        changed = with_stroke(known, arm, fit.stroke, axis)
        if sought:
            covariance = tuple(map(tuple, fit.covariance[:6, :6].tolist()))
            changed = changed.with_camera(camera, **pose_keys(fit.T), covariance=covariance)
        else:
            changed = changed.with_sensor(tag.parent, **pose_keys(fit.T))
    save_unless_failed(changed, out, report)
    return TaggedFinger(changed, name, fit, seen.looked, report)


def _checks(fit: TagFit, T: np.ndarray, sought: bool, seen: Sightings, accept: bool) -> list[Check]:
    """Return the checks; T is the rig's pose of what was fitted."""
    frames = seen.frames
    span, median = float(np.ptp(frames.opening[frames.stated])), float(np.median(fit.after))
    off = np.concatenate([fit.T[:3, 3] - T[:3, 3], rotation_log(invert(T)[:3, :3] @ fit.T[:3, :3])])
    lean = float(np.degrees(np.arccos(np.clip(fit.axis @ frames.axis, -1, 1))))
    sigma = np.sqrt(np.diag(fit.covariance))
    bad = fit.after > max(3.0, 5 * median)
    worst = ", ".join(seen.names[i] for i in np.flatnonzero(bad)[:3])
    doubt = "Is the camera calibrated, the tag's place as its file states, its side without the white rim?"
    return [
        graded(LIMITS, "sightings", len(fit.after), advice="Record more."),
        graded(LIMITS, "opening-range", span * 1e3, advice="Move the gripper over its whole stroke."),
        graded(LIMITS, "corners-median", median, advice="Look for another law, a turning jaw, a loose tag, or blur."),
        graded(LIMITS, "frames-far-off", float(bad.mean()), advice=f"Look at {worst}."),
        graded(LIMITS, "tag-sigma", fit.place_m * 1e3, advice="Take a larger tag, or more frames."),
        Check("corners-before", "Corners before, median", "info", f"{np.median(fit.before):.3g} px"),
        # A camera from drawings is often centimetres off; a sensor on its finger is not.
        Check("camera-moved", "Camera moved", "info", amounts(off, "+.2f"), float(np.linalg.norm(off[:3])))
        if sought
        else moved_check(off, doubt, accept),
        Check("sigma", "Sigma", "info", amounts(sigma[:6], ".2f")),
        stroke_check(fit.stroke, float(sigma[6]), doubt, accept),
        graded(LIMITS, "axis-lean", lean, advice="Is the tag turned on the finger as its file states?"),
    ]

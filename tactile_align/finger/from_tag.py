"""Finger calibration by a tag glued to the finger, seen by a camera at several openings.

It needs neither boxes nor arm motion. Nine parameters are fitted: a pose (6), the stroke (1) and the tilt of the
finger's opening axis (2). The pose is that of the sensor or of the camera, see `tag_fit.FingerTag`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.checks import Check, Report, graded
from tactile_align.errors import InputError
from tactile_align.finger.checks import (
    LIMITS,
    STROKES,
    displacement,
    moved_check,
    reading_checks,
    sigma_check,
    stroke_check,
)
from tactile_align.finger.frames import Reading
from tactile_align.finger.tag_fit import FingerTag, Holder, Sightings, TagFit, find_tag, fit_tag
from tactile_align.geometry.frames import invert, rotation_log
from tactile_align.sessions.write_rig import pose_keys, provenance, require_no_override, save_unless_failed, with_stroke


@dataclass(frozen=True)
class TaggedFinger:
    """Result of a finger calibration by a tag.

    Attributes:
        rig: The rig with the new pose, stroke and axis; unchanged if the stroke is impossible.
        found: "camera NAME" or "sensor NAME": the part of the rig whose pose was fitted.
        fit: The fitted parameters, their uncertainty, and the error of each frame in pixels.
        looked: Number of frames that were searched for the tag.
        report: The checks.
    """

    rig: Rig
    found: str
    fit: TagFit
    looked: int
    report: Report

    @property
    def reading(self) -> Reading | None:
        """Kind of gripper reading that fits the frames: "commanded", "measured", or None if the frames cannot tell."""
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
    """Return the pose of a sensor or a camera, and the finger's motion, fitted to a tag seen in recorded frames.

    Args:
        path: Episodes in which the gripper opens and closes; the arm may stand still.
        rig: The rig, its name or its file.
        tag: The tag, and where it is glued.
        camera: Name of the camera that sees the tag; None: the rig's only camera. If the tag calibrates the camera
            itself, that camera must be on the flange of the same hand.
        layout: The episodes' layout; recognised when None.
        accept: Write the rig even if the sensor or the stroke is far from the rig's.
        out: Where to write the rig; None: do not write. A fit that fails is never written.

    Raises:
        FileNotFoundError, EpisodeError, FactError: A file was not found or cannot be read.
        InputError: The tag is in no frame, or at too few openings; the tag cannot calibrate this camera.
    """
    known = rig if isinstance(rig, Rig) else load_rig(rig)
    if camera is None:
        if len(known.cameras) != 1:
            raise InputError(
                f"rig {known.name} has {len(known.cameras)} cameras ({', '.join(known.cameras)}), and none was chosen. "
                f"Choose the camera that sees the tag with --camera"
            )
        camera = next(iter(known.cameras))
    finger, mounted = tag.finger(known), known.camera(camera)
    arm = finger.partition("/")[0]
    sought = tag.parent not in known.sensors
    if sought and mounted.parent != f"{arm}/flange":
        raise InputError(
            f"a tag glued to {finger} can calibrate only a camera on {arm}/flange; {camera} has parent "
            f"'{mounted.parent}'. Give the tag's pose on a sensor instead: parent = \"SENSOR\""
        )
    seen = find_tag(path, known, camera, tag, layout=layout)
    require_no_override(
        known, "cameras" if sought else "sensors", camera if sought else tag.parent, (ref.path for ref in seen.refs)
    )
    T = mounted.T_parent_this if sought else known.sensor(tag.parent).T_parent_this
    fit = fit_tag(seen, Holder(T, tag.T_parent_this, sought, tag.corners))
    part = camera if sought else tag.parent
    name = f"{'camera' if sought else 'sensor'} {part}"
    subject = f"tag {tag.id} in {camera}: {len(seen.uv)} of {seen.looked} frames, for {name}"
    opened = float(known.gripper(arm).law.opening(np.array(1.0)))
    checks = _checks(fit, T, part, sought, seen, opened, accept)
    checks += reading_checks(fit.reading, known.gripper(arm).reading)
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
    save_unless_failed(changed, out, report, rig)
    return TaggedFinger(changed, name, fit, seen.looked, report)


def _checks(
    fit: TagFit, T: np.ndarray, part: str, sought: bool, seen: Sightings, opened: float, accept: bool
) -> list[Check]:
    """Return the checks of the fit of a camera (`sought`) or a sensor; `T` (4, 4) is the `part`'s pose in the rig.

    `opened` is the distance of an open finger from the tool axis in the rig, m.
    """
    frames = seen.frames
    span, median = float(np.ptp(frames.opening[frames.stated])), float(np.median(fit.after))
    off = np.concatenate([fit.T[:3, 3] - T[:3, 3], rotation_log(invert(T)[:3, :3] @ fit.T[:3, :3])])
    lean = float(np.degrees(np.arccos(np.clip(fit.axis @ frames.axis, -1, 1))))
    sigma = np.sqrt(np.diag(fit.covariance))
    bad = fit.after > max(3.0, 5 * median)
    worst = ", ".join(seen.names[i] for i in np.flatnonzero(bad)[:3])
    doubt = "Check the camera's calibration, the tag's pose in its file, and that side_m excludes the white rim."
    return [
        graded(LIMITS, "sightings", len(fit.after), advice="Record more frames that show the tag."),
        graded(LIMITS, "opening-range", span * 1e3, advice="Move the gripper over its whole stroke."),
        graded(LIMITS, "corners-median", median, advice="Check the law, and whether jaw or tag is loose."),
        graded(LIMITS, "frames-far-off", float(bad.mean()), advice=f"Look at these frames: {worst}."),
        graded(LIMITS, "tag-sigma", fit.place_m * 1e3, advice="Use a larger tag or more frames."),
        Check("corners-before", "Corner error before, median", "info", f"{np.median(fit.before):.3g} px"),
        # A camera pose taken from drawings is often off by centimetres; a sensor's pose on its finger is not.
        _camera_moved(off, part) if sought else moved_check(off, part, doubt, accept),
        sigma_check(sigma, part),
        stroke_check(fit.stroke, float(sigma[6]), opened, doubt, accept),
        graded(LIMITS, "axis-lean", lean, advice="Check the tag's orientation in its file."),
    ]


def _camera_moved(off: np.ndarray, camera: str) -> Check:
    metres = float(np.linalg.norm(off[:3]))
    return Check(f"camera-moved/{camera}", f"Camera {camera} moved", "info", displacement(off), metres)

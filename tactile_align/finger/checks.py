"""Checks of both finger routes: how far the sensor and the stroke are from the rig's, and whether that is likely.

Far from where the rig has the sensor, something else is more likely wrong, so that a person must confirm that it is
the sensor: `accept`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tactile_align.checks import Check, Limit, Status, decided, graded
from tactile_align.finger.box_fit import BoxFit
from tactile_align.finger.frames import Reading
from tactile_align.finger.tag_fit import MIN_SIGHTINGS

MIN_BOXES = 6
FAR_M, FAR_RAD, FAR_STROKE = 0.005, np.radians(10.0), 0.10
"""A sensor or a stroke that is fitted further from the rig's is doubtful."""
STROKES = (0.5, 2.0)
"""Factors on the rig's stroke outside which the reading explains nothing."""
ALREADY_IOU = 0.95
"""Boxes drawn by hand agree with a right rig no better: a fit that gains more follows how they were drawn."""
POOR_IOU = 0.5
"""Another view with a lower median is off, whatever the fit."""
CLEAR_GAIN = 0.01
"""A mean change of IoU below this, or below twice its standard error, is none."""
LIMITS = {
    "boxes": Limit("Boxes used", 20, MIN_BOXES, form=".0f", why="Seven numbers need many boxes"),
    "sightings": Limit("Frames that show the tag", 20, MIN_SIGHTINGS, form=".0f", why="Nine numbers need many frames"),
    "opening-range": Limit("Range of openings", 10, 3, " mm", why="The stroke shows only while the gripper moves"),
    "iou-median": Limit("IoU of left-out boxes, median", 0.75, 0.5, form=".3f", why="The fit does not explain them"),
    "iou-p5": Limit("IoU of left-out boxes, 5th percentile", 0.5, 0.25, form=".3f", why="Single boxes are off"),
    "corners-median": Limit("Corners of left-out frames, median", 1.5, 3.0, " px", why="The finger moves otherwise"),
    "frames-far-off": Limit("Frames far off", 0.0, 0.1, form=".0%", why="Single frames do not fit"),
    "tag-sigma": Limit("Sigma of the tag in the camera", 1.0, 3.0, " mm", why="The tag looks too small"),
    "axis-lean": Limit("Finger's axis off", 3.0, 10.0, " deg", why="The rig states another axis"),
}
FLAG = "--accept-doubtful"


@dataclass(frozen=True)
class OtherView:
    """Effect of a fit on boxes of the same sensor in another camera, which are not in the fit.

    Attributes:
        camera: The other camera.
        before: (N,) IoU with the rig as it was.
        after: (N,) IoU with the fit.
    """

    camera: str
    before: np.ndarray
    after: np.ndarray

    @property
    def change(self) -> int:
        """-1 worse, 0 neither, 1 better."""
        return clear_change(self.before, self.after)


def verdict_of_others(others: Sequence[OtherView]) -> str:
    """Return in words whether other views speak for the sensor or for the camera."""
    if not others:
        return "Labels of a second view, in the same folder, would tell: the fit is compared with them."
    words = ("speak against it", "do not tell", "speak for the sensor")
    return " ".join(f"Boxes of {view.camera} {words[view.change + 1]}." for view in others)


def clear_change(before: np.ndarray, after: np.ndarray) -> int:
    """Return the sign of the mean change of N IoUs, 0 where it is within the noise."""
    gain = after - before
    noise = 2 * float(gain.std(ddof=1)) / len(gain) ** 0.5 if len(gain) > 1 else np.inf
    return int(np.sign(gain.mean())) if abs(gain.mean()) > max(CLEAR_GAIN, noise) else 0


def is_needed(fit: BoxFit) -> bool:
    """Return whether a change is needed: the rig does not explain the boxes already, and the fit is better."""
    return float(np.median(fit.before)) < ALREADY_IOU and clear_change(fit.before, fit.after) > 0


def is_far(x: np.ndarray) -> bool:
    """Return whether a fit x (7,), m, rad and a factor, is further from the rig than is likely."""
    return _is_far(x) or abs(float(x[6]) - 1) > FAR_STROKE


def _is_far(x: np.ndarray) -> bool:
    return bool(np.linalg.norm(x[:3]) > FAR_M or np.linalg.norm(x[3:6]) > FAR_RAD)


def box_checks(
    fit: BoxFit, span: float, others: Sequence[OtherView], camera: str, doubt: str, accept: bool
) -> list[Check]:
    """Return the checks on boxes.

    Args:
        fit: The fit.
        span: The range of openings, m.
        others: The same sensor in other cameras.
        camera: The camera of the boxes.
        doubt: What else may be off where the fit is far from the rig.
        accept: Whether a person confirms that it is the sensor.
    """
    look = "See which boxes are off."
    before, after = float(np.median(fit.before)), float(np.median(fit.after))
    needed, gain, limit = is_needed(fit), f"IoU {before:.3f} -> {after:.3f}", f"< {ALREADY_IOU:g} before, better after"
    than = "as well as they can be drawn" if before >= ALREADY_IOU else "no worse than the fit does"
    advice = f"No change needed: the rig explains the boxes of {camera} {than}. To change it all the same: {FLAG}."
    wide = f"{np.linalg.norm(fit.bias[:3]) * 1e3:.1f} mm more, stroke x {1 + fit.bias[6] / fit.x[6]:.3f}"
    return [
        graded(LIMITS, "boxes", len(fit.after), advice="Draw 20 boxes or more."),
        graded(LIMITS, "opening-range", span * 1e3, advice="Draw boxes over the whole stroke."),
        graded(LIMITS, "iou-median", after, advice=look),
        graded(LIMITS, "iou-p5", float(np.percentile(fit.after, 5)), advice=look),
        decided("change-needed", "Change needed", needed, gain, limit=limit, value=before, advice=advice),
        *[_other(view, camera, needed) for view in others],
        moved_check(fit.x, doubt, accept),
        Check("sigma", "Sigma", "info", f"{amounts(fit.sigma, '.2f')}; random part only"),
        Check("wider-boxes", "Boxes 1 px wider at each side", "info", wide),
        stroke_check(float(fit.x[6]), float(fit.sigma[6]), _stroke_doubt(fit, after, doubt), accept),
    ]


def _stroke_doubt(fit: BoxFit, after: float, doubt: str) -> str:
    """Return in words what a stroke far from the rig's means: the likelier cause where the sensor itself stays."""
    if _is_far(fit.x):
        return "As above."
    if fit.x[6] <= 0 or after < ALREADY_IOU:
        return doubt
    return (
        f"The sensor stays where the rig has it, and the stroke alone brings the boxes to IoU {after:.2f}: measure how "
        f"far the fingers open. If that is {fit.x[6]:.2f} times the rig's, write it with {FLAG}. If not: "
        f"{doubt}"
    )


def _other(view: OtherView, camera: str, needed: bool) -> Check:
    worse, median = view.change < 0, float(np.median(view.after))
    word = ("worse", "no clear change", "better")[view.change + 1]
    advice = f"The sensor is not what puts the box off in {view.camera}: tactile-align verify with these labels."
    if worse:
        cause = "so it is not the sensor that is off: calibrate (hand-eye, intrinsics) whichever camera is"
        if not needed:
            cause = "one more sign that the sensor stands as the rig has it"
        advice = f"What brings the box nearer in {camera} takes it away in {view.camera}, {cause}."
    id, title, limit = f"other-view/{view.camera}", f"IoU in {view.camera}, median", f"not worse, >= {POOR_IOU:g}"
    good, measured = not worse and median >= POOR_IOU, f"{np.median(view.before):.3f} -> {median:.3f}"
    measured += f" ({len(view.after)} boxes): {word}"
    otherwise: Status = "fail" if worse else "warn"
    return decided(id, title, good, measured, limit=limit, value=median, advice=advice, otherwise=otherwise)


def moved_check(x: np.ndarray, doubt: str, accept: bool) -> Check:
    """Return the check on how far a sensor moved and turned: x (6 or more,), m and rad."""
    id, title, limit = "sensor-moved", "Sensor moved", f"<= {FAR_M * 1e3:.0f} mm, {np.degrees(FAR_RAD):.0f} deg"
    advice, metres = _or_else(doubt, "the sensor does sit there", accept), float(np.linalg.norm(x[:3]))
    near, otherwise = not _is_far(x), _doubted(accept)
    return decided(id, title, near, amounts(x, "+.2f"), limit=limit, value=metres, advice=advice, otherwise=otherwise)


def stroke_check(stroke: float, sigma: float, doubt: str, accept: bool) -> Check:
    """Return the check on the factor of the gripper's stroke."""
    absurd = not STROKES[0] <= stroke <= STROKES[1]
    advice = "The reading does not explain the finger: open and closed swapped, the other finger, or another column?"
    if not absurd:
        advice = _or_else(doubt, "the gripper does open so far", accept)
    measured, limit, near = f"x {stroke:.4f} (sigma {sigma:.4f})", f"1 +- {FAR_STROKE:g}", abs(stroke - 1) <= FAR_STROKE
    otherwise = _doubted(accept and not absurd)
    return decided("stroke", "Stroke", near, measured, limit=limit, value=stroke, advice=advice, otherwise=otherwise)


def _doubted(accept: bool) -> Status:
    return "warn" if accept else "fail"


def _or_else(doubt: str, sure: str, accept: bool) -> str:
    return f"{doubt} Accepted by {FLAG}." if accept else f"{doubt} Where {sure}: {FLAG}."


def reading_checks(fitted: Reading | None, stated: Reading) -> list[Check]:
    """Return the check on what the gripper reading is, none where the frames cannot tell."""
    if fitted is None:
        return []
    advice = f'Set reading = "{fitted}" of the gripper in the rig, then calibrate again.'
    measured = f"{fitted}, by the frames in contact"
    return [decided("gripper-reading", "Gripper reading", fitted == stated, measured, limit=stated, advice=advice)]


def amounts(x: np.ndarray, form: str) -> str:
    """Return a shift and a turn in words: six numbers, m and rad, as mm and deg."""
    millimetres = " ".join(f"{v * 1e3:{form}}" for v in x[:3])
    return f"{millimetres} mm, " + " ".join(f"{np.degrees(v):{form}}" for v in x[3:6]) + " deg"

"""Checks of a calibration by boxes or by a tag: how far the fit lies from the rig, and whether that is likely.

If a fitted sensor or camera lies far from its pose in the rig, another error is more likely. A person must then confirm
with `accept` that its pose in the rig is wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tactile_align.checks import Check, Limit, Status, decided, graded
from tactile_align.finger.box_fit import CLEAR_SIGMAS, BoxFit
from tactile_align.finger.frames import Reading
from tactile_align.finger.tag_fit import MIN_SIGHTINGS

MIN_BOXES, MIN_POSES = 6, 4
"""Fewest boxes of a sensor or a camera, and fewest arm poses with which a fixed camera's pose can be fitted."""
FAR_M, FAR_RAD, FAR_STROKE = 0.005, np.radians(10.0), 0.10
"""Differences from the rig beyond which a fit is doubtful: distance, angle, and stroke factor minus 1."""
STROKES = (0.5, 2.0)
"""Smallest and largest factor on the rig's stroke; beyond them, the gripper reading cannot be right."""
ALREADY_IOU = 0.95
"""Best median IoU that hand-drawn boxes reach with a correct rig; a fit beyond it follows the drawing errors."""
POOR_IOU = 0.5
"""Median IoU below which the boxes in another view are wrong, even if the fit improves them."""
CLEAR_GAIN = 0.01
"""Mean change of IoU below which a change counts as noise. A change below twice its standard error is noise too."""
LIMITS = {
    "boxes": Limit("Boxes of {}", 12, MIN_BOXES, form=".0f", why="The fit needs many boxes"),
    "arm-poses": Limit("Arm poses with boxes", 10, MIN_POSES, form=".0f", why="Few poses do not determine a camera"),
    "weakest-direction": Limit(
        "Sigma of the least determined change", 0.5, 1.0, " x (10 mm, 1 deg)", why="The boxes do not determine the pose"
    ),
    "edges-median": Limit("Edge error of the boxes, median", 2.0, 4.0, " px", why="The fitted boxes are wrong"),
    "sightings": Limit("Frames with the tag", 20, MIN_SIGHTINGS, form=".0f", why="Nine parameters need many frames"),
    "opening-range": Limit("Range of openings", 10, 3, " mm", why="Only different openings reveal the stroke"),
    "iou-median": Limit("IoU of left-out boxes of {}, median", 0.75, 0.5, form=".3f", why="The fitted boxes are wrong"),
    "iou-p5": Limit(
        "IoU of left-out boxes of {}, 5th percentile", 0.5, 0.25, form=".3f", why="Some boxes are very wrong"
    ),
    "corners-median": Limit("Corner error, left-out frames, median", 1.5, 3.0, " px", why="The motion model is wrong"),
    "frames-far-off": Limit("Frames far off", 0.0, 0.1, form=".0%", why="Some frames do not fit"),
    "tag-sigma": Limit("Sigma of the tag's position", 1.0, 3.0, " mm", why="The tag is too small in the image"),
    "axis-lean": Limit("Angle of the finger's axis to the rig's", 3.0, 10.0, " deg", why="The axes disagree"),
}
STROKE_LIMIT = f"{1 - FAR_STROKE:g} to {1 + FAR_STROKE:g}"
FLAG = "--accept-doubtful"


@dataclass(frozen=True)
class OtherView:
    """Effect of a fit on boxes of the same sensor in another camera, which the fit did not use.

    Attributes:
        camera: Name of the other camera.
        sensor: Name of the sensor.
        before: (N,) IoU of each of N boxes drawn in this camera with the box that the original rig predicts.
        after: (N,) IoU of each box with the box that the fit predicts.
    """

    camera: str
    sensor: str
    before: np.ndarray
    after: np.ndarray

    @property
    def change(self) -> int:
        """Effect of the fit on the IoU in this camera. -1: worse. 0: no clear change. 1: better."""
        return clear_change(self.before, self.after)


def verdict_of_others(others: Sequence[OtherView]) -> str:
    """Return sentences on whether other views show that the sensor's pose is wrong, and not the camera's."""
    if not others:
        return "To find out which, add labels of a second view to the same folder; the fit is compared with them."
    words = ("contradict a moved sensor", "do not decide", "support a moved sensor")
    return " ".join(f"Boxes in {view.camera} {words[view.change + 1]}." for view in others)


def clear_change(before: np.ndarray, after: np.ndarray) -> int:
    """Return the sign of the mean change of N IoUs from `before` to `after`, each (N,); 0 if it is within the noise."""
    gain = after - before
    noise = 2 * float(gain.std(ddof=1)) / len(gain) ** 0.5 if len(gain) > 1 else np.inf
    return int(np.sign(gain.mean())) if abs(gain.mean()) > max(CLEAR_GAIN, noise) else 0


def is_needed(before: np.ndarray, after: np.ndarray) -> bool:
    """Return whether the rig must change: as it is, it does not explain the boxes, and the fit is clearly better.

    `before` and `after`, each (N,), are the IoU of each box with the original rig and with a fit without it.
    """
    return float(np.median(before)) < ALREADY_IOU and clear_change(before, after) > 0


def is_far(x: np.ndarray) -> bool:
    """Return whether the fitted `x` (7,), see `BoxFit.x`, changes the rig more than is likely for a mounted sensor."""
    return _is_far(x) or abs(float(x[6]) - 1) > FAR_STROKE


def _is_far(x: np.ndarray) -> bool:
    return bool(np.linalg.norm(x[:3]) > FAR_M or np.linalg.norm(x[3:6]) > FAR_RAD)


def box_checks(
    fit: BoxFit, x: np.ndarray, others: Sequence[OtherView], sensor: str, camera: str, doubt: str, accept: bool
) -> list[Check]:
    """Return the checks of the fit of one sensor to boxes.

    Args:
        fit: The fit.
        x: (7,) changes of the rig, see `BoxFit.x`: those of the fit, or none if the sensor keeps its pose.
        others: Effects of the fit on the same sensor in other cameras.
        sensor: Name of the sensor.
        camera: Name of the camera in which the boxes were seen.
        doubt: Advice if the fitted pose is far from that in the rig: which other error is more likely.
        accept: Whether a person confirms that the sensor's pose in the rig is wrong.
    """
    needed = is_needed(fit.before, fit.after)
    kept = "" if x is fit.x else f"it keeps its pose; the fit would move it by {displacement(fit.x)}"
    return [
        *held_out_checks(fit.after, sensor),
        needed_check(fit.before, fit.after, needed, f"boxes of {sensor} in {camera}", sensor),
        *[_other(view, camera, needed) for view in others],
        moved_check(x, sensor, doubt, accept, kept),
        sigma_check(fit.sigma, sensor),
        wider_check(f"sensor shifts by {np.linalg.norm(fit.bias[:3]) * 1e3:.1f} mm", sensor),
    ]


def held_out_checks(after: np.ndarray, sensor: str, limits: Mapping[str, Limit] = LIMITS) -> list[Check]:
    """Return the checks of the number of boxes of a sensor, and of the IoU (N,) of each with a fit without it."""
    look = f"Draw the boxes of {sensor} that are far off again."
    return [
        graded(
            limits, "boxes", len(after), sensor, advice=f"Draw at least {limits['boxes'].good:.0f} boxes of {sensor}."
        ),
        graded(limits, "iou-median", float(np.median(after)), sensor, advice=look),
        graded(limits, "iou-p5", float(np.percentile(after, 5)), sensor, advice=look),
    ]


def needed_check(before: np.ndarray, after: np.ndarray, needed: bool, which: str, fitted: str) -> Check:
    """Return the check whether the boxes need a change of the rig.

    Args:
        before: (N,) IoU of each box with the original rig.
        after: (N,) IoU of each box with a fit without it.
        needed: Whether the change is needed.
        which: The boxes, as text.
        fitted: Name of the sensor or camera whose pose was fitted.
    """
    medians = float(np.median(before)), float(np.median(after))
    gain, limit = "IoU {:.3f} -> {:.3f}".format(*medians), f"< {ALREADY_IOU:g} before; higher after"
    than = "as well as hand-drawn boxes allow" if medians[0] >= ALREADY_IOU else "as well as the fit does"
    advice = f"No change is needed: the rig explains the {which} {than}. To write the fit anyway: {FLAG}."
    title = f"Change of {fitted} needed"
    return decided(f"change-needed/{fitted}", title, needed, gain, limit=limit, value=medians[0], advice=advice)


def sigma_check(sigma: np.ndarray, fitted: str) -> Check:
    """Return the line with standard deviations of the fitted shift, m, and rotation, rad, which `sigma` starts with."""
    text = f"{amounts(sigma, '.2f')}; random errors only"
    return Check(f"sigma/{fitted}", f"Standard deviations of {fitted}", "info", text)


def wider_check(effect: str, fitted: str) -> Check:
    """Return the line with the `effect` of boxes that are drawn wider."""
    return Check(f"wider-boxes/{fitted}", "Effect of boxes 1 px wider at each side", "info", effect)


def stroke_checks(
    fits: Mapping[str, BoxFit], opened: float, span: float, doubts: Mapping[str, str], keep: bool, accept: bool
) -> list[Check]:
    """Return the checks of the stroke that the fits of all sensors of a gripper share.

    Args:
        fits: The fits by sensor.
        opened: Distance of an open finger from the tool axis in the original rig, m.
        span: Difference between the largest and the smallest opening in the frames, m.
        doubts: For each sensor, advice if the fit is far from the rig: which other error is more likely.
        keep: Whether the stroke was kept because a person knows it.
        accept: Whether a person confirms that the gripper opens that far.
    """
    one = next(iter(fits.values()))
    free, sigma = one.free_stroke, one.stroke_sigma
    after = float(np.median(np.concatenate([fit.after for fit in fits.values()])))
    far = next((name for name, fit in fits.items() if _is_far(fit.x)), None)
    doubt = next(filter(None, doubts.values()), "")
    if far is not None:
        advice = f"See the advice of the check 'Sensor {far} moved'."
    elif free <= 0 or after < ALREADY_IOU:
        advice = doubt
    else:
        advice = (
            f"The sensors keep their poses, and the stroke alone brings the boxes to IoU {after:.2f}. Measure how far "
            f"the fingers open. If they open {free:.2f} times as far as the rig states, write the fit with {FLAG}. If "
            f"not: {doubt}"
        )
    why = "is not used (--keep-stroke)" if keep else "does not differ clearly"
    kept = f"x 1 (sigma {sigma:.4f}): {2e3 * opened:.1f} mm between the open fingers; the fitted x {free:.4f} {why}"
    held = decided("stroke", "Stroke", True, kept, limit=STROKE_LIMIT, value=1.0)
    return [
        graded(LIMITS, "opening-range", span * 1e3, advice="Draw boxes at openings over the whole stroke."),
        held if one.x[6] == 1 else stroke_check(free, sigma, opened, advice, accept),
        wider_check(f"stroke x {1 + one.bias[6] / one.free_stroke:.3f}", "stroke"),
        *_two_strokes(fits, opened, keep),
    ]


def _two_strokes(fits: Mapping[str, BoxFit], opened: float, keep: bool) -> list[Check]:
    """Return the line that compares a kept stroke with the free one; [] if the two are within one sigma."""
    one = next(iter(fits.values()))
    off = abs(one.free_stroke - 1)
    if one.x[6] != 1 or off <= one.stroke_sigma:
        return []
    kept = [(name, fit.x, fit.after) for name, fit in fits.items()]
    free = [(name, fit.free_x, fit.free_after) for name, fit in fits.items()]
    texts = [
        f"{word}, {2e3 * opened * float(parts[0][1][6]):.1f} mm between the open fingers: "
        + ", ".join(
            f"{name} moves by {1e3 * np.linalg.norm(x[:3]):.1f} mm, IoU {np.median(iou):.3f}" for name, x, iou in parts
        )
        for word, parts in (("stroke kept", kept), ("stroke free", free))
    ]
    judged = (
        "the boxes cannot tell them apart" if off <= CLEAR_SIGMAS * one.stroke_sigma else "the boxes favour the second"
    )
    flag = " (--keep-stroke)" if keep else ""
    text = f"{'; '.join(texts)}; {judged}; the first is used{flag}"
    return [Check("kept-or-free-stroke", "Stroke kept or free", "info", text)]


def free_stroke_advice(fit: BoxFit, sensor: str, opened: float, keep: bool) -> str:
    """Return a sentence on the fit with a free stroke, if it leaves the sensor near its pose in the rig, else "".

    `opened` and `keep` are those of `stroke_checks`.
    """
    if fit.x[6] != 1 or is_far(fit.free_x):
        return ""
    wide, moved = 2e3 * opened * fit.free_stroke, 1e3 * np.linalg.norm(fit.free_x[:3])
    return (
        f"With a free stroke ({wide:.1f} mm between the open fingers), {sensor} moves by only {moved:.1f} mm. Measure "
        f"how far the fingers open, because the stroke in a data sheet is nominal, and state it in the rig"
        f"{', or leave out --keep-stroke' if keep else ''}. "
    )


def _other(view: OtherView, camera: str, needed: bool) -> Check:
    worse, median = view.change < 0, float(np.median(view.after))
    word = ("worse", "no clear change", "better")[view.change + 1]
    advice = f"A wrong sensor pose does not explain the error in {view.camera}: run `verify` with these labels."
    if worse:
        cause = "so the sensor's pose is not the cause. Calibrate the camera that is wrong (hand-eye, intrinsics)"
        if not needed:
            cause = "which confirms that the sensor's pose in the rig is right"
        advice = f"The fit improves the boxes in {camera} but worsens those in {view.camera}, {cause}."
    id, title, limit = (
        f"other-view/{view.camera}/{view.sensor}",
        f"IoU of {view.sensor} in {view.camera}, median",
        f"not worse, >= {POOR_IOU:g}",
    )
    good, measured = not worse and median >= POOR_IOU, f"{np.median(view.before):.3f} -> {median:.3f}"
    measured += f" ({len(view.after)} boxes): {word}"
    otherwise: Status = "fail" if worse else "warn"
    return decided(id, title, good, measured, limit=limit, value=median, advice=advice, otherwise=otherwise)


def moved_check(x: np.ndarray, sensor: str, doubt: str, accept: bool, measured: str = "") -> Check:
    """Return the check of how far a fit moves and turns a sensor.

    Args:
        x: At least six numbers: shift (3), m, then rotation vector (3), rad.
        sensor: Name of the sensor.
        doubt: Advice if the fitted pose is far from that in the rig: which other error is more likely.
        accept: Whether a person confirms that the sensor's pose in the rig is wrong.
        measured: The change as text; "" states `x`.
    """
    id, title = f"sensor-moved/{sensor}", f"Sensor {sensor} moved"
    limit = f"<= {FAR_M * 1e3:.0f} mm, {np.degrees(FAR_RAD):.0f} deg"
    advice, metres = or_else(doubt, "the sensor really sits there", accept), float(np.linalg.norm(x[:3]))
    near, otherwise, measured = not _is_far(x), doubted(accept), measured or displacement(x)
    return decided(id, title, near, measured, limit=limit, value=metres, advice=advice, otherwise=otherwise)


def stroke_check(stroke: float, sigma: float, opened: float, doubt: str, accept: bool) -> Check:
    """Return the check of a fitted stroke, a factor on the rig's stroke, with its standard deviation `sigma`.

    `opened` is the distance of an open finger from the tool axis in the original rig, m. `doubt` and `accept` are as in
    `moved_check`.
    """
    absurd = not STROKES[0] <= stroke <= STROKES[1]
    advice = "This stroke is impossible. Check open and closed (swapped?), the finger, and the gripper's column."
    if not absurd:
        advice = or_else(doubt, "the gripper really opens that far", accept)
    measured, limit = f"x {stroke:.4f} (sigma {sigma:.4f}): {2e3 * opened:.1f}", STROKE_LIMIT
    measured += f" -> {2e3 * opened * stroke:.1f} mm between the open fingers"
    near = abs(stroke - 1) <= FAR_STROKE
    otherwise = doubted(accept and not absurd)
    return decided("stroke", "Stroke", near, measured, limit=limit, value=stroke, advice=advice, otherwise=otherwise)


def doubted(accept: bool) -> Status:
    """Return the status of a doubtful fit: a warning if a person confirms it with `accept`, else a failure."""
    return "warn" if accept else "fail"


def or_else(doubt: str, sure: str, accept: bool) -> str:
    """Return the advice `doubt`, and that a person may confirm with the flag that the statement `sure` is true."""
    return f"{doubt} Accepted because of {FLAG}." if accept else f"{doubt} If {sure}, confirm it with {FLAG}."


def reading_checks(fitted: Reading | None, stated: Reading) -> list[Check]:
    """Return the check whether the kind of gripper reading `stated` in the rig is the `fitted` kind; [] for None."""
    if fitted is None:
        return []
    advice = f'Set reading = "{fitted}" for the gripper in the rig, then calibrate again.'
    measured = f"{fitted}, judged by the frames in contact"
    return [decided("gripper-reading", "Gripper reading", fitted == stated, measured, limit=stated, advice=advice)]


def amounts(x: np.ndarray, form: str) -> str:
    """Return a text with a shift, mm, and a rotation vector, deg, given as x[:3], m, and x[3:6], rad.

    `form` is the format of a number, such as ".2f".
    """
    millimetres = " ".join(f"{v * 1e3:{form}}" for v in x[:3])
    return f"{millimetres} mm, " + " ".join(f"{np.degrees(v):{form}}" for v in x[3:6]) + " deg"


def displacement(x: np.ndarray) -> str:
    """Return a text with a shift and a rotation vector, see `amounts`: the length of each, then its components."""
    shift, turn = 1e3 * x[:3], np.degrees(x[3:6])
    parts = ((shift, "mm"), (turn, "deg"))
    return ", ".join(f"{np.linalg.norm(v):.2f} {unit} ({' '.join(f'{c:+z.2f}' for c in v)})" for v, unit in parts)

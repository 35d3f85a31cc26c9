"""The lines of the table of both finger routes: how far the sensor and the stroke went, and whether that is likely.

A fit says how far the sensor would have to stand elsewhere. Far from where the rig has it something else is more
likely wrong, so that a person must say it is the sensor: `accept`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tactile_align.finger.box_fit import BoxFit
from tactile_align.finger.frames import Reading
from tactile_align.verdict import Check, Outcome, graded

MIN_BOXES = 6
FAR_M, FAR_RAD, FAR_STROKE = 0.005, np.radians(10.0), 0.10
"""A sensor or a stroke found further from where the rig has it is doubtful."""
STROKES = (0.5, 2.0)
"""Factors on the rig's stroke outside which the reading explains nothing."""
ALREADY_IOU = 0.95
"""Boxes drawn by hand agree with a right rig to no more: what a fit gains above it is how they were drawn."""
POOR_IOU = 0.5
"""Another view with less is off, whatever the fit."""
CLEAR_GAIN = 0.01
"""A mean change of IoU below this, or below twice its standard error, is none."""
FLAG = "--accept-doubtful"


@dataclass(frozen=True)
class OtherView:
    """What a fit does to boxes of the same sensor in another camera, which it has not seen.

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
    """Say whether other views speak for the sensor or for the camera."""
    if not others:
        return "Labels of a second view, in the same folder, would tell: they are held against the fit."
    said = ("speak against it", "do not tell", "speak for the sensor")
    return " ".join(f"Boxes of {one.camera} {said[one.change + 1]}." for one in others)


def clear_change(before: np.ndarray, after: np.ndarray) -> int:
    """Return the sign of the mean change of N IoUs, 0 where it is within the noise."""
    gain = after - before
    noise = 2 * float(gain.std(ddof=1)) / len(gain) ** 0.5 if len(gain) > 1 else np.inf
    return int(np.sign(gain.mean())) if abs(gain.mean()) > max(CLEAR_GAIN, noise) else 0


def is_needed(fit: BoxFit) -> bool:
    """Tell whether the boxes ask for a change: the rig does not explain them already, and the fit does better."""
    return float(np.median(fit.before)) < ALREADY_IOU and clear_change(fit.before, fit.after) > 0


def is_far(x: np.ndarray) -> bool:
    """Tell whether a fit x (7,) went further than is likely: m, rad and a factor."""
    return _is_far(x) or abs(float(x[6]) - 1) > FAR_STROKE


def _is_far(x: np.ndarray) -> bool:
    return bool(np.linalg.norm(x[:3]) > FAR_M or np.linalg.norm(x[3:6]) > FAR_RAD)


def box_checks(
    fit: BoxFit, span: float, others: Sequence[OtherView], camera: str, doubt: str, accept: bool
) -> list[Check]:
    """Return the table's lines on boxes.

    Args:
        fit: The fit.
        span: The range of openings, m.
        others: The same sensor in other cameras.
        camera: The camera of the boxes.
        doubt: What else may be off where the fit went far.
        accept: Whether a person says that it is the sensor.
    """
    look = "See which boxes are off."
    before, after = float(np.median(fit.before)), float(np.median(fit.after))
    needed, already = is_needed(fit), ""
    if not needed:
        than = "as well as they can be drawn" if before >= ALREADY_IOU else "no worse than the fit does"
        already = f"No change needed: the rig explains the boxes of {camera} {than}. To change it all the same: {FLAG}."
    wide = float(np.linalg.norm(fit.bias[:3])) * 1e3
    return [
        graded("boxes used", len(fit.after), 20, MIN_BOXES, form=".0f", advice="Draw 20 boxes or more."),
        graded("range of openings", span * 1e3, 10, 3, " mm", "Draw boxes over the whole stroke."),
        graded("IoU of left-out boxes, median", after, 0.75, 0.5, form=".3f", advice=look),
        graded(
            "IoU of left-out boxes, 5th percentile",
            float(np.percentile(fit.after, 5)),
            0.5,
            0.25,
            form=".3f",
            advice=look,
        ),
        Check(
            "change needed",
            f"IoU {before:.3f} -> {after:.3f}",
            f"< {ALREADY_IOU:g} before, clearly more after",
            "pass" if needed else "warn",
            already,
            value=before,
        ),
        *[_other(one, camera, needed) for one in others],
        moved_check(fit.x, doubt, accept),
        Check("sigma", f"{amounts(fit.sigma, '.2f')}; random part only"),
        Check("boxes 1 px wider at each side", f"{wide:.1f} mm more, stroke x {1 + fit.bias[6] / fit.x[6]:.3f}"),
        stroke_check(float(fit.x[6]), float(fit.sigma[6]), _stroke_doubt(fit, after, doubt), accept),
    ]


def _stroke_doubt(fit: BoxFit, after: float, doubt: str) -> str:
    """Say what a stroke far from the rig's means; where the sensor itself stays put, it is the likelier cause."""
    if _is_far(fit.x):
        return "As above."
    if fit.x[6] <= 0 or after < ALREADY_IOU:
        return doubt
    return (
        f"The sensor stays where the rig has it, and the stroke alone brings the boxes to IoU {after:.2f}: measure how "
        f"far the fingers open. If that is {fit.x[6]:.2f} times what the rig says, write it with {FLAG}. If not: "
        f"{doubt}"
    )


def _other(view: OtherView, camera: str, needed: bool) -> Check:
    worse = view.change < 0
    word = ("worse", "no clear change", "better")[view.change + 1]
    outcome: Outcome = "fail" if worse else "pass"
    advice = ""
    if worse:
        cause = "so it is not the sensor that is off: calibrate (hand-eye, intrinsics) whichever camera is"
        if not needed:
            cause = "one more sign that the sensor stands as the rig has it"
        advice = f"What brings the box nearer in {camera} takes it away in {view.camera}, {cause}."
    elif np.median(view.after) < POOR_IOU:
        outcome = "warn"
        advice = f"The sensor is not what puts the box off in {view.camera}: tactile-align verify with these labels."
    return Check(
        f"IoU in {view.camera}, median",
        f"{np.median(view.before):.3f} -> {np.median(view.after):.3f} ({len(view.after)} boxes): {word}",
        f"not worse, >= {POOR_IOU:g}",
        outcome,
        advice,
        value=float(np.median(view.after)),
    )


def moved_check(x: np.ndarray, doubt: str, accept: bool) -> Check:
    """Return the line on how far a sensor moved and turned: x (6 or more,), m and rad."""
    likely = not _is_far(x)
    return Check(
        "sensor moved",
        amounts(x, "+.2f"),
        f"<= {FAR_M * 1e3:.0f} mm, {np.degrees(FAR_RAD):.0f} deg",
        "pass" if likely else "warn" if accept else "fail",
        "" if likely else _or_else(doubt, "the sensor does sit there", accept),
        value=float(np.linalg.norm(x[:3])),
    )


def stroke_check(stroke: float, sigma: float, doubt: str, accept: bool) -> Check:
    """Return the line on the factor of the gripper's stroke."""
    line = Check("stroke", f"x {stroke:.4f} (sigma {sigma:.4f})", f"1 +- {FAR_STROKE:g}", "pass", value=stroke)
    if not STROKES[0] <= stroke <= STROKES[1]:
        advice = (
            "The reading does not explain the finger: open and closed swapped, the other finger, or another column?"
        )
        return Check(line.name, line.measured, line.needed, "fail", advice, stroke)
    if abs(stroke - 1) <= FAR_STROKE:
        return line
    advice = _or_else(doubt, "the gripper does open so far", accept)
    return Check(line.name, line.measured, line.needed, "warn" if accept else "fail", advice, stroke)


def _or_else(doubt: str, sure: str, accept: bool) -> str:
    return f"{doubt} Accepted by {FLAG}." if accept else f"{doubt} Where {sure}: {FLAG}."


def reading_checks(found: Reading | None, stated: Reading) -> list[Check]:
    """Return the line on what the gripper reading is, none where the frames cannot tell."""
    if found is None:
        return []
    same = found == stated
    advice = "" if same else f'Set reading = "{found}" of the gripper in the rig, then calibrate again.'
    return [Check("gripper reading", f"frames in contact say {found}", stated, "pass" if same else "warn", advice)]


def amounts(x: np.ndarray, form: str) -> str:
    """Return a shift and a turn in words: six numbers, m and rad, as mm and deg."""
    millimetres = " ".join(f"{v * 1e3:{form}}" for v in x[:3])
    return f"{millimetres} mm, " + " ".join(f"{np.degrees(v):{form}}" for v in x[3:6]) + " deg"

"""The finger route: where a sensor really sits on its finger, from boxes of it over several openings.

For a camera on the same hand the chain camera - flange - finger - sensor holds no arm joint, so no arm motion is
needed; the opening and the finger's own geometry dominate the error. A tag instead of boxes: `finger_tag`.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.calibration.evidence import Labels, gather, label_name
from tactile_align.calibration.finger_boxes import BoxFit, fit_boxes, moved
from tactile_align.calibration.finger_frames import FingerFrames, Reading, finger_of
from tactile_align.calibration.into_rig import require_no_override, save_unless_failed, with_sensor, with_stroke
from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.calibration.verdict import Check, Verification, graded
from tactile_align.datasets.episodes import EpisodeRef, list_episodes, open_episode

MIN_BOXES = 6
FAR_M = 0.005  # a sensor found further from where the rig has it is doubtful
STROKES = (0.5, 2.0)
"""Factors on the rig's stroke outside which the reading explains nothing."""


@dataclass(frozen=True)
class Finger:
    """A fitted finger.

    Attributes:
        rig: The rig with the sensor's new pose and the gripper's new stroke; as it was where the stroke is absurd.
        shift_m: (3,) how far the sensor moved in its finger's frame, m.
        turn_rad: (3,) how far it turned, rotation vector, rad.
        stroke: Factor on the gripper's opening.
        sigma: (7,) standard deviations of the seven numbers above, from leaving out a tenth of the boxes at a time.
        before: Median IoU of the boxes with the old rig, with all labels.
        after: The same with the new rig, each label under the fit of all others.
        reading: What the boxes say the gripper reading is: "commanded", "measured", or None where they cannot tell.
        verification: Table and verdict.
    """

    rig: Rig
    shift_m: np.ndarray
    turn_rad: np.ndarray
    stroke: float
    sigma: np.ndarray
    before: float
    after: float
    reading: Reading | None
    verification: Verification


def calibrate_finger(
    path: str | Path,
    rig: str | Path | Rig,
    labels: Labels,
    *,
    camera: str | None = None,
    sensor: str | None = None,
    layout: str | Path | None = None,
    out: str | Path | None = None,
) -> Finger:
    """Fit a sensor's pose on its finger and the gripper's stroke to boxes in recorded frames.

    Args:
        path: The episodes the labels belong to.
        rig: The rig; its camera must be calibrated already.
        labels: At least six boxes over several openings, see `labels.read_labels`.
        camera: Which camera; None: the one that the labels name.
        sensor: Which sensor; None: the one that the labels name.
        layout: The episodes' layout; recognised when None.
        out: Where to write the rig; None: do not write. A fit that fails is never written.

    Raises:
        FileNotFoundError, ValueError: No episodes, labels of an episode that is not there, fewer than six, labels
            for several cameras or sensors, a sensor on no finger or with a pose of its own in one of the episodes.
    """
    known = rig if isinstance(rig, Rig) else load_rig(rig)
    camera = _only(camera, sorted({key[1] for key in labels}), "camera")
    sensor = _only(sensor, sorted({key[2] for key in labels}), "sensor")
    finger, touch = finger_of(known, sensor), known.sensor(sensor)
    drawn = {key[0]: boxes for key, boxes in labels.items() if key[1:] == (camera, sensor)}
    count = sum(len(boxes) for boxes in drawn.values())
    if count < MIN_BOXES:
        raise ValueError(
            f"{path}: the finger route needs at least {MIN_BOXES} boxes of {sensor} in {camera}, better 20, over "
            f"several openings; got {count}. Draw more: tactile-align label"
        )
    refs = _refs(path, layout, drawn)
    require_no_override(known, "sensors", sensor, (refs[name].path for name in drawn))
    parts, seen, digests = [], [], []
    for name, boxes in drawn.items():
        with open_episode(refs[name]) as episode:
            found = gather(episode, known, labels)
            digests.append(found.digest)
            parts.append(FingerFrames.of(episode, known, camera, finger, found, sorted(boxes)))
            seen += [boxes[t] for t in sorted(boxes)]
    frames, gripper = FingerFrames.join(parts), known.gripper(finger.partition("/")[0])
    closed, opened = (float(gripper.law.opening(np.asarray(fraction))) for fraction in (0.0, 1.0))
    fit = fit_boxes(frames, touch, np.array(seen), (closed, opened))
    checks = [
        *_checks(fit, float(np.ptp(frames.opening[frames.stated]))),
        *reading_checks(fit.reading, gripper.reading),
    ]
    result = Verification(f"{sensor} in {camera}: {count} boxes", tuple(checks), joined(digests))
    x, changed = fit.x, known
    if STROKES[0] <= x[6] <= STROKES[1]:
        changed = with_sensor(known, sensor, moved(touch.T_parent_this, x))
        changed = with_stroke(changed, finger.partition("/")[0], float(x[6]))
    save_unless_failed(changed, out, result)
    before, after = float(np.median(fit.before)), float(np.median(fit.after))
    return Finger(changed, x[:3], x[3:6], float(x[6]), fit.sigma, before, after, fit.reading, result)


def _only(given: str | None, found: Sequence[str], what: str) -> str:
    if given is not None:
        return given
    if len(found) != 1:
        raise ValueError(
            f"the labels name {len(found)} {what}s ({', '.join(found)}); say which one to fit with --{what}"
        )
    return found[0]


def _refs(path: str | Path, layout: str | Path | None, drawn: Collection[str]) -> dict[str, EpisodeRef]:
    """Return the episodes that the labels name."""
    refs: dict[str, EpisodeRef] = {}
    for ref in list_episodes(path, layout):
        name = label_name(ref)
        if name in drawn and name in refs:
            raise ValueError(
                f"{path}: labels name {name}, but there are two: {refs[name]} and {ref}. Name the folder of one"
            )
        refs[name] = ref
    lost = [name for name in drawn if name not in refs]
    if lost:
        some = ", ".join(list(refs)[:3])
        raise ValueError(
            f"{path}: the labels name episode '{lost[0]}', which is not there ({some}, ...). Labels name an episode "
            f"by its file's name, as FILE#NAME where a file holds several"
        )
    return refs


def _checks(fit: BoxFit, span: float) -> list[Check]:
    """Return the table's lines; `span` is the range of openings, m."""
    look = "See which boxes are off."
    far = float(np.linalg.norm(fit.x[:3]))
    advice = (
        "Boxes of one wrist view cannot tell a moved camera from a moved sensor. Calibrate hand-eye first, or label a "
        "second view."
    )
    return [
        graded("boxes used", len(fit.after), 20, MIN_BOXES, form=".0f", advice="Draw 20 boxes or more."),
        graded("range of openings", span * 1e3, 10, 3, " mm", "Draw boxes over the whole stroke."),
        graded("IoU of left-out boxes, median", float(np.median(fit.after)), 0.75, 0.5, form=".3f", advice=look),
        graded(
            "IoU of left-out boxes, 5th percentile",
            float(np.percentile(fit.after, 5)),
            0.5,
            0.25,
            form=".3f",
            advice=look,
        ),
        Check("IoU before, median", f"{np.median(fit.before):.3f}"),
        Check(
            "sensor moved",
            amounts(fit.x, "+.2f"),
            f"<= {FAR_M * 1e3:.0f} mm",
            "warn" if far > FAR_M else "pass",
            advice if far > FAR_M else "",
            value=far,
        ),
        Check("sigma", amounts(fit.sigma, ".2f")),
        stroke_check(float(fit.x[6]), float(fit.sigma[6])),
    ]


def joined(digests: Sequence[str]) -> str:
    """Return one hash for several episodes' hashes, in whatever order they were read."""
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def amounts(x: np.ndarray, form: str) -> str:
    """Return a shift and a turn in words: six numbers, m and rad, as mm and deg."""
    millimetres = " ".join(f"{v * 1e3:{form}}" for v in x[:3])
    return f"{millimetres} mm, " + " ".join(f"{np.degrees(v):{form}}" for v in x[3:6]) + " deg"


def stroke_check(stroke: float, sigma: float) -> Check:
    """Return the line on the factor of the gripper's stroke."""
    good = STROKES[0] <= stroke <= STROKES[1]
    return Check(
        "stroke",
        f"x {stroke:.4f} (sigma {sigma:.4f})",
        f"{STROKES[0]:g} to {STROKES[1]:g}",
        "pass" if good else "fail",
        "" if good else "The reading does not explain the finger: open and closed swapped, or another column?",
        value=stroke,
    )


def reading_checks(found: Reading | None, stated: Reading) -> list[Check]:
    """Return the line on what the gripper reading is, none where the frames cannot tell."""
    if found is None:
        return []
    same = found == stated
    advice = "" if same else f'Set reading = "{found}" of the gripper in the rig, then calibrate again.'
    return [Check("gripper reading", f"frames in contact say {found}", stated, "pass" if same else "warn", advice)]

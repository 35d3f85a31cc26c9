"""The finger route: where a sensor really sits on its finger, from boxes over several openings or from a tag.

For a camera on the same hand the chain camera - flange - finger - sensor holds no arm joint, so no arm motion is
needed; the opening and the finger's own geometry dominate the error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from tactile_align.calibration.evidence import Labels, gather
from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.calibration.verdict import Check, Verification, graded
from tactile_align.datasets.episodes import list_episodes, open_episode
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.geometry.frames import pose, quaternion_from_rotation, rotation_exp
from tactile_align.projection.sensor_box import project_solids

MIN_BOXES = 6
FAR_M = 0.005  # a sensor found further from where the rig has it is doubtful
PRIOR_M, PRIOR_RAD, PRIOR_STROKE = 0.005, np.radians(5.0), 0.10
"""How far drawings are usually off: one standard deviation of position, angle and stroke."""
BOX_PX = 1.5
"""How well a box is drawn by hand."""


@dataclass(frozen=True)
class Finger:
    """A fitted finger.

    Attributes:
        rig: The rig with the sensor's new pose and the gripper's new stroke.
        shift_m: (3,) how far the sensor moved in its finger's frame, m.
        turn_rad: (3,) how far it turned, rotation vector, rad.
        stroke: Factor on the gripper's opening.
        sigma: (7,) standard deviations of the seven numbers above, from leaving out one box at a time.
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
    reading: str | None
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
        FileNotFoundError, ValueError: No episodes, fewer than six labels, or labels for several cameras or sensors.
    """
    known = rig if isinstance(rig, Rig) else load_rig(rig)
    camera = _only(camera, sorted({key[1] for key in labels}), "camera")
    sensor = _only(sensor, sorted({key[2] for key in labels}), "sensor")
    files = {key[0] for key in labels if key[1:] == (camera, sensor)}
    boxes, qpos, opening, held_iou, plain_iou = [], [], [], [], []
    digests = []
    for ref in list_episodes(path, layout):
        if ref.path.name not in files:
            continue
        with open_episode(ref) as episode:
            found = gather(episode, known, labels)
            digests.append(found.digest)
            frames = sorted(labels[ref.path.name, camera, sensor])
            for view in found.views:
                if (view.camera, view.sensor) != (camera, sensor) or view.opening is None:
                    continue
                # Labels win over whatever truth the file may hold.
                boxes.append(np.array([labels[ref.path.name, camera, sensor][t] for t in frames]))
                qpos.append(episode.qpos[frames])
                opening.append(view.opening[frames])
                touching = found.contact[sensor][frames]
                held_iou += view.iou()[frames][touching].tolist()
                plain_iou += view.iou("unheld")[frames][touching].tolist()
    seen = np.concatenate(boxes) if boxes else np.zeros((0, 4))
    if len(seen) < MIN_BOXES:
        raise ValueError(
            f"{path}: the finger route needs at least {MIN_BOXES} boxes of {sensor} in {camera}, better 20, over "
            f"several openings; got {len(seen)}. Draw more"
        )
    return _fit(
        known, camera, sensor, seen, np.concatenate(qpos), np.concatenate(opening), held_iou, plain_iou, out, digests
    )


def _only(given: str | None, found: Sequence[str], what: str) -> str:
    if given is not None:
        return given
    if len(found) != 1:
        raise ValueError(f"the labels name {len(found)} {what}s ({', '.join(found)}); say which one to fit")
    return found[0]


def _fit(
    rig: Rig,
    camera: str,
    sensor: str,
    seen: np.ndarray,
    qpos: np.ndarray,
    opening: np.ndarray,
    held: list[float],
    plain: list[float],
    out: str | Path | None,
    digests: list[str],
) -> Finger:
    lens = rig.camera(camera).stored
    touch = rig.sensor(sensor)

    def boxes(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        T = rig.T_camera_sensor(camera, sensor, qpos[rows], opening[rows] * np.exp(x[6]))
        # T ends in the sensor's old pose; the correction acts in the FINGER's axes, about the sensor's origin.
        R = touch.T_parent_this[:3, :3]
        turned = T @ pose(R.T @ rotation_exp(x[3:6]) @ R, R.T @ x[:3])
        return np.asarray(project_solids(lens, turned, touch.body, min_side_px=0).box)

    prior = np.array([PRIOR_M] * 3 + [PRIOR_RAD] * 3 + [PRIOR_STROKE])

    def solve(rows: np.ndarray, start: np.ndarray) -> np.ndarray:
        def residual(z: np.ndarray) -> np.ndarray:
            off = (boxes(z * prior, rows) - seen[rows]) / BOX_PX
            return np.concatenate([np.where(np.isfinite(off), off, 50.0).ravel(), z])

        found = least_squares(residual, start / prior, loss="soft_l1", diff_step=[1e-4], xtol=1e-7, max_nfev=40)
        return np.asarray(found.x) * prior

    everything = np.arange(len(seen))
    x = solve(everything, np.zeros(7))
    folds = [everything[everything % 10 != k] for k in range(min(10, len(seen)))]
    left = np.stack([solve(rows, x) for rows in folds])
    n = len(folds)
    sigma = np.sqrt((n - 1) / n * ((left - left.mean(0)) ** 2).sum(0))
    after = np.concatenate(
        [
            intersection_over_union(boxes(left[k], everything[everything % 10 == k]), seen[everything % 10 == k])
            for k in range(n)
        ]
    )
    before = intersection_over_union(boxes(np.zeros(7), everything), seen)
    reading = _reading(np.array(held), np.array(plain))
    stroke = float(np.exp(x[6]))
    span = float(np.ptp(opening[:, 0]))
    checks = [
        graded("boxes used", len(seen), 20, MIN_BOXES, form=".0f", advice="Draw 20 boxes or more."),
        graded("range of openings", span * 1e3, 10, 3, " mm", "Draw boxes over the whole stroke."),
        graded(
            "IoU of left-out boxes, median",
            float(np.nanmedian(after)),
            0.75,
            0.5,
            form=".3f",
            advice="See which boxes are off.",
        ),
        graded(
            "IoU of left-out boxes, 5th percentile",
            float(np.nanpercentile(after, 5)),
            0.5,
            0.25,
            form=".3f",
            advice="See which boxes are off.",
        ),
        Check("IoU before, median", f"{np.nanmedian(before):.3f}"),
        Check(
            "sensor moved",
            " ".join(f"{v * 1e3:+.2f}" for v in x[:3])
            + " mm, "
            + " ".join(f"{np.degrees(v):+.2f}" for v in x[3:6])
            + " deg",
            f"<= {FAR_M * 1e3:.0f} mm",
            "warn" if np.linalg.norm(x[:3]) > FAR_M else "pass",
            "Boxes of one wrist view cannot tell a moved camera from a moved sensor. Calibrate hand-eye first, or "
            "label a second view."
            if np.linalg.norm(x[:3]) > FAR_M
            else "",
            value=float(np.linalg.norm(x[:3])),
        ),
        Check(
            "sigma",
            " ".join(f"{v * 1e3:.2f}" for v in sigma[:3])
            + " mm, "
            + " ".join(f"{np.degrees(v):.2f}" for v in sigma[3:6])
            + " deg",
        ),
        Check(
            "stroke",
            f"x {stroke:.4f} (sigma {sigma[6]:.4f})",
            "0.5 to 2",
            "pass" if 0.5 <= stroke <= 2.0 else "fail",
            ""
            if 0.5 <= stroke <= 2.0
            else "The reading does not explain the finger: are open and closed swapped, or is the column another one?",
            value=stroke,
        ),
    ]
    stated = rig.gripper(rig.sensor_arm(sensor)).reading
    if reading is not None:
        checks.append(
            Check(
                "gripper reading",
                f"boxes in contact say {reading}",
                stated,
                "pass" if reading == stated else "warn",
                "" if reading == stated else f'Set reading = "{reading}" of the gripper in the rig.',
            )
        )
    result = Verification(f"{sensor} in {camera}: {len(seen)} boxes", tuple(checks), "".join(sorted(digests))[:64])
    changed = _changed(rig, sensor, x, stroke)
    if out is not None and result.verdict != "fail":
        changed.save(out)
    return Finger(
        changed, x[:3], x[3:6], stroke, sigma, float(np.nanmedian(before)), float(np.nanmedian(after)), reading, result
    )


def _reading(held: np.ndarray, plain: np.ndarray) -> str | None:
    """Tell from boxes in contact whether the reading follows the fingers or only the command."""
    both = np.isfinite(held) & np.isfinite(plain)
    if both.sum() < 4:
        return None
    gap = float(np.median(held[both]) - np.median(plain[both]))
    return "commanded" if gap > 0.05 else "measured" if gap < -0.05 else None


def _changed(rig: Rig, sensor: str, x: np.ndarray, stroke: float) -> Rig:
    data = rig.model_dump(exclude_none=True)
    data.pop("verified", None)
    T = rig.sensor(sensor).T_parent_this
    moved = pose(rotation_exp(x[3:6]) @ T[:3, :3], T[:3, 3] + x[:3])
    entry = data["sensors"][sensor]
    entry["translation_m"] = tuple(float(v) for v in moved[:3, 3])
    entry["quat_wxyz"] = tuple(float(v) for v in quaternion_from_rotation(moved[:3, :3]))
    law = data["arms"][rig.sensor_arm(sensor)]["gripper"]["law"]
    for key in ("open_m", "closed_m", "crank_m", "rod_m"):
        if key in law:
            law[key] = float(law[key] * stroke)
    if "points" in law:
        law["points"] = [[p[0], float(p[1] * stroke)] for p in law["points"]]
    return Rig.model_validate(data)


@dataclass(frozen=True)
class Motion:
    """How a tag on a finger moves.

    Attributes:
        axis: (3,) unit vector in the flange frame along which it moves when the gripper opens.
        stroke_m: How far it moves from closed to open, m.
        straight_m: RMS distance of the tags from that line, m.
        turn_rad: Largest turn between two tags, rad: a parallel gripper has none.
    """

    axis: np.ndarray
    stroke_m: float
    straight_m: float
    turn_rad: float


def motion_of_tags(T_camera_tag: np.ndarray, fraction: np.ndarray, T_flange_camera: np.ndarray) -> Motion:
    """Fit a straight motion to a tag glued on a finger, seen at several openings; the arm may stand still.

    Args:
        T_camera_tag: (N, 4, 4) poses of the tag, from `views.board_poses`, m.
        fraction: (N,) how far open, 0 closed to 1 open.
        T_flange_camera: (4, 4) from hand-eye.

    Raises:
        ValueError: Fewer than three openings, or all alike.
    """
    if len(fraction) < 3 or np.ptp(fraction) < 0.2:
        raise ValueError(
            f"the finger's motion needs at least three openings over a fifth of the stroke; got {len(fraction)} over "
            f"{np.ptp(fraction) if len(fraction) else 0:.0%}. Open and close the gripper between images"
        )
    T = T_flange_camera @ T_camera_tag
    M = np.stack([np.ones_like(fraction), fraction], axis=-1)
    line = np.linalg.lstsq(M, T[:, :3, 3], rcond=None)[0]
    stroke = float(np.linalg.norm(line[1]))
    off = T[:, :3, 3] - M @ line
    relative = np.swapaxes(T[:1, :3, :3], 1, 2) @ T[:, :3, :3]
    turn = np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1))
    return Motion(line[1] / stroke, stroke, float(np.sqrt((off**2).sum(-1).mean())), float(turn.max()))

"""Calibration of a camera's pose, fixed or on a hand, by image boxes of touch sensors in different poses of the arm.

The poses of the sensors on the hand are those of the rig, so calibrate the fingers first (`from_boxes`, with a camera
on the hand). The camera's own pose in the rig may be rough.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from tactile_align.calibration.bundle_adjustment import jackknife
from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.calibration.rig_parts import RigCamera, Solid
from tactile_align.checks import Check, Report, decided, graded
from tactile_align.errors import InputError
from tactile_align.finger.box_fit import BOX_PX, WIDER, boxes_at, edge_errors, overlap, robust_fit
from tactile_align.finger.checks import (
    LIMITS,
    MIN_BOXES,
    MIN_POSES,
    POOR_IOU,
    amounts,
    displacement,
    doubted,
    held_out_checks,
    is_needed,
    needed_check,
    or_else,
    sigma_check,
)
from tactile_align.finger.frames import cross_validated, distinct_lenses, labelled_rows, used_frames
from tactile_align.finger.from_boxes import chosen_camera, chosen_sensors
from tactile_align.geometry.frames import apply, invert, pose, rotation_exp, rotation_log
from tactile_align.projection.episode_boxes import qpos_at_exposure
from tactile_align.sessions.write_rig import pose_keys, provenance, require_no_override, save_unless_failed
from tactile_align.verify.evidence import Labels, label_name

SCALE = np.array([0.010] * 3 + [np.radians(1.0)] * 3)
"""Unit in which the weakest direction is measured: 10 mm along each axis, and 1 degree about each axis."""
MANY_BOXES = {**LIMITS, "boxes": replace(LIMITS["boxes"], good=20)}
"""Limits of the boxes of a sensor. Its boxes are smaller than on the hand, and each arm pose adds its own error."""
MARGIN_PX = 1.0
"""Standard deviation of the prior of how much wider than the sensor a person draws every box, px at each side."""
CLEAR_COST = 4.5
"""Difference of the robust costs of two poses above which the boxes tell which is right: three standard deviations."""
NO_INFORMATION = 1e-12
"""Least eigenvalue of the information matrix that is used, so that a pose without information stays finite."""
BEST_PX = 0.5
"""Least standard deviation of the edges of a drawn box, px, with which the weakest direction is judged."""
SAME_M, SAME_RAD = 0.010, np.radians(2.0)
"""Two poses of an arm that differ by less than both count as one pose."""
FAR_M, FAR_RAD = 0.10, np.radians(10.0)
"""Differences from the rig beyond which a fit is doubtful."""
MORE = "Draw boxes at more arm poses that are spread over the image, near and far, and turned."
ON_HAND = (
    "More arm poses change nothing for a camera on the hand of the sensors. Keep its pose from `calibrate hand-eye` "
    "and fit the sensor with `calibrate finger`, or add boxes of a sensor on the other finger."
)


@dataclass(frozen=True)
class SeenSensor:
    """N boxes of one sensor in the camera.

    Attributes:
        sensor: Name of the sensor.
        body: The sensor's solids.
        lenses: Camera models of the stored frames. There are several if an [[override]] gives episodes their own.
        which: (N,) index of each box's camera model in `lenses`.
        T_parent_sensor: (N, 4, 4) poses of the sensor in the frame of the camera's parent, m.
        seen: (N, 4) the boxes, px.
    """

    sensor: str
    body: tuple[Solid, ...]
    lenses: tuple[Camera, ...]
    which: np.ndarray
    T_parent_sensor: np.ndarray
    seen: np.ndarray

    def __len__(self) -> int:
        return len(self.seen)

    def only(self, rows: np.ndarray) -> "SeenSensor":
        """Return M of the N boxes, which flags (N,) select."""
        return replace(self, which=self.which[rows], T_parent_sensor=self.T_parent_sensor[rows], seen=self.seen[rows])

    def boxes(self, T_parent_camera: np.ndarray) -> np.ndarray:
        """Return the sensor's boxes (..., N, 4), px, from poses of the camera (..., 4, 4), m; nan where it has none."""
        T_camera_sensor = invert(T_parent_camera)[..., None, :, :] @ self.T_parent_sensor
        return boxes_at(self.lenses, self.which, T_camera_sensor, self.body)

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sensor's centres (M, 3), m, in the parent's frame, and the centres of their boxes, (M, 2).

        The latter are x / z and y / z in the camera's frame. A box whose centre has no ray is left out.
        """
        corners = np.concatenate([np.add(one.center_m, np.outer((-0.5, 0.5), one.size_m)) for one in self.body])
        centres = apply(self.T_parent_sensor, (corners.min(0) + corners.max(0)) / 2)
        middle = (self.seen[:, :2] + self.seen[:, 2:]) / 2
        rays = np.empty((len(self), 3))
        for i, lens in enumerate(self.lenses):
            rays[self.which == i] = lens.unproject(middle[self.which == i], np.ones((self.which == i).sum()))
        good = np.isfinite(rays).all(-1)
        return centres[good], rays[good, :2]


@dataclass(frozen=True)
class CameraFit:
    """Pose of a camera fitted to N boxes of S sensors, with uncertainty and the IoU before and after.

    Attributes:
        T_parent_camera: (4, 4) the fitted pose, m.
        covariance: (6, 6) covariance of the translation (m, parent's axes) and the rotation w (rad, R exp(w)). The
            information matrix gives its shape, and fits that leave out a tenth of the arm poses give its size.
        weakest: (6,) change of the pose, in the order of `covariance`, along the eigenvector of the information matrix
            with the least eigenvalue: one standard deviation, with edges no better than BEST_PX.
        margin_px: How much wider than the sensor the boxes are drawn, px at each side.
        before: For each sensor, (N,) IoU of each box with the box that the original rig predicts.
        after: For each sensor, (N,) IoU of each box with the box that a fit without its arm pose predicts.
    """

    T_parent_camera: np.ndarray
    covariance: np.ndarray
    weakest: np.ndarray
    margin_px: float
    before: list[np.ndarray]
    after: list[np.ndarray]

    @property
    def weakness(self) -> float:
        """Length of `weakest` in units of SCALE."""
        return float(np.linalg.norm(self.weakest / SCALE))


def fit_camera(drawn: Sequence[SeenSensor], group: np.ndarray, T_rig: np.ndarray) -> CameraFit:
    """Return the pose of a camera fitted to the boxes of S sensors, N in all.

    Seven parameters are fitted: the pose, and how much wider than the sensors all boxes are drawn. Without the latter,
    boxes drawn wider pull the camera nearer. The fit starts from the rig's pose, and from the pose that SQPnP
    (Terzakis and Lourakis, ECCV 2020) computes from the centres of the boxes without any start. The latter counts if
    its cost is clearly less: sensors that move along one line look the same from two sides of this line.

    Args:
        drawn: The boxes of each sensor.
        group: (N,) number of each box's arm pose, from 0, in the order of `drawn`.
        T_rig: (4, 4) pose of the camera in the rig, T_parent_camera, m.
    """
    best, other = _solve(drawn, T_rig), _solve(drawn, _pose_of_centres(drawn, T_rig))
    best = _solve(drawn, other.T if other.cost < best.cost - CLEAR_COST else best.T)
    ends = np.cumsum([len(part) for part in drawn])[:-1]

    def selected(rows: np.ndarray) -> list[SeenSensor]:
        return [part.only(flags) for part, flags in zip(drawn, np.split(rows, ends), strict=True)]

    def error(rows: np.ndarray, T: np.ndarray) -> np.ndarray:
        return 1 - np.concatenate([overlap(part.boxes(T), part.seen) for part in selected(rows)])

    fits, errors = cross_validated(group, lambda rows: _solve(selected(rows), best.T).T, error)
    J = best.jacobian
    joint = J.T @ J
    information = joint[:6, :6] - np.outer(joint[:6, 6], joint[6, :6]) / joint[6, 6]
    values, vectors = np.linalg.eigh(information)
    values = np.maximum(values, NO_INFORMATION)
    # The changes of a few arm poses do not give a covariance of six parameters, but they give its size.
    changes = np.array([_difference(best.T, fit) for fit in fits]) / SCALE
    size = float(np.trace(information @ jackknife(changes))) / len(SCALE)
    covariance = size * (vectors / values) @ vectors.T * np.outer(SCALE, SCALE)
    return CameraFit(
        best.T,
        (covariance + covariance.T) / 2,
        vectors[:, 0] * SCALE * np.sqrt(max(size, (BEST_PX / BOX_PX) ** 2) / values[0]),
        best.margin_px,
        [overlap(part.boxes(T_rig), part.seen) for part in drawn],
        np.split(1 - errors, ends),
    )


def _pose_of_centres(drawn: Sequence[SeenSensor], T_rig: np.ndarray) -> np.ndarray:
    """Return T_parent_camera (4, 4), m, by SQPnP of the centres of the boxes; `T_rig` if they give no pose."""
    points, rays = (np.concatenate(values) for values in zip(*(part.rays() for part in drawn), strict=True))
    try:
        found, turn, shift = cv2.solvePnP(points, rays, np.eye(3), None, flags=cv2.SOLVEPNP_SQPNP)
    except cv2.error:  # fewer than three points, or all at one pixel
        return T_rig
    if not (found and np.isfinite(turn).all() and np.isfinite(shift).all()):
        return T_rig
    return np.asarray(invert(pose(np.asarray(rotation_exp(turn[:, 0])), shift[:, 0])))


@dataclass(frozen=True)
class _Solution:
    """Solution of a fit: the pose, the margin of the boxes, the robust cost, and the Jacobian of robust residuals.

    The Jacobian has seven columns, in units of SCALE and MARGIN_PX; residuals are in units of BOX_PX.
    """

    T: np.ndarray
    margin_px: float
    cost: float
    jacobian: np.ndarray


def _solve(drawn: Sequence[SeenSensor], start: np.ndarray) -> _Solution:
    def residuals(z: np.ndarray) -> np.ndarray:
        T, margin = _changed(start, z[:, :6] * SCALE), z[:, 6, None, None] * MARGIN_PX * WIDER
        edges = [edge_errors(part.boxes(T) + margin, part.seen) for part in drawn]
        return np.concatenate([*edges, z[:, 6:]], axis=1)

    fit = robust_fit(residuals, np.zeros(7))
    T, margin = _changed(start, fit.x[:6] * SCALE), float(fit.x[6]) * MARGIN_PX
    return _Solution(T, margin, float(fit.cost), np.asarray(fit.jac))


def _changed(T: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return a pose T (4, 4), m, after changes `x` (..., 6): a shift in the parent's axes, a turn in the camera's."""
    return np.asarray(pose(T[:3, :3] @ rotation_exp(x[..., 3:]), T[:3, 3] + x[..., :3]))


def _difference(T: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the change (6,) that turns a pose `T` into the pose `other`; the inverse of `_changed`."""
    return np.concatenate([other[:3, 3] - T[:3, 3], rotation_log(T[:3, :3].T @ other[:3, :3])])


@dataclass(frozen=True)
class PlacedCamera:
    """Result of a calibration of a camera's pose by boxes.

    Attributes:
        rig: The rig with the camera's new pose and covariance.
        camera: Name of the camera.
        fit: The fit.
        needed: Whether the rig must be changed to fit the boxes. An unnecessary change is written only with `accept`.
        report: The checks.
    """

    rig: Rig
    camera: str
    fit: CameraFit
    needed: bool
    report: Report


def calibrate_camera(
    path: str | Path,
    rig: str | Path | Rig,
    labels: Labels,
    *,
    camera: str | None = None,
    sensor: str | None = None,
    layout: str | Path | None = None,
    accept: bool = False,
    out: str | Path | None = None,
) -> PlacedCamera:
    """Return a camera's pose, fixed or on a hand, fitted to boxes of touch sensors in recorded frames.

    Args:
        path: The episodes that the labels refer to: a folder or one file.
        rig: The rig, its name or its file. Its sensors, grippers and the camera's lens must be right already; the
            camera's pose may be rough.
        labels: At least six boxes over several arm poses, see `verify.labels.read_labels`. Boxes of the same sensors in
            other cameras show whether the sensors are right; the fit does not use them.
        camera: Name of the camera; None: the only camera in the labels.
        sensor: Name of the only sensor to use; None: all sensors that have labels in this camera.
        layout: The episodes' layout; recognised when None.
        accept: Write the rig even if the camera is far from the rig's pose, if another view contradicts the sensors, or
            if no change is needed. A pose that the boxes do not determine is never written.
        out: Where to write the rig; None: do not write. A fit that fails is never written.

    Raises:
        FileNotFoundError: No episodes or no rig were found.
        InputError: The labels refer to an unknown episode, camera or sensor, hold fewer than six boxes or several
            cameras; a camera or sensor is missing in an episode, or an [[override]] gives the camera another pose.
    """
    known = rig if isinstance(rig, Rig) else load_rig(rig)
    camera = chosen_camera(labels, camera)
    mounted = known.camera(camera)
    sensors = chosen_sensors(labels, camera, sensor)
    for name in sensors:
        known.sensor(name)
    count = sum(len(boxes) for key, boxes in labels.items() if key[1] == camera and key[2] in sensors)
    if count < MIN_BOXES:
        raise InputError(
            f"{path}: the pose of a camera needs at least {MIN_BOXES} boxes, preferably 20 of each sensor, over 10 arm "
            f"poses; got {count} in {camera}. Draw more with `tactile-align label`"
        )
    drawn, T_parent_hand, others, digests = _collected(path, known, labels, camera, sensors, layout)
    pose_of_box = _poses(T_parent_hand)
    poses = int(pose_of_box.max()) + 1
    # Boxes of one arm pose share its errors, so they are left out together where there are enough poses.
    group = pose_of_box if poses >= MIN_POSES else np.arange(len(pose_of_box))
    fit = fit_camera(drawn, group, mounted.T_parent_this)
    before, after = np.concatenate(fit.before), np.concatenate(fit.after)
    needed = is_needed(before, after)
    arms = {known.sensor_arm(name) for name in sensors}
    rides = all(arm and mounted.parent in _hand_frames(known, arm) for arm in arms)
    moves = [] if rides else [graded(LIMITS, "arm-poses", poses, advice=MORE)]
    checks = [*moves, *_checks(fit, drawn, others, camera, mounted, ON_HAND if rides else MORE, needed, accept)]
    subject = f"{camera}: {len(before)} boxes of {', '.join(sensors)}"
    report = Report("calibrate", subject, tuple(checks), facts=provenance(digests))
    covariance = tuple(map(tuple, fit.covariance.tolist()))
    changed = known.with_camera(camera, **pose_keys(fit.T_parent_camera), covariance=covariance)
    changed = changed.with_fitted("cameras", camera, {name: used_frames(labels, camera, name) for name in sensors})
    if needed or accept:
        save_unless_failed(changed, out, report, rig)
    return PlacedCamera(changed, camera, fit, needed, report)


def _hand_frames(rig: Rig, arm: str) -> set[str]:
    """Return the frames of an arm that no joint moves against the flange, except for the fingers."""
    return {f"{arm}/{node}" for node in ("flange", "finger1", "finger2", f"link{rig.arms[arm].arm.dof}")}


def _collected(
    path: str | Path, rig: Rig, labels: Labels, camera: str, sensors: Sequence[str], layout: str | Path | None
) -> tuple[list[SeenSensor], np.ndarray, dict[tuple[str, str], np.ndarray], list[str]]:
    """Return the boxes of each sensor in the camera, and what goes with them.

    Returns:
        The boxes of each sensor. For each box the pose (N, 4, 4), m, of the flange that carries the sensor (of the
        sensor, if it is on no arm), in the frame of the camera's parent. The IoU of the boxes in other cameras with
        those of the rig, by camera and sensor. The hashes of the episodes.
    """
    used = {key: boxes for key, boxes in labels.items() if key[2] in sensors}
    parts: dict[str, list[tuple[Camera, np.ndarray, np.ndarray, np.ndarray]]] = {name: [] for name in sensors}
    others: dict[tuple[str, str], list[np.ndarray]] = {}
    digests = []
    for episode, evidence, rows in labelled_rows(path, rig, used, layout):
        digests.append(evidence.digest)
        require_no_override(rig, "cameras", camera, [episode.path])
        views = {(view.camera, view.sensor): view for view in evidence.views}
        known = rig.for_episode(episode.path)
        mounted = known.camera(camera)
        for key, frames in rows.items():
            if key not in views:
                found = ", ".join("/".join(one) for one in views) or "none"
                raise InputError(
                    f"{episode.ref} has no view {'/'.join(key)} (camera/sensor) that the labels refer to. Views that "
                    f"both the rig and this episode have: {found}. Correct the labels or the rig"
                )
            if key[0] != camera:
                others.setdefault(key, []).append(np.nan_to_num(views[key].iou()[frames]))
                continue
            qpos = qpos_at_exposure(known, camera, episode.qpos, episode.fps)[frames]
            arm = known.sensor_arm(key[1])
            hand = f"{arm}/flange" if arm else known.sensor(key[1]).parent
            T_hand = np.asarray(known.T_from_to(mounted.parent, hand, qpos))
            T_sensor = mounted.T_parent_this @ views[key].T_camera_sensor[frames]
            seen = np.array([labels[label_name(episode.ref), *key][t] for t in frames])
            parts[key[1]].append((mounted.stored, T_sensor, seen, T_hand))
    drawn = []
    for name, episodes in parts.items():
        lenses, which = distinct_lenses([part[0] for part in episodes], [len(part[1]) for part in episodes])
        T_sensor, seen = (np.concatenate([part[i] for part in episodes]) for i in (1, 2))
        drawn.append(SeenSensor(name, rig.sensor(name).body, lenses, which, T_sensor, seen))
    T_hand = np.concatenate([part[3] for episodes in parts.values() for part in episodes])
    return drawn, T_hand, {key: np.concatenate(iou) for key, iou in others.items()}, digests


def _poses(T: np.ndarray) -> np.ndarray:
    """Return the number (N,) of the arm pose of each of N poses, (N, 4, 4), m; equal ones have the same number."""
    group, first = np.empty(len(T), int), list[np.ndarray]()
    for i, one in enumerate(T):
        off = [np.abs(_difference(other, one)) for other in first]
        same = [k for k, d in enumerate(off) if d[:3].max() < SAME_M and d[3:].max() < SAME_RAD]
        group[i] = same[0] if same else len(first)
        first += [] if same else [one]
    return group


def _checks(
    fit: CameraFit,
    drawn: Sequence[SeenSensor],
    others: dict[tuple[str, str], np.ndarray],
    camera: str,
    mounted: RigCamera,
    more: str,
    needed: bool,
    accept: bool,
) -> list[Check]:
    x = _difference(mounted.T_parent_this, fit.T_parent_camera)
    off = np.concatenate([(part.boxes(fit.T_parent_camera) - part.seen).ravel() for part in drawn])
    edges = float(np.median(np.abs(np.where(np.isfinite(off), off, np.inf))))
    doubt = "A wrong K, arm base or tip also moves the fit: run `verify` with these labels."
    near = bool(np.linalg.norm(x[:3]) <= FAR_M and np.linalg.norm(x[3:]) <= FAR_RAD)
    limit = f"<= {FAR_M * 1e3:.0f} mm, {np.degrees(FAR_RAD):.0f} deg"
    weakest = f"{fit.weakness:.2f}{LIMITS['weakest-direction'].unit}: {amounts(fit.weakest, '+z.1f')}"
    held_out = [held_out_checks(after, part.sensor, MANY_BOXES) for part, after in zip(drawn, fit.after, strict=True)]
    return [
        graded(LIMITS, "weakest-direction", fit.weakness, advice=more, measured=weakest),
        *[check for checks in held_out for check in checks],
        graded(LIMITS, "edges-median", edges, advice="Look at the boxes that are far off, and check K."),
        needed_check(np.concatenate(fit.before), np.concatenate(fit.after), needed, f"boxes in {camera}", camera),
        *[_other(*key, iou, accept) for key, iou in sorted(others.items())],
        decided(
            f"camera-moved/{camera}",
            f"Camera {camera} moved",
            near,
            displacement(x),
            limit=limit,
            value=float(np.linalg.norm(x[:3])),
            advice=or_else(doubt, "the camera really is there", accept),
            otherwise=doubted(accept),
        ),
        sigma_check(np.sqrt(np.diag(fit.covariance)), camera),
        Check("drawn-wider", "Boxes drawn wider than the sensor", "info", f"{fit.margin_px:+z.2f} px at each side"),
    ]


def _other(other: str, sensor: str, iou: np.ndarray, accept: bool) -> Check:
    """Return the check whether the rig explains a sensor's boxes in another camera, so that the sensor is right."""
    median = float(np.median(iou))
    advice = or_else(
        f"The rig does not explain {sensor} in {other} either, so the sensor, the gripper or the arm may be wrong, and "
        f"this fit would hide it. Run `verify` with these labels, and `calibrate finger` first.",
        f"only the pose of {other} is wrong, too",
        accept,
    )
    title, measured = f"IoU of {sensor} in {other}, median", f"{median:.3f} ({len(iou)} boxes)"
    good, limit = median >= POOR_IOU, f">= {POOR_IOU:g}"
    id = f"other-view/{other}/{sensor}"
    return decided(id, title, good, measured, limit=limit, value=median, advice=advice, otherwise=doubted(accept))

"""Changes of a rig that may explain the boxes of labelled views, each with few parameters that can be fitted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Rig
from tactile_align.calibration.rig_parts import Solid
from tactile_align.evenly import evenly
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.geometry.frames import invert, pose, rotation_exp
from tactile_align.projection.episode_boxes import episode_boxes
from tactile_align.projection.sensor_box import project_solids
from tactile_align.sessions.write_rig import pose_keys, with_stroke
from tactile_align.verify.evidence import Evidence
from tactile_align.verify.rig_hypotheses import LABELS, Slip, box_hypotheses_of, law_edit, listed

DRAWN_PX, DRAWN = 1.5, 0.02
"""Largest median edge error of a view that counts as explained: the larger of DRAWN_PX px and DRAWN times the box's
side. Hand-drawn boxes are no more accurate."""
MOST = 60
"""Largest number of boxes of each view that are used, evenly spread."""
FACTOR, TURN, REACH_M = float(np.log(4.0)), 0.5, 0.2
"""Largest fitted factor on a length (as its logarithm), rotation (about each axis, rad) and shift (along each axis, m).
"""
FAR = 1e3
"""Error of an edge without a pixel, in the unit of the misfit: large but finite, so that a fit can start there."""


@dataclass(frozen=True)
class Chain:
    """Poses between a camera and a sensor in N frames, each of which a hypothesis may replace.

    A hypothesis may also replace a pose by several, in leading axes that broadcast: the boxes then have these axes.

    Attributes:
        lens: Camera model of the stored frames.
        T_parent_camera: (4, 4) pose of the camera, m.
        T_world_mount: (N, 4, 4) pose of the camera's parent, m.
        T_world_holder: (N, 4, 4) pose of the sensor's parent, m.
        T_parent_sensor: (4, 4) pose of the sensor, m.
        body: The sensor's solids.
        finger: (N, 3) position of the sensor's finger on its flange, m; None for a sensor that is not on a finger.
    """

    lens: Camera
    T_parent_camera: np.ndarray
    T_world_mount: np.ndarray
    T_world_holder: np.ndarray
    T_parent_sensor: np.ndarray
    body: tuple[Solid, ...]
    finger: np.ndarray | None

    @cached_property
    def boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """Boxes in the image (N, 4), px, nan where there is none, and the same before clipping where there is none."""
        T_camera_sensor = invert(self.T_world_mount @ self.T_parent_camera) @ self.T_world_holder @ self.T_parent_sensor
        boxes = project_solids(self.lens, T_camera_sensor, self.body, 0.0)
        return np.asarray(boxes.box), np.asarray(np.where(np.isfinite(boxes.box), boxes.box, boxes.raw))


@dataclass(frozen=True)
class LabelledView:
    """N true or labelled boxes of one sensor in one camera, from episodes that share one rig.

    Attributes:
        camera: Name of the camera.
        sensor: Name of the sensor.
        rig: The rig for these episodes, overrides applied.
        rows: For each episode, its evidence and the rows that have a box.
        seen: (N, 4) the boxes, px of the stored frame, finite.
    """

    camera: str
    sensor: str
    rig: Rig
    rows: tuple[tuple[Evidence, np.ndarray], ...]
    seen: np.ndarray

    @property
    def name(self) -> str:
        """Sensor and camera as text."""
        return f"{self.sensor} in {self.camera}"

    @cached_property
    def tolerance(self) -> float:
        """Largest median edge error at which the boxes count as explained, px; see DRAWN_PX."""
        return max(DRAWN_PX, DRAWN * float(np.median(self.seen[:, 2:] - self.seen[:, :2])))

    def chain(self, rig: Rig) -> Chain:
        """Return the poses between camera and sensor in the N frames according to a rig."""
        parts = [
            episode_boxes(rig, self.camera, self.sensor, one.qpos, one.contact, one.fps).at(rows)
            for one, rows in self.rows
        ]
        qpos = np.concatenate([part.qpos for part in parts])
        openings = [part.opening for part in parts if part.opening is not None]
        opening = np.concatenate(openings) if openings else None
        camera, sensor = rig.camera(self.camera), rig.sensor(self.sensor)
        holder = rig.T_from_to("world", sensor.parent, qpos, opening)
        arm, _, node = sensor.parent.partition("/")
        on_finger = node in ("finger1", "finger2")
        return Chain(
            lens=camera.stored,
            T_parent_camera=camera.T_parent_this,
            T_world_mount=rig.T_from_to("world", camera.parent, qpos, opening),
            T_world_holder=holder,
            T_parent_sensor=sensor.T_parent_this,
            body=sensor.body,
            finger=rig.T_from_to(f"{arm}/flange", sensor.parent, qpos, opening)[:, :3, 3] if on_finger else None,
        )

    def off(self, chain: Chain) -> np.ndarray:
        """Return the errors (..., 4 N) of the box edges according to a chain of poses, in units of `tolerance`."""
        off = (chain.boxes[1] - self.seen) / self.tolerance
        return np.where(np.isfinite(off), off, FAR).reshape(*off.shape[:-2], -1)

    def iou(self, chain: Chain) -> float:
        """Return the median IoU of the boxes according to a chain of poses; a missing box counts as 0."""
        return float(np.median(np.nan_to_num(intersection_over_union(chain.boxes[0], self.seen), nan=0.0)))


def labelled_views(evidence: Sequence[Evidence]) -> list[LabelledView]:
    """Return the views that have true or labelled boxes, one for each rig that [[override]] entries give episodes."""
    rigs: list[Rig] = []
    found: dict[tuple[str, str, int], list[tuple[Evidence, np.ndarray, np.ndarray]]] = {}
    for episode in evidence:
        index = next((i for i, rig in enumerate(rigs) if rig is episode.rig or rig == episode.rig), len(rigs))
        rigs += [episode.rig] if index == len(rigs) else []
        for view in episode.views:
            rows = np.flatnonzero(np.isfinite(view.seen).all(axis=-1))
            if len(rows):
                found.setdefault((view.camera, view.sensor, index), []).append((episode, rows, view.seen[rows]))
    views = []
    for (camera, sensor, index), parts in found.items():
        count = [len(rows) for _, rows, _ in parts]
        kept = np.zeros(sum(count), bool)
        kept[evenly(len(kept), MOST)] = True
        chosen = np.split(kept, np.cumsum(count)[:-1])
        used = tuple((one, rows[keep]) for (one, rows, _), keep in zip(parts, chosen, strict=True) if keep.any())
        seen = np.concatenate([boxes for *_, boxes in parts])[kept]
        views.append(LabelledView(camera, sensor, rigs[index], used, seen))
    return views


Moved = Callable[[LabelledView, Chain, np.ndarray], Chain]
Written = Callable[[Rig, np.ndarray], Rig]


@dataclass(frozen=True, eq=False)
class Change:
    """Change of the rig with k free parameters p, |p| <= `limit`.

    Attributes:
        part: The part of the rig file that changes; two changes of one part exclude each other.
        name: Description of the change.
        limit: (k,) largest absolute parameters.
        starts: (S, k) parameters from which the best is taken as the start of a fit.
        written: Function that returns a rig with the change.
        advice: Function that returns what to write, from the rig before the change and the parameters.
        moved: Function that returns a view's chain with the change, or the chain itself if the change does not concern
            the view; None for a change without parameters, whose chain is that of the changed rig. Parameters may be
            (..., k), unless the lens changes.
        cameras: Names of the cameras whose views the change concerns; None: all.
        modelled: For a correction of the labels, which leaves the rig as it is: function that returns a rig whose boxes
            are those of the corrected labels. None for a change of the rig.
    """

    part: str
    name: str
    limit: np.ndarray
    starts: np.ndarray
    written: Written
    advice: Callable[[Rig, np.ndarray], str]
    moved: Moved | None = None
    cameras: tuple[str, ...] | None = None
    modelled: Written | None = None

    def seen(self, view: LabelledView, rig: Rig) -> Rig:
        """Return the rig that predicts a view's boxes after this change, which has no parameters."""
        if self.cameras is not None and view.camera not in self.cameras:
            return rig
        return (self.modelled or self.written)(rig, np.zeros(0))

    def at(self, view: LabelledView, chain: Chain, p: np.ndarray) -> Chain:
        """Return the view's chain after the change with parameters `p`."""
        return chain if self.moved is None else self.moved(view, chain, p)


Axes = Literal["shift", "turn", "pose"]


def _shifted(T: np.ndarray, p: np.ndarray, axes: Axes) -> np.ndarray:
    """Return T_parent_this (4, 4), m, shifted in the parent's axes and turned about its own axes by p (..., k).

    The result has the shape (..., 4, 4). A shift is in m, a rotation vector in rad.
    """
    w = p[..., -3:] if axes != "shift" else np.zeros_like(p)
    d = p[..., :3] if axes != "turn" else np.zeros_like(p)
    return np.asarray(pose(T[:3, :3] @ rotation_exp(w), T[:3, 3] + d))


def _pose_change(kind: Literal["cameras", "sensors", "arms"], name: str, axes: Axes) -> Change:
    """Return the change of the pose of a camera, a sensor or an arm's base."""
    limit = np.array([*([REACH_M] * 3 if axes != "turn" else []), *([TURN] * 3 if axes != "shift" else [])])

    def moved(view: LabelledView, chain: Chain, p: np.ndarray) -> Chain:
        if kind != "arms":
            if name != (view.camera if kind == "cameras" else view.sensor):
                return chain
            if kind == "cameras":
                return replace(chain, T_parent_camera=_shifted(chain.T_parent_camera, p, axes)[..., None, :, :])
            return replace(chain, T_parent_sensor=_shifted(chain.T_parent_sensor, p, axes)[..., None, :, :])
        on = view.rig.camera(view.camera).parent, view.rig.sensor(view.sensor).parent
        carries = [parent.partition("/")[0] == name for parent in on]
        if carries[0] == carries[1]:
            return chain
        T = view.rig.arms[name].T_parent_this
        moves = (_shifted(T, p, axes) @ invert(T))[..., None, :, :]
        if carries[0]:
            return replace(chain, T_world_mount=moves @ chain.T_world_mount)
        return replace(chain, T_world_holder=moves @ chain.T_world_holder)

    def written(rig: Rig, p: np.ndarray) -> Rig:
        keys = pose_keys(_shifted(getattr(rig, kind)[name].T_parent_this, p, axes))
        if kind == "cameras":
            return rig.with_camera(name, **keys)
        return rig.with_sensor(name, **keys) if kind == "sensors" else rig.with_arm(name, **keys)

    def advice(rig: Rig, p: np.ndarray) -> str:
        entry = getattr(written(rig, p), kind)[name]
        values = {key: listed(getattr(entry, key)) for key in ("translation_m", "quat_wxyz")}
        values = {key: text for key, text in values.items() if axes != ("turn" if key[0] == "t" else "shift")}
        mm = f"{np.linalg.norm(p[:3]) * 1e3:.0f} mm off"
        deg = f"turned {np.degrees(np.linalg.norm(p[-3:])):.1f} deg"
        size = {"shift": mm, "turn": deg, "pose": f"{mm} and {deg}"}[axes]
        return f"Set {', '.join(f'{key} = {text}' for key, text in values.items())} of {kind}.{name} ({size})."

    return Change(f"{kind}.{name}", axes, limit, np.zeros((1, len(limit))), written, advice, moved)


GRID = np.linspace(-FACTOR, FACTOR, 25)[1:-1, None]
"""(23, 1) logarithms of factors: far from the solution many are equally bad, so a fit starts from the best of them."""


def _focal_change(camera: str) -> Change:
    """Return the change of a camera's focal length by the factor exp(p)."""

    def moved(view: LabelledView, chain: Chain, p: np.ndarray) -> Chain:
        if view.camera != camera:
            return chain
        scale = np.array([[np.exp(p[0])] * 2 + [1], [np.exp(p[0])] * 2 + [1], [1, 1, 1]])
        return replace(chain, lens=replace(chain.lens, K=np.asarray(chain.lens.K) * scale))

    def written(rig: Rig, p: np.ndarray) -> Rig:
        K = np.array(rig.camera(camera).K)
        K[:2, :2] *= np.exp(p[0])
        return rig.with_camera(camera, K=tuple(map(tuple, K.tolist())))

    def advice(rig: Rig, p: np.ndarray) -> str:
        K = written(rig, p).camera(camera).K
        return (
            f"Set fx = {K[0][0]:.1f}, fy = {K[1][1]:.1f} in K of cameras.{camera} ({np.exp(p[0]):.3f} times as long)."
        )

    return Change(f"cameras.{camera}", "focal length", np.array([FACTOR]), GRID, written, advice, moved)


def _stroke_change(arm: str) -> Change:
    """Return the change of all lengths in the law of an arm's gripper by the factor exp(p)."""

    def moved(view: LabelledView, chain: Chain, p: np.ndarray) -> Chain:
        if chain.finger is None or view.rig.sensor_arm(view.sensor) != arm:
            return chain
        R, t = chain.T_world_holder[..., :3, :3], chain.T_world_holder[..., :3, 3]
        t = t + (np.exp(p) - 1)[..., None] * (R @ chain.finger[..., None])[..., 0]
        return replace(chain, T_world_holder=pose(np.broadcast_to(R, (*t.shape, 3)), t))

    def written(rig: Rig, p: np.ndarray) -> Rig:
        return with_stroke(rig, arm, float(np.exp(p[0])))

    def advice(rig: Rig, p: np.ndarray) -> str:
        edit = law_edit(written(rig, p), arm)
        return f"Set {edit} ({np.exp(p[0]):.3f} times as long; a law's lengths are for ONE finger)."

    return Change(f"arms.{arm}.gripper", "stroke", np.array([FACTOR]), GRID, written, advice, moved)


def changes_of(rig: Rig, views: Sequence[LabelledView]) -> list[Change]:
    """Return all changes of the rig that are tried; those that come first are the more common mistakes."""
    cameras = list(dict.fromkeys(view.camera for view in views))
    sensors = list(dict.fromkeys(view.sensor for view in views))
    arms = list(dict.fromkeys(filter(None, map(rig.sensor_arm, sensors))))

    known: list[tuple[Rig, dict[str, tuple[str, Slip]]]] = []

    def slips_of(one: Rig) -> dict[str, tuple[str, Slip]]:
        slips = next((slips for rig, slips in known if rig is one), None)
        if slips is None:
            slips = box_hypotheses_of(one, cameras, sensors)
            known.append((one, slips))
        return slips

    def fixed(key: str, part: str, name: str, camera: str | None = None) -> Change:
        def changed(one: Rig, p: np.ndarray) -> Rig:
            slips = slips_of(one)
            return slips[key][1].changed if key in slips else one

        def advice(one: Rig, p: np.ndarray) -> str:
            return f"{LABELS} in {camera}: {name}." if camera else slips_of(one)[key][1].advice

        none = np.zeros(0)
        if camera is None and not rig_slips[key][1].advice.startswith(LABELS):
            return Change(part, name, none, none[None], changed, advice)
        only = None if camera is None else (camera,)
        return Change(part, name, none, none[None], lambda one, p: one, advice, cameras=only, modelled=changed)

    rig_slips = slips_of(rig)
    changes = [fixed(key, part, slip.name) for key, (part, slip) in rig_slips.items()]
    for key, (part, slip) in rig_slips.items() if len(cameras) > 1 else ():
        changes += [fixed(key, "sensors", slip.name, camera) for camera in cameras if part == "sensors"]
    for sensor in sensors:
        changes += [_pose_change("sensors", sensor, axes) for axes in ("shift", "pose")]
    for camera in cameras:
        changes += [
            _focal_change(camera),
            *(_pose_change("cameras", camera, axes) for axes in ("turn", "shift", "pose")),
        ]
    changes += [_stroke_change(arm) for arm in arms if rig.arms[arm].gripper is not None]
    return changes + [_pose_change("arms", arm, axes) for arm in arms for axes in ("shift", "pose")]

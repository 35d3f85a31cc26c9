"""Search for the change of a rig that explains the boxes of all views together: one change, or two at once.

Every hypothesis is one change of the rig with few free parameters, fitted to the boxes of all views at once. Those that
make the boxes of all views fit are ranked by their misfit, plus ln(n) for each free parameter (n box edges), as in the
Bayesian information criterion. A hypothesis that a passing view contradicts is never among them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product
from typing import Literal

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Rig
from tactile_align.calibration.rig_parts import Solid
from tactile_align.checks import Hypothesis
from tactile_align.evenly import evenly
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.geometry.frames import invert, pose, rotation_exp
from tactile_align.projection.episode_boxes import episode_boxes
from tactile_align.projection.sensor_box import project_solids
from tactile_align.sessions.write_rig import pose_keys, with_stroke
from tactile_align.verify.evidence import Evidence
from tactile_align.verify.limits import LIMITS
from tactile_align.verify.rig_hypotheses import LABELS, Slip, box_hypotheses_of, law_edit, listed

DRAWN_PX, DRAWN = 1.5, 0.02
"""Largest median edge error of a view that counts as explained: the larger of DRAWN_PX px and DRAWN times the box's
side. Hand-drawn boxes are no more accurate."""
EXPLAINED = 0.8
"""Median IoU that a failing view must reach to be explained; small hand-drawn boxes allow no higher limit."""
CLEAR = 10.0
"""Difference of two scores from which the hypothesis with the lower score is clearly better (Kass and Raftery, "Bayes
Factors", 1995)."""
SAME = 2.0
"""Difference of two scores below which the hypothesis with fewer free parameters comes first."""
LEAST_SIGMA = 0.5
"""Smallest assumed standard deviation of an edge, as a share of the largest error that counts as explained: all boxes
of a view may be drawn half a pixel too wide, which no number of boxes averages out."""
MOST = 60
"""Largest number of boxes of each view that are used, evenly spread."""
MOST_PAIRED, MOST_OF_PART = 6, 3
"""MOST_PAIRED: number of parts of the rig that are combined in pairs. MOST_OF_PART: number of hypotheses about each of
the two parts of a pair that explains the boxes, which are then combined."""
FACTOR, TURN, REACH_M = float(np.log(4.0)), 0.5, 0.2
"""Largest fitted factor on a length (as its logarithm), rotation (about each axis, rad) and shift (along each axis, m).
"""
STEP = 1e-4
"""Step of the numerical derivatives, as a share of the largest parameter."""
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


@dataclass(frozen=True)
class Explanation:
    """Changes of a rig, fitted together, and how well they explain the boxes of V views.

    Attributes:
        changes: The changes, one or two.
        p: Their fitted parameters.
        iou: (V,) median IoU of each view after the changes.
        edge: (V,) median edge error of each view after the changes, 1 at the largest that counts as explained.
        off: (n,) errors of all box edges, in the same unit.
        score: Misfit plus ln(n) for each parameter; the smaller, the better. It is set once the accuracy of the boxes
            is known.
    """

    changes: tuple[Change, ...]
    p: tuple[np.ndarray, ...]
    iou: np.ndarray
    edge: np.ndarray
    off: np.ndarray
    score: float = np.inf

    @property
    def parts(self) -> tuple[str, ...]:
        """The changed parts of the rig file, sorted."""
        return tuple(sorted(change.part for change in self.changes))

    def rig(self, rig: Rig) -> Rig:
        """Return a rig with the changes."""
        for change, p in zip(self.changes, self.p, strict=True):
            rig = change.written(rig, p)
        return rig

    def scored(self, sigma: float) -> "Explanation":
        """Return this explanation with its score for box edges of standard deviation `sigma`."""
        misfit = 2 * np.sum(np.sqrt(1 + (self.off / sigma) ** 2) - 1)
        return replace(self, score=float(misfit + sum(map(len, self.p)) * np.log(len(self.off))))

    def advice(self, rig: Rig) -> str:
        """Return what to write into the rig file."""
        texts = []
        for change, p in zip(self.changes, self.p, strict=True):
            texts.append(change.advice(rig, p))
            rig = change.written(rig, p)
        return " ".join(texts)


@dataclass(frozen=True)
class Search:
    """Result of the search for changes that explain the boxes of V views.

    Attributes:
        rig: The rig as written.
        views: The V views.
        written: The rig as written, as an explanation without changes.
        failing: (V,) bool, whether the view's boxes fail with the rig as written.
        offered: Explanations that no view contradicts and that are about equally good, the simplest of the best first.
        excluded: The best explanations of other parts of the rig, the best first.
    """

    rig: Rig
    views: tuple[LabelledView, ...]
    written: Explanation
    failing: np.ndarray
    offered: tuple[Explanation, ...]
    excluded: tuple[Explanation, ...]

    def gains(self, one: Explanation) -> str:
        """Return the IoU of the failing views before and after an explanation, as text."""
        rows = np.flatnonzero(self.failing)
        return ", ".join(f"{self.views[i].name} {self.written.iou[i]:.3f} to {one.iou[i]:.3f}" for i in rows)

    def contradiction(self, one: Explanation) -> int | None:
        """Return the index of the view that contradicts an explanation most; None if all views are explained."""
        edge = np.where(self.failing, 1.0, np.maximum(1.0, self.written.edge))
        least = np.where(self.failing, EXPLAINED, LIMITS["iou-median"].good)
        wrong = (one.edge > edge) | (one.iou < least)
        rows = np.flatnonzero(wrong & ~self.failing) if (wrong & ~self.failing).any() else np.flatnonzero(wrong)
        return int(rows[np.argmin(one.iou[rows])]) if len(rows) else None

    def hypotheses(self) -> list[Hypothesis[Rig]]:
        """Return the offered explanations with what to write, the changed rig, and the IoU of the failing views."""
        return [
            Hypothesis("+".join(one.parts), one.advice(self.rig), one.rig(self.rig), self.gains(one))
            for one in self.offered
        ]


def search(rig: Rig, evidence: Sequence[Evidence]) -> Search | None:
    """Return the changes of a rig that explain its true or labelled boxes in all views.

    First every single change is tried, then pairs of the best single changes of different parts of the rig.

    Args:
        rig: The rig.
        evidence: Data of the episodes, see `gather`.

    Returns:
        The result; None if no view with boxes fails.
    """
    views = tuple(labelled_views(evidence))
    if not views:
        return None
    chains = tuple(view.chain(view.rig) for view in views)
    written = _judged((), (), views, chains)
    failing = written.iou < LIMITS["iou-median"].good
    if not failing.any():
        return None
    empty = Search(rig, views, written, failing, (), ())
    fits = [fit for change in changes_of(rig, views) if (fit := _fitted((change,), empty, chains)) is not None]
    singles = _ranked(fits, empty)
    return singles if singles.offered or not fits else replace(_pairs(fits, empty, chains), excluded=singles.excluded)


def _pairs(fits: Sequence[Explanation], to: Search, chains: tuple[Chain, ...]) -> Search:
    """Return the result for pairs of the changes whose fits alone are `fits`."""
    ranked, before = _scored(fits), to.written.edge
    names = [part for one in _best_of_parts(ranked)[:MOST_PAIRED] for part in one.parts]
    both = [
        pair
        for first, second in combinations(names, 2)
        for pair in product(_representatives(ranked, first), _representatives(ranked, second))
        if ((pair[0].edge != before) | (pair[1].edge != before))[to.failing].all()
    ]
    pairs: list[Explanation] = []
    together = to

    def add(chosen: Iterable[tuple[Explanation, Explanation]]) -> Search:
        apart = [(*one.changes, *two.changes) for one, two in chosen if not _entangled(one, two)]
        found = [_fitted(changes, to, chains) for changes in apart]
        pairs.extend(pair for pair in found if pair is not None)
        return _ranked(pairs, to)

    # A pair with five parameters more cannot be as likely, so the search ends with the first that explains all views.
    for level in range(3):
        together = add(pair for pair in both if sum(len(one.p[0]) > 1 for one in pair) == level)
        if together.offered:
            break
    # Fewer parameters may do.
    for parts in [pair.parts for pair in together.offered if max(map(len, pair.p)) > 1]:
        first, second = ([fit for fit in ranked if fit.parts == (part,)][:MOST_OF_PART] for part in parts)
        together = add(product(first, second))
    return together


def _entangled(one: Explanation, two: Explanation) -> bool:
    """Return whether a pair corrects labels and changes a sensor: its fit would move the wrong one of two sensors."""
    changes = (*one.changes, *two.changes)
    return any(change.modelled is not None for change in changes) and any(
        change.modelled is None and change.part.startswith("sensors") for change in changes
    )


def _fitted(changes: tuple[Change, ...], to: Search, chains: tuple[Chain, ...]) -> Explanation | None:
    """Return changes fitted together to the boxes of all views; None if they concern no failing view."""
    from scipy.optimize import least_squares  # slow to import, and needed only for rigs that failed

    changes = tuple(sorted(changes, key=lambda change: change.moved is not None))
    ends = np.cumsum([len(change.limit) for change in changes])[:-1]

    def at(i: int, p: np.ndarray) -> Chain:
        chain = first[i]
        for change, part in zip(changes, np.split(p, ends, axis=-1), strict=True):
            chain = change.at(to.views[i], chain, part)
        return chain

    rigs = [view.rig for view in to.views]
    for change in changes:
        if change.moved is None:
            rigs = [change.seen(view, rig) for view, rig in zip(to.views, rigs, strict=True)]
    known = zip(to.views, rigs, chains, strict=True)
    first = [chain if rig is view.rig else view.chain(rig) for view, rig, chain in known]
    p = np.concatenate([change.starts[len(change.starts) // 2] for change in changes])
    touched = [i for i in range(len(chains)) if at(i, p) is not chains[i]]
    if not to.failing[touched].any():
        return None

    at_once = all(at(i, p).lens is chains[i].lens for i in touched)

    def off(p: np.ndarray) -> np.ndarray:
        if p.ndim > 1 and not at_once:
            return np.stack([off(row) for row in p])
        errors = [to.views[i].off(at(i, p)) for i in touched]
        return np.concatenate([np.broadcast_to(one, (*p.shape[:-1], one.shape[-1])) for one in errors], axis=-1)

    def slope(p: np.ndarray) -> np.ndarray:
        errors = off(np.concatenate([p[None], p + STEP * np.diag(limit)]))
        return (errors[1:] - errors[0]).T / (STEP * limit)

    if len(p):
        limit = np.concatenate([change.limit for change in changes])
        for change, end in zip(changes, np.append(ends, len(p)), strict=True):
            if len(change.starts) > 1:
                trials = np.repeat(p[None], len(change.starts), axis=0)
                trials[:, end - len(change.limit) : end] = change.starts
                p = trials[np.abs(off(trials)).clip(max=FAR).mean(axis=-1).argmin()]
        p = least_squares(off, p, slope, (-limit, limit), loss="soft_l1", x_scale=limit / 20, max_nfev=40).x
    return _judged(changes, tuple(np.split(p, ends)), to.views, tuple(at(i, p) for i in range(len(chains))))


def _judged(
    changes: tuple[Change, ...], p: tuple[np.ndarray, ...], views: Sequence[LabelledView], chains: Sequence[Chain]
) -> Explanation:
    off = [view.off(chain) for view, chain in zip(views, chains, strict=True)]
    iou = np.array([view.iou(chain) for view, chain in zip(views, chains, strict=True)])
    return Explanation(changes, p, iou, np.array([np.median(np.abs(one)) for one in off]), np.concatenate(off))


def _scored(fits: Sequence[Explanation]) -> list[Explanation]:
    """Return explanations with their scores, the best first; the best fit gives the accuracy of the boxes."""
    sigma = max(LEAST_SIGMA, 1.4826 * min(float(np.median(np.abs(fit.off))) for fit in fits))
    return sorted((fit.scored(sigma) for fit in fits), key=lambda fit: fit.score)


def _best_of_parts(ranked: Sequence[Explanation]) -> list[Explanation]:
    """Return the first explanation of each part of the rig."""
    best: dict[tuple[str, ...], Explanation] = {}
    for fit in ranked:
        best.setdefault(fit.parts, fit)
    return list(best.values())


def _representatives(ranked: Sequence[Explanation], part: str) -> list[Explanation]:
    """Return the best of the explanations of one part with at most one parameter, and the one with most parameters.

    Beside another mistake, a fit of one part alone is no good measure of how many parameters that part needs.
    """
    of_part = [fit for fit in ranked if fit.parts == (part,)]
    simple = [fit for fit in of_part if len(fit.p[0]) <= 1][:1]
    fullest = max(of_part, key=lambda fit: len(fit.p[0]))
    return [*simple, *([fullest] if len(fullest.p[0]) > 1 else [])]


def _ranked(fits: Sequence[Explanation], to: Search) -> Search:
    """Return the result with the explanations that are offered, and those that are excluded."""
    if not fits:
        return to
    ranked = _scored(fits)
    possible = _best_of_parts([fit for fit in ranked if to.contradiction(fit) is None])
    least = possible[0].score if possible else np.inf
    offered = [fit for fit in possible if fit.score < least + CLEAR]
    order = [fit.changes for fit in fits]
    offered.sort(key=lambda fit: (fit.score >= least + SAME, sum(map(len, fit.p)), order.index(fit.changes), fit.score))
    parts = {fit.parts for fit in offered}
    written = _scored([*fits, to.written])
    closer = written[: [fit.changes for fit in written].index(())]
    excluded = [fit for fit in _best_of_parts(closer) if fit.parts not in parts]
    return replace(to, offered=tuple(offered), excluded=tuple(excluded))

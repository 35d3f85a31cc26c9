"""When the gripper moves, what a sensor's box shows must move along with the box."""

import cv2
import numpy as np

from tactile_align.calibration.motion import FPS, PAIRS, Motion, near_in_time, stroke_of
from tactile_align.calibration.rig import Rig
from tactile_align.calibration.rig_readings import readings_of
from tactile_align.datasets.episodes import Episode
from tactile_align.geometry.boxes import enlarge
from tactile_align.projection.episode_boxes import episode_boxes, hand_contact, hand_of

REST_RAD = 0.02
"""A resting arm turns less than this, rad."""
MOVED_STROKE = 0.15
"""A moving gripper moves by more than this share of its stroke."""
SAME_STROKE, SAME_S = 0.15, 1.0
"""Two pairs show the same when their openings differ by less than this share of the stroke, within this time, s."""
PATCH = 40
"""Side of the patches compared, px."""
MARGIN = 1.5
"""How much larger than the box: what moves shows at the edges of the sensor."""


def finger_motion(
    episode: Episode, rig: Rig, camera: str, sensor: str, contact: dict[str, np.ndarray]
) -> Motion | None:
    """Hold what a sensor's box shows while the gripper moves against each reading of the rig.

    Args:
        episode: The episode.
        rig: The rig that holds for it.
        camera: A camera of both.
        sensor: A sensor of both.
        contact: By sensor, (T,) bool, touching; this sensor's and those of all on its hand.

    Returns:
        None where no gripper carries the sensor; no scores where it never moves while the arm rests.
    """
    arm = hand_of(rig, sensor)
    if not arm:
        return None
    pairs = _pairs_of_openings(episode, rig, arm, hand_contact(rig, arm, contact))
    if not len(pairs):
        return Motion(camera, sensor, {}, {})
    motion = _motions(pairs)
    grey = {t: cv2.cvtColor(episode.image(camera, t), cv2.COLOR_RGB2GRAY) for t in np.unique(pairs)}
    scores, advice = {}, {}
    for reading in readings_of(rig, camera, sensor):
        seen = episode_boxes(reading.rig, camera, sensor, episode.qpos, contact, episode.fps).at(pairs).boxes
        boxes = np.where(seen.visible[..., None], enlarge(seen.raw, MARGIN), np.nan)
        agree = np.array([_follows(grey[i], grey[j], *box) for (i, j), box in zip(pairs, boxes, strict=True)])
        scores[reading.name] = np.array([np.median(agree[motion == k]) for k in range(motion.max() + 1)])
        advice[reading.name] = reading.advice
    return Motion(camera, sensor, scores, advice)


def _pairs_of_openings(episode: Episode, rig: Rig, arm: str, touching: np.ndarray) -> np.ndarray:
    """Return (P, 2) rows of frames between which the gripper moves most while the arm rests.

    Frames that touch something come last, as what is touched hides the fingers and moves with them. No two pairs show
    the same motion of one moment.
    """
    gripper = rig.gripper(arm)
    i, j = near_in_time(episode)
    q, opening = rig.joints(arm, episode.qpos), gripper.opening(episode.qpos)[:, 0]
    moved, stroke = np.abs(opening[i] - opening[j]), stroke_of(gripper)
    fit = np.flatnonzero((np.abs(q[i] - q[j]).max(axis=1) < REST_RAD) & (moved > MOVED_STROKE * stroke))
    fit = fit[np.lexsort((-moved[fit], touching[i[fit]] | touching[j[fit]]))]
    near = max(1, round(SAME_S * (episode.fps or FPS)))
    chosen: list[int] = []
    while len(fit) and len(chosen) < PAIRS:
        k = fit[0]
        chosen.append(int(k))
        apart = np.maximum(np.abs(opening[i[fit]] - opening[i[k]]), np.abs(opening[j[fit]] - opening[j[k]]))
        later = np.minimum(np.abs(i[fit] - i[k]), np.abs(j[fit] - j[k]))
        fit = fit[(apart >= SAME_STROKE * stroke) | (later >= near)]
    return np.stack([i[chosen], j[chosen]], axis=1).astype(np.int64)


def _motions(pairs: np.ndarray) -> np.ndarray:
    """Return (P,) which motion of the gripper a pair shows, from 0: pairs that overlap in time show the same one."""
    order = np.argsort(pairs[:, 0], kind="stable")
    reached = np.maximum.accumulate(pairs[order, 1])
    number = np.zeros(len(pairs), np.int64)
    number[order[1:]] = np.cumsum(pairs[order[1:], 0] >= reached[:-1])
    return number


def _follows(first: np.ndarray, second: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Return how much better box `a` of the first frame agrees with box `b` of the second than either with itself."""
    if not np.isfinite([a, b]).all():
        return 0.0
    moved = _agreement(_edges(first, a), _edges(second, b))
    stayed = [_agreement(_edges(first, box), _edges(second, box)) for box in (a, b)]
    return moved - sum(stayed) / 2


def _edges(grey: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the strength of edges in a box of a frame, (PATCH, PATCH); what lies outside repeats the border."""
    height, width = grey.shape
    u0, v0 = (int(np.floor(edge + 0.5)) for edge in box[:2])
    u1, v1 = (int(np.floor(edge + 0.5)) for edge in box[2:])
    u = np.clip(np.arange(u0, max(u1, u0 + 1)), 0, width - 1)
    v = np.clip(np.arange(v0, max(v1, v0 + 1)), 0, height - 1)
    patch = cv2.resize(grey[v[:, None], u], (PATCH, PATCH), interpolation=cv2.INTER_AREA).astype(np.float32)
    soft = cv2.GaussianBlur(patch, (0, 0), 1.0)
    return np.hypot(cv2.Sobel(soft, -1, 1, 0), cv2.Sobel(soft, -1, 0, 1))


def _agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two patches, 0 where one is flat."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 1e-6 else 0.0


def smaller_in_contact(episode: Episode, rig: Rig, contact: dict[str, np.ndarray]) -> dict[str, tuple[float, int]]:
    """Tell by sensor in what share of (touching, not touching) pairs of frames the opening is the smaller one.

    The opening is the one recorded, not held at contact; equal openings count half.

    Returns:
        By sensor on a gripper: the share, 0 to 1, and how many frames the smaller of both groups has. Sensors that
        touch always or never are left out.
    """
    found = {}
    for sensor, flags in contact.items():
        arm = hand_of(rig, sensor)
        if not arm or flags.all() or not flags.any():
            continue
        opening = rig.gripper(arm).opening(episode.qpos)[:, 0]
        touching, free = opening[flags][:, None], opening[~flags]
        share = float((touching < free).mean() + 0.5 * (touching == free).mean())
        found[sensor] = share, int(min(flags.sum(), (~flags).sum()))
    return found

"""Contact of a touch sensor: one flag per frame (touching or not), computed from the touch images alone.

Without contact a gel looks the same in every frame, up to noise and slow drift. In contact it shows the object. The
frames without contact therefore form a dense cluster. If there are several clusters (a held object forms one too), the
cluster with the smoothest images is the one without contact. The running mean of its frames is the no-contact
reference. A frame that differs from the reference by more than the noise is in contact. Each sensor and each episode
has its own reference, because gels differ and lamps warm up.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from tactile_align.errors import InputError

ROUNDS = 3  # the reference and the set of frames without contact converge in two or three rounds
# An eighth of a 320x240 touch; a JPEG decoder produces this size at almost no cost.
LONG_SIDE = 40
WIDE = 5.0  # cells; brightness changes over longer distances are caused by the lamps, not by a contact
MAX_BINS = 400  # largest number of moments at which the running reference is computed
MAX_PAIRED = 600  # largest number of frames compared with each other; longer episodes use every second, third, ...


@dataclass(frozen=True)
class Contact:
    """Result of `contact_of` for T frames of one sensor. Distances between images are in grey levels, 0..255.

    Attributes:
        flags: (T,) bool, whether the frame is in contact.
        score: (T,) float64, distance of each frame from the no-contact reference at that time, grey levels.
        enter: Threshold that the score exceeds in at least one frame of each contact, grey levels.
        leave: Threshold that the score exceeds in every frame of a contact, grey levels.
        reference: (h, w, 3) float32 image of the sensor when nothing touches it: the mean of such frames of the
            episode, shrunk so that its longer side has LONG_SIDE pixels.
        drift: Change of the no-contact reference within the episode, grey levels.
        drifting: Whether `drift` exceeds `enter`, so that weak contacts may be missed.
    """

    flags: np.ndarray
    score: np.ndarray
    enter: float
    leave: float
    reference: np.ndarray
    drift: float
    drifting: bool

    @property
    def share(self) -> float:
        """Share of the episode's frames, 0 to 1, that are in contact."""
        return float(self.flags.mean())


def contact_of(
    touches: Iterable[np.ndarray],
    *,
    reference: np.ndarray | None = None,
    sensitivity: float = 8.0,
    min_enter: float = 2.0,
) -> Contact:
    """Return the contact of one sensor in each frame of one episode.

    An object that presses evenly on the whole pad, with no edge on the pad, is detected late. In simulation, a tilted
    plate is detected at an indentation of 0.4 mm, other shapes at 0.05 mm. An episode with the same contact in EVERY
    frame looks like an episode without contact; give a `reference` for such an episode.

    Args:
        touches: T frames (H, W, 3) uint8 of one sensor, in order.
        reference: (H, W, 3) uint8 recorded image of the sensor when nothing touches it (the no-contact reference).
            None: estimated from the frames.
        sensitivity: Smallest distance of a contact from the reference, as a multiple of the noise's standard deviation.
        min_enter: Smallest distance of a contact from the reference, grey levels. Both smallest distances apply.

    Raises:
        InputError: There is no frame, or the frames are not (H, W, 3) uint8 of one size.
    """
    cells = _cells(touches)
    if reference is not None:
        running = np.broadcast_to(_cells([reference], shape=cells.shape[1:]), cells.shape)
        free = _score(cells, running) < 2 * min_enter
    else:
        free = _free_frames(cells)
        running = _running_mean(cells, free)
    for _ in range(ROUNDS):
        score = _score(cells, running)
        enter, leave = _thresholds(score[free], sensitivity, min_enter)
        flags = _hysteresis(score, enter, leave)
        quiet = score < enter
        if quiet.sum() < 3:
            break
        free = quiet
        running = _running_mean(cells, free)
    drift = _drift(running)
    return Contact(flags, score, enter, leave, running.mean(axis=0), drift, drift > enter)


def contacts(flags: np.ndarray) -> np.ndarray:
    """Return for each frame the index of its contact; a contact is an unbroken run of frames with a true flag.

    Args:
        flags: (T,) bool, whether the frame is in contact.

    Returns:
        (T,) int64 index of the frame's contact, counted from 0; -1 for a frame without contact.
    """
    flags = np.asarray(flags, bool)
    begins = flags & ~np.concatenate(([False], flags[:-1]))
    return np.where(flags, np.cumsum(begins) - 1, -1)


def _cells(touches: Iterable[np.ndarray], shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return touches resized to cells by area averaging, (T, h, w, 3) float32."""
    rows: list[np.ndarray] = []
    first: tuple[int, ...] | None = None
    for row, frame in enumerate(touches):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            got = f"touch frame {row} has dtype {frame.dtype} and shape {frame.shape}"
            raise InputError(f"{got}, expected uint8 (height, width, 3). Give RGB frames")
        if first is None:
            first = frame.shape
        if frame.shape != first:
            raise InputError(f"touch frame {row} has shape {frame.shape}, frame 0 {first}. Give frames of one sensor")
        height, width = frame.shape[:2]
        scale = min(1.0, LONG_SIDE / max(height, width))
        h, w = shape[:2] if shape else (max(1, round(height * scale)), max(1, round(width * scale)))
        rows.append(cv2.resize(frame, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32))
    if not rows:
        raise InputError("touches is empty, but contact needs at least one frame. Give the frames of an episode")
    return np.stack(rows)


def _local(cells: np.ndarray) -> np.ndarray:
    """Return cells without the slow brightness changes over the gel, which the lamps cause; a contact is local."""
    return cells - np.stack([cv2.GaussianBlur(frame, (0, 0), WIDE) for frame in cells])


def _score(cells: np.ndarray, running: np.ndarray) -> np.ndarray:
    """Return the largest local change of each frame, (T,).

    The average over neighbouring cells reduces the noise, but keeps a contact, because a contact covers a patch.
    """
    patch = np.stack([cv2.blur(frame, (3, 3)) for frame in _local(cells - running)])
    strength = np.sqrt((patch**2).sum(axis=3)).reshape(len(cells), -1)
    top = max(1, strength.shape[1] // 100)
    largest: np.ndarray = np.partition(strength, -top, axis=1)[:, -top:].mean(axis=1).astype(np.float64)
    return largest


def _free_frames(cells: np.ndarray) -> np.ndarray:
    """Return (T,) bool, which frames are without contact: those in the dense cluster with the smoothest images."""
    from scipy.sparse.csgraph import connected_components  # slow to import, and most commands do not need it

    steps = len(cells)
    if steps < 4:
        return np.ones(steps, bool)
    every = -(-steps // MAX_PAIRED)
    some = np.stack([cv2.blur(frame, (3, 3))[1::2, 1::2] for frame in _local(cells[::every])])
    flat = some.reshape(len(some), -1)
    apart = np.stack([np.abs(flat - frame).max(axis=1) for frame in flat])
    need = max(3, len(some) // 20)
    # The frames with the closest neighbours differ only by noise, so this distance measures the noise.
    company = np.partition(apart, need, axis=1)[:, need]
    close = apart < 1.6 * max(float(np.quantile(company, 0.1)), 0.1)
    cores = close.sum(axis=1) >= need
    _, component = connected_components(close & cores[:, None] & cores[None], directed=False)
    label = np.where(cores, component, -1)
    candidates = [k for k in np.unique(label[cores]) if (label == k).sum() >= need]
    if not candidates:
        return np.ones(steps, bool)
    rough = {k: float(np.abs(some[label == k].mean(axis=0)).mean()) for k in candidates}
    smoothest = min(candidates, key=lambda k: rough[k])
    free = np.zeros(steps, bool)
    free[::every] = label == smoothest
    return free


def _running_mean(cells: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Return the no-contact reference at each moment, (T, h, w, 3): a mean weighted by nearness in time."""
    steps = len(cells)
    count = min(steps, MAX_BINS)
    where = np.arange(steps) * count // steps
    sums = np.zeros((count, cells[0].size), np.float32)
    np.add.at(sums, where[free], cells[free].reshape(int(free.sum()), -1))
    frames = np.bincount(where[free], minlength=count).astype(np.float32)
    width, at = max(10.0 * count / steps, count / 10), np.arange(count)
    weight = np.exp(-0.5 * ((at[:, None] - at[None]) / width) ** 2).astype(np.float32) + np.float32(1e-6)
    mean = (weight @ sums) / (weight @ frames)[:, None]
    return np.asarray(mean[where].reshape(cells.shape))


def _thresholds(quiet: np.ndarray, sensitivity: float, floor: float) -> tuple[float, float]:
    if not len(quiet):
        return floor, floor / 2
    middle = float(np.median(quiet))
    spread = 1.4826 * float(np.median(np.abs(quiet - middle)))
    enter = max(floor, middle + sensitivity * spread)
    return enter, middle + 0.5 * (enter - middle)


def _hysteresis(score: np.ndarray, enter: float, leave: float) -> np.ndarray:
    """Return (T,) bool, which frames lie in a run of scores above `leave` whose largest score exceeds `enter`."""
    over = score > leave
    run = contacts(over)
    return np.asarray(over & np.isin(run, np.unique(run[score > enter])))


def _drift(running: np.ndarray) -> float:
    last = cv2.GaussianBlur(running[-1], (0, 0), WIDE)
    ends = [cv2.GaussianBlur(running[t], (0, 0), WIDE) - last for t in (0, len(running) // 2)]
    return float(max(np.sqrt((end**2).sum(axis=2)).mean() for end in ends))

"""Detection of faults in frames and joints: frozen streams, dead joints, exchanged arms, sensors or colour channels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from tactile_align.datasets import codec
from tactile_align.datasets.episodes import Episode
from tactile_align.errors import Fault, printable
from tactile_align.evenly import evenly

THUMB = (40, 30)  # width, height
MAX_LOOKED_AT = 120  # largest number of frames that are decoded of each camera
FROZEN_STEPS = 5
# In simulated touches, the JPEG error relative to the colour change by contact is 2 % at quality 95, 5 % at 90 and 10 %
# at 50.
LEAST_TOUCH_QUALITY = 90
MOVING = 1e-3  # rad per step; below this motion, equal frames need not be a fault


@dataclass(frozen=True)
class Look:
    """Sample of n frames of one stream, resized to small images (thumbnails).

    Attributes:
        name: Name of the stream.
        at: (n,) rows of the sampled frames.
        thumbs: (n, h, w, 3) uint8 RGB frames, resized to h x w pixels.
        motion: (n - 1,) mean absolute change from each sampled frame to the next, grey levels.
        texture: Mean absolute difference of the smoothest frame from its blurred copy, grey levels. It is small for a
            gel that nothing touches in some frame, even if an object with ridges presses in most frames.
        rgb: Mean red, green and blue of the sampled frames, grey levels.
    """

    name: str
    at: np.ndarray
    thumbs: np.ndarray
    motion: np.ndarray
    texture: float
    rgb: tuple[float, float, float]


def look_at(episode: Episode, name: str, every: int | None = None) -> Look:
    """Return a sample of a stream as thumbnails: every `every`-th frame; None: at most 120 evenly spaced frames."""
    at = evenly(len(episode), MAX_LOOKED_AT) if every is None else np.arange(0, len(episode), every)
    thumbs = np.empty((len(at), THUMB[1], THUMB[0], 3), np.uint8)
    for thumb, t in zip(thumbs, at, strict=True):
        thumb[:] = cv2.resize(episode.image(name, int(t), at_least=THUMB), THUMB, interpolation=cv2.INTER_AREA)
    motion = np.array([cv2.absdiff(a, b).mean() for a, b in pairwise(thumbs)])
    frames = (thumb.astype(np.float32) for thumb in thumbs)
    texture = min(float(np.abs(frame - cv2.GaussianBlur(frame, (0, 0), 3)).mean()) for frame in frames)
    red, green, blue = thumbs.mean(axis=(0, 1, 2))
    return Look(name, at, thumbs, motion, texture, (float(red), float(green), float(blue)))


def frozen(episode: Episode, name: str, same: np.ndarray) -> list[Fault]:
    """Return the fault of a stream whose frames do not change while the arm moves, in a list; [] if there is none.

    Args:
        episode: The episode.
        name: A camera or touch stream.
        same: (T - 1,) bool for an episode of T frames: whether frame t + 1 has the same bytes as frame t.
    """
    stream = episode.stream(name)
    if len(same) >= 2 * FROZEN_STEPS and same.all():
        text = "contains the same frame at every step; check the cable and the recorder, and remove the stream"
        return [Fault("frozen", episode.path, stream.key, text)]
    if name in episode.sensors:
        return []  # a gel at rest may give equal frames
    moving = np.abs(np.diff(episode.qpos, axis=0)).max(axis=1) > MOVING
    runs = true_runs(same & moving, FROZEN_STEPS)
    if not runs:
        return []
    first, last = max(runs, key=lambda run: run[1] - run[0])
    steps = sum(b - a for a, b in runs)
    text = f"is frozen until row {last} while the arm moves ({steps} frozen steps in all); use: tactile-align trim"
    return [Fault("frozen", episode.path, stream.key, text, first)]


def true_runs(flags: np.ndarray, least: int) -> list[tuple[int, int]]:
    """Return (first, end) of each unbroken run of at least `least` true values in `flags`: rows first <= t < end."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(int), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a >= least]


def dead_joints(episode: Episode) -> tuple[list[Fault], list[str]]:
    """Return faults for joints that never move although their actions change, and remarks on other still joints."""
    still = np.ptp(episode.qpos, axis=0) == 0
    key = episode.layout.state.qpos[0]
    commanded = np.zeros_like(still)
    if episode.action.shape[1] >= len(still):
        commanded = np.ptp(episode.action[:, : len(still)], axis=0) > 0.01
    faults, remarks = [], []
    dead = np.flatnonzero(still & commanded)
    if len(dead):
        zero = " (zero)" if not episode.qpos[:, dead].any() else ""
        text = f"columns {_list(dead)} never change{zero} but their actions do; check that joints were recorded"
        faults.append(Fault("dead-joint", episode.path, key, text))
    idle = np.flatnonzero(still & ~commanded)
    if len(idle):
        zero = "zero" if not episode.qpos[:, idle].any() else "constant"
        remarks.append(f"joint columns {_list(idle)} are {zero} in all rows, and no action moves them")
    return faults, remarks


TWO_ARMS = 1.5
"""Number of action columns divided by that of joint columns, above which the joints of a second arm may be missing."""


def second_arm(episode: Episode, untaken: Sequence[str]) -> tuple[str, str] | None:
    """Return (finding, advice) if the layout seems to read the joints of only one of two arms; None otherwise.

    Numbers of columns are no sign where the layout states the meaning of the columns: 7 changes of a pose and a gripper
    stand beside 4 joints as well. `untaken` lists arrays of the episode that the layout does not read, as
    `convert.untaken_streams` describes them.
    """
    state = episode.layout.state
    stated = bool(state.action_is or state.action_names or state.qpos_names)
    paths, joints, actions = episode.layout.state.qpos, episode.qpos.shape[1], episode.action.shape[1]
    unread = [text.partition(" (")[0] for text in untaken if " float" in text]
    plain = [_without_side(path) for path in paths]
    twins = sorted((key for key in unread if _without_side(key) in plain), key=lambda k: plain.index(_without_side(k)))
    if not twins and (stated or actions < TWO_ARMS * joints):
        return None
    measured = f"{actions} action numbers beside {joints} joint numbers"
    advice = "If the robot has two arms, list the joints of both as `qpos` of a layout (see datasets/README.md)"
    if twins:
        measured += f"; not read: {', '.join(twins)}"
        listed = ", ".join(f'"{path}"' for path in (*paths, *twins))
        advice = f"To read both arms, use a layout with the line qpos = [{listed}] in [state] (see datasets/README.md)"
    return printable(measured), printable(advice)


def _without_side(path: str) -> str:
    """Return the path of an array without the words and numbers that tell two arms apart."""
    return re.sub(r"\d+|left|right", "#", path)


def swapped_touch(episode: Episode, looks: dict[str, Look]) -> list[Fault]:
    """Return a fault for each pair of a touch stream and a camera stream that are probably exchanged.

    In such a pair the touch stream has more texture and motion than the camera. `looks` is by stream name.
    """
    faults = []
    for sensor in episode.sensors:
        for camera in episode.cameras:
            touch, scene = looks[sensor], looks[camera]
            busier = len(touch.at) > 1 and touch.motion.mean() > scene.motion.mean()
            if touch.texture > 1.5 * scene.texture and busier:
                got = f"fine structure {touch.texture:.1f} and {scene.texture:.1f} grey levels, and more motion"
                text = f"looks like a scene and {camera} like a touch ({got}); check whether the streams are exchanged"
                faults.append(Fault("swapped-touch", episode.path, episode.stream(sensor).key, text))
    return faults


def swapped_arms(episode: Episode, looks: dict[str, Look]) -> list[Fault]:
    """Return the fault of wrist cameras whose images move with the other arm's joints, in a list; [] if there is none.

    The joints must be those of two arms, with the left arm in the first half of the columns.
    """
    left = [name for name in episode.cameras if "left" in name]
    right = [name for name in episode.cameras if "right" in name]
    width = episode.qpos.shape[1]
    if len(left) != 1 or len(right) != 1 or width % 2 or len(looks[left[0]].at) < 20:
        return []
    at = looks[left[0]].at
    turned = np.abs(np.diff(episode.qpos[at], axis=0))
    speed = {"left": turned[:, : width // 2].sum(axis=1), "right": turned[:, width // 2 :].sum(axis=1)}
    motion = {"left": looks[left[0]].motion, "right": looks[right[0]].motion}
    if min(values.std() for values in (*speed.values(), *motion.values())) < 1e-6:
        return []
    r = {(a, b): float(np.corrcoef(motion[a], speed[b])[0, 1]) for a in motion for b in speed}
    crossed = min(r["left", "right"] - r["left", "left"], r["right", "left"] - r["right", "right"])
    if crossed < 0.3:
        return []
    text = f"moves with the right arm's joints (r = {r['left', 'right']:.2f}, left {r['left', 'left']:.2f})"
    text += f", and {right[0]} with the left arm's joints; check whether arms or cameras are exchanged"
    return [Fault("swapped-arms", episode.path, episode.stream(left[0]).key, text)]


def colours(episode: Episode, looks: dict[str, Look]) -> list[str]:
    """Return remarks on cameras whose colours match the other cameras better when red and blue are exchanged."""
    remarks = []
    histograms = {name: _histogram(looks[name].thumbs) for name in episode.cameras}
    for name, own in histograms.items():
        others = [histogram for other, histogram in histograms.items() if other != name]
        if not others:
            continue
        theirs = np.mean(others, axis=0)
        as_is = float(np.minimum(own, theirs).sum())
        turned = float(np.minimum(own.transpose(2, 1, 0), theirs).sum())
        if turned > as_is + 0.15:
            text = f"{turned:.0%} of its colours with the other cameras with red and blue exchanged, else {as_is:.0%}"
            remarks.append(
                f"{name} shares {text}; look at a frame; if its colours are wrong, set channels.streams in the layout"
            )
    return remarks


def stored_quality(episode: Episode, name: str) -> int | None:
    """Return the lowest estimated JPEG quality among nine frames of a stream; None when no frame is a JPEG."""
    stored = (episode.encoded(name, int(t)) for t in evenly(len(episode), 9))
    qualities = [codec.jpeg_quality(data) for data in stored if data is not None]
    return min((quality for quality in qualities if quality is not None), default=None)


def bytes_behind(episode: Episode, name: str) -> int:
    """Return the largest number of bytes, up to the last non-zero one, behind the image in nine rows of a stream."""
    rows = (episode.encoded(name, int(t), padded=True) for t in evenly(len(episode), 9))
    return max((len(row.rstrip(b"\0")) - codec.image_end(row) for row in rows if row is not None), default=0)


def distinct_share(look: Look, apart: float = 3.0) -> float:
    """Return the share of sampled frames that are distinct, 0 to 1.

    A frame is distinct if it differs from each earlier distinct frame by at least `apart` grey levels on average.
    """
    kept: list[np.ndarray] = []
    frames = look.thumbs.astype(np.float32)
    thumbs = [cv2.resize(frame, (10, 8), interpolation=cv2.INTER_AREA).ravel() for frame in frames]
    for thumb in thumbs:
        if not kept or np.abs(np.stack(kept) - thumb).mean(axis=1).min() >= apart:
            kept.append(thumb)
    return len(kept) / max(1, len(thumbs))


def _histogram(thumbs: np.ndarray) -> np.ndarray:
    """Return the share of pixels of each colour (red, green, blue), (24, 24, 24), normalised to equal brightness."""
    shares = thumbs / (thumbs.sum(axis=-1, keepdims=True) + 1e-6)
    red, green, blue = np.moveaxis(np.minimum((24 * shares).astype(np.int64), 23), -1, 0)
    counts = np.bincount(((red * 24 + green) * 24 + blue).ravel(), minlength=24**3)
    return np.asarray(counts.reshape(24, 24, 24) / counts.sum())


def _list(columns: np.ndarray) -> str:
    return ", ".join(str(int(c)) for c in columns)

"""Frames of a camera that sees a finger: their choice, flange poses and openings, and cross-validation of fits."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import Episode, EpisodeRef, list_episodes, open_episode
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.geometry.frames import invert, pose
from tactile_align.projection.episode_boxes import held_opening, qpos_at_exposure
from tactile_align.verify.evidence import Evidence, Labels, gather, label_name
from tactile_align.verify.labels import labelled_episodes

logger = logging.getLogger(__name__)

Reading = Literal["commanded", "measured"]
Solve = Callable[[np.ndarray], np.ndarray]
"""Function that fits parameters to the frames that flags (N,) select out of N frames, and returns their array."""
MOST_FOLDS = 10
SAME_M = 0.0005
"""Difference of openings below which a frame cannot tell a commanded from a measured reading."""
CROWDED, WORN = 0.10, 0.02
"""Costs that spread the choice, as shares of the range of openings. CROWDED: cost of a frame next to a chosen frame.
WORN: cost for each frame already chosen from the same episode."""


@dataclass(frozen=True)
class Chosen:
    """Chosen frame: its episode, its row, and a finger's distance from the tool axis, m (None without a rig)."""

    ref: EpisodeRef
    frame: int
    opening: float | None = None


def choose_frames(
    path: str | Path,
    camera: str,
    count: int,
    *,
    rig: Rig | None = None,
    arm: str | None = None,
    layout: str | Path | None = None,
    not_in: Labels | None = None,
) -> tuple[Chosen, ...]:
    """Return frames of a camera, sorted by episode and row.

    With a rig and an arm, the frames lie evenly over the quantiles of that arm's gripper opening. They come from as
    many episodes, and lie as far apart in time, as the openings allow. Without a rig or an arm, they lie evenly in
    time. They also lie evenly in time if the rig cannot read an episode's gripper; a warning is logged.

    Args:
        path: A folder of episodes, or one file.
        camera: Name of a camera that every episode holds.
        count: How many frames; all frames if the episodes hold fewer. At most 2 * `count` episodes are opened.
        rig: The rig.
        arm: Name of the arm over whose gripper openings the frames are spread.
        layout: The episodes' layout; recognised when None.
        not_in: Labels whose frames of this camera are not chosen. With a rig and an arm, the chosen frames also lie
            apart from these in time.

    Raises:
        FileNotFoundError, EpisodeError: No episodes were found, or they are damaged.
        InputError: `count` is less than 1, an episode lacks the camera, or the episodes hold no frames to choose from.
    """
    if count < 1:
        raise InputError(f"count must be at least 1 frame; got {count}. Choose a larger count")
    refs = list_episodes(path, layout)
    refs = tuple(refs[i] for i in evenly(len(refs), 2 * count))
    openings, known = [], rig is not None and arm is not None
    for ref in refs:
        with open_episode(ref) as episode:
            if camera not in episode.cameras:
                raise InputError(f"{ref} has no camera '{camera}'. Choose from: {', '.join(episode.cameras) or 'none'}")
            stands = np.full(len(episode), np.nan)
            if rig and arm and known:
                try:
                    stands = np.asarray(rig.gripper(arm).opening(episode.qpos)[:, 0])
                except InputError as error:
                    # Hand-drawn boxes help to find this fault, so the fault must not prevent drawing them.
                    known = False
                    logger.warning(f"{episode.about(error)} Frames are chosen evenly in time.")
            openings.append(stands)
    episode_of = np.repeat(np.arange(len(refs)), [len(stands) for stands in openings])
    frame_of = np.concatenate([np.arange(len(stands)) for stands in openings])
    pooled = np.concatenate(openings)
    if len(pooled) == 0:
        raise InputError(f"{path}: the episodes hold no frames. Record episodes with frames")
    drawn = {(key[0], frame) for key, boxes in (not_in or {}).items() if key[1] == camera for frame in boxes}
    names = [label_name(ref) for ref in refs]
    left = np.array([(names[i], frame) not in drawn for i, frame in zip(episode_of, frame_of, strict=True)])
    if not left.any():
        raise InputError(f"{path}: the labels contain all {len(left)} frames. Choose from all frames, without --not-in")
    if known:
        taken = _over_openings(pooled, episode_of, frame_of, min(count, int(left.sum())), left)
    else:
        taken = np.flatnonzero(left)[np.unique(((np.arange(count) + 0.5) / count * left.sum()).astype(int))]
    return tuple(
        Chosen(refs[episode_of[i]], int(frame_of[i]), float(pooled[i]) if known else None) for i in np.sort(taken)
    )


def _over_openings(
    opening: np.ndarray, episode: np.ndarray, frame: np.ndarray, count: int, left: np.ndarray
) -> np.ndarray:
    """Return indices (count,) of frames at evenly spaced quantiles of the opening, among those that `left` selects.

    Both ends are included if all frames are left; otherwise, the quantiles lie between those of such a first choice.
    """
    span = max(float(np.ptp(opening)), 1e-9)
    reach = np.bincount(episode)[episode] / 4
    cost, taken = np.zeros(len(opening)), np.zeros(count, int)

    def crowded(row: int) -> np.ndarray:
        return (episode == episode[row]) * CROWDED * np.clip(1 - np.abs(frame - frame[row]) / reach, 0, None) ** 2

    def take(row: int) -> None:
        np.add(cost, WORN * (episode == episode[row]) + crowded(row), out=cost)
        cost[row] = np.inf

    # Of the labels only the nearest counts: many in one episode must not drive the choice to openings of others.
    for row in np.flatnonzero(~left):
        np.maximum(cost, crowded(int(row)), out=cost)
    cost[~left] = np.inf
    shares = np.linspace(0, 1, count) if left.all() else (np.arange(count) + 0.5) / count
    for i, target in enumerate(np.quantile(opening, shares)):
        taken[i] = np.argmin(np.abs(opening - target) / span + cost)
        take(int(taken[i]))
    return taken


def labelled_rows(
    path: str | Path, rig: Rig, labels: Labels, layout: str | Path | None
) -> Iterator[tuple[Episode, Evidence, dict[tuple[str, str], list[int]]]]:
    """Yield each labelled episode, open, its evidence, and the sorted rows of its boxes by camera and sensor.

    Raises:
        FileNotFoundError, EpisodeError: No episodes were found, or they are damaged.
        InputError: The labels refer to an unknown episode or frame, or the episode does not match the rig.
    """
    refs = labelled_episodes(path, list_episodes(path, layout), {key[0] for key in labels})
    for name, ref in refs.items():
        with open_episode(ref) as episode:
            rows = {(key[1], key[2]): sorted(boxes) for key, boxes in labels.items() if key[0] == name}
            yield episode, gather(episode, rig, labels), rows


def used_frames(labels: Labels, camera: str, sensor: str) -> dict[str, tuple[int, ...]]:
    """Return the frames with a box of a sensor in a camera, by episode, as `Rig.fitted` contains them."""
    return {key[0]: tuple(sorted(boxes)) for key, boxes in sorted(labels.items()) if key[1:] == (camera, sensor)}


@dataclass(frozen=True)
class FingerFrames:
    """N frames of one camera, from any number of episodes.

    Attributes:
        lenses: Camera models of the stored frames. There are several if an [[override]] gives episodes their own.
        which: (N,) index of each frame's camera model in `lenses`.
        T_camera_flange: (N, 4, 4) pose of the flange in the camera's frame, m.
        opening: Distance of the finger from the tool axis, (N,), m, by the kind of reading. measured: as recorded.
            commanded: held from contact onset on.
        axis: (3,) unit vector in the flange frame along which this finger opens.
        stated: Kind of reading that the rig states.
    """

    lenses: tuple[Camera, ...]
    which: np.ndarray
    T_camera_flange: np.ndarray
    opening: dict[Reading, np.ndarray]
    axis: np.ndarray
    stated: Reading

    @classmethod
    def of(
        cls, episode: Episode, rig: Rig, camera: str, finger: str, evidence: Evidence, frames: Sequence[int]
    ) -> Self:
        """Return the selected frames of an episode.

        Args:
            episode: The episode.
            rig: The rig; overrides for the episode are applied here.
            camera: Name of the camera.
            finger: Name of the finger's frame, such as left/finger1.
            evidence: Evidence of the episode; only its contact is used.
            frames: The rows of the frames.

        Raises:
            InputError: The episode lacks the camera or a frame; joints or gripper readings are out of range; the
                camera has a delay but the recording states no rate.
        """
        if camera not in episode.cameras:
            raise InputError(f"{episode.ref} has no camera '{camera}'. Choose from: {', '.join(episode.cameras)}")
        if frames and not 0 <= min(frames) <= max(frames) < len(episode):
            raise InputError(
                f"{episode.ref} has frames 0 to {len(episode) - 1}; requested were {min(frames)} to {max(frames)}. "
                f"Remove the frames that do not exist"
            )
        rig = rig.for_episode(episode.path)
        arm, _, node = finger.partition("/")
        gripper, column, rows = rig.gripper(arm), int(node == "finger2"), np.asarray(frames, dtype=int)
        opening: dict[Reading, np.ndarray] = {}
        for reading in ("commanded", "measured"):
            read = rig.with_gripper(arm, reading=reading)
            opening[reading] = held_opening(read, arm, episode.qpos, evidence.contact)[rows, column]
        mounted = rig.camera(camera)
        qpos = qpos_at_exposure(rig, camera, episode.qpos, episode.fps)[rows]
        T = invert(mounted.T_parent_this) @ rig.T_from_to(mounted.parent, f"{arm}/flange", qpos)
        axis = np.asarray(gripper.law.axis) * (-1.0 if column else 1.0)
        return cls((mounted.stored,), np.zeros(len(rows), int), T, opening, axis, gripper.reading)

    @classmethod
    def join(cls, parts: "Sequence[FingerFrames]") -> "FingerFrames":
        """Return the frames of several episodes as one FingerFrames."""
        lenses, which = distinct_lenses([part.lenses[0] for part in parts], [len(part) for part in parts])
        T = np.concatenate([part.T_camera_flange for part in parts])
        opening = {key: np.concatenate([part.opening[key] for part in parts]) for key in parts[0].opening}
        return replace(parts[0], lenses=lenses, which=which, T_camera_flange=T, opening=opening)

    def __len__(self) -> int:
        return len(self.which)

    def only(self, rows: np.ndarray) -> "FingerFrames":
        """Return M of the N frames; `rows` are their indices, (M,), or one flag per frame, (N,) bool."""
        opening = {reading: values[rows] for reading, values in self.opening.items()}
        return replace(self, which=self.which[rows], T_camera_flange=self.T_camera_flange[rows], opening=opening)

    @property
    def telling(self) -> np.ndarray:
        """Flags (N,) of the frames in which a commanded and a measured gripper reading give different openings."""
        return np.abs(self.opening["commanded"] - self.opening["measured"]) > SAME_M

    def T_flange_finger(
        self, stroke: float | np.ndarray = 1.0, axis: np.ndarray | None = None, reading: Reading | None = None
    ) -> np.ndarray:
        """Return the poses T_flange_finger of the finger in the flange's frame, (..., N, 4, 4), m.

        Args:
            stroke: (...) factors on the rig's opening.
            axis: (3,) unit vector in the flange frame along which the finger opens; None: the rig's.
            reading: Kind of gripper reading; None: the rig's.
        """
        out = np.asarray(stroke)[..., None] * self.opening[reading or self.stated]
        turn = np.broadcast_to(np.eye(3), (*out.shape, 3, 3))
        return np.asarray(pose(turn, out[..., None] * (self.axis if axis is None else axis)))


def cross_validated(
    group: np.ndarray, solve: Solve, error: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return K fits, each without a tenth of the frames, and for each frame its error with the fit that left it out.

    Args:
        group: (N,) number of each frame's group, from 0; the frames of a group are left out together.
        solve: Function that fits parameters to a selection of the frames.
        error: Function of flags (N,) that select M of the N frames, and of fitted parameters; returns errors (M,).

    Returns:
        Fitted parameters (K, ...), and for each frame its error (N,) with the fit that left it out.
    """
    folds = [group % MOST_FOLDS == k for k in range(min(MOST_FOLDS, int(group.max()) + 1))]
    fits = np.stack([solve(~fold) for fold in folds])
    errors = np.empty(len(group))
    for fold, x in zip(folds, fits, strict=True):
        errors[fold] = error(fold, x)
    return fits, errors


def likely_reading(
    telling: np.ndarray, solve: Solve, error: Callable[[np.ndarray, np.ndarray, Reading], np.ndarray], margin: float
) -> Reading | None:
    """Return whether the gripper reading is measured (follows the fingers) or commanded; None if unclear.

    A fit to the frames in which both kinds of reading give the same opening predicts the frames in which they differ.

    Args:
        telling: (N,) flags of the frames in which both kinds give different openings, see `FingerFrames.telling`.
        solve: Function that fits parameters to a selection of the frames.
        error: As in `cross_validated`, but also a function of the kind of reading.
        margin: Difference above which the medians of the two errors decide, in the unit of the errors.
    """
    if not telling.any():
        return None
    agreed = solve(~telling)
    held, plain = error(telling, agreed, "commanded"), error(telling, agreed, "measured")
    both = np.isfinite(held) & np.isfinite(plain)
    if both.sum() < 4:
        return None
    gap = float(np.median(plain[both]) - np.median(held[both]))
    return "commanded" if gap > margin else "measured" if gap < -margin else None


def finger_of(rig: Rig, sensor: str) -> str:
    """Return the name of the frame of the finger that carries a sensor, such as left/finger1.

    Raises:
        InputError: The sensor is not on a finger.
    """
    parent = rig.sensor(sensor).parent
    if parent.partition("/")[2] not in ("finger1", "finger2"):
        raise InputError(f"{sensor} has parent '{parent}', expected ARM/finger1 or ARM/finger2. Correct the rig")
    return parent


def distinct_lenses(lenses: Sequence[Camera], counts: Sequence[int]) -> tuple[tuple[Camera, ...], np.ndarray]:
    """Return the different camera models among `lenses`, and for each frame the index of its model.

    Equal models are stored once, so that all their frames are projected in one call.

    Args:
        lenses: The camera model of each episode.
        counts: Number of frames in each episode.
    """
    keys = [(one.width, one.height, one.K.tobytes(), one.model, one.distortion, one.valid_radius) for one in lenses]
    models = dict(zip(keys, lenses, strict=True))
    return tuple(models.values()), np.repeat([list(models).index(key) for key in keys], counts)

"""Label page on which a person draws boxes around a touch sensor: one HTML file, no server, no network."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from tactile_align.calibration.rig import Rig, load_rig, rig_beside
from tactile_align.datasets.episodes import Episode, EpisodeRef, open_episode
from tactile_align.errors import InputError
from tactile_align.files import refuse_existing, write_text_atomically
from tactile_align.finger.frames import Chosen, choose_frames
from tactile_align.projection.episode_boxes import episode_boxes, hand_of, require_rig_size
from tactile_align.verify.evidence import Labels, label_name
from tactile_align.viz.report.page import filled, jpeg_data

COUNT = 12
"""Number of frames that `calibrate finger` and `verify` recommend."""
JPEG_QUALITY = 92
WIDEST_PX = 1920
"""Maximum width of an embedded frame, px; wider frames are shrunk, but boxes are saved in recorded pixels."""
TOUCH_PX = 320
"""Maximum width of an embedded touch image, px."""
MOVES_PX = 2.0
"""Smallest motion of a box between the closed and the open gripper that is stated, px."""
SLANT = 0.4
"""Smallest share of the motion along one axis that the motion along the other axis must have to be stated too."""


def label_page(
    path: str | Path,
    camera: str,
    sensor: str,
    out: str | Path,
    *,
    rig: str | Path | Rig | None = None,
    count: int = COUNT,
    layout: str | Path | None = None,
    not_in: Labels | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an HTML page for drawing boxes on recorded frames; `read_labels` reads the CSV file that the page saves.

    Boxes are in pixels of the recorded image; (0, 0) is the centre of the first pixel. The browser stores the drawn
    boxes, so that nothing is lost when the page is closed. The page states which sensor is meant: the part that carries
    it, roughly its place by the rig, where it moves as the gripper opens, and its touch image.

    Args:
        path: A folder of episodes, or one file.
        camera: The camera whose frames are shown.
        sensor: The sensor around which boxes are drawn, by its name in the rig.
        out: The HTML file.
        rig: The rig, its name or its file; None: that of `rig_beside`, if there is one. With a rig, the frames are
            spread evenly over the gripper openings. Without a rig, or if the rig cannot read the openings, the frames
            are spread evenly over time.
        count: Number of frames.
        layout: Name or path of the episodes' layout; None: the layout is detected.
        not_in: Labels whose frames of this camera are not shown.
        overwrite: Whether an existing file may be replaced.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: No episodes were found.
        FileExistsError: The page exists and `overwrite` is False.
        InputError: The camera or the sensor is unknown, two episodes have the same name, or a file cannot be read.
    """
    target = Path(out)
    refuse_existing(target, overwrite=overwrite)
    known = rig_beside(path) if rig is None else load_rig(rig) if isinstance(rig, str | Path) else rig
    arm = None
    if known is not None:
        known.camera(camera)
        holder = known.sensor_arm(sensor)
        arm = holder if holder and known.arms[holder].gripper is not None else None
    chosen = choose_frames(path, camera, count, rig=known, arm=arm, layout=layout, not_in=not_in)
    _require_own_names(chosen)
    by_episode = itertools.groupby(chosen, key=lambda choice: choice.ref)
    frames = [frame for ref, choices in by_episode for frame in _embedded(ref, choices, camera, sensor, known)]
    # The key does not depend on the rig, so that the drawn boxes survive a corrected rig.
    shown = [camera, sensor, [[frame["episode"], frame["frame"], frame["source"]] for frame in frames]]
    key = "tactile-align label " + hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:32]
    mounts = {} if known is None else {name: entry.parent for name, entry in known.sensors.items()}
    task = {"camera": camera, "sensor": sensor, "frames": frames, "key": key, "mounts": mounts}
    page = filled("label/label.html", title=f"Draw boxes: {sensor} in {camera}", task=task)
    write_text_atomically(target, page)
    return target


def _require_own_names(chosen: Iterable[Chosen]) -> None:
    """Raise an error if two episodes would have the same name in the labels."""
    refs: dict[str, EpisodeRef] = {}
    for choice in chosen:
        ref = refs.setdefault(label_name(choice.ref), choice.ref)
        if ref != choice.ref:
            raise InputError(
                f"{ref} and {choice.ref} have the same file name, but labels identify an episode by its file name. "
                f"Label one folder at a time"
            )


def _embedded(
    ref: EpisodeRef, choices: Iterable[Chosen], camera: str, sensor: str, rig: Rig | None
) -> Iterator[dict[str, object]]:
    """Yield the chosen frames of an episode; each image is a data URL."""
    with open_episode(ref) as episode:
        hint = _Hint.of(episode, camera, sensor, rig)
        for choice in choices:
            image = episode.image(camera, choice.frame)
            high, wide = image.shape[:2]
            source, *_ = jpeg_data(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), WIDEST_PX, JPEG_QUALITY)
            size = {"width": wide, "height": high}
            yield {
                "episode": label_name(ref),
                "frame": choice.frame,
                **size,
                "opening": choice.opening,
                "source": source,
                "touch": _touch(episode, sensor, rig, choice.frame),
                "place": hint.place(choice.frame),
                "moves": hint.moves(choice.frame),
            }


def _touch(episode: Episode, sensor: str, rig: Rig | None, frame: int) -> str | None:
    """Return the touch image of a frame as a data URL; None if the episode does not hold it."""
    stream = sensor if rig is None else rig.sensor(sensor).stream
    if stream not in episode.sensors:
        return None
    return jpeg_data(cv2.cvtColor(episode.image(stream, frame), cv2.COLOR_RGB2BGR), TOUCH_PX, JPEG_QUALITY)[0]


@dataclass(frozen=True)
class _Hint:
    """Where a sensor is by the rig, in the T frames of an episode, px of the recorded frame.

    Attributes:
        box: (T, 4) boxes, also beyond the border of the image; nan where there is none.
        visible: (T,) bool, whether some of the box is in the image.
        opens: (T, 2) motion of the centre of the box from the closed to the open gripper; nan if unknown.
    """

    box: np.ndarray
    visible: np.ndarray
    opens: np.ndarray

    @classmethod
    def of(cls, episode: Episode, camera: str, sensor: str, rig: Rig | None) -> "_Hint":
        """Return the hints of an episode; there are none without a rig or if the rig does not fit the episode."""
        frames = len(episode)
        none = cls(np.full((frames, 4), np.nan), np.zeros(frames, bool), np.full((frames, 2), np.nan))
        if rig is None:
            return none
        rig = rig.for_episode(episode.path)
        try:
            require_rig_size(episode, rig, camera)
            # A commanded opening is not held during contact here: finding the contacts takes longer than the page.
            view = episode_boxes(rig, camera, sensor, episode.qpos, {}, episode.fps, min_side_px=0)
            boxes, opens, arm = view.boxes, none.opens, hand_of(rig, sensor)
            if arm:
                closed, wide = np.asarray(rig.gripper(arm).law.opening(np.array([0.0, 1.0])))
                ends = [replace(view, opening=np.full((frames, 2), end)).boxes.raw for end in (closed, wide)]
                opens = (ends[1] - ends[0]).reshape(frames, 2, 2).mean(axis=1)
        except InputError:
            # Boxes drawn by hand help to find this fault, so the fault must not prevent drawing them.
            return none
        return cls(boxes.raw, boxes.visible, opens)

    def place(self, frame: int) -> list[float] | None:
        """Return the box of a frame; None if it is not in the image."""
        return [round(edge, 1) for edge in self.box[frame].tolist()] if self.visible[frame] else None

    def moves(self, frame: int) -> str:
        """Return in which direction the box of a frame moves as the gripper opens, in words; "" if it hardly moves."""
        right, down = np.nan_to_num(self.opens[frame]).tolist()
        words = []
        for off, other, names in ((right, down, ("left", "right")), (down, right, ("up", "down"))):
            if abs(off) >= max(MOVES_PX, SLANT * abs(other)):
                words.append(names[off > 0])
        return " and ".join(words)

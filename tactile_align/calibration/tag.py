"""A printed tag on a finger or on its sensor: what the file says about it, and where recorded frames show it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

import cv2
import numpy as np
from pydantic import Field, model_validator

from tactile_align.calibration.boards import Board
from tactile_align.calibration.choosing import choose_frames
from tactile_align.calibration.evidence import gather
from tactile_align.calibration.finger_frames import FingerFrames, finger_of
from tactile_align.calibration.mount import Mount
from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import EpisodeRef, open_episode
from tactile_align.errors import InputError
from tactile_align.facts import parse, read_fact

LOOK_AT = 120
"""Frames in which the tag is searched, over all episodes."""
FINGERS = ("finger1", "finger2")


class FingerTag(Mount):
    """A tag and where it is glued: T_parent_tag, its CENTRE, x to its right, y down, z into the surface.

    `parent` says which place is known, and so what the tag can find: glued to a sensor, it finds where the sensor
    sits on its finger, for a calibrated camera; glued to ARM/finger1, it finds where a camera sits on that hand.
    """

    dictionary: str = "DICT_APRILTAG_36h11"
    id: Annotated[int, Field(ge=0)]
    side_m: Annotated[float, Field(gt=0.0005, lt=0.5)]
    """Side, black border included, m."""

    @model_validator(mode="after")
    def _board_exists(self) -> Self:
        _ = self.board
        return self

    @cached_property
    def board(self) -> Board:
        """The tag as a board."""
        return Board(kind="tag", square_m=self.side_m, dictionary=self.dictionary, id=self.id)

    @cached_property
    def corners(self) -> np.ndarray:
        """(4, 3) corners about the centre, m, in the order in which they are found."""
        return self.board.points - self.board.points.mean(0)

    def finger(self, rig: Rig) -> str:
        """Return the finger it moves with, as in ARM/finger1.

        Raises:
            InputError: The parent is neither a finger nor a sensor on one.
        """
        if self.parent in rig.sensors:
            return finger_of(rig, self.parent)
        arm, _, node = self.parent.partition("/")
        if node not in FINGERS or arm not in rig.arms:
            raise InputError(
                f"a tag's parent is a finger or a sensor of the rig: ARM/finger1 with ARM of {', '.join(rig.arms)}, or "
                f"{', '.join(rig.sensors) or 'a sensor (there is none)'}; got '{self.parent}'"
            )
        return self.parent


def read_tag(path: str | Path) -> FingerTag:
    """Read a tag file: id, side_m, dictionary, parent, translation_m and quat_wxyz (or matrix).

    Raises:
        FileNotFoundError: No such file.
        FactError: A wrong key or value; names file and key.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file. Needed: a tag file (id, side_m, dictionary, parent, pose)")
    data, source = read_fact("calibration", path)
    return parse(FingerTag, data, source)


@dataclass(frozen=True)
class Sightings:
    """N frames that show a tag.

    Attributes:
        frames: The frames.
        uv: (N, 4, 2) its corners, px of the stored frame.
        names: N names for messages.
        looked: How many frames were searched.
        refs: The episodes that show it.
        digests: Their hashes.
    """

    frames: FingerFrames
    uv: np.ndarray
    names: tuple[str, ...]
    looked: int
    refs: tuple[EpisodeRef, ...]
    digests: tuple[str, ...]


def find_tag(path: str | Path, rig: Rig, camera: str, tag: FingerTag, *, layout: str | Path | None = None) -> Sightings:
    """Search recorded frames for a tag, over the openings of its gripper.

    Raises:
        FileNotFoundError, EpisodeError, InputError: Episodes that cannot be used, or no frame that shows the tag.
    """
    finger = tag.finger(rig)
    rig.camera(camera)
    chosen = choose_frames(path, camera, LOOK_AT, rig=rig, arm=finger.partition("/")[0], layout=layout)
    parts, corners, names, refs, digests = [], [], [], [], []
    for ref in dict.fromkeys(one.ref for one in chosen):
        with open_episode(ref) as episode:
            seen: dict[int, np.ndarray] = {}
            for frame in (one.frame for one in chosen if one.ref == ref):
                found = tag.board.detect(cv2.cvtColor(episode.image(camera, frame), cv2.COLOR_RGB2GRAY))
                if found is not None:
                    seen[frame] = found.uv
            if not seen:
                continue
            evidence = gather(episode, rig)
            refs.append(ref)
            digests.append(evidence.digest)
            parts.append(FingerFrames.of(episode, rig, camera, finger, evidence, list(seen)))
            corners += list(seen.values())
            names += [f"{ref.path.name} frame {frame}" for frame in seen]
    if not parts:
        raise InputError(
            f"{path}: none of {len(chosen)} frames of {camera} shows tag {tag.id} of {tag.dictionary}. Is it the "
            f"dictionary and id that were printed, flat, in view, and at least 20 px wide with a white rim?"
        )
    return Sightings(
        FingerFrames.join(parts), np.stack(corners), tuple(names), len(chosen), tuple(refs), tuple(digests)
    )

"""Where a session's images come from: a folder of files, or frames of a recorded episode with its joints."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tactile_align.calibration.compat import read_grey
from tactile_align.datasets.episodes import open_episode
from tactile_align.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
STILL_RAD = 5e-4
"""An arm whose joints change by less from frame to frame stands still; encoders jitter by a tenth of it."""
STILL_FRAMES = 5


@dataclass(frozen=True)
class Shot:
    """An image of a session.

    Attributes:
        name: The view's name.
        where: The file, and the frame in it, for messages.
        image: (H, W) uint8 grey.
    """

    name: str
    where: str
    image: np.ndarray


def shots_of_folder(folder: Path) -> Iterator[Shot]:
    """Yield the images of a folder by name.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A file is no image.
    """
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"{folder}: no images; needed one per view ({', '.join(SUFFIXES)})")
    for file in files:
        yield Shot(file.stem, str(file), read_grey(file))


def shots_of_episode(episode: str, camera: str, frames: tuple[int, ...]) -> Iterator[Shot]:
    """Yield frames of an episode's camera, as the recorder stored them.

    Raises:
        EpisodeError, InputError: The episode has no such camera or frame.
    """
    with open_episode(episode) as recorded:
        if camera not in recorded.cameras:
            raise InputError(f"{episode}: has no camera '{camera}'; it has {', '.join(recorded.cameras)}")
        for t in frames:
            image = cv2.cvtColor(recorded.image(camera, t), cv2.COLOR_RGB2GRAY)
            yield Shot(frame_name(t), f"{episode}: {camera}, frame {t}", np.asarray(image))


def frame_name(t: int) -> str:
    """Return how the view of a frame is called."""
    return f"frame_{t:06d}"


def joints_of_episode(
    episode: str, columns: tuple[int, ...], turn: float, frames: tuple[int, ...] | None
) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the frames that are views and the joints there, (N, k), in the episode's unit.

    Args:
        episode: The file, or file#NAME.
        columns: Which columns of qpos are the arm's joints.
        turn: What one unit of them is in rad.
        frames: The frames; None: the middle of every stretch in which the arm stands still.

    Raises:
        EpisodeError, InputError: No such column or frame, or the arm never stands still; names the file.
    """
    with open_episode(episode) as recorded:
        qpos = np.asarray(recorded.qpos, dtype=np.float64)
    if max(columns) >= qpos.shape[1]:
        raise InputError(f"{episode}: qpos has {qpos.shape[1]} columns; session.toml's columns name {max(columns)}")
    q = qpos[:, list(columns)]
    if frames is None:
        frames = standstills(q * turn)
        if not frames:
            raise InputError(
                f"{episode}: the arm never stands still for {STILL_FRAMES} frames; let it rest before each view, or "
                f"name frames in session.toml"
            )
    wrong = [t for t in frames if t >= len(q)]
    if wrong:
        raise InputError(f"{episode}: session.toml names frame {wrong[0]}, but the episode has {len(q)} frames")
    return frames, q[list(frames)]


def standstills(q: np.ndarray) -> tuple[int, ...]:
    """Return the middle frame of each stretch in which joints (T, n), rad, rest."""
    rests = np.abs(np.diff(q, axis=0)).max(axis=1) < STILL_RAD
    edges = np.flatnonzero(np.diff(np.concatenate([[False], rests, [False]]).astype(int)))
    return tuple(
        int(begin + end) // 2 for begin, end in zip(edges[::2], edges[1::2], strict=True) if end - begin >= STILL_FRAMES
    )

"""The label page, on which a person draws boxes around a touch sensor: one HTML file, no server, no network."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import EpisodeRef, open_episode
from tactile_align.errors import InputError
from tactile_align.files import refuse_existing, write_text_atomically
from tactile_align.finger.choose_frames import Chosen, choose_frames
from tactile_align.verify.evidence import label_name
from tactile_align.viz.report.page import filled, jpeg_data

COUNT = 20
"""Number of frames that `calibrate finger` and `verify` recommend."""
JPEG_QUALITY = 92
WIDEST_PX = 1920
"""Width beyond which a frame is embedded smaller; boxes stay in pixels of the recorded frame."""


def label_page(
    path: str | Path,
    camera: str,
    sensor: str,
    out: str | Path,
    *,
    rig: str | Path | Rig | None = None,
    count: int = COUNT,
    layout: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a page that shows frames of recorded episodes and saves the drawn boxes as the CSV of `read_labels`.

    Boxes are in pixels of the recorded image, (0, 0) the centre of the first pixel. The browser keeps the drawn
    boxes, so that closing the page loses nothing.

    Args:
        path: A folder of episodes, or one file.
        camera: The camera whose frames are shown.
        sensor: The sensor to draw boxes around, by its name in the rig.
        out: The HTML file.
        rig: The rig, its name or file; None: `rig.toml` beside the episodes where there is one. With a rig the frames
            are spread evenly over the openings of the gripper; without one, or where it cannot read the openings,
            evenly in time.
        count: Number of frames.
        layout: The episodes' layout; recognised when None.
        overwrite: Whether to replace an existing file.

    Raises:
        FileNotFoundError: No episodes.
        FileExistsError: The page exists and `overwrite` is False.
        InputError: An unknown camera or sensor, two episodes of one name, or a file that cannot be read.
    """
    target = Path(out)
    refuse_existing(target, overwrite=overwrite)
    if rig is None:
        beside = (Path(path) if Path(path).is_dir() else Path(path).parent) / "rig.toml"
        rig = beside if beside.is_file() else None
    known = load_rig(rig) if isinstance(rig, str | Path) else rig
    arm = None
    if known is not None:
        known.camera(camera)
        holder = known.sensor_arm(sensor)
        arm = holder if holder and known.arms[holder].gripper is not None else None
    chosen = choose_frames(path, camera, count, rig=known, arm=arm, layout=layout)
    _require_own_names(chosen)
    by_episode = itertools.groupby(chosen, key=lambda choice: choice.ref)
    frames = [frame for ref, choices in by_episode for frame in _embedded(ref, choices, camera)]
    task = {"camera": camera, "sensor": sensor, "frames": frames}
    task["key"] = "tactile-align label " + hashlib.sha256(json.dumps(task).encode()).hexdigest()[:32]
    page = filled("label/label.html", title=f"Draw boxes: {sensor} in {camera}", task=task)
    write_text_atomically(target, page)
    return target


def _require_own_names(chosen: Iterable[Chosen]) -> None:
    """Refuse two episodes that have one name in labels."""
    refs: dict[str, EpisodeRef] = {}
    for choice in chosen:
        ref = refs.setdefault(label_name(choice.ref), choice.ref)
        if ref != choice.ref:
            raise InputError(
                f"labels name an episode by its file's name, but {ref} and {choice.ref} share one; label one folder "
                f"at a time"
            )


def _embedded(ref: EpisodeRef, choices: Iterable[Chosen], camera: str) -> Iterator[dict[str, object]]:
    """Yield the chosen frames of an episode with their pictures as data URLs."""
    with open_episode(ref) as episode:
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
            }

"""Label page on which a person draws boxes around a touch sensor: one HTML file, no server, no network."""

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
from tactile_align.finger.frames import Chosen, choose_frames
from tactile_align.verify.evidence import label_name
from tactile_align.viz.report.page import filled, jpeg_data

COUNT = 20
"""Number of frames that `calibrate finger` and `verify` recommend."""
JPEG_QUALITY = 92
WIDEST_PX = 1920
"""Maximum width of an embedded frame, px; wider frames are shrunk, but boxes are saved in recorded pixels."""


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
    """Write an HTML page for drawing boxes on recorded frames; `read_labels` reads the CSV file that the page saves.

    Boxes are in pixels of the recorded image; (0, 0) is the centre of the first pixel. The browser stores the drawn
    boxes, so that nothing is lost when the page is closed.

    Args:
        path: A folder of episodes, or one file.
        camera: The camera whose frames are shown.
        sensor: The sensor around which boxes are drawn, by its name in the rig.
        out: The HTML file.
        rig: The rig, its name or its file; None: `rig.toml` beside the episodes, if it exists. With a rig, the frames
            are spread evenly over the gripper openings. Without a rig, or if the rig cannot read the openings, the
            frames are spread evenly over time.
        count: Number of frames.
        layout: Name or path of the episodes' layout; None: the layout is detected.
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
    """Raise an error if two episodes would have the same name in the labels."""
    refs: dict[str, EpisodeRef] = {}
    for choice in chosen:
        ref = refs.setdefault(label_name(choice.ref), choice.ref)
        if ref != choice.ref:
            raise InputError(
                f"{ref} and {choice.ref} have the same file name, but labels identify an episode by its file name. "
                f"Label one folder at a time"
            )


def _embedded(ref: EpisodeRef, choices: Iterable[Chosen], camera: str) -> Iterator[dict[str, object]]:
    """Yield the chosen frames of an episode; the image of each frame is a data URL."""
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

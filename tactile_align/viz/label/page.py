"""A page on which a person draws boxes around a touch sensor: one HTML file, no server, no network."""

import hashlib
import json
from pathlib import Path

import cv2

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.datasets.episodes import open_episode
from tactile_align.errors import InputError
from tactile_align.files import write_text_atomically
from tactile_align.finger.choose_frames import Chosen, choose_frames
from tactile_align.verify.evidence import label_name
from tactile_align.viz.report.page import filled, jpeg_data

COUNT = 20
"""What `calibrate finger` and `verify` ask for."""
JPEG_QUALITY = 92
WIDEST_PX = 1920
"""A wider frame is embedded smaller; boxes stay in pixels of the recorded one."""


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
    """Write a page that shows some frames of recorded episodes and saves boxes as the CSV `read_labels` reads.

    Boxes are in pixels of the recorded image, (0, 0) the centre of the first pixel. What was drawn is kept by the
    browser, so that closing the page loses nothing.

    Args:
        path: A folder of episodes, or one file.
        camera: The camera to look through.
        sensor: The sensor to look for, by its name in the rig.
        out: The HTML file.
        rig: The rig, its name or file; None: `rig.toml` beside the episodes where there is one. With it, frames lie
            evenly over the gripper's openings; else, and where it cannot read them, evenly in time.
        count: How many frames.
        layout: The episodes' layout; recognised when None.
        overwrite: Whether to replace an existing file.

    Raises:
        FileNotFoundError, FileExistsError: No episodes; the page is there already.
        FactError, EpisodeError, ValueError: A camera or sensor that is not there, two episodes of one name, or
            what cannot be read.
    """
    target = Path(out)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: is there already; name another file, or --overwrite")
    known = _rig_of(path, rig)
    arm = None
    if known is not None:
        known.camera(camera)
        holder = known.sensor_arm(sensor)
        arm = holder if holder and known.arms[holder].gripper is not None else None
    chosen = choose_frames(path, camera, count, rig=known, arm=arm, layout=layout)
    _require_own_names(chosen)
    frames = [frame for ref in dict.fromkeys(one.ref for one in chosen) for frame in _embedded(chosen, ref, camera)]
    task = {"camera": camera, "sensor": sensor, "frames": frames}
    task["key"] = "tactile-align label " + hashlib.sha256(json.dumps(task).encode()).hexdigest()[:32]
    page = filled("label/label.html", title=f"Draw boxes: {sensor} in {camera}", task=task)
    write_text_atomically(target, page)
    return target


def _rig_of(path: str | Path, rig: str | Path | Rig | None) -> Rig | None:
    if isinstance(rig, Rig):
        return rig
    if rig is not None:
        return load_rig(rig)
    place = Path(path)
    beside = (place if place.is_dir() else place.parent) / "rig.toml"
    return load_rig(beside) if beside.is_file() else None


def _require_own_names(chosen: tuple[Chosen, ...]) -> None:
    """Refuse two episodes that labels would call the same."""
    names: dict[str, object] = {}
    for one in chosen:
        name = label_name(one.ref)
        if names.setdefault(name, one.ref) != one.ref:
            raise InputError(
                f"labels name an episode by its file's name, but {names[name]} and {one.ref} share one; label one "
                f"folder at a time"
            )


def _embedded(chosen: tuple[Chosen, ...], ref: object, camera: str) -> list[dict[str, object]]:
    """Return an episode's chosen frames with their pictures as data URLs."""
    ours = [one for one in chosen if one.ref == ref]
    with open_episode(ours[0].ref) as episode:
        frames = []
        for one in ours:
            image = episode.image(camera, one.frame)
            high, wide = image.shape[:2]
            frames.append(
                {
                    "episode": label_name(one.ref),
                    "frame": one.frame,
                    "width": wide,
                    "height": high,
                    "opening": one.opening,
                    "source": jpeg_data(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), WIDEST_PX, JPEG_QUALITY)[0],
                }
            )
    return frames

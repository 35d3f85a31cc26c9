"""Boxes drawn by hand or found by a detector: a CSV with one row per box."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import EpisodeRef, open_episode
from tactile_align.errors import InputError
from tactile_align.files import read_csv
from tactile_align.verify.evidence import Labels, label_name

COLUMNS = ("episode", "frame", "camera", "sensor", "u0", "v0", "u1", "v1")


def read_labels(path: str | Path) -> Labels:
    """Read boxes from a CSV with the columns episode, frame, camera, sensor, u0, v0, u1, v1, or a folder of such.

    `tactile-align label` draws them, a file for each camera and sensor. `episode` is the episode's file name (with
    #NAME where the file holds several), `frame` counts from 0, the box is in pixels of the stored frame where pixel
    i covers [i - 0.5, i + 0.5].

    Raises:
        FileNotFoundError: No such file, or a folder without a CSV.
        InputError: A column is missing, a number is none, a box is empty or named twice; names file and line.
    """
    place = Path(path)
    files = sorted(place.glob("*.csv")) if place.is_dir() else [place]
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f"{place}: no such file. Needed: a CSV with the columns {', '.join(COLUMNS)}")
    labels: Labels = {}
    for file in files:
        _read_into(labels, file)
    if not labels:
        raise InputError(f"{place}: no box in it; draw some 20 over several gripper openings: tactile-align label")
    return labels


def labelled_episodes(path: str | Path, refs: Sequence[EpisodeRef], drawn: Collection[str]) -> dict[str, EpisodeRef]:
    """Return the episodes among `refs`, those of `path`, that labels name.

    Raises:
        InputError: Labels of an episode that is not there, or of two with one name.
    """
    by_name: dict[str, EpisodeRef] = {}
    for ref in refs:
        name = label_name(ref)
        if name in drawn and name in by_name:
            raise InputError(
                f"{path}: labels name {name}, but there are two: {by_name[name]} and {ref}. Name the folder of one"
            )
        by_name[name] = ref
    lost = [name for name in drawn if name not in by_name]
    if lost:
        raise InputError(
            f"{path}: the labels name episode '{lost[0]}', which is not there ({_some(by_name)}). Labels name an "
            "episode by its file's name with its ending, as FILE#NAME where a file holds several"
        )
    return {name: ref for name, ref in by_name.items() if name in drawn}


def require_matching(labels: Labels, path: str | Path, refs: Sequence[EpisodeRef], rig: Rig) -> None:
    """Refuse labels that belong to no view of the rig and the episode: they would prove nothing.

    Raises:
        InputError: The episode, or the camera or the sensor in it, is not there; names the label and what is.
    """
    for name, ref in labelled_episodes(path, refs, {key[0] for key in labels}).items():
        known = rig.for_episode(ref.path)
        with open_episode(ref) as episode:
            cameras = [camera for camera in known.cameras if camera in episode.cameras]
            streams = {key: entry.stream for key, entry in known.sensors.items() if entry.stream in episode.sensors}
        for _, camera, sensor in (key for key in labels if key[0] == name):
            if camera not in cameras:
                raise InputError(
                    f"{ref}: the labels name camera '{camera}', but the cameras of both the rig and the episode are: "
                    f"{_some(cameras)}. Write one of them in the column 'camera'"
                )
            if sensor not in streams:
                sensors = _some([f"{key} (stream {stream})" for key, stream in streams.items()])
                raise InputError(
                    f"{ref}: the labels name sensor '{sensor}', but the sensors of the rig that the episode holds are: "
                    f"{sensors}. Write one in the column 'sensor', by its name in the rig, not its stream's"
                )


def _some(names: Collection[str]) -> str:
    return ", ".join([*list(names)[:5], *(["..."] if len(names) > 5 else [])]) or "none"


def _read_into(labels: Labels, file: Path) -> None:
    (_, header), *rows = read_csv(file) or [(1, [])]
    lacks = [name for name in COLUMNS if name not in header]
    if lacks:
        raise InputError(
            f"{file}: line 1 lacks the column '{lacks[0]}'; it needs {', '.join(COLUMNS)} and has {', '.join(header)}"
        )
    for line, cells in rows:
        where, row = f"{file}: line {line}", dict(zip(header, cells, strict=False))
        try:
            names = row["episode"], row["camera"], row["sensor"]
            frame = int(row["frame"])
            box = tuple(float(row[name]) for name in COLUMNS[4:])
        except (KeyError, ValueError) as error:
            raise InputError(f"{where}: frame and u0, v0, u1, v1 must be numbers; got {row}") from error
        if not (all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]):
            raise InputError(f"{where}: a box needs u0 < u1 and v0 < v1; got {box}")
        boxes = labels.setdefault(names, {})
        if frame in boxes:
            raise InputError(f"{where}: frame {frame} of {row['episode']} has two boxes; keep one")
        boxes[frame] = box  # type: ignore[assignment]  # four of them

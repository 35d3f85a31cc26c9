"""Labels: boxes drawn by hand or found by a detector, in a CSV file with one row per box."""

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
    """Return the boxes in a CSV file, or in all CSV files of a folder.

    The columns are episode, frame, camera, sensor, u0, v0, u1, v1. `episode` is the episode's file name, with #NAME if
    the file holds several episodes. `frame` counts from 0. Boxes are in pixels of the stored frame, where pixel i
    covers [i - 0.5, i + 0.5]. `tactile-align label` writes such a file for each camera and sensor.

    Raises:
        FileNotFoundError: The file, or a CSV file in the folder, was not found.
        InputError: A column is missing, a value is not a number, a box is empty, or a frame has two boxes. The
            message states file and line.
    """
    place = Path(path)
    files = sorted(place.glob("*.csv")) if place.is_dir() else [place]
    if not files or not all(file.is_file() for file in files):
        lack = "no .csv file in this folder" if place.is_dir() else "no such file"
        raise FileNotFoundError(f"{place}: {lack}. Give a CSV with the columns {', '.join(COLUMNS)}")
    labels: Labels = {}
    for file in files:
        _read_into(labels, file)
    if not labels:
        raise InputError(f"{place} contains no boxes. Draw 12 with `tactile-align label`, at several openings")
    return labels


def labelled_episodes(path: str | Path, refs: Sequence[EpisodeRef], drawn: Collection[str]) -> dict[str, EpisodeRef]:
    """Return the labelled episodes by their name in labels.

    Args:
        path: The folder or file of the episodes, for error messages.
        refs: All episodes in `path`.
        drawn: Names of the episodes in the labels, see `label_name`.

    Raises:
        InputError: The labels refer to an unknown episode, or two episodes share the name.
    """
    by_name: dict[str, EpisodeRef] = {}
    for ref in refs:
        name = label_name(ref)
        if name in drawn and name in by_name:
            raise InputError(
                f"{path}: labels refer to {name}, but two episodes match: {by_name[name]}, {ref}. Use the folder of one"
            )
        by_name[name] = ref
    lost = [name for name in drawn if name not in by_name]
    if lost:
        raise InputError(
            f"{path}: the labels refer to episode '{lost[0]}', which was not found (found: {_some(by_name)}). Correct "
            "the column 'episode': file name with suffix, or FILE#NAME if the file holds several episodes"
        )
    return {name: ref for name, ref in by_name.items() if name in drawn}


def require_matching(labels: Labels, path: str | Path, refs: Sequence[EpisodeRef], rig: Rig) -> None:
    """Check that each label belongs to a camera and a sensor that the rig and the labelled episode have.

    A label that matches nothing is an error, because it cannot check the rig.

    Raises:
        InputError: A label's episode, camera or sensor was not found; the message lists those that exist.
    """
    for name, ref in labelled_episodes(path, refs, {key[0] for key in labels}).items():
        known = rig.for_episode(ref.path)
        with open_episode(ref) as episode:
            cameras = [camera for camera in known.cameras if camera in episode.cameras]
            streams = {key: entry.stream for key, entry in known.sensors.items() if entry.stream in episode.sensors}
        for _, camera, sensor in (key for key in labels if key[0] == name):
            if camera not in cameras:
                raise InputError(
                    f"{ref}: the labels refer to camera '{camera}', but the cameras that both rig and episode have "
                    f"are: {_some(cameras)}. Write one of these in the column 'camera'"
                )
            if sensor not in streams:
                sensors = _some([f"{key} (stream {stream})" for key, stream in streams.items()])
                raise InputError(
                    f"{ref}: the labels refer to sensor '{sensor}', but the sensors that both rig and episode have "
                    f"are: {sensors}. Write one of these names, not a stream's, in the column 'sensor'"
                )


def _some(names: Collection[str]) -> str:
    return ", ".join([*list(names)[:5], *(["..."] if len(names) > 5 else [])]) or "none"


def _read_into(labels: Labels, file: Path) -> None:
    (_, header), *rows = read_csv(file) or [(1, [])]
    lacks = [name for name in COLUMNS if name not in header]
    if lacks:
        raise InputError(
            f"{file}: line 1 lacks {', '.join(lacks)} (found: {', '.join(header)}). Write {', '.join(COLUMNS)}"
        )
    for line, cells in rows:
        where, row = f"{file}: line {line}", dict(zip(header, cells, strict=False))
        try:
            names = row["episode"], row["camera"], row["sensor"]
            frame = int(row["frame"])
            box = tuple(float(row[name]) for name in COLUMNS[4:])
        except (KeyError, ValueError) as error:
            fault = f"the row has no value in column {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{where}: {fault}. Write numbers for frame, u0, v0, u1 and v1") from error
        if not (all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]):
            raise InputError(
                f"{where}: the box {box} (u0, v0, u1, v1) is empty or not finite. Write u0 < u1 and v0 < v1, in px"
            )
        boxes = labels.setdefault(names, {})
        if frame in boxes:
            raise InputError(f"{where}: frame {frame} of {row['episode']} has two boxes. Keep one of them")
        boxes[frame] = box  # type: ignore[assignment]  # COLUMNS[4:] are four

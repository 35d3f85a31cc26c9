"""Geometry that travels with a recording: the text of a rig file, in a LeRobotDataset or in a Zarr store in a folder.

The text is not interpreted here, because recordings know no rig; `calibration.rig` writes and reads it. In a
LeRobotDataset it is meta/rig.toml, beside meta/cameras.json with the cameras for readers of other packages. LeRobot's
tools that split, merge or delete write a new folder without these files. In a Zarr store it is an attribute of the root
group.
"""

import json
from pathlib import Path
from typing import Any

from tactile_align.checks import Check
from tactile_align.datasets.containers import lerobot_reader, zarr
from tactile_align.errors import InputError, printable
from tactile_align.files import read_json, read_text, write_text_atomically

RIG, CAMERAS = "meta/rig.toml", "meta/cameras.json"


def carried_rig(path: Path) -> str | None:
    """Return the text of the rig file that a recording carries; None if it carries none.

    Raises:
        EpisodeError, InputError: The recording, or the text, cannot be read.
    """
    if lerobot_reader.is_recording(path):
        return read_text(path / RIG) if (path / RIG).is_file() else None
    if not zarr.is_recording(path):
        return None
    text = zarr.root_attributes(path).get(zarr.GEOMETRY)
    if text is not None and not isinstance(text, str):
        raise InputError(f"{path}: the attribute {zarr.GEOMETRY} is no text. Remove it, or write it again")
    return text


def geometry_remark(path: Path) -> Check | None:
    """Return the remark of `inspect` on the rig that a recording carries; None for an HDF5 file, which carries none."""
    lerobot = lerobot_reader.is_recording(path)
    if not lerobot and not zarr.is_recording(path):
        return None
    try:
        carried = carried_rig(path) is not None
    except InputError as cause:
        return Check(
            "carried-rig", "Rig in the recording", "warn", f"cannot be read: {cause}", advice="Write it again."
        )
    name = printable(path.name)
    if carried:
        return Check("carried-rig", "Rig in the recording", "info", f"{name} carries the rig that recorded it")
    lost = "LeRobot's tools that split, merge or delete leave the rig out. " if lerobot else ""
    advice = f"{lost}Put rig.toml beside the recording, or give --rig to each command that needs it."
    return Check("carried-rig", "Rig in the recording", "info", f"{name} carries no rig", advice=advice)


def carry_text(path: Path, text: str, cameras: dict[str, Any]) -> None:
    """Write the text of a rig file into a recording, in place of one that it carries already.

    Args:
        path: A LeRobotDataset, or a Zarr store in a folder.
        text: The text.
        cameras: Content of meta/cameras.json of a LeRobotDataset.

    Raises:
        InputError: The path is another recording, which cannot carry a rig.
    """
    if lerobot_reader.is_recording(path):
        write_text_atomically(path / RIG, text)
        write_text_atomically(path / CAMERAS, json.dumps(cameras, indent=4) + "\n")
        return
    if not path.is_dir() or not zarr.is_recording(path):
        needed = "only a LeRobotDataset and a Zarr store in a folder can carry a rig"
        raise InputError(f"{path}: {needed}. Put rig.toml beside the recording")
    file = next(path / name for name in ("zarr.json", ".zattrs") if name == ".zattrs" or (path / name).is_file())
    meta = read_json(file) if file.is_file() else {}
    attributes = meta.setdefault("attributes", {}) if file.name == "zarr.json" else meta
    attributes[zarr.GEOMETRY] = text
    write_text_atomically(file, json.dumps(meta, indent=4) + "\n")

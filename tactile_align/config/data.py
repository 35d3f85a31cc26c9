"""Configuration of the data of a run: recorded episodes and views. A view is a pair of a camera and a sensor."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tactile_align.facts import Strict

MOST_AHEAD_M = 0.2
"""Upper limit of `ahead_m`, m. No grasped object is thicker than this."""

EPISODE_FILES = (".hdf5", ".h5")
_MAY_CARRY = ("meta/rig.toml", ".zattrs", "zarr.json")
"""Files in the folder of a LeRobotDataset or a Zarr store that may contain a rig."""
LEROBOT_MARKS = ("meta/info.json",)
ZARR_MARKS = (".zgroup", "zarr.json", "meta/episode_ends/.zarray", "meta/episode_ends/zarr.json")
"""Files, one of which is in every folder that is a LeRobotDataset or a Zarr store."""


def has_mark(folder: Path, marks: tuple[str, ...]) -> bool:
    """Return whether a folder contains one of these files, see LEROBOT_MARKS and ZARR_MARKS."""
    return any((folder / mark).is_file() for mark in marks)


def rig_places(place: Path) -> tuple[Path, ...]:
    """Return the files that may be the rig of recordings, first the one that has precedence.

    Each is called rig.toml. It lies in a folder of recordings, beside a recording in a file, and in or beside a
    recording in a folder.

    Args:
        place: A recording, or a folder of recordings.
    """
    file = not place.is_dir() and (place.is_file() or place.suffix in (*EPISODE_FILES, ".zip"))
    inner = () if file else (place / "rig.toml",)
    return (*inner, place.parent / "rig.toml") if file or has_mark(place, LEROBOT_MARKS + ZARR_MARKS) else inner


class DataConfig(Strict):
    """One source of recorded episodes, with the rig (cameras, arm and touch sensors) that recorded the episodes."""

    path: str
    """Path of an HDF5 episode, a LeRobotDataset, a Zarr store, or a folder of these."""
    rig: str | None = None
    """Name or path of the rig that recorded these episodes. None: rig.toml beside the episodes, or the rig that the
    recording carries."""
    layout: str | None = None
    """Name or path of the episode layout. None: detect the layout from the files."""
    episodes: Annotated[int, Field(ge=1)] | None = None
    """Number of episodes that are used: the first ones, in the natural order of their paths. None: all episodes."""

    @property
    def rig_source(self) -> str:
        """Name or path of the rig: `rig`, or rig.toml beside the episodes, or the recording, if it carries its rig."""
        if self.rig is not None:
            return self.rig
        place = Path(self.path) if Path(self.path).exists() else Path(self.path.partition("#")[0])
        places = rig_places(place)
        carries = place.suffix == ".zip" or any((place / file).is_file() for file in _MAY_CARRY)
        return str(next((file for file in places if file.is_file()), place if carries else places[0]))


class ViewConfig(Strict):
    """One view: a camera, and the touch sensor whose box is projected into the images of that camera."""

    camera: str
    """Name of the camera stream."""
    sensor: str
    """Name of the touch sensor in the rig."""
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    """Name of the view in logs and results, which no other view has. None: CAMERA-SENSOR. Two views of one camera and
    sensor, such as a whole frame and a crop, need different names."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of this view in the alignment loss. Typical values: 1.0 for a wrist camera, 0.5 for a third-person
    camera."""
    zoom: Annotated[float, Field(ge=1.0)] | None = None
    """Size of the crop that the encoder receives: the shorter side of the crop divided by the longer side of the
    sensor's box. The crop is centred on the box. None: the encoder receives the whole frame."""
    ahead_m: Annotated[float, Field(ge=0.0, lt=MOST_AHEAD_M)] = 0.0
    """Distance by which the box is moved forward from the sensor's pad, along the pad's normal, m. The size of the box
    in metres does not change. 0: the box lies on the pad."""

    @property
    def key(self) -> str:
        """Name of the view, or CAMERA-SENSOR if it has none."""
        return self.name or f"{self.camera}-{self.sensor}"

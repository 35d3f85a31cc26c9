"""An episode's boxes and tokens by a rig, all rows at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.facts import fact_names
from tactile_align.projection.sensor_box import SensorBoxes

RigLike = Rig | str | Path


def rig_for(path: Path, rig: RigLike | None) -> Rig:
    """Return the rig of an episode: the one given, or `rig.toml` beside the episode, its overrides applied.

    Raises:
        FileNotFoundError: None given and none beside the episode.
    """
    if rig is None:
        beside = path.parent / "rig.toml"
        if not beside.is_file():
            raise FileNotFoundError(
                f"{path}: needed a rig to say where the sensors are; none was named and {beside} does "
                f"not exist. Name a .toml file or a shipped rig: {', '.join(fact_names('calibration'))}"
            )
        rig = beside
    loaded = rig if isinstance(rig, Rig) else load_rig(rig)
    return loaded.for_episode(path)


@dataclass(frozen=True)
class Seen:
    """A sensor in a camera over the episode.

    Attributes:
        boxes: (T,) boxes by the rig.
        reasons: (T,) why there is no box, "" where there is one.
        weights: (T, rows, columns) share of each token in the box, if tokens were asked for.
        compared: (T, 4) boxes by the second rig, if there is one.
        overlap: (T,) their IoU.
        sigma_px: (T, 4) standard deviation of each edge, px, where the rig states the camera's covariance.
    """

    boxes: SensorBoxes
    reasons: np.ndarray
    weights: np.ndarray | None
    compared: np.ndarray | None
    overlap: np.ndarray | None
    sigma_px: np.ndarray | None


def by_sensor(rig: Rig, contact: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return (T,) contact by sensor of a rig from (T,) contact by touch stream; what lacks its stream is left out."""
    return {name: contact[sensor.stream] for name, sensor in rig.sensors.items() if sensor.stream in contact}


def difference(box: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how the second box lies against the first.

    Args:
        box: (..., 4) px, nan where there is none.
        other: (..., 4) px, likewise.

    Returns:
        (..., 2) the way from the first centre to the second, px (right, down), and (..., 2) second width and height
        over the first's; nan where a box is missing.
    """
    shift = (other[..., :2] + other[..., 2:] - box[..., :2] - box[..., 2:]) / 2
    return shift, (other[..., 2:] - other[..., :2]) / (box[..., 2:] - box[..., :2])


def told(seen: Mapping[str, Mapping[str, Seen]], rows: Sequence[int]) -> Iterator[str]:
    """Say for each camera and sensor how the second rig's boxes lie against the first's.

    Args:
        seen: As `Footage.seen`.
        rows: Rows of the episode to speak about.
    """
    for camera, sensors in seen.items():
        for sensor, found in sensors.items():
            if found.compared is None or found.overlap is None:
                continue
            box, other = found.boxes.box[rows], found.compared[rows]
            have = np.isfinite([box[:, 0], other[:, 0]])
            both, one = have.all(axis=0), have.any(axis=0) & ~have.all(axis=0)
            alone = f"; in {one.sum()} of {len(rows)} moments only one rig has a box" if one.any() else ""
            if not both.any():
                yield f"{camera} {sensor}: no moment with a box by both rigs{alone}"
                continue
            shift, ratio = (np.median(part, axis=0) for part in difference(box[both], other[both]))
            yield (
                f"{camera} {sensor}: IoU {np.median(found.overlap[rows][both]):.2f}, the second rig's box "
                f"{abs(shift[0]):.1f} px {'right' if shift[0] >= 0 else 'left'} and {abs(shift[1]):.1f} px "
                f"{'down' if shift[1] >= 0 else 'up'}, {ratio[0]:.2f} times as wide and {ratio[1]:.2f} times as high "
                f"(median of {both.sum()} moments){alone}"
            )


def names_apart(likes: tuple[RigLike | None, RigLike], rigs: tuple[Rig, Rig]) -> tuple[str, str]:
    """Return what to call two rigs: their names, or where these are equal their files.

    Args:
        likes: What was asked for; None is `rig.toml` beside the episode.
        rigs: What it led to.
    """
    files = [
        Path("rig.toml") if like is None else Path(rig.name if isinstance(like, Rig) else like)
        for like, rig in zip(likes, rigs, strict=True)
    ]
    pairs = [(a, b) for a, b in ((rigs[0].name, rigs[1].name), (files[0].name, files[1].name)) if a != b]
    return pairs[0] if pairs else (str(files[0]), str(files[1]))

"""An episode's boxes and tokens by a rig, all rows at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.facts import fact_names
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.geometry.images import ImageMap
from tactile_align.projection.episode_boxes import episode_boxes
from tactile_align.projection.sensor_box import SensorBoxes
from tactile_align.projection.tokens import token_weights

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


def look(
    camera: str,
    sensor: str,
    qpos: np.ndarray,
    *,
    fps: float | None,
    rig: Rig,
    contact: Mapping[str, np.ndarray],
    compare: Rig | None,
    input_map: ImageMap,
    grid: tuple[int, int] | None,
    ahead_m: float = 0.0,
) -> Seen:
    """Return a sensor in a camera over an episode.

    Args:
        camera: A camera of `rig`.
        sensor: A sensor of `rig`.
        qpos: (T, D) raw state.
        fps: Rows per second; None where no camera has a delay.
        rig: The rig.
        contact: (T,) bool by touch stream.
        compare: A second rig; where it lacks the camera or the sensor it has no box.
        input_map: From the stored frame to the encoder's input.
        grid: (rows, columns) of tokens, None for none.
        ahead_m: As in `sensor_boxes`.
    """
    view = episode_boxes(rig, camera, sensor, qpos, by_sensor(rig, contact), fps, ahead_m=ahead_m)
    found = view.boxes
    sigma = None if rig.camera(camera).covariance is None else np.tile(view.sigma_px, 2)
    weights = compared = overlap = None
    if grid is not None:
        weights = token_weights(found.box, input_map, grid)
    if compare is not None:
        compared = np.full_like(found.box, np.nan)
        if camera in compare.cameras and sensor in compare.sensors:
            flags = by_sensor(compare, contact)
            compared = episode_boxes(compare, camera, sensor, qpos, flags, fps, ahead_m=ahead_m).boxes.box
        overlap = intersection_over_union(found.box, compared)
    return Seen(found, found.reason_text(), weights, compared, overlap, sigma)


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
    files = [Path("rig.toml") if like is None else Path(rig.name if isinstance(like, Rig) else like)
             for like, rig in zip(likes, rigs, strict=True)]  # fmt: skip
    pairs = [(a, b) for a, b in ((rigs[0].name, rigs[1].name), (files[0].name, files[1].name)) if a != b]
    return pairs[0] if pairs else (str(files[0]), str(files[1]))

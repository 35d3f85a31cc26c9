"""An episode's boxes and tokens by a rig, all rows at once."""

from collections.abc import Mapping
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

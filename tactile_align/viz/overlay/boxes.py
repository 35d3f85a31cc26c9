"""Boxes and tokens of a rig for all rows of an episode, and the comparison of the boxes of two rigs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tactile_align.calibration.rig import Rig, load_rig, rig_beside
from tactile_align.facts import fact_names
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.projection.sensor_box import SensorBoxes

RigLike = Rig | str | Path


def rig_for(path: Path, rig: RigLike | None) -> Rig:
    """Return the rig of an episode, with the overrides applied that the rig contains for this episode.

    Args:
        path: File of the episode.
        rig: A rig, its name or its file; None: `rig.toml` beside the episode.

    Raises:
        FileNotFoundError: No rig was given, and the folder of the episode has no `rig.toml`.
    """
    if rig is None:
        rig = rig_beside(path)
        if rig is None:
            beside = path.parent / "rig.toml"
            raise FileNotFoundError(
                f"{path}: a rig is required, but no rig was given and {beside} does not exist. Give a .toml file or "
                f"the name of a shipped rig ({', '.join(fact_names('calibration'))})"
            )
    loaded = rig if isinstance(rig, Rig) else load_rig(rig)
    return loaded.for_episode(path)


@dataclass(frozen=True)
class Seen:
    """Boxes of one sensor in one camera over the whole episode.

    Attributes:
        boxes: Boxes of the first rig in the T rows of the episode.
        reasons: (T,) reason for a missing box; "" if the box exists.
        weights: (T, rows, columns) share of each token that the box covers; None if no tokens are drawn.
        compared: (T, 4) boxes of the second rig, px; None without a second rig.
        sigma_px: (T, 4) standard deviation of each edge, px; None if the rig has no covariance for the camera.
    """

    boxes: SensorBoxes
    reasons: np.ndarray
    weights: np.ndarray | None
    compared: np.ndarray | None
    sigma_px: np.ndarray | None

    def row(self, t: int) -> tuple[Any, ...]:
        """Return the values of the fields of `view.Region` at row `t`, from `box` to the last field, in their order."""
        parts = (self.weights, self.compared, self.sigma_px)
        boxes, reason = self.boxes, str(self.reasons[t])
        return boxes.box[t], float(boxes.inside[t]), reason, *(None if part is None else part[t] for part in parts)


def by_sensor(rig: Rig, contact: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return (T,) contact flags by sensor of the rig; sensors whose touch stream has no flags are left out.

    Args:
        rig: The rig, which states the touch stream of each sensor.
        contact: (T,) bool contact flags in the T rows of an episode, by touch stream.
    """
    return {name: contact[sensor.stream] for name, sensor in rig.sensors.items() if sensor.stream in contact}


def difference(box: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shift and the ratio of sizes from the first box to the second.

    Args:
        box: (..., 4) first box, px; nan if the box is missing.
        other: (..., 4) second box, px; nan if the box is missing.

    Returns:
        (..., 2) shift of the centre from the first to the second box, px (right, down), and (..., 2) width and height
        of the second box divided by those of the first. Both are nan if a box is missing.
    """
    shift = (other[..., :2] + other[..., 2:] - box[..., :2] - box[..., 2:]) / 2
    return shift, (other[..., 2:] - other[..., :2]) / (box[..., 2:] - box[..., :2])


def comparison_lines(seen: Mapping[str, Mapping[str, Seen]], rows: Sequence[int]) -> Iterator[str]:
    """Yield a line for each camera and sensor on how the boxes of the second rig differ from those of the first.

    Args:
        seen: Boxes by camera, then by sensor, as in `Footage.seen`.
        rows: Rows of the episode to compare.
    """
    for camera, sensors in seen.items():
        for sensor, sighting in sensors.items():
            if sighting.compared is None:
                continue
            box, other = sighting.boxes.box[rows], sighting.compared[rows]
            known = np.isfinite([box[:, 0], other[:, 0]])
            both, single = known.all(axis=0), known[0] ^ known[1]
            alone = f"; in {single.sum()} of {len(rows)} moments only one rig has a box" if single.any() else ""
            if not both.any():
                yield f"{camera} {sensor}: no moment in which both rigs have a box{alone}"
                continue
            box, other = box[both], other[both]
            shift, ratio = (np.median(part, axis=0) for part in difference(box, other))
            yield (
                f"{camera} {sensor}: IoU {np.median(intersection_over_union(box, other)):.2f}, the second rig's box "
                f"{abs(shift[0]):.1f} px {'right' if shift[0] >= 0 else 'left'} and {abs(shift[1]):.1f} px "
                f"{'down' if shift[1] >= 0 else 'up'}, {ratio[0]:.2f} times as wide and {ratio[1]:.2f} times as high "
                f"(median of {both.sum()} moments){alone}"
            )


def names_apart(likes: tuple[RigLike | None, RigLike], rigs: tuple[Rig, Rig]) -> tuple[str, str]:
    """Return titles that tell two rigs apart: names if they differ, otherwise file names, otherwise paths.

    Args:
        likes: The rigs as the caller gave them; None stands for `rig.toml` beside the episode.
        rigs: The rigs themselves.
    """
    first, second = (
        Path("rig.toml" if like is None else rig.name if isinstance(like, Rig) else like)
        for like, rig in zip(likes, rigs, strict=True)
    )
    pairs = ((rigs[0].name, rigs[1].name), (first.name, second.name))
    return next((pair for pair in pairs if pair[0] != pair[1]), (str(first), str(second)))

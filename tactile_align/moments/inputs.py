"""Inputs of a model: camera views, zooms onto a sensor, touches, each at its input size."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array
from tactile_align.geometry.images import ImageMap

Fit = Literal["stretch", "letterbox"]


@dataclass(frozen=True)
class Input:
    """One image stream of a model.

    Attributes:
        key: Its name in a batch.
        stream: The camera or touch stream of the episode it is made from.
        width: Width in the model, px.
        height: Height in the model, px.
        fit: Whether a whole frame is stretched or letterboxed to that size.
        sensor: The sensor whose box goes with it; None for an input without a box.
        zoom: None for the whole frame; else the cut-out's side over the box's longer side.
        difference: Whether a touch becomes its difference to the no-contact reference; its key is its sensor's name.
        uncertain: Whether the standard deviation of the box's place goes with it; moments without one have no box.
        other_finger: Whether the other finger's box goes with it.
        ahead_m: Distance of the sensor's box in front of the pad, along its normal, m.
    """

    key: str
    stream: str
    width: int
    height: int
    fit: Fit = "stretch"
    sensor: str | None = None
    zoom: float | None = None
    difference: bool = False
    uncertain: bool = False
    other_finger: bool = False
    ahead_m: float = 0.0

    def __post_init__(self) -> None:
        if self.zoom is not None and (self.sensor is None or self.zoom < 1.0):
            raise InputError(
                f"input {self.key}: a zoom needs a sensor to zoom onto and a factor >= 1; "
                f"got sensor {self.sensor} and zoom {self.zoom}"
            )

    def image_map(self, width: int, height: int, box: Array | None = None) -> ImageMap:
        """Return the map from a width x height frame to this input.

        Args:
            width: Frame width, px.
            height: Frame height, px.
            box: (4,) the sensor's box in the frame; without one (nan or None) a zoom shows the whole frame,
                and the moment is no pair.
        """
        whole = ImageMap.identity(width, height)
        if self.zoom is not None and box is not None and not bool(np.isnan(np.asarray(box)).any()):
            return whole.crop_box(self._window(np.asarray(box)), self.width, self.height)
        if self.fit == "letterbox":
            return whole.letterbox(self.width, self.height)
        return whole.resize(self.width, self.height)

    def _window(self, box: np.ndarray) -> np.ndarray:
        """Return the cut-out around a box: the input's aspect, `zoom` times the box's longer side, whole pixels."""
        centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        assert self.zoom is not None
        shape = np.array([self.width, self.height]) / min(self.width, self.height)
        half = shape * sides.max() * self.zoom / 2
        return np.round(np.concatenate([centre - half, centre + half]) + 0.5) - 0.5

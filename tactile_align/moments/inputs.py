"""Image inputs of a model: camera images, crops around a sensor's box, and touch images, each at its input size."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array
from tactile_align.geometry.images import ImageMap

Fit = Literal["stretch", "letterbox"]


@dataclass(frozen=True)
class Input:
    """One image input of a model.

    Attributes:
        key: Name of the input in a batch.
        stream: Camera stream or touch stream of the episode from which the input is computed.
        width: Width of the input image, px.
        height: Height of the input image, px.
        fit: Method that resizes a whole frame to the input size. "stretch": the aspect ratio may change. "letterbox":
            the aspect ratio is kept.
        sensor: Sensor whose box in the image is computed. None: the input has no box.
        zoom: Shorter side of the crop around the box, divided by the longer side of the box. None: the whole frame is
            used.
        difference: Whether a touch image is replaced by its difference from the no-contact reference. The key of such
            an input must be the name of its sensor.
        uncertain: Whether the standard deviation of the box's position is computed. Moments for which it is unknown
            then have no box.
        other_finger: Whether the box of the other finger is computed.
        ahead_m: Distance by which the box is moved forward from the sensor's pad, along the pad's normal, m.

    Raises:
        InputError: `zoom` is below 1 or has no sensor.
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
            fault = "zoom was set without a sensor, around whose box to crop. Set sensor, or omit zoom"
            small = f"zoom must be at least 1; got {self.zoom}. Increase zoom, or omit zoom to use the whole frame"
            raise InputError(f"input {self.key}: {fault if self.sensor is None else small}")

    def image_map(self, width: int, height: int, box: Array | None = None) -> ImageMap:
        """Return the map from pixels of a width x height frame to pixels of this input image.

        Args:
            width: Width of the frame, px.
            height: Height of the frame, px.
            box: Box (u0, v0, u1, v1) of the sensor in the frame, px. If the box is None or nan, an input
                with zoom shows the whole frame, and the alignment loss does not use the moment.
        """
        whole = ImageMap.identity(width, height)
        if self.zoom is not None and box is not None and not bool(np.isnan(np.asarray(box)).any()):
            return whole.crop_box(self._window(np.asarray(box)), self.width, self.height)
        if self.fit == "letterbox":
            return whole.letterbox(self.width, self.height)
        return whole.resize(self.width, self.height)

    def _window(self, box: np.ndarray) -> np.ndarray:
        """Return the crop window (4,) around a box, px: its shorter side is `zoom` times the longer side of the box.

        The window has the aspect ratio of the input, and its edges lie on pixel borders.
        """
        centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        assert self.zoom is not None
        shape = np.array([self.width, self.height]) / min(self.width, self.height)
        half = shape * sides.max() * self.zoom / 2
        return np.round(np.concatenate([centre - half, centre + half]) + 0.5) - 0.5

"""Depth maps of a LeRobotDataset of lerobot 0.6 or newer: TIFF images in millimetres or metres, or 12-bit video."""

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tactile_align.datasets.codec import MAX_PIXELS
from tactile_align.errors import InputError
from tactile_align.extras import need

MOST_CODE = 2**12 - 1


@dataclass(frozen=True)
class DepthForm:
    """Storage of the depth maps of a feature.

    A pixel of a video is a number 0 to 4095 that runs from `nearest_m` to `farthest_m`, in equal steps of the logarithm
    of the distance plus `shift_m`, or with `shift_m` None in equal steps of the distance
    (lerobot 0.6.1, datasets/depth_utils.py).

    Attributes:
        width: Width of a map, px.
        height: Height of a map, px.
        dtype: Type of an image's distances: uint16 in millimetres or float32 in metres; of a video float32 in metres.
        nearest_m: Distance of the code 0, m.
        farthest_m: Distance of the largest code, m.
        shift_m: Distance that is added before the logarithm is taken, m.
    """

    width: int
    height: int
    dtype: np.dtype[Any]
    nearest_m: float = 0.0
    farthest_m: float = 1.0
    shift_m: float | None = None

    def from_codes(self, codes: np.ndarray) -> np.ndarray:
        """Return the distances, (H, W) float32 in metres, of a frame of a video, (H, W) whole numbers."""
        share = codes.astype(np.float64) / MOST_CODE
        if self.shift_m is None:
            return (self.nearest_m + share * (self.farthest_m - self.nearest_m)).astype(np.float32)
        first, last = math.log(self.nearest_m + self.shift_m), math.log(self.farthest_m + self.shift_m)
        return (np.exp(first + share * (last - first)) - self.shift_m).astype(np.float32)

    def from_image(self, data: bytes) -> np.ndarray:
        """Return the distances, (H, W) of `dtype`, of an encoded image.

        Raises:
            InputError: The image is damaged, or has another size or type.
        """
        images = need("PIL.Image", "depth maps of a LeRobot dataset", "pillow", "lerobot")
        try:
            image = images.open(io.BytesIO(data))
            state = f"{image.size[0]}x{image.size[1]} px of type {image.mode}"
            if image.size == (self.width, self.height) and image.mode == ("F" if self.dtype == np.float32 else "I;16"):
                return np.asarray(image, self.dtype)
        except (OSError, ValueError, SyntaxError, TypeError, images.DecompressionBombError) as cause:
            text = " ".join(str(cause).split())
            raise InputError(f"is a damaged depth image ({text}). Copy the dataset again") from cause
        text = f"is an image of {state}, but meta/info.json states a depth map of {self.width}x{self.height} px"
        raise InputError(f"{text} of type {self.dtype}. Correct the entry, or leave the stream out")


def depth_form(feature: dict[str, Any]) -> DepthForm | None:
    """Return how a feature stores depth maps; None if the feature does not state it, as before lerobot 0.6."""
    info, shape = feature.get("info"), feature.get("shape")
    unit = info.get("depth_unit") if isinstance(info, dict) else None
    if not isinstance(info, dict) or unit not in ("m", "mm") or not isinstance(shape, list) or len(shape) != 3:
        return None
    sides = shape[:2] if shape[2] == 1 else shape[1:]
    if 1 not in (shape[0], shape[2]) or not all(type(n) is int and n > 0 for n in sides):
        return None
    height, width = sides
    if width * height > MAX_PIXELS:
        return None
    if feature["dtype"] == "image":
        return DepthForm(width, height, np.dtype(np.float32 if unit == "m" else np.uint16))
    names = ("video.depth_min", "video.depth_max", "video.shift")
    values = [float(info[name]) for name in names if type(info.get(name)) in (int, float)]
    log = info.get("video.use_log")
    if len(values) < len(names) or not isinstance(log, bool):
        return None
    nearest, farthest, shift = values
    if not 0 <= nearest < farthest < 1e6 or not 0 <= shift < 1e6 or nearest + shift == 0:
        return None
    return DepthForm(width, height, np.dtype(np.float32), nearest, farthest, shift if log else None)

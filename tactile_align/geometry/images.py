"""ImageMap: flip, turn, crop, resize and letterbox as one composed pixel map that carries K and boxes along."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array
from tactile_align.geometry.resampling import resampled


@dataclass(frozen=True)
class ImageMap:
    """Where each pixel of a source image lands in a target image: `uv' = scale * uv + offset`.

    Pixel (0, 0) is the centre of the first pixel, so a resize by s is u' = (u + 0.5) s - 0.5.
    A turn or a flip is a negative scale. `scale` and `offset` may carry leading batch axes (one
    random crop per sample) while the sizes stay common.

    Attributes:
        source_width: Width of the image the map starts from, px.
        source_height: Its height, px.
        width: Width of the image the map ends in, px.
        height: Its height, px.
        scale: (..., 2) factors of u and v.
        offset: (..., 2) shifts of u and v, target px.
    """

    source_width: int
    source_height: int
    width: int
    height: int
    scale: Array
    offset: Array

    def __post_init__(self) -> None:
        for name in ("source_width", "source_height", "width", "height"):
            value = getattr(self, name)
            if value != int(value) or value < 1:
                raise InputError(f"ImageMap: {name} must be a whole number of pixels >= 1; got {value}")
            object.__setattr__(self, name, int(value))

    @classmethod
    def identity(cls, width: int, height: int) -> "ImageMap":
        """Return the map that leaves a width x height image as it is."""
        return cls(width, height, width, height, np.ones(2), np.zeros(2))

    @classmethod
    def from_steps(cls, width: int, height: int, steps: Sequence[Sequence[Any]]) -> "ImageMap":
        """Compose the steps of a rig file, e.g. [["rotate180"], ["crop", 220, 150, 260, 270], ["resize", 640, 480]].

        Raises:
            InputError: An unknown step or a wrong number of values, naming the step.
        """
        arity = {"rotate180": 0, "flip_u": 0, "flip_v": 0, "crop": 4, "resize": 2, "letterbox": 2}
        composed = cls.identity(width, height)
        for step in steps:
            name, *values = step
            if name not in arity:
                raise InputError(f"image_map step {list(step)}: unknown; known steps are {', '.join(arity)}")
            if len(values) != arity[name]:
                raise InputError(f"image_map step {list(step)}: {name} takes {arity[name]} numbers, got {len(values)}")
            composed = getattr(composed, name)(*values)
        return composed

    def _then(self, scale: Array, offset: Array, width: int, height: int) -> "ImageMap":
        """Follow this map by uv'' = scale * uv' + offset; one torch tensor among the four makes all of them torch."""
        given = (self.scale, self.offset, scale, offset)
        like = next((one for one in given if not isinstance(one, np.ndarray)), self.scale)
        xp = array_namespace(like)
        s0, o0, s1, o1 = (xp.asarray(one, dtype=like.dtype, device=like.device) for one in given)
        return ImageMap(self.source_width, self.source_height, width, height, s1 * s0, s1 * o0 + o1)

    def rotate180(self) -> "ImageMap":
        """Turn the image by 180 degrees about its centre."""
        return self._then(
            np.array([-1.0, -1.0]), np.array([self.width - 1.0, self.height - 1.0]), self.width, self.height
        )

    def flip_u(self) -> "ImageMap":
        """Mirror left and right."""
        return self._then(np.array([-1.0, 1.0]), np.array([self.width - 1.0, 0.0]), self.width, self.height)

    def flip_v(self) -> "ImageMap":
        """Mirror top and bottom."""
        return self._then(np.array([1.0, -1.0]), np.array([0.0, self.height - 1.0]), self.width, self.height)

    def crop(self, u0: Any, v0: Any, width: int, height: int) -> "ImageMap":
        """Cut out width x height pixels whose first pixel is (u0, v0).

        u0 and v0 may be fractions, may lie outside the image (that part becomes the fill value) and may be
        arrays (...) of one origin per sample.
        """
        if isinstance(u0, int | float) and isinstance(v0, int | float):
            return self._then(np.ones(2), -np.array([u0, v0], dtype=np.float64), width, height)
        xp = array_namespace(u0, v0)
        return self._then(np.ones(2), -xp.stack([u0, v0], axis=-1), width, height)

    def resize(self, width: int, height: int) -> "ImageMap":
        """Stretch to width x height; aspect changes if the two factors differ."""
        scale = np.array([width / self.width, height / self.height])
        return self._then(scale, 0.5 * scale - 0.5, width, height)

    def letterbox(self, width: int, height: int) -> "ImageMap":
        """Fit into width x height with one factor for both axes, centred; the bars take the fill value."""
        factor = min(width / self.width, height / self.height)
        bars = (np.array([width, height]) - factor * np.array([self.width, self.height])) / 2
        return self._then(np.array([factor, factor]), bars + 0.5 * factor - 0.5, width, height)

    def crop_box(self, box: Array, width: int, height: int) -> "ImageMap":
        """Cut out the boxes (..., 4), one per sample, and stretch each to width x height."""
        xp = array_namespace(box)
        target = xp.asarray([width, height], dtype=box.dtype, device=box.device)
        scale = target / (box[..., 2:] - box[..., :2])
        return self._then(scale, -0.5 - scale * box[..., :2], width, height)

    def inverse(self) -> "ImageMap":
        """Return the map back, from target to source pixels."""
        return ImageMap(
            self.width,
            self.height,
            self.source_width,
            self.source_height,
            1 / self.scale,
            -self.offset / self.scale,
        )

    def _parameters(self, like: Array, axes: int) -> tuple[Array, Array]:
        """Scale and offset in the namespace, dtype and device of `like`, batch axes kept in front."""
        xp = array_namespace(like)
        pair = []
        for value in (self.scale, self.offset):
            moved = xp.asarray(value, dtype=like.dtype, device=like.device)
            if moved.ndim > 1:
                lead = moved.shape[:-1]
                moved = xp.reshape(moved, (*lead, *([1] * (axes - len(lead) - 1)), 2))
            pair.append(moved)
        return pair[0], pair[1]

    def apply(self, uv: Array) -> Array:
        """Move pixels (..., 2) from source to target; a map's batch axes pair with the leading axes of `uv`."""
        scale, offset = self._parameters(uv, uv.ndim)
        return scale * uv + offset

    def apply_to_box(self, box: Array) -> Array:
        """Move boxes (..., 4); after a flip u0 < u1 still holds. Not clipped."""
        xp = array_namespace(box)
        corners = xp.stack([box[..., :2], box[..., 2:]], axis=-2)
        moved = self.apply(corners)
        return xp.concat([xp.min(moved, axis=-2), xp.max(moved, axis=-2)], axis=-1)

    def apply_to_K(self, K: Array) -> Array:
        """Return the intrinsics of the mapped image, (..., 3, 3).

        A turn or a flip makes fx, fy negative and leaves the camera frame and the distortion as they were.
        """
        xp = array_namespace(K)
        scale, offset = self._parameters(K, 2 if self.scale.ndim == 1 else self.scale.ndim)
        top = scale[..., :, None] * K[..., :2, :] + offset[..., :, None] * K[..., 2:, :]
        return xp.concat([top, xp.broadcast_to(K[..., 2:, :], (*top.shape[:-2], 1, 3))], axis=-2)

    def apply_to_image(self, image: Array, fill: float = 0.0) -> Array:
        """Resample images (..., H, W, C) to (..., height, width, C), uint8 to uint8 (rounded), float to float.

        Shrinking averages over the area a target pixel covers (no aliasing); enlarging interpolates linearly.
        What lies outside the source becomes `fill`. numpy and torch agree to one grey level.

        Raises:
            InputError: The image does not have the size this map starts from.
        """
        if tuple(image.shape[-3:-1]) != (self.source_height, self.source_width):
            raise InputError(
                f"this map starts from images of {self.source_width}x{self.source_height} (width x height) but got "
                f"{image.shape[-2]}x{image.shape[-3]}; is the recording's size the one the rig states?"
            )
        return resampled(image, self, fill)

"""ImageMap: flip, rotate, crop, resize and letterbox, composed into one map of pixels, boxes, K and images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from array_api_compat import array_namespace

from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array


def exif_orientation(data: np.ndarray | bytes) -> int:
    """Return the EXIF orientation tag (1 to 8) of an encoded JPEG, PNG or TIFF; 1, "as stored", if it has none.

    This package uses pixels as stored and ignores the tag, because a camera's intrinsics belong to its sensor.
    """
    exif = _exif(bytes(data))
    order: Literal["little", "big"] = "little" if exif[:2] == b"II" else "big"
    first = int.from_bytes(exif[4:8], order)
    for i in range(int.from_bytes(exif[first : first + 2], order)):
        entry = exif[first + 2 + 12 * i :][:12]
        if int.from_bytes(entry[:2], order) == 0x0112 and 1 <= int.from_bytes(entry[8:10], order) <= 8:
            return int.from_bytes(entry[8:10], order)
    return 1


def _exif(text: bytes) -> bytes:
    """Return the EXIF data (a TIFF) of an encoded image; b"" if it has none."""
    if text[:2] in (b"II", b"MM"):
        return text
    at = 2
    while text[:2] == b"\xff\xd8" and text[at : at + 1] == b"\xff" and text[at + 1] != 0xDA:
        if text[at + 1] == 0xE1 and text[at + 4 : at + 10] == b"Exif\0\0":
            return text[at + 10 :]
        at += 2 + int.from_bytes(text[at + 2 : at + 4], "big")
    at = 8
    while text[:4] == b"\x89PNG" and at < len(text):
        if text[at + 4 : at + 8] == b"eXIf":
            return text[at + 8 :]
        at += 12 + int.from_bytes(text[at : at + 4], "big")
    return b""


def resampled(image: Array, image_map: "ImageMap", fill: float) -> Array:
    """Return images (..., H, W, C) resampled to the target size of a map, (..., height, width, C).

    See `ImageMap.apply_to_image`.
    """
    xp = array_namespace(image)
    window = _whole_pixel_window(image_map) if isinstance(image, np.ndarray) and image.ndim == 3 else None
    if window is not None and image.dtype == np.uint8:
        return _shrink(image, image_map, window, fill)
    work = xp.float64 if image.dtype == xp.float64 else xp.float32
    mapped = _resample(_resample(image, image_map, 1, work, fill), image_map, 0, work, fill)
    if image.dtype == xp.uint8:
        return xp.astype(xp.clip(xp.round(mapped), 0, 255), xp.uint8)
    return mapped


def _whole_pixel_window(image_map: "ImageMap") -> np.ndarray | None:
    """Return the source window (u0, v0, u1, v1) of a map that shrinks whole pixels; None for any other map."""
    if not isinstance(image_map.scale, np.ndarray) or image_map.scale.ndim > 1 or np.abs(image_map.scale).max() > 1:
        return None
    target = np.array([[-0.5, -0.5], [image_map.width - 0.5, image_map.height - 0.5]])
    edges = np.sort((target - image_map.offset) / image_map.scale + 0.5, axis=0)
    whole = np.round(edges)
    return whole.astype(np.int64).ravel() if np.abs(edges - whole).max() < 1e-6 else None


def _shrink(image: np.ndarray, image_map: "ImageMap", window: np.ndarray, fill: float) -> np.ndarray:
    """Return the window shrunk by OpenCV's area average, which is many times faster than `_resample`."""
    u0, v0, u1, v1 = (int(edge) for edge in window)
    inside = image[max(v0, 0) : max(v1, 0), max(u0, 0) : max(u1, 0)]
    above, below = max(-v0, 0), max(v1 - image_map.source_height, 0)
    left, right = max(-u0, 0), max(u1 - image_map.source_width, 0)
    if above or below or left or right:
        inside = np.pad(inside, ((above, below), (left, right), (0, 0)), constant_values=round(fill))
    shrunk = cv2.resize(inside, (image_map.width, image_map.height), interpolation=cv2.INTER_AREA)
    steps = tuple(-1 if s < 0 else 1 for s in image_map.scale)
    return np.ascontiguousarray(shrunk[:: steps[1], :: steps[0]].reshape(image_map.height, image_map.width, -1))


def _resample(image: Array, image_map: "ImageMap", axis: int, work: Any, fill: float) -> Array:
    """Return images (..., H, W, C) resampled along one axis of a map: 0 is u, 1 is v."""
    xp = array_namespace(image)
    where = image.ndim - 2 - axis
    n_source = (image_map.source_width, image_map.source_height)[axis]
    n_target = (image_map.width, image_map.height)[axis]
    scale, offset = (
        xp.asarray(value, dtype=xp.float64, device=image.device)[..., axis, None]
        for value in (image_map.scale, image_map.offset)
    )
    centre = (xp.arange(n_target, dtype=xp.float64, device=image.device) - offset) / scale
    half = xp.abs(0.5 / scale) + xp.zeros_like(centre)
    if centre.ndim > 1:
        source = xp.arange(n_source, dtype=xp.float64, device=image.device)
        weights = xp.astype(_weights(centre[..., None], half[..., None], source, n_source), work)
        return _swap(_multiply(weights, _swap(image, axis), work, fill), axis)
    # With one map for all images, a few taps per target pixel are faster than a matrix that is nearly all zeros.
    total: Array = 0.0
    first = xp.floor(centre - xp.maximum(half, xp.ones_like(half)))
    for tap in range(int(2 * xp.max(half)) + 4):
        position = first + tap
        weight = xp.astype(_weights(centre, half, position, n_source), work)
        shape = [1] * image.ndim
        shape[where] = n_target
        index = xp.astype(xp.clip(position, 0, n_source - 1), xp.int64)
        picked = xp.astype(xp.take(image, index, axis=where), work)
        total = total + (picked - fill) * xp.reshape(weight, tuple(shape))
    return total + fill


def _weights(centre: Array, half: Array, source: Array, n_source: int) -> Array:
    """Return the weights of source pixels at `source` for target pixels that cover centre +- half.

    Shrinking (half >= 0.5) weights by covered length. Enlarging interpolates linearly and repeats the border pixel.
    """
    xp = array_namespace(centre)
    zero = xp.zeros_like(centre + source)
    covered = (xp.minimum(centre + half, source + 0.5) - xp.maximum(centre - half, source - 0.5)) / (2 * half)
    held = xp.clip(centre, 0, n_source - 1)
    near = xp.where((centre >= -0.5) & (centre <= n_source - 0.5), 1 - xp.abs(held - source), zero)
    weights = xp.maximum(xp.where(half >= 0.5, covered, near), zero)
    return xp.where((source >= 0) & (source <= n_source - 1), weights, zero)


def _multiply(weights: Array, image: Array, work: Any, fill: float) -> Array:
    """Return weights (..., target, source) applied to images (..., source, K, C)."""
    xp = array_namespace(image)
    *lead, rows, columns, channels = image.shape
    flat = xp.reshape(xp.astype(image, work) - fill, (*lead, rows, columns * channels))
    mixed = weights @ flat
    return xp.reshape(mixed, (*mixed.shape[:-1], columns, channels)) + fill


def _swap(image: Array, axis: int) -> Array:
    """Return images (..., H, W, C) with rows and columns exchanged if `axis` is u (0), otherwise unchanged."""
    if axis == 1:
        return image
    xp = array_namespace(image)
    return xp.permute_dims(image, (*range(image.ndim - 3), image.ndim - 2, image.ndim - 3, image.ndim - 1))


@dataclass(frozen=True)
class ImageMap:
    """Map from the pixels of a source image to the pixels of a target image: `uv' = scale * uv + offset`.

    Pixel (0, 0) is the centre of the first pixel, so a resize by s is u' = (u + 0.5) s - 0.5.
    A rotation by 180 degrees makes both entries of `scale` negative, a flip makes one negative. `scale` and
    `offset` may have leading batch axes (one random crop per sample); width and height are the same for a whole batch.

    Attributes:
        source_width: Width of the source image, px.
        source_height: Height of the source image, px.
        width: Width of the target image, px.
        height: Height of the target image, px.
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
                needed = f"{name} is {value}, but must be a whole number of pixels >= 1"
                raise InputError(f"ImageMap: {needed}. Correct the crop, resize or letterbox")
            object.__setattr__(self, name, int(value))

    @classmethod
    def identity(cls, width: int, height: int) -> "ImageMap":
        """Return the map that leaves an image of width x height px unchanged."""
        return cls(width, height, width, height, np.ones(2), np.zeros(2))

    @classmethod
    def from_steps(cls, width: int, height: int, steps: Sequence[Sequence[Any]]) -> "ImageMap":
        """Return the map that applies the steps of a rig file, in order, to images of width x height px.

        An example of steps: [["rotate180"], ["crop", 220, 150, 260, 270], ["resize", 640, 480]].

        Raises:
            InputError: A step is unknown or has a wrong number of values; the message contains the step.
        """
        arity = {"rotate180": 0, "flip_u": 0, "flip_v": 0, "crop": 4, "resize": 2, "letterbox": 2}
        composed = cls.identity(width, height)
        for step in steps:
            name, *values = step
            if name not in arity:
                raise InputError(f"image_map step {list(step)}: unknown step. Use one of: {', '.join(arity)}")
            if len(values) != arity[name]:
                text = f"got {len(values)} numbers, but {name} needs {arity[name]}"
                change = "Add" if len(values) < arity[name] else "Remove"
                raise InputError(f"image_map step {list(step)}: {text}. {change} {abs(len(values) - arity[name])}")
            composed = getattr(composed, name)(*values)
        return composed

    def _then(self, scale: Array, offset: Array, width: int, height: int) -> "ImageMap":
        """Return this map followed by uv'' = scale * uv' + offset; if one of the four is torch, all become torch."""
        given = (self.scale, self.offset, scale, offset)
        like = next((value for value in given if not isinstance(value, np.ndarray)), self.scale)
        xp = array_namespace(like)
        s0, o0, s1, o1 = (xp.asarray(value, dtype=like.dtype, device=like.device) for value in given)
        return ImageMap(self.source_width, self.source_height, width, height, s1 * s0, s1 * o0 + o1)

    def _mirrored(self, u: float, v: float) -> "ImageMap":
        """Return this map followed by a mirroring about the image's centre; u and v are 1 or -1 (mirrored)."""
        offset = np.array([(1 - u) / 2 * (self.width - 1), (1 - v) / 2 * (self.height - 1)])
        return self._then(np.array([u, v]), offset, self.width, self.height)

    def rotate180(self) -> "ImageMap":
        """Return this map followed by a rotation of the image by 180 degrees about its centre."""
        return self._mirrored(-1.0, -1.0)

    def flip_u(self) -> "ImageMap":
        """Return this map followed by a flip of the image that exchanges left and right."""
        return self._mirrored(-1.0, 1.0)

    def flip_v(self) -> "ImageMap":
        """Return this map followed by a flip of the image that exchanges top and bottom."""
        return self._mirrored(1.0, -1.0)

    def crop(self, u0: Any, v0: Any, width: int, height: int) -> "ImageMap":
        """Return this map followed by a crop to width x height pixels; pixel (u0, v0) becomes the first pixel.

        u0 and v0 may be fractional or outside the image; pixels outside the image get the fill value. u0 and v0 may
        also be arrays (...) with one origin per sample.
        """
        if isinstance(u0, int | float) and isinstance(v0, int | float):
            return self._then(np.ones(2), -np.array([u0, v0], dtype=np.float64), width, height)
        xp = array_namespace(u0, v0)
        return self._then(np.ones(2), -xp.stack([u0, v0], axis=-1), width, height)

    def resize(self, width: int, height: int) -> "ImageMap":
        """Return this map followed by a resize to width x height px, which may change the aspect ratio."""
        scale = np.array([width / self.width, height / self.height])
        return self._then(scale, 0.5 * scale - 0.5, width, height)

    def letterbox(self, width: int, height: int) -> "ImageMap":
        """Return this map followed by a resize to width x height px that keeps the aspect ratio.

        The image is centred; the bars beside it get the fill value of `apply_to_image`.
        """
        factor = min(width / self.width, height / self.height)
        bars = (np.array([width, height]) - factor * np.array([self.width, self.height])) / 2
        return self._then(np.array([factor, factor]), bars + 0.5 * factor - 0.5, width, height)

    def crop_box(self, box: Array, width: int, height: int) -> "ImageMap":
        """Return this map followed by a crop to boxes (..., 4), px, and a resize to width x height px.

        Each sample of a batch has its own box.
        """
        xp = array_namespace(box)
        target = xp.asarray([width, height], dtype=box.dtype, device=box.device)
        scale = target / (box[..., 2:] - box[..., :2])
        return self._then(scale, -0.5 - scale * box[..., :2], width, height)

    def inverse(self) -> "ImageMap":
        """Return the inverse of this map, from target pixels to source pixels."""
        return ImageMap(
            self.width, self.height, self.source_width, self.source_height, 1 / self.scale, -self.offset / self.scale
        )

    def _parameters(self, like: Array, axes: int) -> tuple[Array, Array]:
        """Return scale and offset in the namespace, dtype and device of `like`; batch axes stay in front."""
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
        """Return the target pixels (..., 2) of source pixels `uv` (..., 2).

        Batch axes of the map match the leading axes of `uv`.
        """
        scale, offset = self._parameters(uv, uv.ndim)
        return scale * uv + offset

    def apply_to_box(self, box: Array) -> Array:
        """Return boxes (..., 4) in the target image from boxes (..., 4) in the source image, both px.

        The boxes are not clipped. u0 < u1 and v0 < v1 hold after a flip, too.
        """
        xp = array_namespace(box)
        corners = xp.stack([box[..., :2], box[..., 2:]], axis=-2)
        moved = self.apply(corners)
        return xp.concat([xp.min(moved, axis=-2), xp.max(moved, axis=-2)], axis=-1)

    def apply_to_K(self, K: Array) -> Array:
        """Return the intrinsics (..., 3, 3) of the target image, px, from the intrinsics K of the source image.

        A flip makes fx or fy negative, and a rotation by 180 degrees makes both negative. The camera frame and the
        distortion stay unchanged.
        """
        xp = array_namespace(K)
        scale, offset = self._parameters(K, 2 if self.scale.ndim == 1 else self.scale.ndim)
        top = scale[..., :, None] * K[..., :2, :] + offset[..., :, None] * K[..., 2:, :]
        return xp.concat([top, xp.broadcast_to(K[..., 2:, :], (*top.shape[:-2], 1, 3))], axis=-2)

    def apply_to_image(self, image: Array, fill: float = 0.0) -> Array:
        """Return images (..., H, W, C) resampled to (..., height, width, C), uint8 (rounded) or float as given.

        Shrinking averages over the area that a target pixel covers (no aliasing). Enlarging interpolates linearly.
        Pixels outside the source become `fill`. numpy and torch agree to one grey level.

        Raises:
            InputError: Width or height of the image differ from `source_width` or `source_height`.
        """
        if tuple(image.shape[-3:-1]) != (self.source_height, self.source_width):
            got = f"the images are {image.shape[-2]}x{image.shape[-3]} (width x height)"
            needed = f"but the image map expects {self.source_width}x{self.source_height}"
            raise InputError(f"{got}, {needed}. Check width and height of the camera in the rig file")
        return resampled(image, self, fill)

"""Images through pixel maps: averaging where they shrink, linear where they grow, alike in numpy and torch."""

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from array_api_compat import array_namespace

from tactile_align.geometry.frames import Array

if TYPE_CHECKING:
    from tactile_align.geometry.images import ImageMap


def resampled(image: Array, image_map: "ImageMap", fill: float) -> Array:
    """Return images (..., H, W, C) as (..., height, width, C); see `ImageMap.apply_to_image`."""
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
    """Return the source window (u0, v0, u1, v1) when it is made of whole pixels and only shrinks, else None."""
    if not isinstance(image_map.scale, np.ndarray) or image_map.scale.ndim > 1 or np.abs(image_map.scale).max() > 1:
        return None
    target = np.array([[-0.5, -0.5], [image_map.width - 0.5, image_map.height - 0.5]])
    edges = np.sort((target - image_map.offset) / image_map.scale + 0.5, axis=0)
    whole = np.round(edges)
    return whole.astype(np.int64).ravel() if np.abs(edges - whole).max() < 1e-6 else None


def _shrink(image: np.ndarray, image_map: "ImageMap", window: np.ndarray, fill: float) -> np.ndarray:
    """Average the window's pixels with OpenCV, which is many times faster than gathering them."""
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
    """Resample (..., H, W, C) along u (0) or v (1) of a map."""
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
    # One map for all images: a few taps per target pixel beat a matrix that is nearly all zeros.
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
    """Return how much source pixels at `source` count for target pixels that cover centre +- half.

    Shrinking (half >= 0.5) weighs by covered length; enlarging interpolates linearly, holding the border pixel.
    """
    xp = array_namespace(centre)
    zero = xp.zeros_like(centre + source)
    covered = (xp.minimum(centre + half, source + 0.5) - xp.maximum(centre - half, source - 0.5)) / (2 * half)
    held = xp.clip(centre, 0, n_source - 1)
    near = xp.where((centre >= -0.5) & (centre <= n_source - 0.5), 1 - xp.abs(held - source), zero)
    weights = xp.maximum(xp.where(half >= 0.5, covered, near), zero)
    return xp.where((source >= 0) & (source <= n_source - 1), weights, zero)


def _multiply(weights: Array, image: Array, work: Any, fill: float) -> Array:
    """Apply weights (..., target, source) to images (..., source, K, C)."""
    xp = array_namespace(image)
    *lead, rows, columns, channels = image.shape
    flat = xp.reshape(xp.astype(image, work) - fill, (*lead, rows, columns * channels))
    mixed = weights @ flat
    return xp.reshape(mixed, (*mixed.shape[:-1], columns, channels)) + fill


def _swap(image: Array, axis: int) -> Array:
    """Exchange rows and columns of (..., H, W, C) when `axis` is u (0)."""
    if axis == 1:
        return image
    xp = array_namespace(image)
    return xp.permute_dims(image, (*range(image.ndim - 3), image.ndim - 2, image.ndim - 3, image.ndim - 1))

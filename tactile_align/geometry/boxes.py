"""Pixel boxes (u0, v0, u1, v1) in continuous pixel coordinates; pixel i covers [i - 0.5, i + 0.5].

The functions accept numpy arrays or torch tensors and return the same kind. A missing box is nan in all four entries.
"""

from array_api_compat import array_namespace

from tactile_align.geometry.frames import Array


def area(box: Array) -> Array:
    """Return the areas in px^2, shape (...), of boxes (..., 4)."""
    return (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])


def clip_to_image(box: Array, width: int, height: int) -> Array:
    """Return boxes (..., 4) clipped to the image [-0.5, width - 0.5] x [-0.5, height - 0.5].

    A box that lies entirely outside becomes nan; it is not moved to the border.
    """
    xp = array_namespace(box)
    u0 = xp.clip(box[..., 0], -0.5, None)
    v0 = xp.clip(box[..., 1], -0.5, None)
    u1 = xp.clip(box[..., 2], None, width - 0.5)
    v1 = xp.clip(box[..., 3], None, height - 0.5)
    clipped = xp.stack([u0, v0, u1, v1], axis=-1)
    exists = (u1 > u0) & (v1 > v0)
    return xp.where(exists[..., None], clipped, xp.full_like(clipped, float("nan")))


def intersection_over_union(a: Array, b: Array) -> Array:
    """Return the intersection over union, shape (...), of boxes a and b, each (..., 4); nan where a box is nan.

    The leading axes of a and b broadcast.
    """
    xp = array_namespace(a, b)
    width = xp.minimum(a[..., 2], b[..., 2]) - xp.maximum(a[..., 0], b[..., 0])
    height = xp.minimum(a[..., 3], b[..., 3]) - xp.maximum(a[..., 1], b[..., 1])
    zero = xp.zeros_like(width)
    shared = xp.maximum(width, zero) * xp.maximum(height, zero)
    return shared / (area(a) + area(b) - shared)


def union(a: Array, b: Array) -> Array:
    """Return the smallest boxes (..., 4) that contain boxes a and b, each (..., 4); a nan box is ignored.

    The leading axes of a and b broadcast.
    """
    xp = array_namespace(a, b)
    a, b = xp.where(xp.isnan(a), b, a), xp.where(xp.isnan(b), a, b)
    return xp.concat([xp.minimum(a[..., :2], b[..., :2]), xp.maximum(a[..., 2:], b[..., 2:])], axis=-1)


def enlarge(box: Array, factor: float) -> Array:
    """Return boxes (..., 4) scaled by `factor` about their centres; the result is not clipped."""
    xp = array_namespace(box)
    centre = (box[..., :2] + box[..., 2:]) / 2
    half = (box[..., 2:] - box[..., :2]) * (factor / 2)
    return xp.concat([centre - half, centre + half], axis=-1)

"""How far straight segments reach in an image once a lens has bent them into curves."""

from array_api_compat import array_namespace

from tactile_align.calibration.camera import Camera
from tactile_align.geometry.frames import Array

SAMPLES = 9
"""Points on every curve; they tell which curve reaches furthest and about where."""
SAMPLES_WIDE = 13
"""The same for a piece of a segment that may reach far off the axis, where curves bend most."""
SAMPLES_AROUND = 9
"""Points around that place on that curve alone, one sample apart from end to end."""
CURVES_AT_ONCE = 3072
"""What so many curves need stays in a core's cache, which is several times as fast."""


def curve_bounds(camera: Camera, a: Array, b: Array, keep: Array | None = None, wide: bool = False) -> Array:
    """Return the bounds of the images of segments, to well below 0.1 px.

    Args:
        camera: The camera.
        a: (N, E, 3) where each of the E segments of N solids begins, in the camera frame. All of a segment lies in
            front of the camera and inside the lens limit.
        b: (N, E, 3) where each ends.
        keep: (N, E) bool, the segments that count; None for all.
        wide: Whether segments may reach far off the axis; each is then followed in four pieces.

    Returns:
        (N, 4) least u, v and greatest u, v, px; inf and -inf where no segment counts.
    """
    xp = array_namespace(a)
    a, b = _weighted(a), _weighted(b)
    for _ in range(2 if wide else 0):
        middle = _weighted(a + b)
        a, b = xp.concat([a, middle], axis=1), xp.concat([middle, b], axis=1)
        keep = None if keep is None else xp.concat([keep, keep], axis=1)
    samples = SAMPLES_WIDE if wide else SAMPLES
    count = CURVES_AT_ONCE // a.shape[1]
    parts = [slice(i, i + count) for i in range(0, max(a.shape[0], 1), count)]
    return xp.concat([_bounds(camera, a[i], b[i], None if keep is None else keep[i], samples) for i in parts], axis=0)


def _weighted(p: Array) -> Array:
    """Scale points so that even steps between two suit their image: along a ray, points share a pixel.

    Between unit rays, |p| = 1, steps are nearly even in angle: few where the image of a wide segment changes most.
    Between points with z = 1 they are even in tan(angle): few close to the axis. This is halfway between the two.
    """
    xp = array_namespace(p)
    return p / xp.sqrt(xp.linalg.vector_norm(p, axis=-1, keepdims=True) * p[..., 2:])


def _bounds(camera: Camera, a: Array, b: Array, keep: Array | None, samples: int) -> Array:
    xp = array_namespace(a)
    u, v = _follow(camera, a, b, xp.linspace(0, 1, samples, dtype=a.dtype, device=a.device))
    curves, places = [], []
    for value in (-u, -v, u, v):
        peak, place = _peak(value)
        # A parabola may overshoot and a sample fall short: the furthest curve by either is looked at closer.
        for reach in (peak, xp.max(value, axis=-1)):
            if keep is not None:
                reach = xp.where(keep, reach, xp.full_like(reach, -float("inf")))
            curve = xp.argmax(reach, axis=-1, keepdims=True)
            curves.append(curve)
            places.append(xp.take_along_axis(place, curve, axis=-1))
    curve, place = xp.concat(curves, axis=-1), xp.concat(places, axis=-1)[..., None]
    rows = xp.arange(a.shape[0], device=a.device)[:, None]
    around = xp.linspace(-0.5, 0.5, SAMPLES_AROUND, dtype=a.dtype, device=a.device)
    u, v = _follow(camera, a[rows, curve], b[rows, curve], (place + around) / (samples - 1))
    peak, _ = _peak(xp.concat([-u[:, :2], -v[:, 2:4], u[:, 4:6], v[:, 6:]], axis=1))
    reach = xp.max(xp.reshape(peak, (-1, 4, 2)), axis=-1)
    if keep is not None:
        reach = xp.where(xp.any(keep, axis=-1)[:, None], reach, xp.full_like(reach, -float("inf")))
    return xp.concat([-reach[:, :2], reach[:, 2:]], axis=-1)


def _follow(camera: Camera, a: Array, b: Array, steps: Array) -> tuple[Array, Array]:
    """Return u and v (N, E, S) of segments (N, E, 3) at steps (N, E, S) or (S,), 0 at a, 1 at b."""
    x, y, z = (a[..., i, None] + steps * (b - a)[..., i, None] for i in range(3))
    return camera.uv(x / z, y / z)


def _peak(value: Array) -> tuple[Array, Array]:
    """Return the greatest value (N, E) of curves of S samples (N, E, S), and where to look closer, 0.5..S - 1.5.

    The value is that of the parabola through the greatest sample and its neighbours; where that sample is an end,
    through the three beside it, for a curve may turn just before its end.
    """
    xp = array_namespace(value)
    last = value.shape[-1] - 1
    top = xp.argmax(value, axis=-1)
    at = top + xp.astype(top == 0, top.dtype) - xp.astype(top == last, top.dtype)
    # Single numbers out of a flat array: several times as fast as take_along_axis.
    flat = xp.reshape(value, (-1,))
    index = xp.reshape(at, (-1,)) + xp.arange(0, flat.shape[0], last + 1, device=value.device)
    before, middle, after = (xp.reshape(xp.take(flat, index + i), at.shape) for i in (-1, 0, 1))
    slope, curvature = (after - before) / 2, 2 * middle - before - after
    # Where the vertex lies beyond the three samples, or there is none, the sample itself is the greatest.
    inside = curvature > xp.abs(slope)
    vertex = slope / xp.where(inside, curvature, xp.ones_like(slope))
    step = xp.where(inside, vertex, xp.astype(top - at, value.dtype))
    half = xp.full_like(step, 0.5)
    place = xp.astype(at, value.dtype) + xp.minimum(xp.maximum(step, -half), half)
    return middle + step * slope - step * step * curvature / 2, place

"""Pixel box of a convex solid seen through a lens, even if the near plane or the lens limit cuts the solid.

The lens limit is the largest angle to the axis at which the lens has pixels (see `Camera.radius_limit`). Only the part
of the solid in front of the near plane and inside the lens limit has pixels. The border of its image consists of (1)
edges of the solid, (2) intersections of its faces with the near plane, and (3) arcs of the lens limit's circle. (1) and
(2) are straight in space. They are cut at the lens limit, then sampled and projected. Of (3) only the circle's four
points with the least and greatest u and v matter, because the ends of an arc lie on (1) or (2).
"""

from typing import Any

import numpy as np
from array_api_compat import array_namespace

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig_parts import Solid
from tactile_align.geometry.frames import Array, apply

SAMPLES = 9
"""Number of points sampled on each curve, to find the curve with the extreme u or v, and roughly where."""
SAMPLES_WIDE = 13
"""Number of points on a piece of a segment that may lie far off the axis, where curves bend most."""
SAMPLES_AROUND = 9
"""Number of points in the refinement around an extreme point; they span one sample interval."""
CURVES_AT_ONCE = 3072
"""Number of curves in a batch. The data of a batch fit into a core's cache, so it runs several times as fast."""


def curve_bounds(camera: Camera, a: Array, b: Array, keep: Array | None = None, wide: bool = False) -> Array:
    """Return the box around the projected line segments of each solid, accurate to well below 0.1 px.

    Args:
        camera: The camera.
        a: (N, E, 3) start points of the E segments of N solids, in the camera frame, m. Every segment must lie
            entirely in front of the camera and inside the lens limit.
        b: (N, E, 3) end points of the segments.
        keep: (N, E) bool, the segments that count; None: all.
        wide: Whether segments may lie far off the axis; each is then sampled in four pieces.

    Returns:
        (N, 4) smallest u, smallest v, largest u, largest v, px; (inf, inf, -inf, -inf) where no segment counts.
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
    return xp.concat(
        [_curve_bounds(camera, a[i], b[i], None if keep is None else keep[i], samples) for i in parts], axis=0
    )


def _weighted(p: Array) -> Array:
    """Return points scaled along their rays so that even steps between two points suit their image.

    Scaling along a ray does not change the pixel. With |p| = 1, even steps are nearly even in angle: too few where the
    image of a wide segment changes most. With z = 1, they are even in tan(angle): too few close to the axis. The
    scale used here is the geometric mean of these two.
    """
    xp = array_namespace(p)
    return p / xp.sqrt(xp.linalg.vector_norm(p, axis=-1, keepdims=True) * p[..., 2:])


def _curve_bounds(camera: Camera, a: Array, b: Array, keep: Array | None, samples: int) -> Array:
    xp = array_namespace(a)
    u, v = _follow(camera, a, b, xp.linspace(0, 1, samples, dtype=a.dtype, device=a.device))
    curves, places = [], []
    for value in (-u, -v, u, v):
        peak, place = _peak(value)
        # A parabola may overshoot and a sample may fall short, so the furthest curve by each measure is refined.
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
    """Return u and v (N, E, S) on segments (N, E, 3) at steps (N, E, S) or (S,); step 0 is a, step 1 is b."""
    x, y, z = (a[..., i, None] + steps * (b - a)[..., i, None] for i in range(3))
    return camera.uv(x / z, y / z)


def _peak(value: Array) -> tuple[Array, Array]:
    """Return the maximum (N, E) of curves of S samples (N, E, S), and the index to refine around, 0.5 to S - 1.5.

    The maximum is that of the parabola through the greatest sample and its neighbours. If the greatest sample is an
    end of the curve, the parabola goes through the three samples at that end, because a curve may turn just before it.
    """
    xp = array_namespace(value)
    last = value.shape[-1] - 1
    top = xp.argmax(value, axis=-1)
    at = top + xp.astype(top == 0, top.dtype) - xp.astype(top == last, top.dtype)
    # Indexing a flat array is several times as fast as take_along_axis.
    flat = xp.reshape(value, (-1,))
    index = xp.reshape(at, (-1,)) + xp.arange(0, flat.shape[0], last + 1, device=value.device)
    before, middle, after = (xp.reshape(xp.take(flat, index + i), at.shape) for i in (-1, 0, 1))
    slope, curvature = (after - before) / 2, 2 * middle - before - after
    # If the parabola has no maximum within the three samples, the greatest sample is the maximum.
    inside = curvature > xp.abs(slope)
    vertex = slope / xp.where(inside, curvature, xp.ones_like(slope))
    step = xp.where(inside, vertex, xp.astype(top - at, value.dtype))
    half = xp.full_like(step, 0.5)
    place = xp.astype(at, value.dtype) + xp.minimum(xp.maximum(step, -half), half)
    return middle + step * slope - step * step * curvature / 2, place


Z_NEAR_M = 0.005
"""Solids are cut at this depth before projecting, so that no point behind the camera ever gets a pixel."""
WIDE = 1.5
"""Normalised radius (tan of the angle to the axis) beyond which a lens bends edges too much for SAMPLES points."""
EDGES = tuple((i, i | 1 << axis) for axis in range(3) for i in range(8) if not i >> axis & 1)
"""The 12 edges of a box, as pairs of corners whose indices differ in one bit."""
FACES = tuple(
    tuple(e for e, (a, b) in enumerate(EDGES) if a >> axis & 1 == side and b >> axis & 1 == side)
    for axis in range(3)
    for side in (0, 1)
)
"""Indices of the four edges of each of the 6 faces."""


def solid_outline(camera: Camera, T_camera_sensor: Array, solid: Solid) -> tuple[Array, Array]:
    """Return the pixel box of one solid, not clipped to the image.

    Args:
        camera: The camera of the stored images.
        T_camera_sensor: (..., 4, 4) poses of the sensor in the camera's frame, metres.
        solid: A solid box in the sensor frame.

    Returns:
        box: (..., 4) px, not clipped to the image; nan where no part of the solid has a pixel.
        front: (...) bool, whether any part of the solid lies in front of the near plane.
    """
    xp = array_namespace(T_camera_sensor)
    lead = T_camera_sensor.shape[:-2]
    T = xp.reshape(T_camera_sensor, (-1, 4, 4))
    p = apply(T[:, None], xp.asarray(solid.corners, dtype=T.dtype, device=T.device))
    in_front = p[..., 2] >= Z_NEAR_M
    whole = xp.all(in_front, axis=-1)
    reach = min(camera.radius_limit, WIDE if camera.model != "pinhole" else np.inf)
    if np.isfinite(reach):
        whole = whole & xp.all(_beyond(p, reach) <= 0, axis=-1)
    if bool(xp.all(whole)):
        box = _whole_outline(camera, p)
    else:
        # Only the few solids that need cutting are cut; the results are then put back into the order of the input.
        cut = _cut_outline(camera, p[~whole], T[~whole], solid)
        both = xp.concat([_whole_outline(camera, p[whole]), cut], axis=0)
        whole_rank = xp.cumulative_sum(xp.astype(whole, xp.int64), axis=0)
        cut_rank = xp.cumulative_sum(xp.astype(~whole, xp.int64), axis=0)
        box = xp.take(both, xp.where(whole, whole_rank, whole_rank[-1] + cut_rank) - 1, axis=0)
    box = xp.where(xp.isfinite(box), box, xp.full_like(box, float("nan")))
    return xp.reshape(box, (*lead, 4)), xp.reshape(xp.any(in_front, axis=-1), lead)


def _whole_outline(camera: Camera, p: Array) -> Array:
    """Return boxes (N, 4) of solids whose corners (N, 8, 3) all lie in front, within the lens limit and WIDE."""
    xp = array_namespace(p)
    if camera.model == "pinhole":
        uv = camera.pixels(p)
        return xp.concat([xp.min(uv, axis=-2), xp.max(uv, axis=-2)], axis=-1)
    return curve_bounds(camera, *_edge_ends(p))


def _cut_outline(camera: Camera, p: Array, T: Array, solid: Solid) -> Array:
    """Return boxes (N, 4) of solids that the near plane or the lens limit may cut, or that lie far off the axis.

    A solid without a pixel gets an infinite box.
    """
    xp = array_namespace(p)
    a, b, keep = _cut_at_near_plane(*_edge_ends(p))
    limit = camera.radius_limit
    if np.isfinite(limit):
        a, b, keep = _cut_at_limit(a, b, keep, limit)
    if camera.model == "pinhole":
        box = _bounds(xp.concat([camera.pixels(a), camera.pixels(b)], axis=1), xp.concat([keep, keep], axis=1))
    else:
        box = curve_bounds(camera, a, b, keep, wide=True)
    if not np.isfinite(limit):
        return box
    rays = xp.asarray(camera.limit_extremes, dtype=p.dtype, device=p.device)
    hit = _hits(rays, T, solid)
    arc = _bounds(xp.broadcast_to(camera.pixels(rays), (*hit.shape, 2)), hit)
    return xp.concat([xp.minimum(box[:, :2], arc[:, :2]), xp.maximum(box[:, 2:], arc[:, 2:])], axis=-1)


def _edge_ends(p: Array) -> tuple[Array, Array]:
    xp = array_namespace(p)
    return tuple(xp.take(p, _index(xp, [edge[end] for edge in EDGES], p), axis=-2) for end in (0, 1))


def _index(xp: Any, values: list[int], like: Array) -> Array:
    return xp.asarray(values, dtype=xp.int64, device=like.device)


def _beyond(p: Array, limit: float) -> Array:
    """Return x^2 + y^2 - (limit z)^2, which is positive outside the limiting cone."""
    return p[..., 0] ** 2 + p[..., 1] ** 2 - (limit * p[..., 2]) ** 2


def _cut_at_near_plane(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Return edges (..., 12, 3) cut at the near plane, each face's section with it (18 segments), and which count.

    Segments that do not count become the point (0, 0, 1), which every lens can project.
    """
    xp = array_namespace(a)
    za, zb = a[..., 2:], b[..., 2:]
    front_a, front_b = za >= Z_NEAR_M, zb >= Z_NEAR_M
    crossing = front_a ^ front_b
    span = xp.where(crossing, zb - za, xp.ones_like(za))
    cut = a + (Z_NEAR_M - za) / span * (b - a)
    starts, ends = xp.where(front_a | ~crossing, a, cut), xp.where(front_b | ~crossing, b, cut)
    crossing = crossing[..., 0]
    first: list[Array] = []
    last: list[Array] = []
    has: list[Array] = []
    for edges in FACES:
        index = _index(xp, list(edges), a)
        crossed = xp.take(crossing, index, axis=-1)
        points = xp.take(cut, index, axis=-2)
        order = xp.astype(crossed, xp.int8)
        # The plane crosses two of a face's four edges, or no edge; the section joins the first and the last.
        from_start, from_end = xp.argmax(order, axis=-1), xp.argmax(xp.flip(order, axis=-1), axis=-1)
        for ends_of, at in ((first, from_start), (last, 3 - from_end)):
            which = xp.broadcast_to(at[..., None, None], (*at.shape, 1, 3))
            ends_of.append(xp.take_along_axis(points, which, axis=-2))
        has.append(xp.any(crossed, axis=-1, keepdims=True))
    keep = xp.concat([(front_a | front_b)[..., 0], *has], axis=-1)
    starts, ends = xp.concat([starts, *first], axis=-2), xp.concat([ends, *last], axis=-2)
    ahead = xp.asarray([0.0, 0.0, 1.0], dtype=a.dtype, device=a.device)
    return xp.where(keep[..., None], starts, ahead), xp.where(keep[..., None], ends, ahead), keep


def _cut_at_limit(a: Array, b: Array, keep: Array, limit: float) -> tuple[Array, Array, Array]:
    """Return segments (..., E, 3) in front of the camera, cut at the cone x^2 + y^2 = (limit z)^2, and which count.

    Segments entirely outside the cone do not count and shrink to their start points.
    """
    xp = array_namespace(a)
    d = b - a
    # a + t d is on the cone where A t^2 + 2 B t + C = 0. The cone is convex, so the part inside is one interval.
    A, C = _beyond(d, limit), _beyond(a, limit)
    B = a[..., 0] * d[..., 0] + a[..., 1] * d[..., 1] - limit**2 * a[..., 2] * d[..., 2]
    root = B * B - A * C
    real = root > 0
    root = xp.sqrt(xp.where(real, root, xp.ones_like(root)))
    # Each of the two forms of the roots is accurate where the other suffers from cancellation.
    q = -(B + xp.where(B < 0, -root, root))
    one, tiny = xp.ones_like(A), xp.full_like(A, float(xp.finfo(A.dtype).smallest_normal))
    t1 = q / xp.where(xp.abs(A) > tiny, A, tiny)
    t2 = C / xp.where(xp.abs(q) > tiny, q, tiny)
    low, high = xp.minimum(t1, t2), xp.maximum(t1, t2)
    zero = xp.zeros_like(A)
    inside_a, inside_b = C <= 0, _beyond(b, limit) <= 0
    # If one end is inside, the crossing is the root in the segment. If none is, both roots or no root are in it.
    crossing = xp.where((low >= 0) & (low <= 1), low, high)
    start = xp.where(inside_a, zero, xp.where(inside_b, crossing, low))
    end = xp.where(inside_b, one, xp.where(inside_a, crossing, high))
    both_out = ~inside_a & ~inside_b
    enters = real & (low > 0) & (high < 1) & (A > 0)
    keep = keep & (~both_out | enters)
    start, end = (xp.where(keep, t, zero)[..., None] for t in (start, end))
    return a + start * d, a + end * d, keep


def _bounds(uv: Array, keep: Array) -> Array:
    """Return the bounds (N, 4) of the pixels (N, P, 2) that count; infinite if no pixel counts."""
    xp = array_namespace(uv)
    inf = xp.full_like(uv, float("inf"))
    low, high = xp.where(keep[..., None], uv, inf), xp.where(keep[..., None], uv, -inf)
    return xp.concat([xp.min(low, axis=-2), xp.max(high, axis=-2)], axis=-1)


def _hits(rays: Array, T_camera_sensor: Array, solid: Solid) -> Array:
    """Return (..., N) bool: which of N camera rays (N, 3) with z = 1 hit the solid in front of the near plane."""
    xp = array_namespace(T_camera_sensor)
    like = {"dtype": T_camera_sensor.dtype, "device": T_camera_sensor.device}
    R = T_camera_sensor[..., :3, :3]
    slope = rays @ R
    centre = xp.matrix_transpose(R) @ T_camera_sensor[..., :3, 3:] + xp.asarray(solid.center_m, **like)[:, None]
    centre, half = centre[..., None, :, 0], xp.asarray(solid.size_m, **like) / 2
    flat = xp.abs(slope) < 1e-12
    safe = xp.where(flat, xp.ones_like(slope), slope)
    near, far = (centre - half) / safe, (centre + half) / safe
    inf = xp.full_like(near, float("inf"))
    misses = flat & (xp.abs(centre) > half)
    low = xp.where(flat, xp.where(misses, inf, -inf), xp.minimum(near, far))
    high = xp.where(flat, xp.where(misses, -inf, inf), xp.maximum(near, far))
    start = xp.clip(xp.max(low, axis=-1), Z_NEAR_M, None)
    return start <= xp.min(high, axis=-1)

"""The box of a solid by brute force: 200 x 200 points on each face, the extreme ones projected by OpenCV.

Close to the camera two points of a grid may lie 30 px apart, and a face that is only partly seen may show few of
them or none. The seen part of a face is convex (a half space, a cone and a rectangle meet in it), so its border is
also found: by bisection along rays from a point inside, ever denser around the extreme points.

Arrays hold one row for each coordinate: points (3, N), coordinates on a face (2, N), pixels (2, N).
"""

from collections.abc import Callable

import cv2
import numpy as np

Z_MIN = 0.005
COUNT = 200
CELL = 1 / (COUNT - 1)
LINE = np.linspace(-0.5, 0.5, COUNT)
GRID = np.stack(np.meshgrid(LINE, LINE, indexing="ij")).reshape(2, -1)
FINE = np.stack(np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21), indexing="ij")).reshape(2, -1)
RAYS = 720


def project(model: str, K: np.ndarray, k: tuple[float, ...], p: np.ndarray) -> np.ndarray:
    function = cv2.fisheye.projectPoints if model == "fisheye" else cv2.projectPoints
    return np.asarray(function(np.ascontiguousarray(p.T)[:, None], np.zeros(3), np.zeros(3), K, np.array(k))[0][:, 0].T)


def extreme(model: str, k: tuple[float, ...], p: np.ndarray) -> np.ndarray:
    """Return which points (M,) have the least or greatest u or v, of 4000 at a time.

    OpenCV takes 0.1 us a point, most of the time of all this. So it projects only the extreme ones, and which they
    are is told by its manual's formulas. K has no skew, so it keeps the order.
    """
    found = []
    for start in range(0, p.shape[1], 4000):
        x, y, z = p[:, start : start + 4000]
        x, y = x / z, y / z
        s = x * x + y * y
        if model == "fisheye":
            r = np.sqrt(s)
            t = np.arctan(r)
            t2 = t * t
            factor = t * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3])))) / np.maximum(r, 1e-12)
            x, y = factor * x, factor * y
        else:
            k1, k2, p1, p2, k3, k4, k5, k6 = (*k, 0.0, 0.0, 0.0, 0.0)[:8]
            radial = 1 + s * (k1 + s * (k2 + s * k3))
            if k4 or k5 or k6:
                radial /= 1 + s * (k4 + s * (k5 + s * k6))
            factor = radial + 2 * (p1 * y + p2 * x)
            x, y = factor * x + p2 * s, factor * y + p1 * s
        found += [start + i for i in (x.argmin(), x.argmax(), y.argmin(), y.argmax())]
    return np.array(found)


def unseen(p: np.ndarray, limit: float) -> np.ndarray:
    """Return how far points are from being seen (N,), m, 0 or less where they are: a convex function."""
    near = Z_MIN - p[2]
    return near if np.isinf(limit) else np.maximum(near, np.sqrt(p[0] * p[0] + p[1] * p[1]) - limit * p[2])


def box(
    model: str,
    K: np.ndarray,
    k: tuple[float, ...],
    limit: float,
    T: np.ndarray,
    size: np.ndarray,
    image: tuple[int, int],
) -> np.ndarray:
    """Return the bounds of all points of the six faces that are seen; nan where none is.

    A bound that has left the image (width, height) is not searched further: that would only carry it further out.
    """
    axis, side = np.divmod(np.arange(6), 2)
    edges = T[:3, :3] * size
    centre = T[:3, 3:] + (side - 0.5) * edges[:, axis]
    first, second = edges[:, (axis + 1) % 3], edges[:, (axis + 2) % 3]

    def place(face: np.ndarray, ab: np.ndarray) -> np.ndarray:
        return centre[:, face] + ab[0] * first[:, face] + ab[1] * second[:, face]

    def last(face: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Return the last seen points on rays at angles (N,) from the points inside faces (N,)."""
        ray, start = np.stack([np.cos(angle), np.sin(angle)]), inside[:, face]
        with np.errstate(divide="ignore"):
            reach = ((0.5 - np.sign(ray) * start) / abs(ray)).min(axis=0)
        cut = unseen(place(face, start + reach * ray), limit) > 0
        low, high = np.zeros(cut.sum()), reach[cut]
        of, start_of, ray_of = face[cut], start[:, cut], ray[:, cut]
        for _ in range(30 if cut.any() else 0):
            middle = (low + high) / 2
            good = unseen(place(of, start_of + middle * ray_of), limit) <= 0
            low, high = np.where(good, middle, low), np.where(good, high, middle)
        reach[cut] = low
        return start + reach * ray

    inside, points = np.full((2, 6), np.nan), []
    for face in range(6):
        p = place(np.array([face]), GRID)
        gap = unseen(p, limit)
        seen = gap <= 0
        points.append(p if seen.all() else p[:, seen])
        if seen.any():
            inside[:, face] = GRID[:, seen].mean(axis=1)
        # `unseen` changes by less than this from a point of the grid to any point beside it.
        elif gap.min() < 2 * CELL * size.max() * (1 + limit if np.isfinite(limit) else 1):
            gaps = lambda ab, f=face: unseen(place(np.array([f]), ab), limit)  # noqa: E731
            inside[:, face] = _between_lines(GRID[:, gap.argmin()], gaps)
    faces = np.flatnonzero(np.isfinite(inside[0]))
    if not faces.size:
        return np.full(4, np.nan)
    step = 2 * np.pi / RAYS
    around = np.repeat(faces, RAYS), np.tile(np.arange(RAYS) * step, faces.size)
    inside[:, faces] = last(*around).reshape(2, -1, RAYS).mean(axis=2)
    uv = project(model, K, k, place(around[0], last(*around)))
    value = np.concatenate([uv, -uv]).reshape(4, -1, RAYS)  # least u, v, -u, -v are sought
    bounds, leaves = value.min(axis=(1, 2)), np.array([-0.5, -0.5, 0.5 - image[0], 0.5 - image[1]])
    for p in points:
        if p.size and (bounds > leaves).any():
            uv = project(model, K, k, p[:, extreme(model, k, p)])
            bounds = np.minimum(bounds, [*uv.min(axis=1), *-uv.max(axis=1)])
    before, after = np.roll(value, 1, axis=2), np.roll(value, -1, axis=2)
    # Between two rays a bound may lie lower than on both, by about as much as it differs between them.
    lowest = value - 1 - 2 * np.maximum(abs(value - before), abs(value - after))
    valley = (value <= before) & (value <= after) & (lowest < bounds[:, None, None])
    bound, at, ray = np.nonzero(valley & (bounds > leaves)[:, None, None])
    face, angle = faces[at], ray * step
    for _ in range(5 if face.size else 0):
        fan = angle[:, None] + step * np.linspace(-1, 1, 21)
        fans = np.repeat(face, 21)
        uv = project(model, K, k, place(fans, last(fans, fan.ravel())))
        value = np.concatenate([uv, -uv]).reshape(4, *fan.shape)[bound, np.arange(len(face))]
        angle = np.take_along_axis(fan, value.argmin(axis=1)[:, None], axis=1)[:, 0]
        np.minimum.at(bounds, bound, value.min(axis=1))
        step /= 10
    return np.concatenate([bounds[:2], -bounds[2:]])


def _between_lines(start: np.ndarray, gaps: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return a seen point (2,) of a face none of whose grid points is seen; nan where none is found."""
    for step in 8 * CELL * 0.5 ** np.arange(24):
        near = np.concatenate([start[:, None], np.clip(start[:, None] + step * FINE, -0.5, 0.5)], axis=1)
        value = gaps(near)
        start = near[:, value.argmin()]
    return start if value.min() <= 0 else np.full(2, np.nan)

"""The box of a solid by brute force: 200 x 200 points on each face, projected by OpenCV; shared by tests."""

import cv2
import numpy as np

Z_MIN = 0.005
GRID = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 200), np.linspace(-0.5, 0.5, 200), indexing="ij"), axis=-1)
ZOOM = np.stack(np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41), indexing="ij"), axis=-1)


def project(model: str, K: np.ndarray, k: tuple[float, ...], p: np.ndarray) -> np.ndarray:
    p = np.ascontiguousarray(p.reshape(-1, 1, 3))
    if model == "fisheye":
        uv, _ = cv2.fisheye.projectPoints(p, np.zeros(3), np.zeros(3), K, np.array(k))
    else:
        uv, _ = cv2.projectPoints(p, np.zeros(3), np.zeros(3), K, np.array(k))
    return uv[:, 0]


def seen(p: np.ndarray, limit: float) -> np.ndarray:
    z = p[..., 2]
    return (z >= Z_MIN) & (np.hypot(p[..., 0], p[..., 1]) <= limit * np.maximum(z, Z_MIN))


def box(model: str, K: np.ndarray, k: tuple[float, ...], limit: float, T: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the bounds of all points of the six faces that are seen; nan where none is.

    Where a face is only partly seen, its grid may be 30 px wide close to the camera: the last seen points
    along the grid's lines are found by bisection, and the extreme points are searched in ever finer grids.
    """
    best = np.array([np.inf, np.inf, -np.inf, -np.inf])
    for axis in range(3):
        for side in (-0.5, 0.5):

            def place(ab: np.ndarray, axis: int = axis, side: float = side) -> np.ndarray:
                return (np.insert(ab, axis, side, axis=-1) * size) @ T[:3, :3].T + T[:3, 3]

            ab = GRID
            ok = seen(place(ab), limit)
            partly = not ok.all()
            points = [ab[ok]]
            if partly:
                points += _last_seen(place, ok, limit)
            ab = np.concatenate(points)
            if not len(ab):
                continue
            uv = project(model, K, k, place(ab))
            for edge in range(4):
                sign, value = (1, uv[:, edge % 2]) if edge < 2 else (-1, uv[:, edge % 2])
                at = np.argmin(sign * value)
                found, centre = value[at], ab[at]
                for step in (2e-2, 2e-3, 2e-4, 2e-5) if partly else ():
                    near = np.clip(centre + step * ZOOM, -0.5, 0.5)
                    near = np.concatenate([near[seen(place(near), limit)], centre[None]])
                    value = project(model, K, k, place(near))[:, edge % 2]
                    at = np.argmin(sign * value)
                    found, centre = value[at], near[at]
                best[edge] = sign * min(sign * best[edge], sign * found)
    return best if np.isfinite(best).all() else np.full(4, np.nan)


def _last_seen(place, ok: np.ndarray, limit: float) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    found = []
    for a, b, from_a, from_b in (
        (GRID[1:], GRID[:-1], ok[1:], ok[:-1]),
        (GRID[:, 1:], GRID[:, :-1], ok[:, 1:], ok[:, :-1]),
    ):
        for inner, outer, change in ((a, b, from_a & ~from_b), (b, a, from_b & ~from_a)):
            low, high = inner[change], outer[change]
            for _ in range(40):
                middle = (low + high) / 2
                good = seen(place(middle), limit)[:, None]
                low, high = np.where(good, middle, low), np.where(good, high, middle)
            found.append(low)
    return found

"""Where rays meet spheres, capsules, cylinders and boxes, exactly; no image formation here.

A bundle of rays is known only through its dot products. A camera's rays share their origin, a gel's rays share their
direction, so in each product one side is a number and the other an outer sum of a column and a row: that, not the
geometry, is what makes the caster fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Term = Any  # a number or an array that broadcasts to the shape of the bundle

SPHERE, CAPSULE, CYLINDER, BOX = 2, 3, 5, 6  # as in MuJoCo's mjtGeom
MISS = np.float32(1e9)


@dataclass(frozen=True)
class Pencil:
    """Rays through the origin along (x, y, 1): the pixels of a camera. The ray parameter is the depth z.

    Attributes:
        x: (w,) one value per column.
        y: (h,) one value per row.
    """

    x: Floats
    y: Floats

    def along(self, n: Floats) -> Term:
        """Return direction . n, (h, w)."""
        return (n[0] * self.x + n[2])[None, :] + (n[1] * self.y)[:, None]

    def offset(self, p: Floats, n: Floats) -> Term:
        """Return (origin - p) . n."""
        return -(p[0] * n[0] + p[1] * n[1] + p[2] * n[2])

    def speed2(self) -> Term:
        """Return direction . direction, (h, w)."""
        return (self.x * self.x + 1)[None, :] + (self.y * self.y)[:, None]

    def approach(self, p: Floats) -> Term:
        """Return (origin - p) . direction, (h, w)."""
        return self.along(-p)

    def distance2(self, p: Floats) -> Term:
        """Return |origin - p|^2."""
        return p[0] * p[0] + p[1] * p[1] + p[2] * p[2]


@dataclass(frozen=True)
class Sheaf:
    """Parallel rays from (x, y, 0) along +z: the cells of a gel. The ray parameter is the height z.

    Attributes:
        x: (w,) metres, one value per column.
        y: (h,) metres, one value per row.
    """

    x: Floats
    y: Floats

    def along(self, n: Floats) -> Term:
        """Return direction . n, a number."""
        return n[2]

    def offset(self, p: Floats, n: Floats) -> Term:
        """Return (origin - p) . n, (h, w)."""
        return (n[0] * (self.x - p[0]) - n[2] * p[2])[None, :] + (n[1] * (self.y - p[1]))[:, None]

    def speed2(self) -> Term:
        """Return direction . direction."""
        return 1.0

    def approach(self, p: Floats) -> Term:
        """Return (origin - p) . direction."""
        return -p[2]

    def distance2(self, p: Floats) -> Term:
        """Return |origin - p|^2, (h, w)."""
        return ((self.x - p[0]) ** 2 + p[2] ** 2)[None, :] + ((self.y - p[1]) ** 2)[:, None]


Rays = Pencil | Sheaf


def _sphere(rays: Rays, size: Floats, p: Floats, R: Floats) -> Floats:
    a, b = rays.speed2(), rays.approach(p)
    root2 = b * b - a * (rays.distance2(p) - size[0] * size[0])
    t = (-b - np.sqrt(root2)) / a
    return np.where(t > 0, t, MISS)  # a negative root2 gives nan, and nan > 0 is False


def _capsule(rays: Rays, size: Floats, p: Floats, R: Floats) -> Floats:
    radius, half, axis = size[0], size[1], R[:, 2]
    dd, dz = rays.speed2(), rays.along(axis)
    od, oz, oo = rays.approach(p), rays.offset(p, axis), rays.distance2(p)
    a = dd - dz * dz
    b = od - oz * dz
    root2 = b * b - a * (oo - oz * oz - radius * radius)
    t = (-b - np.sqrt(root2)) / a
    z = oz + t * dz
    # Off the tube, only the ball on the side where the ray crosses it can be met first.
    side = np.where(z > 0, half, -half)
    ball_od = od - side * dz
    ball_oo = oo - 2 * side * oz + half * half
    ball = (-ball_od - np.sqrt(ball_od * ball_od - dd * (ball_oo - radius * radius))) / dd
    t = np.where(np.abs(z) <= half, t, ball)
    return np.where((root2 >= 0) & (t > 0), t, MISS)


def _cylinder(rays: Rays, size: Floats, p: Floats, R: Floats) -> Floats:
    radius, half, axis = size[0], size[1], R[:, 2]
    dz, oz = rays.along(axis), rays.offset(p, axis)
    a = np.maximum(rays.speed2() - dz * dz, 1e-12)
    b = rays.approach(p) - oz * dz
    root = np.sqrt(b * b - a * (rays.distance2(p) - oz * oz - radius * radius))
    t = (-b - root) / a
    z = oz + t * dz
    lid = (np.where(z > 0, half, -half) - oz) / dz
    lid = np.where(np.abs(b + a * lid) <= root, lid, MISS)  # within the lid: closer to the axis than the wall
    t = np.where(np.abs(z) <= half, t, lid)
    return np.where(t > 0, t, MISS)


def _box(rays: Rays, size: Floats, p: Floats, R: Floats) -> Floats:
    near: Any = None
    far: Any = None
    for i in range(3):
        n = R[:, i]
        slope = rays.along(n)
        inverse = 1 / np.where(slope == 0, 1e-12, slope).astype(np.asarray(slope).dtype)  # never inf - inf
        middle = -rays.offset(p, n) * inverse
        reach = size[i] * np.abs(inverse)
        near = middle - reach if near is None else np.maximum(near, middle - reach)
        far = middle + reach if far is None else np.minimum(far, middle + reach)
    return np.where((near <= far) & (near > 0), near, MISS)


_HIT: dict[int, Callable[[Rays, Floats, Floats, Floats], Floats]] = {
    SPHERE: _sphere,
    CAPSULE: _capsule,
    CYLINDER: _cylinder,
    BOX: _box,
}


def hit(rays: Rays, kind: int, size: Floats, p: Floats, R: Floats) -> Floats:
    """Return where each ray first enters a primitive.

    Args:
        rays: The bundle; its frame is the frame of `p` and `R`.
        kind: SPHERE, CAPSULE, CYLINDER or BOX.
        size: (3,) as MuJoCo: radius | radius, half length | radius, half length | three half sides; metres.
        p: (3,) centre, metres.
        R: (3, 3) rotation of the primitive's axes into the bundle's frame; a capsule or cylinder lies along its third.

    Returns:
        (h, w) ray parameter, MISS where the ray misses or starts inside.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return _HIT[kind](rays, size, p, R)


def normals(kind: int, size: Floats, local: Floats) -> Floats:
    """Return outward unit normals of points on a primitive, in its own axes.

    Args:
        kind: As in `hit`.
        size: (3,) as in `hit`.
        local: (3, n) points on the surface in the primitive's axes, metres.

    Returns:
        (3, n) normals.
    """
    if kind == SPHERE:
        return local / size[0]
    if kind == BOX:
        face = np.abs(local / size[:3, None]).argmax(axis=0)
        out = np.zeros_like(local)
        columns = np.arange(local.shape[1])
        out[face, columns] = np.sign(local[face, columns])
        return out
    out = local / size[0]
    if kind == CAPSULE:
        out[2] = (local[2] - np.minimum(np.maximum(local[2], -size[1]), size[1])) / size[0]
        return out
    lid = np.abs(local[2]) - size[1] > np.hypot(local[0], local[1]) - size[0]
    out[:2, lid] = 0
    out[2] = np.where(lid, np.sign(local[2]), 0)
    return out


def extents(kind: int, size: Floats) -> Floats:
    """Return the (3,) half sides of the smallest own-axes box around a primitive, metres."""
    if kind == SPHERE:
        return np.full(3, size[0])
    if kind == BOX:
        return np.asarray(size[:3])
    return np.array([size[0], size[0], size[1] + (size[0] if kind == CAPSULE else 0.0)])

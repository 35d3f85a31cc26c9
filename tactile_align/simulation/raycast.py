"""Ray caster that computes colour, segmentation and depth of primitives on a bench, in numpy without GPU or OpenGL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Term = Any  # a number or an array that broadcasts to the shape of the bundle

SPHERE, CAPSULE, CYLINDER, BOX = 2, 3, 5, 6  # as in MuJoCo's mjtGeom
F = np.float32
MISS = F(1e9)


class Rays:
    """Bundle of h x w rays (h rows, w columns), each from `origin` (x, y, 0) along `direction` (x, y, 1).

    Each x and y of origin and direction is 0 or an array that broadcasts to (h, w). The ray parameter (length along a
    ray in units of its direction) is z.
    """

    origin: tuple[Term, Term] = (0.0, 0.0)
    direction: tuple[Term, Term] = (0.0, 0.0)

    def __init__(self, x: Floats, y: Floats) -> None:
        """Store x (w,), one value per column, and y (h,), one value per row."""
        self.x, self.y = x, y

    def along(self, n: Floats) -> Term:
        """Return the dot product of each ray's direction with a vector `n` (3,)."""
        x, y = self.direction
        return (n[0] * x + n[2]) + n[1] * y

    def offset(self, p: Floats, n: Floats) -> Term:
        """Return the dot product (origin - p) . n of each ray, with a point `p` (3,) and a vector `n` (3,)."""
        x, y = self.origin
        return -(((p[0] - x) * n[0] + p[2] * n[2]) + (p[1] - y) * n[1])

    def speed2(self) -> Term:
        """Return the squared length of each ray's direction."""
        x, y = self.direction
        return (x * x + 1) + y * y

    def approach(self, p: Floats) -> Term:
        """Return (origin - p) . direction of each ray, with a point `p` (3,); origin . direction is 0."""
        return self.along(-p)

    def distance2(self, p: Floats) -> Term:
        """Return the squared distance from each ray's origin to a point `p` (3,)."""
        x, y = self.origin
        return ((x - p[0]) ** 2 + p[2] ** 2) + (y - p[1]) ** 2


class Pencil(Rays):
    """Rays through the origin along (x, y, 1), one per pixel of a camera. The ray parameter is the depth z."""

    def __init__(self, x: Floats, y: Floats) -> None:
        super().__init__(x, y)
        self.direction = x[None, :], y[:, None]

    # Without an origin, these two sum in another order: recordings stay the same to the last bit.
    def offset(self, p: Floats, n: Floats) -> Term:
        """Return (origin - p) . n, as in `Rays.offset`: one number, because all rays have the same origin."""
        return -(p[0] * n[0] + p[1] * n[1] + p[2] * n[2])

    def distance2(self, p: Floats) -> Term:
        """Return |origin - p|^2, as in `Rays.distance2`: one number, because all rays have the same origin."""
        return p[0] * p[0] + p[1] * p[1] + p[2] * p[2]


class Sheaf(Rays):
    """Parallel rays from (x, y, 0) along +z, one per cell of a gel. The ray parameter is the height z, metres."""

    def __init__(self, x: Floats, y: Floats) -> None:
        super().__init__(x, y)
        self.origin = x[None, :], y[:, None]


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
    # If the ray misses the tube, it can only hit the ball at the end on the side where it meets the infinite tube.
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
    lid = np.where(np.abs(b + a * lid) <= root, lid, MISS)  # the lid ends at the wall's radius
    t = np.where(np.abs(z) <= half, t, lid)
    return np.where(t > 0, t, MISS)


def _box(rays: Rays, size: Floats, p: Floats, R: Floats) -> Floats:
    near, far = -MISS, MISS
    for n, half in zip(R.T, size, strict=True):
        slope = rays.along(n)
        inverse = 1 / np.where(slope == 0, 1e-12, slope).astype(np.asarray(slope).dtype)  # avoids inf - inf
        middle, reach = -rays.offset(p, n) * inverse, half * np.abs(inverse)
        near, far = np.maximum(near, middle - reach), np.minimum(far, middle + reach)
    return np.where((near <= far) & (near > 0), near, MISS)


_HIT = {SPHERE: _sphere, CAPSULE: _capsule, CYLINDER: _cylinder, BOX: _box}


def hit(rays: Rays, kind: int, size: Floats, p: Floats, R: Floats) -> Floats:
    """Return the ray parameter at which each ray first enters a primitive.

    Args:
        rays: The bundle, in the frame of `p` and `R`.
        kind: SPHERE, CAPSULE, CYLINDER or BOX.
        size: (3,) size as in MuJoCo, metres. SPHERE: radius. CAPSULE, CYLINDER: radius, half length. BOX: three half
            sides.
        p: (3,) centre, metres.
        R: (3, 3) rotation from the primitive's frame to the bundle's frame; the axis of a capsule or cylinder is z.

    Returns:
        (h, w) ray parameter of each ray, see `Rays`; MISS where the ray misses the primitive or starts inside it.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return _HIT[kind](rays, size, p, R)


def normals(kind: int, size: Floats, local: Floats) -> Floats:
    """Return the outward unit normals at points on a primitive, in the primitive's frame.

    Args:
        kind: Kind of the primitive, as in `hit`.
        size: (3,) size, as in `hit`.
        local: (3, n) coordinates of n points on the surface, in the primitive's frame, metres.

    Returns:
        (3, n) unit normals.
    """
    if kind == SPHERE:
        return local / size[0]
    if kind == BOX:
        face = np.abs(local / size[:3, None]).argmax(axis=0)
        return np.where(np.arange(3)[:, None] == face, np.sign(local), F(0))
    out = local / size[0]
    if kind == CAPSULE:
        out[2] = (local[2] - np.minimum(np.maximum(local[2], -size[1]), size[1])) / size[0]
        return out
    lid = np.abs(local[2]) - size[1] > np.hypot(local[0], local[1]) - size[0]
    out[:2, lid] = 0
    out[2] = np.where(lid, np.sign(local[2]), 0)
    return out


def extents(kind: int, size: Floats) -> Floats:
    """Return the half sides (3,), metres, of the smallest box around a primitive, along the primitive's axes.

    `kind` and `size` are as in `hit`.
    """
    if kind == SPHERE:
        return np.full(3, size[0])
    if kind == BOX:
        return np.asarray(size[:3])
    return np.array([size[0], size[0], size[1] + (size[0] if kind == CAPSULE else 0.0)])


PATTERNS = ("checker", "waves", "grains")


@dataclass(frozen=True)
class Paint:
    """Paint of one solid: two colours mixed by a pattern in the solid's frame.

    Attributes:
        colour: (3,) RGB, 0..1.
        other: (3,) RGB of the second colour, 0..1; equal to `colour` for a plain solid.
        pattern: One of PATTERNS.
        pitch: Pattern periods per metre; 0 for a plain solid.
    """

    colour: Floats
    other: Floats
    pattern: str = "checker"
    pitch: float = 0.0

    def at(self, local: Floats) -> Floats:
        """Return the colours (n, 3) at n points `local` (3, n), metres, in the solid's frame."""
        if self.pitch == 0.0:
            return np.broadcast_to(self.colour, (local.shape[1], 3))
        mix = mixture(self.pattern, local * F(self.pitch))
        return self.colour + (self.other - self.colour) * mix[:, None]


def mixture(pattern: str, p: Floats) -> Floats:
    """Return the values of a pattern, 0..1, at n points `p` with d coordinates each, (d, n).

    `p` has no unit: the pattern `grains` repeats when a coordinate grows by 8, every other pattern by 2.
    """
    if pattern == "checker":
        return np.asarray(np.floor(p).sum(axis=0) % 2)
    if pattern == "waves":
        return np.asarray(0.5 + 0.5 * np.sin(np.pi * (p[0] + np.sin(np.pi * p[1]) / 2)))
    hashed = np.zeros(p.shape[1], np.int64)
    for axis, prime in zip(np.floor(p).astype(np.int64) % 8, (73856093, 19349663, 83492791), strict=False):
        hashed ^= (axis + 1) * prime
    return ((hashed % 997) / F(997)).astype(F)


SKY = (178, 190, 204)
DIFFUSE = F(0.47)  # brightness that the lamp adds to a surface that faces the lamp


class Lens:
    """Rays of a pinhole camera, one per pixel.

    Args:
        width: Image width, px.
        height: Image height, px.
        K: (3, 3) intrinsics with (0, 0) at the centre of the first pixel; fx and fy may be negative.
    """

    def __init__(self, width: int, height: int, K: Floats) -> None:
        self.width, self.height = width, height
        self.K = np.asarray(K, dtype=np.float64)
        x = (np.arange(width) - self.K[0, 2]) / self.K[0, 0]
        y = (np.arange(height) - self.K[1, 2]) / self.K[1, 1]
        self.pencil = Pencil(x.astype(F), y.astype(F))

    def window(self, u0: int, u1: int, v0: int, v1: int) -> Pencil:
        """Return the rays of the pixels in columns u0 <= u < u1 and rows v0 <= v < v1."""
        return Pencil(self.pencil.x[u0:u1], self.pencil.y[v0:v1])


class Bench:
    """Renderer of the bench, the textured plane z = 0 of the world."""

    def __init__(self, paint: Paint, lamp: Floats) -> None:
        """Prepare one seamless tile of the paint, 16 units wide, in the light of a lamp.

        Args:
            paint: Paint of the bench.
            lamp: (3,) unit vector towards the lamp, world frame.
        """
        self.side_px = 256
        periods = (np.arange(self.side_px, dtype=F) + F(0.5)) * F(16 / self.side_px)
        grid = np.stack(np.meshgrid(periods, periods)).reshape(2, -1)
        mix = mixture(paint.pattern, grid)[:, None]
        tile = np.asarray(paint.colour + (paint.other - paint.colour) * mix).reshape(self.side_px, self.side_px, 3)
        lit = F(0.5) + DIFFUSE * F(lamp[2])
        self.tile = (np.clip(tile * lit, 0, 1) * 255).astype(np.uint8)
        self.px_per_m = self.side_px * paint.pitch / 16

    def draw(self, lens: Lens, T_world_camera: Floats, out: npt.NDArray[np.uint8]) -> None:
        """Draw the plane into the image `out` (H, W, 3), using the homography from the plane to the image."""
        ray = T_world_camera[:3, :3] @ np.linalg.inv(lens.K)
        eye = T_world_camera[:3, 3]
        # Texel i has the paint at i + 0.5, so the position in the tile is half a texel less.
        M = np.stack([(eye[i] * ray[2] - eye[2] * ray[i]) * self.px_per_m - 0.5 * ray[2] for i in range(2)])
        H, flags = np.vstack([M, ray[2:]]), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpPerspective(self.tile, H, (lens.width, lens.height), out, flags, cv2.BORDER_WRAP)
        corners = [[u, v, 1] for u in (-0.5, lens.width - 0.5) for v in (-0.5, lens.height - 0.5)]
        if (np.array(corners) @ ray[2] >= 0).any():
            out[self.depth(lens, T_world_camera) >= MISS] = SKY

    def depth(self, lens: Lens, T_world_camera: Floats) -> Floats:
        """Return the (H, W) depth z of the plane in the camera frame, metres; MISS above the horizon."""
        down = lens.pencil.along(T_world_camera[2, :3].astype(F))
        with np.errstate(divide="ignore"):
            return np.where(down < 0, F(-T_world_camera[2, 3]) / down, MISS).astype(F)


BENCH = -1  # segmentation id of the bench, and of the sky above the horizon
NEAR = 1e-3  # metres; a corner at a smaller depth has no usable pixel
_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
_EDGES = np.array([[i, i | b] for i in range(8) for b in (1, 2, 4) if not i & b]).T  # corners that differ in one sign
_AMBIENT, _HEADLIGHT = F(0.38), F(0.25)


@dataclass(frozen=True)
class Solids:
    """Shapes and paints of the n primitives of a scene; their poses are given separately for each moment.

    Attributes:
        kind: (n,) kinds, as in `hit`.
        size: (n, 3) sizes, as in `hit`, metres.
        paint: n paints.
    """

    kind: npt.NDArray[np.int64]
    size: npt.NDArray[np.float64]
    paint: tuple[Paint, ...]

    @property
    def reach(self) -> Floats:
        """Half sides (n, 3), metres, of the smallest box around each of the n solids, along the solid's own axes."""
        sides = [extents(int(k), s) for k, s in zip(self.kind, self.size, strict=True)]
        return np.array(sides).reshape(-1, 3)


@dataclass
class Picture:
    """Rendered image of a camera, with segmentation and depth.

    Attributes:
        rgb: (H, W, 3) uint8 RGB image.
        ids: (H, W) index of the solid in each pixel; BENCH in a pixel without a solid.
        depth: (H, W) coordinate z in the camera frame of what the pixel shows, metres; MISS in the sky.
    """

    rgb: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int16]
    depth: npt.NDArray[np.float32]

    def copy(self) -> Picture:
        """Return a copy of the picture, which `Caster.draw` may change without changing the original."""
        return Picture(self.rgb.copy(), self.ids.copy(), self.depth.copy())


@dataclass(frozen=True)
class Placed:
    """Poses and pixel windows of the n solids in a camera frame.

    Attributes:
        centre: (n, 3) centres, metres.
        axes: (n, 3, 3) rotations from each solid's frame to the camera frame.
        window: (n, 4) pixel window u0, u1, v0, v1 of each solid: columns u0 <= u < u1, rows v0 <= v < v1.
        nearest: (n,) smallest depth of the box around each solid, metres.
    """

    centre: Floats
    axes: Floats
    window: npt.NDArray[np.int64]
    nearest: Floats

    def order(self, which: npt.NDArray[np.int64]) -> list[int]:
        """Return the indices in `which` of solids with a non-empty pixel window, sorted from near to far."""
        w = self.window[which]
        visible = which[(w[:, 0] < w[:, 1]) & (w[:, 2] < w[:, 3])]
        return [int(g) for g in visible[np.argsort(self.nearest[visible], kind="stable")]]


class Caster:
    """Renderer of solids on a bench.

    Args:
        solids: The solids.
        bench: Paint of the bench.
        lamp: (3,) unit vector towards the lamp, world frame.
    """

    def __init__(self, solids: Solids, bench: Paint, lamp: Floats) -> None:
        self.solids, self.bench, self.lamp = solids, Bench(bench, lamp), lamp
        self._size = solids.size.astype(F)
        self._corners = solids.reach[:, None, :] * _SIGNS  # (n, 8, 3)

    def place(self, lens: Lens, T_world_camera: Floats, centre: Floats, axes: Floats) -> Placed:
        """Return the poses of the solids in the camera frame, with the pixel window of each.

        Args:
            lens: The camera.
            T_world_camera: (4, 4) pose of the camera.
            centre: (n, 3) centres of the n solids in the world frame, metres.
            axes: (n, 3, 3) rotations from each solid's frame to the world frame.
        """
        R = T_world_camera[:3, :3]
        p = (centre - T_world_camera[:3, 3]) @ R
        A = R.T @ axes
        corners = p[:, None, :] + self._corners @ np.swapaxes(A, 1, 2)
        # A solid beside the camera may cross the plane z = NEAR. Cut the box's edges at that plane, so that the
        # window does not fill the whole image.
        start, stop = corners[:, _EDGES[0]], corners[:, _EDGES[1]]
        crosses = (start[..., 2] < NEAR) != (stop[..., 2] < NEAR)
        rise = np.where(crosses, stop[..., 2] - start[..., 2], 1.0)
        cut = start + ((NEAR - start[..., 2]) / rise)[..., None] * (stop - start)
        points = np.concatenate([corners, cut], axis=1)
        counts = np.concatenate([corners[..., 2] >= NEAR, crosses], axis=1)
        near = corners[..., 2].min(axis=1)
        z = np.maximum(points[..., 2], NEAR)
        uv = np.stack([points[..., i] / z * lens.K[i, i] + lens.K[i, 2] for i in range(2)])
        lo = np.where(counts, uv, np.inf).min(axis=2).T
        hi = np.where(counts, uv, -np.inf).max(axis=2).T + 1
        edges = np.stack([np.ceil(lo), np.floor(hi)], axis=2)  # (n, 2, 2): u0, u1, v0, v1
        window = np.clip(edges, 0, [[lens.width], [lens.height]]).astype(np.int64).reshape(-1, 4)
        return Placed(p.astype(F), A.astype(F), window, near.astype(F))

    def background(self, lens: Lens, T_world_camera: Floats) -> Picture:
        """Return the picture of the bench without any solid."""
        shape = (lens.height, lens.width)
        rgb = np.empty((*shape, 3), np.uint8)
        self.bench.draw(lens, T_world_camera, rgb)
        return Picture(rgb, np.full(shape, BENCH, np.int16), self.bench.depth(lens, T_world_camera))

    def draw(
        self, picture: Picture, lens: Lens, T_world_camera: Floats, placed: Placed, which: npt.NDArray[np.int64]
    ) -> None:
        """Draw some solids into a picture, except where the picture already shows something nearer.

        Args:
            picture: The picture; changed in place.
            lens: The camera.
            T_world_camera: (4, 4) pose of the camera.
            placed: Result of `place`.
            which: (k,) indices of the k solids to draw.
        """
        order = placed.order(which)
        for g in order:
            u0, u1, v0, v1 = placed.window[g]
            z = picture.depth[v0:v1, u0:u1]
            if placed.nearest[g] > z.max():
                continue
            t = self._hit(lens.window(u0, u1, v0, v1), placed, g)
            nearer = t < z
            np.copyto(z, t, where=nearer)
            np.copyto(picture.ids[v0:v1, u0:u1], np.int16(g), where=nearer)
        lamp = (T_world_camera[:3, :3].T @ self.lamp).astype(F)
        for g in order:
            self._shade(picture, lens, placed, g, lamp)

    def _hit(self, rays: Rays, placed: Placed, g: int) -> Floats:
        return hit(rays, int(self.solids.kind[g]), self._size[g], placed.centre[g], placed.axes[g])

    def _shade(self, picture: Picture, lens: Lens, placed: Placed, g: int, lamp: Floats) -> None:
        u0, u1, v0, v1 = placed.window[g]
        row, column = np.nonzero(picture.ids[v0:v1, u0:u1] == g)
        if row.size == 0:
            return
        row, column = row + v0, column + u0
        t = picture.depth[row, column]
        p = np.stack([lens.pencil.x[column] * t, lens.pencil.y[row] * t, t])
        axes = placed.axes[g]
        local = axes.T @ (p - placed.centre[g][:, None])
        n = normals(int(self.solids.kind[g]), self._size[g], local)
        shade = _AMBIENT + DIFFUSE * np.maximum(0, (lamp @ axes) @ n) + _HEADLIGHT * np.maximum(0, -axes[2] @ n)
        colour = self.solids.paint[g].at(local) * (shade * 255)[:, None]
        picture.rgb[row, column] = np.minimum(colour, 255)

    def silhouette(
        self, lens: Lens, placed: Placed, which: Iterable[int]
    ) -> tuple[tuple[int, int, int, int], npt.NDArray[np.bool_]]:
        """Return the amodal mask of some solids: the mask that the solids would have if nothing hid them.

        Returns:
            The window (u0, u1, v0, v1) of the mask, and the mask (v1 - v0, u1 - u0); empty when out of view.
        """
        order = placed.order(np.asarray(list(which)))
        if not order:
            return (0, 0, 0, 0), np.zeros((0, 0), bool)
        w = placed.window[order]
        u0, u1, v0, v1 = (int(x) for x in (w[:, 0].min(), w[:, 1].max(), w[:, 2].min(), w[:, 3].max()))
        mask = np.zeros((v1 - v0, u1 - u0), bool)
        rays = lens.window(u0, u1, v0, v1)
        for g in order:
            mask |= self._hit(rays, placed, g) < MISS
        return (u0, u1, v0, v1), mask


def mask_box(window: tuple[int, int, int, int], mask: npt.NDArray[np.bool_]) -> Floats:
    """Return the tight box (u0, v0, u1, v1) of a mask, (4,), in continuous pixels; nan if the mask is empty.

    `window` and `mask` are the results of `Caster.silhouette`.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return np.full(4, np.nan)
    u0, _, v0, _ = window
    return np.array([u0 + columns[0] - 0.5, v0 + rows[0] - 0.5, u0 + columns[-1] + 0.5, v0 + rows[-1] + 0.5])

"""Pictures, segmentation and depth of a scene of primitives on a bench, in numpy: no GPU, no GL, no driver."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tactile_align.simulation.lens import DIFFUSE, Bench, Lens
from tactile_align.simulation.paint import F, Paint
from tactile_align.simulation.primitives import MISS, Floats, extents, hit, normals

BENCH = -1  # segmentation id of the bench, and of the sky above its horizon
NEAR = 1e-3  # metres; nearer than this, a corner has no usable pixel
_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
_EDGES = np.array([[i, i | b] for i in range(8) for b in (1, 2, 4) if not i & b]).T  # corners that differ in one sign
_AMBIENT, _HEADLIGHT = F(0.38), F(0.25)


@dataclass(frozen=True)
class Solids:
    """The primitives of a scene, n of them; their poses come separately, as they move.

    Attributes:
        kind: (n,) as in `primitives.hit`.
        size: (n, 3) metres.
        paint: n paints.
    """

    kind: npt.NDArray[np.int64]
    size: npt.NDArray[np.float64]
    paint: tuple[Paint, ...]

    @property
    def reach(self) -> Floats:
        """(n, 3) half sides of each solid's own-axes box, metres."""
        sides = [extents(int(k), s) for k, s in zip(self.kind, self.size, strict=True)]
        return np.array(sides).reshape(-1, 3)


@dataclass
class Picture:
    """What a camera sees.

    Attributes:
        rgb: (H, W, 3) uint8.
        ids: (H, W) index of the solid, BENCH where there is none.
        depth: (H, W) z in the camera, metres; MISS in the sky.
    """

    rgb: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int16]
    depth: npt.NDArray[np.float32]

    def copy(self) -> Picture:
        """Return a picture that can be drawn over."""
        return Picture(self.rgb.copy(), self.ids.copy(), self.depth.copy())


@dataclass(frozen=True)
class Placed:
    """The solids as one camera has them: centres (n, 3) and axes (n, 3, 3) in its frame, windows, nearest depths."""

    centre: Floats
    axes: Floats
    window: npt.NDArray[np.int64]
    nearest: Floats

    def order(self, which: npt.NDArray[np.int64]) -> list[int]:
        """Return those of `which` that have a window, nearest first."""
        w = self.window[which]
        seen = which[(w[:, 0] < w[:, 1]) & (w[:, 2] < w[:, 3])]
        return [int(g) for g in seen[np.argsort(self.nearest[seen], kind="stable")]]


class Caster:
    """Draws solids on a bench.

    Args:
        solids: What there is to draw.
        bench: Paint of the bench.
        lamp: (3,) unit vector towards the lamp, world.
    """

    def __init__(self, solids: Solids, bench: Paint, lamp: Floats) -> None:
        self.solids, self.bench, self.lamp = solids, Bench(bench, lamp), lamp
        self._size = solids.size.astype(F)
        self._corners = solids.reach[:, None, :] * _SIGNS  # (n, 8, 3)

    def place(self, lens: Lens, T_world_camera: Floats, centre: Floats, axes: Floats) -> Placed:
        """Move world centres (n, 3) and axes (n, 3, 3) into the camera and find each solid's pixel window."""
        R = T_world_camera[:3, :3]
        p = (centre - T_world_camera[:3, 3]) @ R
        A = R.T @ axes
        corners = p[:, None, :] + self._corners @ np.swapaxes(A, 1, 2)
        # A solid beside the camera straddles its plane: cut the box's edges there, or it claims the whole image.
        start, stop = corners[:, _EDGES[0]], corners[:, _EDGES[1]]
        crosses = (start[..., 2] < NEAR) != (stop[..., 2] < NEAR)
        rise = np.where(crosses, stop[..., 2] - start[..., 2], 1.0)
        cut = start + ((NEAR - start[..., 2]) / rise)[..., None] * (stop - start)
        points = np.concatenate([corners, cut], axis=1)
        counts = np.concatenate([corners[..., 2] >= NEAR, crosses], axis=1)
        near = corners[..., 2].min(axis=1)
        z = np.maximum(points[..., 2], NEAR)
        uv = np.stack(
            [points[..., 0] / z * lens.K[0, 0] + lens.K[0, 2], points[..., 1] / z * lens.K[1, 1] + lens.K[1, 2]]
        )
        lo = np.where(counts, uv, np.inf).min(axis=2).T
        hi = np.where(counts, uv, -np.inf).max(axis=2).T + 1
        size = [lens.width, lens.height]
        first = np.clip(np.ceil(lo), 0, size).astype(np.int64)
        last = np.clip(np.floor(hi), 0, size).astype(np.int64)
        window = np.stack([first[:, 0], last[:, 0], first[:, 1], last[:, 1]], axis=1)
        return Placed(p.astype(F), A.astype(F), window, near.astype(F))

    def background(self, lens: Lens, T_world_camera: Floats) -> Picture:
        """Return a picture of the bench alone."""
        shape = (lens.height, lens.width)
        rgb = np.empty((*shape, 3), np.uint8)
        self.bench.draw(lens, T_world_camera, rgb)
        return Picture(rgb, np.full(shape, BENCH, np.int16), self.bench.depth(lens, T_world_camera))

    def draw(
        self,
        picture: Picture,
        lens: Lens,
        T_world_camera: Floats,
        placed: Placed,
        which: npt.NDArray[np.int64],
    ) -> None:
        """Draw some solids into a picture, hidden by whatever in it is nearer.

        Args:
            picture: Drawn over.
            lens: The camera.
            T_world_camera: (4, 4) its pose.
            placed: From `place`.
            which: (k,) indices of the solids to draw.
        """
        order = placed.order(which)
        for g in order:
            u0, u1, v0, v1 = placed.window[g]
            z = picture.depth[v0:v1, u0:u1]
            if placed.nearest[g] > z.max():
                continue
            t = hit(
                lens.window(u0, u1, v0, v1), int(self.solids.kind[g]), self._size[g], placed.centre[g], placed.axes[g]
            )
            nearer = t < z
            np.copyto(z, t, where=nearer)
            np.copyto(picture.ids[v0:v1, u0:u1], np.int16(g), where=nearer)
        lamp = (T_world_camera[:3, :3].T @ self.lamp).astype(F)
        for g in order:
            self._shade(picture, lens, placed, g, lamp)

    def _shade(self, picture: Picture, lens: Lens, placed: Placed, g: int, lamp: Floats) -> None:
        u0, u1, v0, v1 = placed.window[g]
        row, column = np.nonzero(picture.ids[v0:v1, u0:u1] == g)
        if row.size == 0:
            return
        row += v0
        column += u0
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
        """Return the mask of some solids as if nothing hid them (amodal).

        Returns:
            (u0, u1, v0, v1), the window of the mask, and the mask itself (v1 - v0, u1 - u0); empty when out of view.
        """
        order = placed.order(np.asarray(list(which)))
        if not order:
            return (0, 0, 0, 0), np.zeros((0, 0), bool)
        w = placed.window[order]
        u0, u1, v0, v1 = (int(x) for x in (w[:, 0].min(), w[:, 1].max(), w[:, 2].min(), w[:, 3].max()))
        mask = np.zeros((v1 - v0, u1 - u0), bool)
        rays = lens.window(u0, u1, v0, v1)
        for g in order:
            mask |= hit(rays, int(self.solids.kind[g]), self._size[g], placed.centre[g], placed.axes[g]) < MISS
        return (u0, u1, v0, v1), mask


def mask_box(window: tuple[int, int, int, int], mask: npt.NDArray[np.bool_]) -> Floats:
    """Return the tight box (4,) of a windowed mask in continuous pixels, nan where the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return np.full(4, np.nan)
    u0, _, v0, _ = window
    return np.array([u0 + columns[0] - 0.5, v0 + rows[0] - 0.5, u0 + columns[-1] + 0.5, v0 + rows[-1] + 0.5])

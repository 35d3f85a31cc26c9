"""A pinhole camera's rays, and the bench as one sees it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from tactile_align.simulation.paint import F, Paint, mixture
from tactile_align.simulation.primitives import MISS, Floats, Pencil

SKY = (178, 190, 204)
DIFFUSE = F(0.47)  # share of the lamp in what a surface that faces it sends back


class Lens:
    """A pinhole camera's rays and drawing buffers.

    Args:
        width: Image width, px.
        height: Image height, px.
        K: (3, 3) intrinsics, pixel (0, 0) at the centre of the first pixel; fx, fy may be negative.
    """

    def __init__(self, width: int, height: int, K: Floats) -> None:
        self.width, self.height = width, height
        self.K = np.asarray(K, dtype=np.float64)
        x = (np.arange(width) - self.K[0, 2]) / self.K[0, 0]
        y = (np.arange(height) - self.K[1, 2]) / self.K[1, 1]
        self.pencil = Pencil(x.astype(F), y.astype(F))

    def corner_rays(self) -> Floats:
        """Return the (4, 3) homogeneous pixels of the image corners."""
        u, v = self.width - 0.5, self.height - 0.5
        return np.array([[-0.5, -0.5, 1], [u, -0.5, 1], [-0.5, v, 1], [u, v, 1]])

    def window(self, u0: int, u1: int, v0: int, v1: int) -> Pencil:
        """Return the rays of columns u0..u1 and rows v0..v1, ends excluded."""
        return Pencil(self.pencil.x[u0:u1], self.pencil.y[v0:v1])


class Bench:
    """The textured plane z = 0 of the world that everything stands on."""

    def __init__(self, paint: Paint, lamp: Floats) -> None:
        """Draw one seamless tile of the paint, 16 periods wide, in the light of a lamp (3,), unit vector towards it."""
        self.side_px = 256
        periods = (np.arange(self.side_px, dtype=F) + F(0.5)) * F(16 / self.side_px)
        grid = np.stack(np.meshgrid(periods, periods)).reshape(2, -1)
        mix = mixture(paint.pattern, grid)[:, None]
        tile = np.asarray(paint.colour + (paint.other - paint.colour) * mix).reshape(self.side_px, self.side_px, 3)
        lit = F(0.5) + DIFFUSE * F(lamp[2])
        self.tile = (np.clip(tile * lit, 0, 1) * 255).astype(np.uint8)
        self.px_per_m = self.side_px * paint.pitch / 16

    def draw(self, lens: Lens, T_world_camera: Floats, out: npt.NDArray[np.uint8]) -> None:
        """Draw the plane into `out` (H, W, 3): a plane seen through a pinhole is one homography."""
        ray = T_world_camera[:3, :3] @ np.linalg.inv(lens.K)
        eye = T_world_camera[:3, 3]
        # Texel i holds the paint at i + 0.5, so its place in the tile is half a texel less.
        M = np.stack([(eye[i] * ray[2] - eye[2] * ray[i]) * self.px_per_m - 0.5 * ray[2] for i in range(2)])
        cv2.warpPerspective(
            self.tile,
            np.vstack([M, ray[2:]]),
            (lens.width, lens.height),
            dst=out,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_WRAP,
        )
        down = lens.corner_rays() @ ray[2]
        if (down >= 0).any():
            out[self.depth(lens, T_world_camera) >= MISS] = SKY

    def depth(self, lens: Lens, T_world_camera: Floats) -> Floats:
        """Return the (H, W) depth z of the plane in the camera, MISS above its horizon."""
        down = lens.pencil.along(T_world_camera[2, :3].astype(F))
        with np.errstate(divide="ignore"):
            return np.where(down < 0, F(-T_world_camera[2, 3]) / down, MISS).astype(F)

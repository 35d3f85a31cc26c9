"""Camera models: from points in the camera frame to pixels and back, with a validity that travels along."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from array_api_compat import array_namespace

from tactile_align.geometry.frames import Array
from tactile_align.geometry.images import ImageMap

LensModel = Literal["pinhole", "brown"]
COEFFICIENTS = {"pinhole": (0,), "brown": (4, 5)}
Z_MIN = 1e-6


@dataclass(frozen=True)
class Camera:
    """A camera in the OpenCV optical frame: x right, y down, z forward.

    Attributes:
        name: For error messages.
        width: Image width, px.
        height: Image height, px.
        K: (3, 3) intrinsics, px. A turned or mirrored image has negative fx, fy.
        model: "pinhole", or "brown" (Brown-Conrady, OpenCV's default).
        distortion: () for pinhole; (k1, k2, p1, p2[, k3]) for brown.
        valid_radius: Largest tan of the angle to the axis (normalised radius) at which the lens model was
            calibrated; None leaves only the model's own limit, where the distorted radius stops growing.
    """

    name: str
    width: int
    height: int
    K: np.ndarray
    model: LensModel = "pinhole"
    distortion: tuple[float, ...] = ()
    valid_radius: float | None = None

    def __post_init__(self) -> None:
        K = np.asarray(self.K, dtype=np.float64)
        object.__setattr__(self, "K", K)
        object.__setattr__(self, "distortion", tuple(float(k) for k in self.distortion))
        if self.model not in COEFFICIENTS:
            raise ValueError(
                f"camera {self.name}: model '{self.model}' is unknown; known: {', '.join(COEFFICIENTS)}"
            )
        if len(self.distortion) not in COEFFICIENTS[self.model]:
            wanted = " or ".join(str(n) for n in COEFFICIENTS[self.model])
            raise ValueError(
                f"camera {self.name}: model '{self.model}' takes {wanted} distortion coefficients, "
                f"got {len(self.distortion)}"
            )
        if K.shape != (3, 3) or not np.isfinite(K).all() or abs(K[2] - [0, 0, 1]).max() > 0 or K[1, 0] != 0:
            raise ValueError(
                f"camera {self.name}: K must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels; "
                f"got {K.tolist()}"
            )
        if min(abs(K[0, 0]), abs(K[1, 1])) < 1.0:
            raise ValueError(
                f"camera {self.name}: focal lengths {K[0, 0]:g}, {K[1, 1]:g} are below one pixel; "
                f"K must be in pixels, not in metres or image widths"
            )
        if self.valid_radius is not None and not self.valid_radius > 0:
            raise ValueError(f"camera {self.name}: valid_radius must be positive; got {self.valid_radius}")

    @property
    def radius_limit(self) -> float:
        """Largest normalised radius at which a pixel is given: the model's own limit or `valid_radius`."""
        limit = np.inf if self.valid_radius is None else self.valid_radius
        if self.model == "brown":
            k1, k2, _, _, k3 = self._brown()
            limit = min(limit, _first_turn(k1, k2, k3))
        return float(limit)

    def _brown(self) -> tuple[float, float, float, float, float]:
        k = (*self.distortion, 0.0)[:5]
        return k[0], k[1], k[2], k[3], k[4]

    def _distort(self, x: Array, y: Array) -> tuple[Array, Array]:
        if self.model == "pinhole":
            return x, y
        k1, k2, p1, p2, k3 = self._brown()
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        xy2 = 2 * x * y
        return (
            x * radial + p1 * xy2 + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + p2 * xy2,
        )

    def project(self, p_camera: Array) -> tuple[Array, Array]:
        """Project points.

        Args:
            p_camera: (..., 3) points in the camera frame, metres.

        Returns:
            uv: (..., 2) pixels, nan where not valid. They may lie outside the image.
            valid: (...) bool: in front of the camera and inside the lens model.
        """
        xp = array_namespace(p_camera)
        z = p_camera[..., 2]
        front = z > Z_MIN
        depth = xp.where(front, z, xp.ones_like(z))
        x, y = p_camera[..., 0] / depth, p_camera[..., 1] / depth
        valid = front
        limit = self.radius_limit
        if np.isfinite(limit):
            valid = front & (x * x + y * y <= limit * limit)
        zero = xp.zeros_like(x)
        x, y = self._distort(xp.where(valid, x, zero), xp.where(valid, y, zero))
        uv = xp.stack(
            [
                float(self.K[0, 0]) * x + float(self.K[0, 1]) * y + float(self.K[0, 2]),
                float(self.K[1, 1]) * y + float(self.K[1, 2]),
            ],
            axis=-1,
        )
        return xp.where(valid[..., None], uv, xp.full_like(uv, float("nan"))), valid

    def unproject(self, uv: Array, depth: Array) -> Array:
        """Return the points (..., 3) in the camera frame, metres, seen at pixels (..., 2) at z = depth (...).

        Inverts the distortion by Newton's method; nan where no ray inside the lens model gives that pixel.
        """
        xp = array_namespace(uv)
        yd = (uv[..., 1] - float(self.K[1, 2])) / float(self.K[1, 1])
        xd = (uv[..., 0] - float(self.K[0, 2]) - float(self.K[0, 1]) * yd) / float(self.K[0, 0])
        x, y = xd, yd
        if self.model != "pinhole":
            x, y = self._undistort(xd, yd)
        p = xp.stack([x * depth, y * depth, depth + xp.zeros_like(x)], axis=-1)
        back, valid = self.project(p)
        reached = valid & (xp.max(xp.abs(back - uv), axis=-1) < 1e-3)
        return xp.where(reached[..., None], p, xp.full_like(p, float("nan")))

    def _undistort(self, xd: Array, yd: Array) -> tuple[Array, Array]:
        k1, k2, p1, p2, k3 = self._brown()
        x, y = xd, yd
        for _ in range(20):
            fx, fy = self._distort(x, y)
            r2 = x * x + y * y
            radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
            slope = 2 * (k1 + r2 * (2 * k2 + 3 * k3 * r2))
            a = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
            b = slope * x * y + 2 * p1 * x + 2 * p2 * y
            d = radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
            determinant = a * d - b * b
            ex, ey = fx - xd, fy - yd
            x, y = x - (d * ex - b * ey) / determinant, y - (a * ey - b * ex) / determinant
        return x, y

    def through(self, image_map: ImageMap) -> "Camera":
        """Return the camera of images that went through a pixel map (one map, no batch axes).

        Raises:
            ValueError: The map starts from another image size than this camera's.
        """
        if (image_map.source_width, image_map.source_height) != (self.width, self.height):
            raise ValueError(
                f"camera {self.name} is {self.width}x{self.height} (width x height) but the image map starts "
                f"from {image_map.source_width}x{image_map.source_height}; K belongs to one size only"
            )
        return Camera(
            self.name,
            image_map.width,
            image_map.height,
            image_map.apply_to_K(self.K),
            self.model,
            self.distortion,
            self.valid_radius,
        )


def _first_turn(k1: float, k2: float, k3: float) -> float:
    """Return the smallest radius where r (1 + k1 r^2 + k2 r^4 + k3 r^6) stops growing, else inf."""
    roots = np.roots([7 * k3, 5 * k2, 3 * k1, 1.0])
    real = roots[(abs(roots.imag) < 1e-9) & (roots.real > 0)].real
    return float(np.sqrt(real.min())) if real.size else np.inf

"""Camera models: projection of points to pixels and back, with flags that mark the valid points."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace

from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array
from tactile_align.geometry.images import ImageMap

LensModel = Literal["pinhole", "brown", "rational", "fisheye"]
COEFFICIENTS: dict[str, tuple[int, ...]] = {"pinhole": (0,), "brown": (4, 5), "rational": (8,), "fisheye": (4,)}
NEWTON_STEPS = 30


def distort(model: LensModel, k: tuple[float, ...], x: Array, y: Array) -> tuple[Array, Array]:
    """Return the distorted coordinates of undistorted normalised coordinates x, y (any shape)."""
    if model == "pinhole":
        return x, y
    s = x * x + y * y
    if model == "fisheye":
        factor = _fisheye_factor(array_namespace(x), k, s)
        return x * factor, y * factor
    radial, _ = _radial(k, s)
    p1, p2 = k[2], k[3]
    if p1 == 0.0 and p2 == 0.0:
        return x * radial, y * radial
    xy2 = 2 * x * y
    return (x * radial + p1 * xy2 + p2 * (s + 2 * x * x), y * radial + p1 * (s + 2 * y * y) + p2 * xy2)


def undistort(model: LensModel, k: tuple[float, ...], xd: Array, yd: Array) -> tuple[Array, Array]:
    """Return undistorted normalised coordinates by Newton's method; the caller must check that it converged."""
    if model == "pinhole":
        return xd, yd
    if model == "fisheye":
        return _fisheye_undistort(k, xd, yd)
    xp = array_namespace(xd)
    x, y = xd, yd
    p1, p2 = k[2], k[3]
    for _ in range(NEWTON_STEPS):
        fx, fy = distort(model, k, x, y)
        radial, slope = _radial(k, x * x + y * y)
        a = radial + 2 * slope * x * x + 2 * p1 * y + 6 * p2 * x
        b = 2 * slope * x * y + 2 * p1 * x + 2 * p2 * y
        d = radial + 2 * slope * y * y + 6 * p1 * y + 2 * p2 * x
        determinant = a * d - b * b
        determinant = xp.where(xp.abs(determinant) < 1e-12, xp.full_like(determinant, 1e-12), determinant)
        ex, ey = fx - xd, fy - yd
        x, y = x - (d * ex - b * ey) / determinant, y - (a * ey - b * ex) / determinant
    return x, y


def radius_limit(model: LensModel, k: tuple[float, ...]) -> float:
    """Return the normalised radius at which the distorted radius stops growing; inf if it always grows.

    Beyond this radius two rays share a pixel, so points beyond it have no pixel.
    """
    if model == "pinhole":
        return np.inf
    if model == "fisheye":
        odd = [9 * k[3], 7 * k[2], 5 * k[1], 3 * k[0], 1.0]
        theta = np.sqrt(_smallest_positive_root(odd))
        return float(np.tan(theta)) if theta < np.pi / 2 else np.inf
    k1, k2, _, _, k3, k4, k5, k6 = (*k, 0.0, 0.0, 0.0, 0.0)[:8]
    numerator, denominator = np.poly1d([k3, k2, k1, 1.0]), np.poly1d([k6, k5, k4, 1.0])
    twice_s = np.poly1d([2.0, 0.0])
    growth = numerator * denominator + twice_s * (numerator.deriv() * denominator - numerator * denominator.deriv())
    return float(np.sqrt(min(_smallest_positive_root(p.coeffs) for p in (growth, denominator))))


def _smallest_positive_root(coefficients: Any) -> float:
    roots = np.roots(coefficients)
    real = roots[(abs(roots.imag) < 1e-9 * (1 + abs(roots.real))) & (roots.real > 0)].real
    return float(real.min()) if real.size else np.inf


def _radial(k: tuple[float, ...], s: Array) -> tuple[Array, Array]:
    """Return the radial factor at s = r^2, and its derivative with respect to s."""
    k1, k2, _, _, k3, k4, k5, k6 = (*k, 0.0, 0.0, 0.0, 0.0)[:8]
    radial = 1 + s * (k1 + s * (k2 + s * k3))
    change = k1 + s * (2 * k2 + 3 * k3 * s)
    if k4 == k5 == k6 == 0.0:
        return radial, change
    below = 1 + s * (k4 + s * (k5 + s * k6))
    return radial / below, (change - radial / below * (k4 + s * (2 * k5 + 3 * k6 * s))) / below


def _fisheye_factor(xp: Any, k: tuple[float, ...], s: Array) -> Array:
    """Return theta_d / r at s = r^2; a series near the axis keeps the gradients finite."""
    near = s < 1e-10
    r = xp.sqrt(xp.where(near, xp.ones_like(s), s))
    theta = xp.atan(r)
    t2 = theta * theta
    theta_d = theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3]))))
    return xp.where(near, 1 + s * (k[0] - 1 / 3), theta_d / r)


def _fisheye_undistort(k: tuple[float, ...], xd: Array, yd: Array) -> tuple[Array, Array]:
    xp = array_namespace(xd)
    rd2 = xd * xd + yd * yd
    near = rd2 < 1e-14
    rd = xp.sqrt(xp.where(near, xp.ones_like(rd2), rd2))
    theta = xp.clip(rd, None, np.pi / 2)
    for _ in range(NEWTON_STEPS):
        t2 = theta * theta
        value = theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3])))) - rd
        slope = 1 + t2 * (3 * k[0] + t2 * (5 * k[1] + t2 * (7 * k[2] + t2 * 9 * k[3])))
        slope = xp.where(xp.abs(slope) < 1e-12, xp.full_like(slope, 1e-12), slope)
        # theta stays inside [0, pi/2]: the ray must lie in the half space in front of the camera.
        theta = xp.clip(theta - value / slope, 0.0, np.pi / 2)
    factor = xp.where(near, xp.ones_like(rd), xp.tan(theta) / rd)
    return xd * factor, yd * factor


Z_MIN = 1e-6


@dataclass(frozen=True, eq=False)
class Camera:
    """Camera in the OpenCV optical frame: x right, y down, z forward.

    Attributes:
        name: Name of the camera, for error messages.
        width: Image width, px.
        height: Image height, px.
        K: (3, 3) intrinsics, px. A mirrored image axis has a negative focal length (rotation by 180 degrees: both).
        model: "pinhole", "brown" (OpenCV's default), "rational" or "fisheye".
        distortion: Distortion coefficients of the model, in OpenCV's order.
        valid_radius: Largest normalised radius (tan of the angle to the optical axis) at which the lens model was
            calibrated. None: only the model's own limit applies, where the distorted radius stops growing.
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
            raise InputError(f"camera {self.name}: unknown model '{self.model}'. Use one of: {', '.join(COEFFICIENTS)}")
        if len(self.distortion) not in COEFFICIENTS[self.model]:
            wanted = f"model '{self.model}' needs {' or '.join(map(str, COEFFICIENTS[self.model]))}"
            got = f"{wanted} distortion coefficients, got {len(self.distortion)}"
            raise InputError(f"camera {self.name}: {got}. Correct `distortion` or `model`")
        if K.shape != (3, 3) or not np.isfinite(K).all() or abs(K[2] - [0, 0, 1]).max() > 0 or K[1, 0] != 0:
            needed = "K must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels"
            raise InputError(f"camera {self.name}: {needed}; got {K.tolist()}. Correct K")
        if min(abs(K[0, 0]), abs(K[1, 1])) < 1.0:
            got = f"focal lengths {K[0, 0]:g}, {K[1, 1]:g} are below one pixel"
            raise InputError(f"camera {self.name}: {got}. Give K in pixels, not in metres or image widths")
        if self.valid_radius is not None and not self.valid_radius > 0:
            raise InputError(f"camera {self.name}: valid_radius must be positive; got {self.valid_radius}. Correct it")

    @cached_property
    def radius_limit(self) -> float:
        """Largest normalised radius that has a pixel: the smaller of the model's own limit and `valid_radius`."""
        limit = radius_limit(self.model, self.distortion)
        return limit if self.valid_radius is None else min(limit, self.valid_radius)

    @cached_property
    def limit_extremes(self) -> np.ndarray:
        """(4, 3) rays with z = 1 on the limit circle: those with the least u, least v, greatest u and greatest v.

        Raises:
            ValueError: The lens model has no limiting radius (`radius_limit` is inf).
        """
        limit = self.radius_limit
        if not np.isfinite(limit):
            raise ValueError(f"camera {self.name}: the lens model has no limiting radius; check `radius_limit` first")
        angle = np.linspace(0, 2 * np.pi, 4096, endpoint=False)
        rays = np.stack([limit * np.cos(angle), limit * np.sin(angle), np.ones_like(angle)], axis=-1)
        uv = self.pixels(rays)
        return rays[[*uv.argmin(0), *uv.argmax(0)]]

    def pixels(self, p_camera: Array) -> Array:
        """Return pixels (..., 2) of points (..., 3) that MUST lie in front of the camera and inside the lens model."""
        xp = array_namespace(p_camera)
        return xp.stack(self.uv(p_camera[..., 0] / p_camera[..., 2], p_camera[..., 1] / p_camera[..., 2]), axis=-1)

    def uv(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return pixels u, v of normalised coordinates x = X/Z, y = Y/Z (any shape) inside the lens model."""
        x, y = distort(self.model, self.distortion, x, y)
        u = float(self.K[0, 0]) * x + float(self.K[0, 2])
        if self.K[0, 1] != 0.0:
            u = u + float(self.K[0, 1]) * y
        return u, float(self.K[1, 1]) * y + float(self.K[1, 2])

    def project(self, p_camera: Array) -> tuple[Array, Array]:
        """Return the pixels of points, and which points are valid.

        Args:
            p_camera: (..., 3) points in the camera frame, metres.

        Returns:
            uv: (..., 2) pixels, nan where `valid` is False. They may lie outside the image.
            valid: (...) bool, True for points in front of the camera and inside the lens model.
        """
        xp = array_namespace(p_camera)
        z = p_camera[..., 2]
        front = z > Z_MIN
        depth = xp.where(front, z, xp.zeros_like(z))
        valid = front
        limit = self.radius_limit
        if np.isfinite(limit):
            reach = limit * depth
            valid = front & (p_camera[..., 0] ** 2 + p_camera[..., 1] ** 2 <= reach * reach)
        axis = xp.asarray([0.0, 0.0, 1.0], dtype=p_camera.dtype, device=p_camera.device)
        uv = self.pixels(xp.where(valid[..., None], p_camera, axis))
        return xp.where(valid[..., None], uv, xp.full_like(uv, float("nan"))), valid

    def unproject(self, uv: Array, depth: Array) -> Array:
        """Return points (..., 3) in the camera frame, metres, that project to pixels (..., 2) and have z = depth (...).

        Newton's method inverts the distortion. The point is nan if no ray inside the lens model reaches its pixel.
        """
        xp = array_namespace(uv)
        yd = (uv[..., 1] - float(self.K[1, 2])) / float(self.K[1, 1])
        xd = (uv[..., 0] - float(self.K[0, 2]) - float(self.K[0, 1]) * yd) / float(self.K[0, 0])
        x, y = undistort(self.model, self.distortion, xd, yd)
        p = xp.stack([x * depth, y * depth, depth + xp.zeros_like(x)], axis=-1)
        back, valid = self.project(p)
        reached = valid & (xp.max(xp.abs(back - uv), axis=-1) < 1e-3)
        return xp.where(reached[..., None], p, xp.full_like(p, float("nan")))

    def through(self, image_map: ImageMap) -> "Camera":
        """Return the camera of the images that a pixel map produces (a map without batch axes).

        Raises:
            InputError: The map's source size differs from this camera's image size.
        """
        if (image_map.source_width, image_map.source_height) != (self.width, self.height):
            source = f"the image map is for {image_map.source_width}x{image_map.source_height} images"
            text = f"camera {self.name} is {self.width}x{self.height} (width x height) but {source}"
            raise InputError(f"{text}. Use a map that starts at the size of this camera's images")
        return replace(self, width=image_map.width, height=image_map.height, K=image_map.apply_to_K(self.K))

"""Camera models: projection of points to pixels and back, with flags that mark the valid points."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from tactile_align.calibration import LensModel as LensModel
from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array
from tactile_align.geometry.images import ImageMap

NEWTON_STEPS = 30


@dataclass(frozen=True)
class Distortion:
    """Lens model on normalised coordinates x = X/Z, y = Y/Z of points (X, Y, Z) in the camera frame.

    k are the coefficients of the model in OpenCV's order.

    Attributes:
        names: Names of the coefficients k.
        optional: Number of coefficients at the end of k that a camera may leave out.
        distort: Function that returns distorted coordinates from k and undistorted x, y of any shape.
        undistort: Function that returns undistorted coordinates from k and distorted x, y by Newton's method, without
            checking that the method has converged.
        radius_limit: Function that returns, from k, the normalised radius at which the distorted radius stops growing;
            inf if it always grows. Beyond this radius two rays share a pixel, so points there get no pixel.
        angle: Function that returns the angle to the axis, rad, from a distorted radius if all coefficients are 0.
    """

    names: tuple[str, ...]
    optional: int
    distort: Callable[[tuple[float, ...], Array, Array], tuple[Array, Array]]
    undistort: Callable[[tuple[float, ...], Array, Array], tuple[Array, Array]]
    radius_limit: Callable[[tuple[float, ...]], float]
    angle: Callable[[float], float]

    @property
    def counts(self) -> range:
        """Numbers of coefficients that a camera with this lens model may have."""
        return range(len(self.names) - self.optional, len(self.names) + 1)


def _same(k: tuple[float, ...], x: Array, y: Array) -> tuple[Array, Array]:
    return x, y


def _standard_distort(k: tuple[float, ...], x: Array, y: Array) -> tuple[Array, Array]:
    s = x * x + y * y
    radial, _ = _radial(k, s)
    p1, p2 = k[2], k[3]
    if p1 == 0.0 and p2 == 0.0:
        return x * radial, y * radial
    xy2 = 2 * x * y
    return (x * radial + p1 * xy2 + p2 * (s + 2 * x * x), y * radial + p1 * (s + 2 * y * y) + p2 * xy2)


def _standard_undistort(k: tuple[float, ...], xd: Array, yd: Array) -> tuple[Array, Array]:
    xp = array_namespace(xd)
    x, y = xd, yd
    p1, p2 = k[2], k[3]
    for _ in range(NEWTON_STEPS):
        fx, fy = _standard_distort(k, x, y)
        radial, slope = _radial(k, x * x + y * y)
        a = radial + 2 * slope * x * x + 2 * p1 * y + 6 * p2 * x
        b = 2 * slope * x * y + 2 * p1 * x + 2 * p2 * y
        d = radial + 2 * slope * y * y + 6 * p1 * y + 2 * p2 * x
        determinant = a * d - b * b
        determinant = xp.where(xp.abs(determinant) < 1e-12, xp.full_like(determinant, 1e-12), determinant)
        ex, ey = fx - xd, fy - yd
        x, y = x - (d * ex - b * ey) / determinant, y - (a * ey - b * ex) / determinant
    return x, y


def _standard_radius_limit(k: tuple[float, ...]) -> float:
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


def _fisheye_distort(k: tuple[float, ...], x: Array, y: Array) -> tuple[Array, Array]:
    xp = array_namespace(x)
    s = x * x + y * y
    near = s < 1e-10
    r = xp.sqrt(xp.where(near, xp.ones_like(s), s))
    theta = xp.atan(r)
    t2 = theta * theta
    theta_d = theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3]))))
    # The series near the axis keeps gradients finite.
    factor = xp.where(near, 1 + s * (k[0] - 1 / 3), theta_d / r)
    return x * factor, y * factor


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


def _fisheye_radius_limit(k: tuple[float, ...]) -> float:
    theta = np.sqrt(_smallest_positive_root([9 * k[3], 7 * k[2], 5 * k[1], 3 * k[0], 1.0]))
    return float(np.tan(theta)) if theta < np.pi / 2 else np.inf


STANDARD = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_STANDARD = (_standard_distort, _standard_undistort, _standard_radius_limit, np.arctan)
LENS_MODELS: dict[LensModel, Distortion] = {
    "pinhole": Distortion((), 0, _same, _same, lambda k: np.inf, np.arctan),
    "brown": Distortion(STANDARD[:5], 1, *_STANDARD),
    "rational": Distortion(STANDARD, 0, *_STANDARD),
    "fisheye": Distortion(
        ("k1", "k2", "k3", "k4"), 0, _fisheye_distort, _fisheye_undistort, _fisheye_radius_limit, float
    ),
}
"""All lens models; in a fisheye image the radius is the angle itself. Each also has a name in
`calibration.LensModel` and a solver in `intrinsics.FITS`."""
Z_MIN = 1e-6


@dataclass(frozen=True, eq=False)
class Camera:
    """Camera in the OpenCV optical frame: x right, y down, z forward.

    Attributes:
        name: Name of the camera, for error messages.
        width: Image width, px.
        height: Image height, px.
        K: (3, 3) intrinsics, px. A turned or mirrored image has negative fx, fy.
        model: A name in `LENS_MODELS`; "brown" is OpenCV's default.
        distortion: The model's coefficients, in OpenCV's order.
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
        if self.model not in LENS_MODELS:
            raise InputError(f"camera {self.name}: unknown model '{self.model}'. Use one of: {', '.join(LENS_MODELS)}")
        if len(self.distortion) not in (counts := LENS_MODELS[self.model].counts):
            wanted = f"model '{self.model}' needs {' or '.join(map(str, counts))} distortion coefficients"
            got = f"{wanted}, got {len(self.distortion)}"
            raise InputError(f"camera {self.name}: {got}. Correct `distortion` or `model`")
        if not np.isfinite(self.distortion).all():
            got = f"distortion must be finite numbers; got {list(self.distortion)}"
            raise InputError(f"camera {self.name}: {got}. Calibrate the lens again")
        fault = ""
        if K.shape != (3, 3):
            fault = f"has shape {K.shape}"
        elif not np.isfinite(K).all():
            fault = "has an entry that is not finite"
        elif abs(K[2] - [0, 0, 1]).max() > 0:
            fault = f"has the last row {K[2].tolist()}"
        elif K[1, 0] != 0:
            fault = f"has {K[1, 0]:g}, not 0, below fx"
        if fault:
            needed = "expected [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels"
            raise InputError(f"camera {self.name}: K {fault}; {needed}. Copy K again, row by row")
        if min(abs(K[0, 0]), abs(K[1, 1])) < 1.0:
            got = f"focal lengths {K[0, 0]:g}, {K[1, 1]:g} are below one pixel"
            raise InputError(f"camera {self.name}: {got}. Give K in pixels, not in metres or image widths")
        if self.valid_radius is not None and not self.valid_radius > 0:
            raise InputError(f"camera {self.name}: valid_radius = {self.valid_radius} is not > 0. Leave this key out")

    @cached_property
    def radius_limit(self) -> float:
        """Largest normalised radius (tan of the angle to the axis) of points with a pixel.

        It is the lens model's own limit or `valid_radius`.
        """
        limit = LENS_MODELS[self.model].radius_limit(self.distortion)
        return limit if self.valid_radius is None else min(limit, self.valid_radius)

    @cached_property
    def early_end(self) -> tuple[str, str]:
        """Fact and advice on a lens model that ends (folds back, or has a pole) inside the image; ("", "") if not.

        The fact states the share of pixels that no ray reaches. The advice proposes the `valid_radius` up to which the
        image grows with the angle at a third to three times the rate of the same lens without distortion. A camera
        whose `valid_radius` is smaller than the model's own limit has no early end.
        """
        lens = LENS_MODELS[self.model]
        limit = lens.radius_limit(self.distortion)
        if self.radius_limit < limit or not np.isfinite(limit):
            return "", ""
        cells = (np.arange(0.5, 64) * side / 64 - 0.5 for side in (self.width, self.height))
        uv = np.stack(np.meshgrid(*cells), axis=-1)
        lost = float(np.isnan(self.unproject(uv, np.ones(uv.shape[:-1]))[..., 0]).mean())
        if lost == 0.0:
            return "", ""
        r = np.tan(np.linspace(0.0, np.arctan(limit), 1000)[1:-1])
        plain, bent = (np.hypot(*lens.distort(k, r, 0 * r)) for k in ((0.0,) * len(self.distortion), self.distortion))
        rate = np.gradient(bent, plain)
        trusted = r[max(int(np.argmax((rate < 1 / 3) | (rate > 3))) - 1, 0)]
        return (
            f"the {self.model} lens ends at radius {limit:.3f}, inside the image: {lost:.1%} of the pixels have no ray",
            f"Set valid_radius = {trusted:.3g}, or calibrate the lens again with points in the image's corners.",
        )

    @cached_property
    def limit_extremes(self) -> np.ndarray:
        """Four rays (4, 3), z = 1, at `radius_limit`, whose pixels have the least u, least v, greatest u, greatest v.

        Raises:
            ValueError: The lens model has no limiting radius (`radius_limit` is inf).
        """
        limit = self.radius_limit
        if not np.isfinite(limit):
            raise ValueError(
                f"camera {self.name}: lens model '{self.model}' has no limiting radius, which limit_extremes needs. "
                f"Use limit_extremes only if radius_limit is finite"
            )
        angle = np.linspace(0, 2 * np.pi, 4096, endpoint=False)
        rays = np.stack([limit * np.cos(angle), limit * np.sin(angle), np.ones_like(angle)], axis=-1)
        uv = self.pixels(rays)
        return rays[[*uv.argmin(0), *uv.argmax(0)]]

    def pixels(self, p_camera: Array) -> Array:
        """Return the pixels (..., 2) of points (..., 3) in the camera frame, m, without checks.

        All points must lie in front of the camera and within `radius_limit`; `project` also accepts other points.
        """
        xp = array_namespace(p_camera)
        return xp.stack(self.uv(p_camera[..., 0] / p_camera[..., 2], p_camera[..., 1] / p_camera[..., 2]), axis=-1)

    def uv(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return the pixel coordinates u, v of points with normalised coordinates x = X/Z, y = Y/Z, of any shape.

        The points must lie within `radius_limit`.
        """
        x, y = LENS_MODELS[self.model].distort(self.distortion, x, y)
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
            valid: (...) bool, True for points in front of the camera and within `radius_limit`.
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

        Newton's method inverts the distortion. A point is nan if no ray within `radius_limit` reaches its pixel.
        """
        xp = array_namespace(uv)
        yd = (uv[..., 1] - float(self.K[1, 2])) / float(self.K[1, 1])
        xd = (uv[..., 0] - float(self.K[0, 2]) - float(self.K[0, 1]) * yd) / float(self.K[0, 0])
        x, y = LENS_MODELS[self.model].undistort(self.distortion, xd, yd)
        p = xp.stack([x * depth, y * depth, depth + xp.zeros_like(x)], axis=-1)
        back, valid = self.project(p)
        reached = valid & (xp.max(xp.abs(back - uv), axis=-1) < 1e-3)
        return xp.where(reached[..., None], p, xp.full_like(p, float("nan")))

    def through(self, image_map: ImageMap) -> "Camera":
        """Return the camera of the images that result when a map without batch axes is applied to this camera's images.

        Raises:
            InputError: The map's source size differs from this camera's image size.
        """
        if (image_map.source_width, image_map.source_height) != (self.width, self.height):
            source = f"the image map is for {image_map.source_width}x{image_map.source_height} images"
            text = f"camera {self.name} is {self.width}x{self.height} (width x height) but {source}"
            raise InputError(f"{text}. Use an image map whose source images have the camera's width and height")
        return replace(self, width=image_map.width, height=image_map.height, K=image_map.apply_to_K(self.K))

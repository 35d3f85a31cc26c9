"""Lens models on the normalised plane (x = X/Z, y = Y/Z): distortion, its inverse and where it ends.

Coefficients are OpenCV's, in OpenCV's order:
    pinhole   none
    brown     k1, k2, p1, p2[, k3]                    Brown-Conrady
    rational  k1, k2, p1, p2, k3, k4, k5, k6          k4..k6 divide
    fisheye   k1, k2, k3, k4                          Kannala-Brandt, in the angle to the axis
"""

from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace

from tactile_align.geometry.frames import Array

LensModel = Literal["pinhole", "brown", "rational", "fisheye"]
COEFFICIENTS: dict[str, tuple[int, ...]] = {"pinhole": (0,), "brown": (4, 5), "rational": (8,), "fisheye": (4,)}
NEWTON_STEPS = 30


def distort(model: LensModel, k: tuple[float, ...], x: Array, y: Array) -> tuple[Array, Array]:
    """Return the distorted normalised coordinates of undistorted ones, any shape."""
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
    return (
        x * radial + p1 * xy2 + p2 * (s + 2 * x * x),
        y * radial + p1 * (s + 2 * y * y) + p2 * xy2,
    )


def undistort(model: LensModel, k: tuple[float, ...], xd: Array, yd: Array) -> tuple[Array, Array]:
    """Return the undistorted coordinates of distorted ones by Newton's method; the caller checks the result."""
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
    """Return the normalised radius at which the distorted radius stops growing, inf if it never does.

    Beyond it two rays would share a pixel, so a point there has no pixel.
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
    """Return theta_d / r at s = r^2; its series near the axis keeps gradients finite."""
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
        # Held inside [0, pi/2]: the radius may not leave the half space in front.
        theta = xp.clip(theta - value / slope, 0.0, np.pi / 2)
    factor = xp.where(near, xp.ones_like(rd), xp.tan(theta) / rd)
    return xd * factor, yd * factor

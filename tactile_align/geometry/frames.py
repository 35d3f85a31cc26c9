"""Algebra of poses: `T_ab` is the pose of frame b seen from frame a, so `p_a = T_ab @ p_b`.

Every function works on numpy arrays and on torch tensors, keeps dtype and device,
and accepts any leading batch axes.
"""

from typing import Any

from array_api_compat import array_namespace

Array = Any
"""A numpy array or a torch tensor."""


def invert(T_ab: Array) -> Array:
    """Return the inverse poses T_ba (..., 4, 4) of poses T_ab (..., 4, 4), using the transpose of the rotation."""
    xp = array_namespace(T_ab)
    R_ba = xp.matrix_transpose(T_ab[..., :3, :3])
    return pose(R_ba, -(R_ba @ T_ab[..., :3, 3:])[..., 0])


def apply(T_ab: Array, p_b: Array) -> Array:
    """Return the points p_a (..., 3) in frame a of points p_b (..., 3) in frame b; T_ab is (..., 4, 4).

    The leading axes of T_ab and p_b broadcast.
    """
    return (T_ab[..., :3, :3] @ p_b[..., None])[..., 0] + T_ab[..., :3, 3]


def pose(R: Array, t: Array) -> Array:
    """Return poses (..., 4, 4) built from rotations (..., 3, 3) and translations (..., 3), which broadcast."""
    xp = array_namespace(R, t)
    top = xp.concat([R, xp.broadcast_to(t[..., None], (*R.shape[:-1], 1))], axis=-1)
    last = xp.zeros_like(top[..., :1, :])
    last = xp.concat([last[..., :3], xp.ones_like(last[..., 3:])], axis=-1)
    return xp.concat([top, last], axis=-2)


def skew(v: Array) -> Array:
    """Return, for vectors v (..., 3), the matrices (..., 3, 3) that map a vector x to the cross product of v and x."""
    xp = array_namespace(v)
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    o = xp.zeros_like(x)
    rows = [xp.stack(row, axis=-1) for row in ([o, -z, y], [z, o, -x], [-y, x, o])]
    return xp.stack(rows, axis=-2)


def rotation_exp(w: Array) -> Array:
    """Return rotations (..., 3, 3) from rotation vectors (..., 3), rad (Rodrigues' formula).

    For angles below 1e-4 rad the coefficients of the formula come from their Taylor series, so gradients at zero are
    finite.
    """
    xp = array_namespace(w)
    a, b, _ = _exp_coefficients(w)
    K = skew(w)
    identity = xp.eye(3, dtype=w.dtype, device=w.device)
    return identity + a * K + b * (K @ K)


def rotation_log(R: Array) -> Array:
    """Return the rotation vectors w (..., 3), rad, of rotations (..., 3, 3); |w| <= pi.

    The computation uses the unit quaternion, which stays accurate near pi, where the
    skew-symmetric part of R vanishes.
    """
    xp = array_namespace(R)
    q = quaternion_from_rotation(R)
    q = xp.where(q[..., :1] < 0, -q, q)
    v = q[..., 1:]
    s2 = xp.sum(v * v, axis=-1, keepdims=True)
    small = s2 < 1e-16
    s = xp.sqrt(xp.where(small, xp.ones_like(s2), s2))
    angle = 2 * xp.atan2(s, q[..., :1])
    return v * xp.where(small, xp.full_like(s2, 2.0), angle / s)


def exp(xi: Array) -> Array:
    """Return poses (..., 4, 4), m, from twists (..., 6): translational part v (m), then rotational part w (rad).

    This is the exponential map of SE(3).
    """
    xp = array_namespace(xi)
    v, w = xi[..., :3], xi[..., 3:]
    _, b, c = _exp_coefficients(w)
    K = skew(w)
    V = xp.eye(3, dtype=xi.dtype, device=xi.device) + b * K + c * (K @ K)
    return pose(rotation_exp(w), (V @ v[..., None])[..., 0])


def log(T: Array) -> Array:
    """Return the twists (..., 6) of poses (..., 4, 4), m; see `exp`, whose inverse this function is."""
    xp = array_namespace(T)
    w = rotation_log(T[..., :3, :3])
    _, b, c = _exp_coefficients(w)
    K = skew(w)
    V = xp.eye(3, dtype=T.dtype, device=T.device) + b * K + c * (K @ K)
    v = xp.linalg.solve(V, T[..., :3, 3:])[..., 0]
    return xp.concat([v, w], axis=-1)


def _exp_coefficients(w: Array) -> tuple[Array, Array, Array]:
    """Return sin(t)/t, (1-cos t)/t^2, (t-sin t)/t^3 for t = |w|, each (..., 1, 1)."""
    xp = array_namespace(w)
    t2 = xp.sum(w * w, axis=-1)[..., None, None]
    small = t2 < 1e-8
    safe = xp.where(small, xp.ones_like(t2), t2)
    t = xp.sqrt(safe)
    a = xp.where(small, 1 - t2 / 6, xp.sin(t) / t)
    b = xp.where(small, 0.5 - t2 / 24, (1 - xp.cos(t)) / safe)
    c = xp.where(small, 1 / 6 - t2 / 120, (t - xp.sin(t)) / (safe * t))
    return a, b, c


def rotation_from_quaternion(quat_wxyz: Array) -> Array:
    """Return rotations (..., 3, 3) from unit quaternions (..., 4) in w, x, y, z order."""
    xp = array_namespace(quat_wxyz)
    w, x, y, z = (quat_wxyz[..., i] for i in range(4))
    rows = [
        xp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=-1),
        xp.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=-1),
        xp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=-1),
    ]
    return xp.stack(rows, axis=-2)


def quaternion_from_rotation(R: Array) -> Array:
    """Return unit quaternions q (..., 4) in w, x, y, z order, of rotations (..., 3, 3).

    All four columns of the symmetric matrix 4 q q^T are multiples of q; the
    longest column is divided by its norm (Shepperd's method without branches).
    """
    xp = array_namespace(R)
    m = [[R[..., i, j] for j in range(3)] for i in range(3)]
    one = xp.ones_like(m[0][0])
    xx, yy, zz = m[0][0], m[1][1], m[2][2]
    wx, wy, wz = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[1][0] + m[0][1], m[0][2] + m[2][0], m[2][1] + m[1][2]
    columns = [
        xp.stack([one + xx + yy + zz, wx, wy, wz], axis=-1),
        xp.stack([wx, one + xx - yy - zz, xy, xz], axis=-1),
        xp.stack([wy, xy, one - xx + yy - zz, yz], axis=-1),
        xp.stack([wz, xz, yz, one - xx - yy + zz], axis=-1),
    ]
    diagonal = xp.stack([columns[i][..., i] for i in range(4)], axis=-1)
    largest = xp.argmax(diagonal, axis=-1)[..., None]
    q = columns[3]
    for i in range(3):
        q = xp.where(largest == i, columns[i], q)
    return q / xp.sqrt(xp.sum(q * q, axis=-1, keepdims=True))


def rotation_from_rpy(rpy: Array) -> Array:
    """Return rotations R = Rz(yaw) Ry(pitch) Rx(roll), (..., 3, 3), from angles (roll, pitch, yaw), (..., 3), rad.

    This is the convention of URDF: turns about fixed axes.
    """
    xp = array_namespace(rpy)
    cr, cp, cy = (xp.cos(rpy[..., i]) for i in range(3))
    sr, sp, sy = (xp.sin(rpy[..., i]) for i in range(3))
    rows = [
        xp.stack([cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr], axis=-1),
        xp.stack([sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr], axis=-1),
        xp.stack([-sp, cp * sr, cp * cr], axis=-1),
    ]
    return xp.stack(rows, axis=-2)


def rpy_from_rotation(R: Array) -> Array:
    """Return angles (roll, pitch, yaw), (..., 3), rad, of rotations (..., 3, 3), as `rotation_from_rpy` takes them.

    At a pitch of 90 degrees, where only a sum or a difference of roll and yaw is defined, they give R, too.
    """
    xp = array_namespace(R)
    yaw = xp.atan2(R[..., 1, 0], R[..., 0, 0])
    c, s = xp.cos(yaw), xp.sin(yaw)
    pitch = xp.atan2(-R[..., 2, 0], c * R[..., 0, 0] + s * R[..., 1, 0])
    # Read from Rz(-yaw) R, which holds at the pole.
    roll = xp.atan2(s * R[..., 0, 2] - c * R[..., 1, 2], c * R[..., 1, 1] - s * R[..., 0, 1])
    return xp.stack([roll, pitch, yaw], axis=-1)


def nearest_rotation(M: Array) -> Array:
    """Return the rotations (..., 3, 3), det +1, nearest to matrices M (..., 3, 3) in the Frobenius norm.

    The method is orthogonal Procrustes.
    """
    xp = array_namespace(M)
    U, _, Vh = xp.linalg.svd(M)
    sign = xp.sign(xp.linalg.det(U @ Vh))[..., None]
    flipped = xp.concat([U[..., :2], U[..., 2:] * sign[..., None]], axis=-1)
    return flipped @ Vh


def pose_fault(T: Array, tolerance: float = 1e-5) -> str | None:
    """Return why a matrix (4, 4) is not a pose, as a phrase for messages; None if it is a pose."""
    last = [float(value) for value in T[3]]
    if not all(abs(value - (i == 3)) <= tolerance for i, value in enumerate(last)):
        text = f"its last row is {' '.join(f'{value:.4g}' for value in last)}, not 0 0 0 1"
        row = abs(last[3] - 1) <= tolerance and not any(float(abs(T[i, 3])) > tolerance for i in range(3))
        return f"{text}: it is written column by column, so transpose it" if row else text
    return rotation_fault(T[:3, :3], tolerance)


def rotation_fault(R: Array, tolerance: float = 1e-5) -> str | None:
    """Return why a matrix (3, 3) is not a rotation, as a phrase for messages; None if it is a rotation."""
    xp = array_namespace(R)
    off = float(xp.max(xp.abs(R @ xp.matrix_transpose(R) - xp.eye(3, dtype=R.dtype, device=R.device))))
    determinant = float(xp.linalg.det(R))
    if not off < tolerance:
        return f"its rows are not orthonormal (off by {off:.2g}, allowed {tolerance:.0e})"
    if determinant < 0:
        return f"its determinant is {determinant:+.3f}: a mirror image, not a rotation; one axis has the wrong sign"
    return None

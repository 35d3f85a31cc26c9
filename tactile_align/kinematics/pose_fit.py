"""The base and tool offsets that bring one list of poses onto another: C = Z A X."""

from dataclasses import dataclass
from itertools import permutations, product
from typing import Literal

import numpy as np

from tactile_align.geometry.frames import nearest_rotation, pose, rotation_log

Freedom = Literal["none", "tool", "base", "both"]
ITERATIONS = 40


@dataclass(frozen=True)
class Residual:
    """How far poses lie apart: root mean square and largest, and the row of the largest distance."""

    rms_mm: float
    max_mm: float
    rms_deg: float
    max_deg: float
    worst_row: int

    def within(self, mm: float, deg: float) -> bool:
        """Tell whether both root mean squares stay within their bounds."""
        return self.rms_mm <= mm and self.rms_deg <= deg


@dataclass(frozen=True)
class PoseFit:
    """Z (the base's offset) and X (the tool's) of C = Z A X, and what is left."""

    T_reference_base: np.ndarray
    T_flange_tool: np.ndarray
    residual: Residual


def residual(A: np.ndarray, C: np.ndarray) -> Residual:
    """Compare poses A and C, (N, 4, 4) each, metres."""
    mm = 1000 * np.linalg.norm(A[:, :3, 3] - C[:, :3, 3], axis=-1)
    deg = np.degrees(np.linalg.norm(rotation_log(np.swapaxes(A[:, :3, :3], 1, 2) @ C[:, :3, :3]), axis=-1))
    return Residual(
        rms_mm=float(np.sqrt(np.mean(mm**2))),
        max_mm=float(mm.max()),
        rms_deg=float(np.sqrt(np.mean(deg**2))),
        max_deg=float(deg.max()),
        worst_row=int(mm.argmax()),
    )


def fit_poses(A: np.ndarray, C: np.ndarray, freedom: Freedom) -> PoseFit:
    """Find Z and X that bring A onto C, rotations first, then positions by least squares.

    Args:
        A: (N, 4, 4) poses by forward kinematics.
        C: (N, 4, 4) poses as the controller states them.
        freedom: Which of Z ("base") and X ("tool") may differ from the identity.
    """
    R_A, p_A, R_C, p_C = A[:, :3, :3], A[:, :3, 3], C[:, :3, :3], C[:, :3, 3]
    R_Z, R_X, p_Z, p_X = np.eye(3), np.eye(3), np.zeros(3), np.zeros(3)
    if freedom == "tool":
        R_X = nearest_rotation(np.mean(np.swapaxes(R_A, 1, 2) @ R_C, axis=0))
        p_X = np.mean(np.einsum("nji,nj->ni", R_A, p_C - p_A), axis=0)
    elif freedom == "base":
        R_Z = nearest_rotation(np.mean(R_C @ np.swapaxes(R_A, 1, 2), axis=0))
        p_Z = np.mean(p_C - p_A @ R_Z.T, axis=0)
    elif freedom == "both":
        R_Z, R_X = _fit_rotations(R_A, R_C)
        turned = R_Z @ R_A
        matrix = np.concatenate([turned, np.broadcast_to(np.eye(3), turned.shape)], axis=-1).reshape(-1, 6)
        solution = np.linalg.lstsq(matrix, (p_C - p_A @ R_Z.T).reshape(-1), rcond=1e-9)[0]
        p_X, p_Z = solution[:3], solution[3:]
    Z, X = pose(R_Z, p_Z), pose(R_X, p_X)
    return PoseFit(Z, X, residual(Z @ A @ X, C))


def _fit_rotations(R_A: np.ndarray, R_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return R_Z, R_X of R_C = R_Z R_A R_X by turns, started from the 24 turns of a cube."""
    # All rows enter through one sum, so a turn costs the same for ten poses and for a thousand.
    G = np.einsum("nij,nlk->ijlk", R_C, R_A)
    from_X = np.ascontiguousarray(G.transpose(0, 2, 3, 1)).reshape(9, 9)
    from_Z = np.ascontiguousarray(G.transpose(3, 1, 0, 2)).reshape(9, 9)
    R_X, R_Z = _cube_turns(), np.zeros((24, 3, 3))
    for _ in range(ITERATIONS):
        before, R_Z = R_Z, nearest_rotation((R_X.reshape(-1, 9) @ from_X.T).reshape(-1, 3, 3))
        R_X = nearest_rotation((R_Z.reshape(-1, 9) @ from_Z.T).reshape(-1, 3, 3))
        if np.abs(R_Z - before).max() < 1e-12:
            break
    best = int(np.einsum("sil,sil->s", R_Z, (R_X.reshape(-1, 9) @ from_X.T).reshape(-1, 3, 3)).argmax())
    return R_Z[best], R_X[best]


def _cube_turns() -> np.ndarray:
    """Return the 24 rotations (24, 3, 3) that map the axes onto the axes."""
    found = []
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            R = np.zeros((3, 3))
            R[range(3), list(order)] = signs
            if np.linalg.det(R) > 0:
                found.append(R)
    return np.stack(found)


def turn_signature(R: np.ndarray) -> np.ndarray:
    """Return the angles (..., M), rad, between all pairs of rotations (..., N, 3, 3).

    They do not depend on base and tool, so two lists that differ by those alone share them.
    """
    i, j = np.triu_indices(R.shape[-3], k=1)
    trace = np.einsum("...nij,...nij->...n", R[..., i, :, :], R[..., j, :, :])
    angles: np.ndarray = np.arccos(np.clip((trace - 1) / 2, -1, 1))
    return angles


def describe(T: np.ndarray) -> str:
    """Say a pose in words people read: mm and degrees."""
    x, y, z = 1000 * T[:3, 3]
    angle = np.degrees(np.linalg.norm(rotation_log(T[:3, :3])))
    return f"({x:.2f}, {y:.2f}, {z:.2f}) mm, turned by {angle:.2f} deg"

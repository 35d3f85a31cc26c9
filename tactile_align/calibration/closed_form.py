"""Closed-form solutions X and Z (constant poses) of X C_i = B_i Z: initial values for the bundle adjustment.

C_i is T_camera_board of view i and B_i the robot's part of the chain: T_flange_base for a camera on the flange,
T_base_flange for a fixed camera. Eliminating Z gives A X = X D for pairs of views, with the relative poses A of the
robot and D of the board.
"""

import numpy as np

from tactile_align.errors import InputError
from tactile_align.geometry.frames import invert, nearest_rotation, pose, rotation_log

MIN_TURN = np.radians(3.0)
MAX_TURN = np.radians(175.0)
"""Bounds of a useful relative rotation, rad: below, it carries little information; near pi, its axis has no sign."""


def pairs(B: np.ndarray, C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the relative poses A of the robot and D of the board, each (..., P, 4, 4), for all P pairs of N views.

    B (..., N, 4, 4) are the robot's poses and C (..., N, 4, 4) the board's poses in the camera, m. The unknown camera
    pose X satisfies A X = X D.

    The third value (..., P) is True for useful pairs: those with a relative rotation between MIN_TURN and MAX_TURN.
    """
    i, j = np.triu_indices(B.shape[-3], 1)
    A, D = (T[..., j, :, :] @ invert(T)[..., i, :, :] for T in (B, C))
    turn = np.linalg.norm(rotation_log(A[..., :3, :3]), axis=-1)
    return A, D, (turn > MIN_TURN) & (turn < MAX_TURN)


def park(B: np.ndarray, C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the poses X of the camera and Z of the board that solve X C_i = B_i Z, by Park and Martin (1994).

    B (N, 4, 4) are the robot's poses and C (N, 4, 4) the board's poses in the camera, m; X and Z are (4, 4).

    The method aligns the rotation vectors of pairs of views, then solves linearly for the translations.

    Raises:
        InputError: Fewer than two pairs of views differ enough in rotation.
    """
    X, Z, useful = park_many(B, C)
    if useful < 2:
        text = f"found {useful} pairs of views whose rotations differ by 3 to 175 degrees; at least 2 are needed"
        raise InputError(f"{text}. Add views with other rotations")
    return X, Z


def park_many(B: np.ndarray, C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the solutions X and Z (..., 4, 4) of `park` for many sets of views, and each set's number of useful pairs.

    B and C are (..., N, 4, 4), as in `park`. A pair of views is useful if its rotation is neither too small nor too
    close to half a turn; see `pairs`.

    The X of a set with fewer than two useful pairs is arbitrary.
    """
    A, D, use = pairs(B, C)
    a, d = rotation_log(A[..., :3, :3]), rotation_log(D[..., :3, :3])
    R = nearest_rotation(np.einsum("...p,...pi,...pj->...ij", use, a, d))
    return *_complete(B, C, R), use.sum(-1)


def kronecker(B: np.ndarray, C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the poses X of the camera and Z of the board that solve X C_i = B_i Z, by Shah (2013).

    B, C, X and Z are as in `park`.

    One singular value decomposition gives the rotations of X and Z.
    """
    K = sum(np.kron(b[:3, :3], c[:3, :3]) for b, c in zip(B, C, strict=True))
    U, _, _ = np.linalg.svd(K)
    # R_X C_i = B_i R_Z: the rotations are the leading singular vectors of the sum of B_i (x) C_i.
    R = U[:, 0].reshape(3, 3)
    return _complete(B, C, nearest_rotation(np.sign(np.linalg.det(R)) * R))


def _complete(B: np.ndarray, C: np.ndarray, R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return X and Z for a known rotation of X: Z's rotation is a mean, both translations solve a linear system."""
    Rb, Rc = B[..., :3, :3], C[..., :3, :3]
    Rz = nearest_rotation((np.swapaxes(Rb, -1, -2) @ R[..., None, :, :] @ Rc).mean(-3))
    # R t_c + t_x = R_b t_z + t_b
    M = np.concatenate([np.broadcast_to(np.eye(3), Rb.shape), -Rb], axis=-1)
    M = M.reshape(*B.shape[:-3], -1, 6)
    rhs = (B[..., :3, 3] - C[..., :3, 3] @ np.swapaxes(R, -1, -2)).reshape(*B.shape[:-3], -1, 1)
    t = (np.linalg.pinv(M, rcond=1e-13) @ rhs)[..., 0]
    return pose(R, t[..., :3]), pose(Rz, t[..., 3:])


def length_ratio(B: np.ndarray, C: np.ndarray) -> float:
    """Return the number of robot length units in one board length unit: 1000 when the robot is in mm, the board in m.

    With the board's lengths multiplied by the ratio s, the translation part of A X = X D (see `pairs`) is
    (R_A - 1) t_X - s R_X t_D = -t_A, where R is the rotation and t the translation of a pose, linear in t_X and s.
    """
    A, D, use = pairs(B, C)
    A, D = A[use], D[use]
    a, d = rotation_log(A[:, :3, :3]), rotation_log(D[:, :3, :3])
    R = nearest_rotation(np.einsum("pi,pj->ij", a, d))
    left = np.concatenate([A[:, :3, :3] - np.eye(3), -(D[:, :3, 3] @ R.T)[..., None]], axis=-1)
    unit = np.linalg.norm(A[:, :3, 3], axis=-1).mean() / max(np.linalg.norm(D[:, :3, 3], axis=-1).mean(), 1e-12)
    scale = np.array([1.0, 1.0, 1.0, 1 / max(unit, 1e-12)])
    solved = np.linalg.lstsq((left * scale).reshape(-1, 4), -A[:, :3, 3].reshape(-1), rcond=None)[0]
    return float(solved[3] * scale[3])

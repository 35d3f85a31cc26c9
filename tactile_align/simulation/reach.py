"""Inverse kinematics on MuJoCo's own model: fast, and good enough for scripts that start near."""

from __future__ import annotations

import mujoco
import numpy as np

from tactile_align.simulation.primitives import Floats

CLOSE = 1e-5  # metres and radians
_DAMPING = 1e-5
_LONGEST = 0.3  # rad a joint may turn in one iteration


def reach(
    model: mujoco.MjModel,
    scratch: mujoco.MjData,
    site: str,
    dof: int,
    T_world_site: Floats,
    q0: Floats,
    tries: int,
) -> tuple[Floats, bool]:
    """Find joints that put a site somewhere, by damped least squares.

    Args:
        model: The scene; the arm's joints come first in it.
        scratch: Overwritten.
        site: Name of the site.
        dof: How many joints the arm has, n.
        T_world_site: (4, 4) wanted pose.
        q0: (n,) joints to start from, rad.
        tries: Most iterations.

    Returns:
        (n,) joints, rad, and whether they put the site there to 10 um and 1e-5 rad.
    """
    index = model.site(site).id
    q = np.array(q0, dtype=np.float64)
    J, error = np.zeros((6, model.nv)), np.zeros(6)
    for _ in range(tries):
        scratch.qpos[:dof] = q
        mujoco.mj_kinematics(model, scratch)
        turn = T_world_site[:3, :3] @ scratch.site_xmat[index].reshape(3, 3).T
        axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
        if np.trace(turn) < 1:  # beyond a quarter turn the sine shrinks again: keep its direction
            axis /= np.linalg.norm(axis) + 1e-9
        error[:3], error[3:] = T_world_site[:3, 3] - scratch.site_xpos[index], axis
        if np.abs(error).max() < CLOSE:
            return q, True
        mujoco.mj_comPos(model, scratch)
        mujoco.mj_jacSite(model, scratch, J[:3], J[3:], index)
        A = J[:, :dof]
        step = A.T @ np.linalg.solve(A @ A.T + _DAMPING * np.eye(6), error)
        q += step * min(1.0, _LONGEST / max(np.abs(step).max(), 1e-9))
    return q, False

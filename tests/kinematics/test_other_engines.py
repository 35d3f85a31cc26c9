"""The same arms in MuJoCo and roboticstoolbox; their arms are built from hand-typed tables, not from ours."""

from collections.abc import Callable

import mujoco
import numpy as np
import pytest

from tactile_align.kinematics.arm import forward_kinematics, jacobian, link_poses, load_arm

POSES = 1000


@pytest.mark.parametrize("name", ["nova2", "nova5"])
def test_link_frames_and_jacobian_agree_with_mujoco(name: str, urdf_text: Callable, random_q: Callable) -> None:
    model = mujoco.MjModel.from_xml_string(urdf_text(name))
    data = mujoco.MjData(model)
    q = random_q(POSES)
    arm = load_arm(name)
    ours, J = link_poses(arm, q), jacobian(arm, q)
    bodies = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, f"link{i + 1}") for i in range(6)]
    theirs, theirs_J = np.zeros_like(ours), np.zeros_like(J)
    theirs[..., 3, 3] = 1
    for n in range(POSES):
        data.qpos[:] = q[n]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        theirs[n, :, :3, :3] = data.xmat[bodies].reshape(6, 3, 3)
        theirs[n, :, :3, 3] = data.xpos[bodies]
        mujoco.mj_jacBody(model, data, theirs_J[n, :3], theirs_J[n, 3:], bodies[-1])
    # Facts keep nine digits of the file's fifteen, in degrees: 1e-9 rad.
    np.testing.assert_allclose(ours, theirs, atol=2e-9)
    np.testing.assert_allclose(J, theirs_J, atol=2e-9)


def test_the_flange_agrees_with_roboticstoolbox(random_q: Callable) -> None:
    import roboticstoolbox as rtb
    from spatialmath import SE3

    arm = load_arm("nova2")
    chain = rtb.ETS()
    for xyz, rpy in zip(
        [(0, 0, 0.2234), (0, 0, 0), (-0.28, 0, 0), (-0.22501, 0, 0.1175), (0, -0.12, 0), (0, 0.088004, 0)],
        [(0, 0, 0), (90, 90, 0), (0, 0, 0), (0, 0, -90), (90, 0, 0), (-90, 0, 0)],
        strict=True,
    ):
        chain = chain * rtb.ET.SE3(SE3(xyz) * SE3.RPY(rpy, order="zyx", unit="deg")) * rtb.ET.Rz()
    q = random_q(POSES, seed=1)
    np.testing.assert_allclose(forward_kinematics(arm, q), chain.eval(q), atol=1e-9)
    for row in q[:50]:
        np.testing.assert_allclose(jacobian(arm, row), chain.jacob0(row), atol=1e-9)

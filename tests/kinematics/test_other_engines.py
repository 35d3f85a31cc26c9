"""Ten thousand random poses of every arm in three other engines, each fed from hand-typed tables."""

from collections.abc import Callable
from pathlib import Path

import mujoco
import numpy as np
import pytest

from tactile_align.facts import fact_names
from tactile_align.kinematics.arm import Arm, forward_kinematics, jacobian, link_poses, load_arm

POSES = 10_000
ARMS = ("nova2", "nova5", "cr3", "cr5", "cr7", "cr10", "cr12", "cr16", "cr20")
# Nova 5's facts keep nine digits of its file's fifteen, typed in degrees: 1e-10 rad, at 1 m of arm.
TOLERANCE = 1e-9


@pytest.fixture(params=ARMS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_shipped_arm_is_compared() -> None:
    assert set(fact_names("kinematics")) == set(ARMS)


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
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
    np.testing.assert_allclose(J, theirs_J, atol=TOLERANCE)
    np.testing.assert_allclose(forward_kinematics(arm, q), theirs[:, -1], atol=TOLERANCE)


def test_link_frames_and_jacobian_agree_with_pinocchio(name: str, urdf_text: Callable, random_q: Callable) -> None:
    pinocchio = pytest.importorskip("pinocchio", reason="pinocchio is not installed (the test extra brings it)")
    model = pinocchio.buildModelFromXML(urdf_text(name))
    data = model.createData()
    q = random_q(POSES, seed=1)
    arm = load_arm(name)
    ours, J = link_poses(arm, q), jacobian(arm, q)
    theirs, theirs_J = np.zeros_like(ours), np.zeros_like(J)
    for n in range(POSES):
        pinocchio.computeJointJacobians(model, data, q[n])
        theirs_J[n] = pinocchio.getJointJacobian(model, data, 6, pinocchio.LOCAL_WORLD_ALIGNED)
        theirs[n] = [data.oMi[i + 1].homogeneous for i in range(6)]
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
    np.testing.assert_allclose(J, theirs_J, atol=TOLERANCE)


def test_link_frames_and_jacobian_agree_with_roboticstoolbox(name: str, origins: Callable, random_q: Callable) -> None:
    import roboticstoolbox as rtb
    from spatialmath import SE3

    arm, q = load_arm(name), random_q(POSES, seed=2)
    chain, links = rtb.ETS(), link_poses(arm, q)
    for i, (xyz, rpy) in enumerate(origins(name)):
        chain = chain * rtb.ET.SE3(SE3(xyz) * SE3.RPY(rpy, order="zyx")) * rtb.ET.Rz()
        # It takes (N, 1) for one posture of N joints, so the first link is asked for row by row.
        theirs = np.stack([chain.eval(row) for row in q[:, :1]]) if i == 0 else chain.eval(q[:, : i + 1])
        np.testing.assert_allclose(links[:, i], theirs, atol=TOLERANCE)
    np.testing.assert_allclose(forward_kinematics(arm, q), chain.eval(q), atol=TOLERANCE)
    ours = jacobian(arm, q)
    np.testing.assert_allclose(ours, np.stack([chain.jacob0(row) for row in q]), atol=TOLERANCE)


@pytest.mark.parametrize("nova", ["nova2", "nova5"])
def test_facts_and_urdf_text_agree_to_ten_micrometres(
    nova: str, urdf_text: Callable, random_q: Callable, tmp_path: Path
) -> None:
    path = tmp_path / f"{nova}.urdf"
    # As the maker's file has it: 1.5708 for pi/2.
    path.write_text(urdf_text(nova).replace("1.5707963267948966", "1.5708"), encoding="utf-8")
    arm: Arm = load_arm(path)
    q = random_q(POSES)
    off = np.abs(link_poses(arm, q) - link_poses(load_arm(nova), q))
    assert off[..., :3, 3].max() < 1e-5
    assert off[..., :3, :3].max() < 2e-5

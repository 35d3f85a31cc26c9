"""Properties every arm has, whatever its numbers."""

from collections.abc import Callable
from math import pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tactile_align.kinematics.arm import Arm, forward_kinematics, jacobian, link_poses, load_arm

NAMES = ("nova2", "nova5", "cr3", "cr5", "cr7", "cr10", "cr12", "cr16", "cr20")
FUNCTIONS = (forward_kinematics, link_poses, jacobian)


def sliding() -> Arm:
    """An arm with a sliding joint in the middle and a tool behind the last."""
    nova = load_arm("nova5")
    tool = nova.T_link_joint[3]
    limits = np.full(6, 3.0)
    kinds = (False, False, True, False, True, False)
    return Arm("sliding", nova.joint_names, -limits, limits, nova.T_link_joint, T_link_flange=tool, prismatic=kinds)


@pytest.fixture(params=[*NAMES, "sliding"])
def arm(request: pytest.FixtureRequest) -> Arm:
    return sliding() if request.param == "sliding" else load_arm(request.param)


@given(
    name=st.sampled_from([*NAMES, "sliding"]),
    q=arrays(np.float64, (3, 6), elements=st.floats(-1e3, 1e3, allow_nan=False)),
)
@settings(max_examples=200, deadline=None)
def test_every_pose_is_rigid_everywhere(name: str, q: np.ndarray) -> None:
    arm = sliding() if name == "sliding" else load_arm(name)
    T = link_poses(arm, q)
    R = T[..., :3, :3]
    np.testing.assert_allclose(R @ np.swapaxes(R, -1, -2), np.broadcast_to(np.eye(3), R.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-12)
    np.testing.assert_array_equal(T[..., 3, :], np.broadcast_to([0, 0, 0, 1], T[..., 3, :].shape))


def test_the_jacobian_is_the_slope_of_forward_kinematics(arm: Arm, random_q: Callable) -> None:
    q, h = random_q(100), 1e-6
    J = jacobian(arm, q)
    R = forward_kinematics(arm, q)[:, :3, :3]
    for i in range(6):
        step = h * np.eye(6)[i]
        slope = (forward_kinematics(arm, q + step) - forward_kinematics(arm, q - step)) / (2 * h)
        np.testing.assert_allclose(J[:, :3, i], slope[:, :3, 3], atol=1e-8)
        W = slope[:, :3, :3] @ np.swapaxes(R, 1, 2)
        w = np.stack([W[:, 2, 1], W[:, 0, 2], W[:, 1, 0]], axis=-1)
        np.testing.assert_allclose(J[:, 3:, i], w, atol=1e-8)


def test_the_last_link_is_the_flange_where_no_tool_follows(random_q: Callable) -> None:
    q = random_q(10)
    nova, other = load_arm("nova2"), sliding()
    np.testing.assert_array_equal(link_poses(nova, q)[:, -1], forward_kinematics(nova, q))
    last = link_poses(other, q)[:, -1]
    np.testing.assert_allclose(last @ other.T_link_flange, forward_kinematics(other, q), atol=1e-14)


def test_a_batch_equals_one_by_one(arm: Arm, random_q: Callable) -> None:
    q = random_q(24).reshape(2, 3, 4, 6)
    for function in FUNCTIONS:
        batch = function(arm, q)
        for index in np.ndindex(2, 3, 4):
            np.testing.assert_allclose(function(arm, q[index]), batch[index], atol=1e-15)
        assert function(arm, q[:0]).shape == (0, *batch.shape[1:])


def test_a_full_turn_of_a_turning_joint_changes_nothing(arm: Arm, random_q: Callable) -> None:
    q = random_q(50)
    for i in range(6):
        turned = forward_kinematics(arm, q + 2 * pi * np.eye(6)[i])
        same = np.allclose(turned, forward_kinematics(arm, q), rtol=0, atol=1e-12)
        assert same != arm.prismatic[i]


def test_torch_equals_numpy_and_keeps_dtype(arm: Arm, random_q: Callable) -> None:
    q = random_q(30).reshape(5, 6, 6)
    for function in FUNCTIONS:
        expected = function(arm, q)
        assert expected.dtype == np.float64
        assert function(arm, q.astype(np.float32)).dtype == np.float32
        double = function(arm, torch.tensor(q))
        assert double.dtype == torch.float64 and double.is_contiguous()
        np.testing.assert_allclose(double.numpy(), expected, atol=1e-14)
        single = function(arm, torch.tensor(q, dtype=torch.float32))
        assert single.dtype == torch.float32
        np.testing.assert_allclose(single.numpy(), expected, atol=1e-5)


def test_gradients_are_right_and_finite_at_the_singular_zero_pose(arm: Arm) -> None:
    zero = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    some = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(2, 6).requires_grad_()
    for function in FUNCTIONS:
        for q in (zero, some):
            assert torch.autograd.gradcheck(lambda x, function=function: function(arm, x), (q,))


def test_vmap_and_its_jacobian_give_the_same(random_q: Callable) -> None:
    arm, q = load_arm("nova5"), torch.tensor(random_q(7))
    for function in FUNCTIONS:
        batched = torch.func.vmap(lambda x, function=function: function(arm, x))(q)
        torch.testing.assert_close(batched, function(arm, q), rtol=0, atol=1e-14)
    slope = torch.func.vmap(torch.func.jacrev(lambda x: forward_kinematics(arm, x)[:3, 3]))(q)
    torch.testing.assert_close(slope, jacobian(arm, q)[:, :3], rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_torch_compile_takes_it_whole(function: Callable, random_q: Callable, backend: str = "aot_eager") -> None:
    # To machine code takes longer: `tests.benchmarks.compiled`.
    arm, q = load_arm("nova2"), torch.tensor(random_q(7))
    compiled = torch.compile(lambda x: function(arm, x), fullgraph=True, backend=backend)
    leaf = q.clone().requires_grad_()
    found = compiled(leaf)
    torch.testing.assert_close(found.detach(), function(arm, q), rtol=0, atol=1e-12)
    found.sum().backward()
    other = q.clone().requires_grad_()
    function(arm, other).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, other.grad, rtol=0, atol=1e-12)
    torch.compiler.reset()


def test_whole_numbers_and_wrong_shapes_are_refused() -> None:
    nova = load_arm("nova2")
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match=r"int64, expected floating-point radians"):
            function(nova, np.zeros(6, dtype=np.int64))
        with pytest.raises(ValueError, match=r"6 joints.*\(5, 7\).*gripper"):
            function(nova, np.zeros((5, 7)))


def test_an_arm_made_in_python_is_checked() -> None:
    nova = load_arm("nova2")
    mirrored = nova.T_link_joint * np.diag([1, 1, -1, 1.0])
    cases = {
        "joint1.*mirror image": {"T_link_joint": mirrored},
        "lower must have shape": {"lower": nova.lower[:5]},
        "below its upper": {"upper": nova.lower},
        "nan or infinity": {"T_link_flange": np.full((4, 4), np.nan)},
    }
    for message, change in cases.items():
        facts = {"lower": nova.lower, "upper": nova.upper, "T_link_joint": nova.T_link_joint, **change}
        with pytest.raises(ValueError, match=message):
            Arm("mine", nova.joint_names, **facts)

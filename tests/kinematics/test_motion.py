"""Properties every arm has, whatever its numbers."""

from collections.abc import Callable
from math import pi

import numpy as np
import torch

from tactile_align.kinematics.arm import forward_kinematics, jacobian, link_poses, load_arm


def test_every_pose_is_rigid(random_q: Callable) -> None:
    T = link_poses(load_arm("nova5"), random_q(1000))
    R = T[..., :3, :3]
    np.testing.assert_allclose(R @ np.swapaxes(R, -1, -2), np.broadcast_to(np.eye(3), R.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-12)
    np.testing.assert_array_equal(T[..., 3, :], np.broadcast_to([0, 0, 0, 1], T[..., 3, :].shape))


def test_the_jacobian_is_the_slope_of_forward_kinematics(random_q: Callable) -> None:
    arm, q, h = load_arm("nova2"), random_q(100), 1e-6
    J = jacobian(arm, q)
    R = forward_kinematics(arm, q)[:, :3, :3]
    for i in range(6):
        step = h * np.eye(6)[i]
        slope = (forward_kinematics(arm, q + step) - forward_kinematics(arm, q - step)) / (2 * h)
        np.testing.assert_allclose(J[:, :3, i], slope[:, :3, 3], atol=1e-8)
        W = slope[:, :3, :3] @ np.swapaxes(R, 1, 2)
        w = np.stack([W[:, 2, 1], W[:, 0, 2], W[:, 1, 0]], axis=-1)
        np.testing.assert_allclose(J[:, 3:, i], w, atol=1e-8)


def test_the_last_link_is_the_flange_and_a_batch_equals_one_by_one(random_q: Callable) -> None:
    arm, q = load_arm("nova2"), random_q(24).reshape(2, 3, 4, 6)
    T = forward_kinematics(arm, q)
    np.testing.assert_array_equal(link_poses(arm, q)[..., -1, :, :], T)
    for index in np.ndindex(2, 3, 4):
        np.testing.assert_allclose(forward_kinematics(arm, q[index]), T[index], atol=1e-15)


def test_a_full_turn_of_any_joint_changes_nothing(random_q: Callable) -> None:
    arm, q = load_arm("nova5"), random_q(50)
    for i in range(6):
        turned = forward_kinematics(arm, q + 2 * pi * np.eye(6)[i])
        np.testing.assert_allclose(turned, forward_kinematics(arm, q), atol=1e-12)


def test_torch_equals_numpy_and_keeps_dtype(random_q: Callable) -> None:
    arm, q = load_arm("nova2"), random_q(30).reshape(5, 6, 6)
    for function in (forward_kinematics, link_poses, jacobian):
        double = function(arm, torch.tensor(q))
        assert double.dtype == torch.float64
        np.testing.assert_allclose(double.numpy(), function(arm, q), atol=1e-14)
        single = function(arm, torch.tensor(q, dtype=torch.float32))
        assert single.dtype == torch.float32
        np.testing.assert_allclose(single.numpy(), function(arm, q), atol=2e-6)


def test_gradients_are_right_and_finite_at_the_singular_zero_pose() -> None:
    arm = load_arm("nova2")
    q = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: forward_kinematics(arm, x), (q,))
    assert torch.autograd.gradcheck(lambda x: jacobian(arm, x), (q,))

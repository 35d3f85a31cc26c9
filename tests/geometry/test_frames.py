"""Poses against scipy and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from tactile_align.geometry import frames

vectors = st.lists(st.floats(-3.0, 3.0), min_size=3, max_size=3).map(np.array)


@given(vectors)
def test_rotation_exp_agrees_with_scipy(w: np.ndarray) -> None:
    assert np.abs(frames.rotation_exp(w) - Rotation.from_rotvec(w).as_matrix()).max() < 1e-12


@given(vectors)
def test_rotation_log_undoes_exp_up_to_pi(w: np.ndarray) -> None:
    R = Rotation.from_rotvec(w).as_matrix()
    back = frames.rotation_log(R)
    assert np.linalg.norm(back) <= np.pi + 1e-9
    assert np.abs(Rotation.from_rotvec(back).as_matrix() - R).max() < 1e-9


@given(vectors, vectors)
def test_pose_exp_is_the_matrix_exponential_and_log_undoes_it(v: np.ndarray, w: np.ndarray) -> None:
    xi = np.concatenate([v, w])
    generator = np.zeros((4, 4))
    generator[:3, :3] = frames.skew(w)
    generator[:3, 3] = v
    T = frames.exp(xi)
    assert np.abs(T - expm(generator)).max() < 1e-9
    if np.linalg.norm(w) < 3.0:
        assert np.abs(frames.log(T) - xi).max() < 1e-7


@given(st.integers(0, 10_000))
def test_quaternions_agree_with_scipy_in_wxyz_order(seed: int) -> None:
    R = Rotation.random(5, random_state=seed)
    q = frames.quaternion_from_rotation(R.as_matrix())
    expected = R.as_quat()[:, [3, 0, 1, 2]]
    assert np.abs(np.abs((q * expected).sum(-1)) - 1).max() < 1e-12
    assert np.abs(frames.rotation_from_quaternion(q) - R.as_matrix()).max() < 1e-12


@pytest.mark.parametrize("axis", [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
def test_half_turns_keep_their_quaternion(axis: list[int]) -> None:
    q = frames.quaternion_from_rotation(Rotation.from_rotvec(np.pi * np.array(axis)).as_matrix())
    assert np.abs(np.abs(q) - np.array([0, *axis])).max() < 1e-12


def test_rpy_is_fixed_axes_x_then_y_then_z() -> None:
    angles = np.array([0.3, -0.7, 1.1])
    expected = Rotation.from_euler("xyz", angles).as_matrix()
    assert np.abs(frames.rotation_from_rpy(angles) - expected).max() < 1e-12


@given(st.integers(0, 10_000))
def test_rpy_gives_the_rotation_back_at_the_pole_too(seed: int) -> None:
    R = Rotation.random(5, random_state=seed).as_matrix()
    R = np.concatenate([R, Rotation.from_euler("xyz", [[0.4, np.pi / 2, -1.0], [2.0, -np.pi / 2, 0.3]]).as_matrix()])
    R = np.concatenate([R, Rotation.from_quat([[-0.5, 0.5, 0.5, 0.5]]).as_matrix()])
    angles = frames.rpy_from_rotation(R)
    assert np.abs(Rotation.from_euler("xyz", angles).as_matrix() - R).max() < 1e-7
    assert np.abs(frames.rpy_from_rotation(torch.from_numpy(R)).numpy() - angles).max() < 1e-12


def test_invert_and_apply_undo_each_other_in_batches() -> None:
    rng = np.random.default_rng(1)
    T = frames.exp(rng.normal(size=(7, 2, 6)))
    p = rng.normal(size=(7, 2, 3))
    assert np.abs(frames.apply(frames.invert(T), frames.apply(T, p)) - p).max() < 1e-12


def test_torch_and_numpy_agree_and_gradients_are_finite_at_zero() -> None:
    xi = np.random.default_rng(2).normal(size=(4, 6))
    assert np.abs(frames.exp(torch.from_numpy(xi)).numpy() - frames.exp(xi)).max() < 1e-14
    zero = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    frames.exp(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_nearest_rotation_is_a_rotation_and_no_random_one_is_nearer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    M = rng.normal(size=(3, 3))
    R = frames.nearest_rotation(M)
    assert frames.rotation_fault(R) is None
    others = Rotation.random(200, random_state=seed).as_matrix()
    assert np.linalg.norm(R - M) <= np.linalg.norm(others - M, axis=(1, 2)).min() + 1e-9


def test_a_mirrored_matrix_is_named_a_mirror_image() -> None:
    fault = frames.rotation_fault(np.diag([1.0, 1.0, -1.0]))
    assert fault is not None and "mirror image" in fault
    assert "orthonormal" in str(frames.rotation_fault(1.01 * np.eye(3)))


def test_a_matrix_whose_last_row_is_wrong_is_not_a_pose() -> None:
    T = np.asarray(frames.pose(frames.rotation_exp(np.array([0.3, -0.2, 1.0])), np.array([0.5, 0.1, -0.2])))
    assert frames.pose_fault(T) is None and frames.pose_fault(T + 1e-7) is None
    assert frames.pose_fault(T.T) == (
        "its last row is 0.5 0.1 -0.2 1, not 0 0 0 1: it is written column by column, so transpose it"
    )
    assert str(frames.pose_fault(2 * T)).endswith("its last row is 0 0 0 2, not 0 0 0 1")
    assert "last row is 0 0 0 nan" in str(frames.pose_fault(np.where(np.eye(4) * [0, 0, 0, 1], np.nan, T)))
    T[:3, :3] *= 1.01
    assert "orthonormal" in str(frames.pose_fault(T))

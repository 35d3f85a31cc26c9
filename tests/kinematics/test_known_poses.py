"""Poses typed by hand from the makers' data, and the DH tables."""

from collections.abc import Callable

import numpy as np
import pytest

from tactile_align.kinematics.arm import forward_kinematics, load_arm

TEN_MICROMETRES = 1e-5
ARMS = ("nova2", "nova5", "cr3", "cr5", "cr7", "cr10", "cr12", "cr16", "cr20")


def test_the_nova2_stands_straight_up_at_zero() -> None:
    T = forward_kinematics(load_arm("nova2"), np.zeros(6))
    np.testing.assert_allclose(T[:3, 3], [0.0, -0.2055, 0.8484], atol=TEN_MICROMETRES)
    np.testing.assert_allclose(T[:3, 2], [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(T[:3, 0], [-1, 0, 0], atol=1e-12)


def test_the_xtrainer_start_pose_points_straight_down() -> None:
    left = np.radians([-90.0, 0, -90, 0, 90, 90])
    T = forward_kinematics(load_arm("nova2"), np.stack([left, -left]))
    # The lengths 0.22501 and 0.088004 make 0.345014 and 0.415396; the figures are rounded to 0.1 mm.
    np.testing.assert_allclose(T[0, :3, 3], [-0.1175, -0.34501, 0.415396], atol=TEN_MICROMETRES)
    np.testing.assert_allclose(T[1, :3, 3], [0.1175, -0.34501, 0.415396], atol=TEN_MICROMETRES)
    np.testing.assert_allclose(T[:, :3, 2], [[0, 0, -1]] * 2, atol=1e-12)


@pytest.mark.parametrize("name", ARMS)
def test_the_flange_agrees_with_the_dh_table_to_ten_micrometres(
    name: str, dh_table: Callable, random_q: Callable
) -> None:
    q = random_q(1000)
    expected = np.broadcast_to(np.eye(4), (1000, 4, 4))
    for i, (offset, d, a, alpha) in enumerate(dh_table(name)):
        c, s, ca, sa = np.cos(q[:, i] + offset), np.sin(q[:, i] + offset), np.cos(alpha), np.sin(alpha)
        o = np.zeros(1000)
        rows = [[c, -s * ca, s * sa, a * c], [s, c * ca, -c * sa, a * s], [o, o + sa, o + ca, o + d], [o, o, o, o + 1]]
        expected = expected @ np.moveaxis(np.array(rows), -1, 0)
    off = np.abs(forward_kinematics(load_arm(name), q) - expected)
    assert off[:, :3, 3].max() < TEN_MICROMETRES
    assert off[:, :3, :3].max() < 2e-5


def test_a_gripper_reading_left_in_is_named() -> None:
    with pytest.raises(ValueError, match=r"6 joints.*\(5, 7\).*gripper"):
        forward_kinematics(load_arm("nova2"), np.zeros((5, 7)))

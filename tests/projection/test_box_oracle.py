"""Boxes against brute force: near plane, half outside, strong lenses, limits that cut a face."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tactile_align.calibration.rig_parts import Solid
from tactile_align.projection.sensor_box import project_solids
from tests.projection.box_cases import LENSES, K, camera, compare, expected_box, one_box, sensors

BARREL_LIMIT = 1 / np.sqrt(3 * 0.4)
"""Where the distorted radius r - 0.4 r^3 stops growing."""
BARREL_RADIUS = BARREL_LIMIT - 0.4 * BARREL_LIMIT**3
BLOCK = (Solid(center_m=(0.003, 0, 0.01), size_m=(0.02, 0.03, 0.012)),)


@pytest.mark.parametrize("lens", LENSES)
def test_boxes_agree_with_a_dense_sampling_of_the_faces(lens: str) -> None:
    # `tests.benchmarks.box_error` compares 10,000 sensors.
    found = compare(lens, *sensors(40, seed=3))
    assert len(found.errors) > 20 and not found.alone
    assert max(found.errors) <= 0.1


@pytest.mark.parametrize(
    ("lens", "turn", "place", "size"),
    [
        # Found among 60,000 random solids: nine samples and one parabola were wrong by 0.79, 0.57, 0.45 and 0.28 px.
        ("barrel", [1.272, -0.012, 2.505], [-0.0163, 0.0025, 0.0626], [0.0269, 0.0377, 0.0456]),
        ("barrel with both and a limit", [1.745, -0.448, -1.612], [0.0079, -0.0016, 0.0355], [0.0271, 0.0051, 0.0281]),
        ("barrel with tangential terms", [1.028, -1.071, -0.834], [0.0138, -0.0051, 0.154], [0.2052, 0.1415, 0.0663]),
        ("fisheye", [-1.46, -1.224, -1.236], [-0.0067, 0.0572, 0.209], [0.2028, 0.1211, 0.1637]),
        # Reaching far off the axis. Steps even in angle made a parabola overshoot by 3.5 px, so that the wrong edge was
        # followed, and missed a turning point next to higher ends by 4.2 and 46 px.
        (
            "barrel with tangential terms",
            [1.2144, 1.3525, 1.3719],
            [0.02559, -0.02313, 0.03688],
            [0.0505, 0.04413, 0.05739],
        ),
        (
            "barrel with tangential terms",
            [-2.0022, -0.7507, -0.4571],
            [-0.01223, -0.00774, 0.0193],
            [0.04294, 0.01207, 0.02411],
        ),
        # The parabolas alone follow the wrong edge, 0.1 px off; the samples alone would elsewhere.
        (
            "barrel with tangential terms",
            [1.01148, -2.55708, 0.94125],
            [0.010799, 0.004249, -0.005277],
            [0.059477, 0.057551, 0.006164],
        ),
        ("rational", [1.151, -0.295, -1.0], [0.0197, 0.0176, -0.0243], [0.3517, 0.0301, 0.3408]),
    ],
)
def test_the_turning_point_of_a_strongly_bent_edge_is_found(
    lens: str, turn: list[float], place: list[float], size: list[float]
) -> None:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_rotvec(turn).as_matrix(), place
    expected = expected_box(lens, T, np.array(size))
    np.testing.assert_allclose(one_box(lens, T, np.array(size)).box, expected, atol=0.05)


@pytest.mark.parametrize(("lens", "radius"), [("pinhole with a limit", 0.6), ("barrel", BARREL_RADIUS)])
def test_a_face_that_covers_all_the_lens_sees_has_the_box_of_its_limit(lens: str, radius: float) -> None:
    T = np.eye(4)
    T[2, 3] = 0.1
    plate = (Solid(center_m=(0, 0, 0), size_m=(0.3, 0.4, 0.01)),)
    reach = radius * np.array([K[0, 0], K[1, 1]])
    raw = project_solids(camera(lens), T, plate).raw
    np.testing.assert_allclose(raw, [*(K[:2, 2] - reach), *(K[:2, 2] + reach)], atol=1e-3)


def test_boxes_of_a_brown_lens_end_where_its_radius_stops_growing() -> None:
    lens = camera("barrel")
    assert lens.radius_limit == pytest.approx(BARREL_LIMIT, abs=1e-12)
    T, _ = sensors(2000, seed=9)
    raw = project_solids(lens, T, BLOCK).raw
    reach = BARREL_RADIUS * np.array([K[0, 0], K[1, 1]])
    raw = raw[np.isfinite(raw[:, 0])]
    assert len(raw) > 1000
    assert (raw[:, :2] >= K[:2, 2] - reach - 1e-6).all() and (raw[:, 2:] <= K[:2, 2] + reach + 1e-6).all()


@pytest.mark.parametrize("lens", ["barrel with both and a limit", "fisheye"])
def test_cut_and_whole_solids_have_the_same_boxes_and_true_gradients_in_torch(lens: str) -> None:
    T, _ = sensors(60, seed=5)
    found = project_solids(camera(lens), T, BLOCK)
    t = torch.tensor(T, requires_grad=True)
    other = project_solids(camera(lens), t, BLOCK)
    np.testing.assert_allclose(other.raw.detach().numpy(), found.raw, atol=1e-8)
    other.box[other.visible].sum().backward()
    assert t.grad is not None and found.visible.sum() > 20
    for axis in range(3):
        step = np.zeros((4, 4))
        step[axis, 3] = 1e-7
        ahead, back = (project_solids(camera(lens), T + sign * step, BLOCK).box.sum(-1) for sign in (1, -1))
        seen = found.visible
        slope = ((ahead - back) / 2e-7)[seen]
        np.testing.assert_allclose(t.grad.numpy()[seen, axis, 3], slope, rtol=1e-4, atol=0.1)


def test_a_batch_of_cut_and_whole_solids_gives_each_its_own_box() -> None:
    lens = camera("barrel")
    T, _ = sensors(60, seed=5)
    together = project_solids(lens, T.reshape(5, 12, 4, 4), BLOCK)
    for i in range(60):
        one = project_solids(lens, T[i], BLOCK)
        np.testing.assert_allclose(together.raw.reshape(60, 4)[i], one.raw, atol=1e-9)
        assert together.reason.reshape(60)[i] == one.reason
    assert {"", "behind"} <= set(together.reason_text().ravel())

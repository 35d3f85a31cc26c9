"""Sensor boxes: clipped in 3D first, never from behind the camera, with a reason where there is none.

The other finger's box is compared with a mirrored solid, and the pixel's spread with calibrations drawn at random.
"""

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.calibration.rig_parts import Solid
from tactile_align.projection.sensor_box import (
    other_finger,
    other_finger_boxes,
    pixel_sigma,
    project_solids,
    sensor_boxes,
)

K = np.array([[600.0, 0.0, 319.5], [0.0, 580.0, 239.5], [0.0, 0.0, 1.0]])
PINHOLE = Camera("test", 640, 480, K)
CUBE = (Solid(center_m=(0, 0, 0), size_m=(0.02, 0.03, 0.04)),)
POSE = np.array([0.298, -0.294, -1.911, 0.634, 1.571, -1.273, 0.6])


def at(x: float, y: float, z: float) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3] = x, y, z
    return T


def test_a_solid_square_to_the_axis_has_the_box_of_its_near_face() -> None:
    found = project_solids(PINHOLE, at(0.01, -0.02, 0.22), CUBE)
    # Near face at z = 0.20, x in [0, 0.02], y in [-0.035, -0.005]; the far face reaches further in.
    expected = [319.5, 239.5 + 580 * -0.035 / 0.2, 319.5 + 600 * 0.02 / 0.2, 239.5 - 580 * 0.005 / 0.24]
    np.testing.assert_allclose(found.box, expected, atol=1e-9)
    assert found.visible and found.inside == 1.0 and found.reason_text() == ""


def test_a_solid_half_outside_is_cut_at_the_border_and_says_how_much_is_inside() -> None:
    left = at(-0.2 * 320 / 600 - 1e-12, 0.0, 0.22)  # its near face straddles the left image border
    found = project_solids(PINHOLE, left, CUBE)
    assert found.box[0] == -0.5 and found.raw[0] < -0.5 and found.visible
    whole = found.raw[2] - found.raw[0]
    assert found.inside == pytest.approx((found.raw[2] + 0.5) / whole, abs=1e-12)
    assert 0.4 < found.inside < 0.8


@pytest.mark.parametrize("camera", ["left_wrist", "top"])
@pytest.mark.parametrize("ahead_m", [0.004, 0.016, 0.03])
def test_a_box_in_front_of_the_pad_is_that_of_a_sensor_mounted_further_out(camera: str, ahead_m: float) -> None:
    rig = load_rig("cell")
    touch = rig.sensors["tactile1"]
    out = touch.T_parent_this[:3, :3] @ np.asarray(touch.pad.normal)
    further = rig.with_sensor("tactile1", translation_m=tuple(np.asarray(touch.translation_m) + ahead_m * out))
    found = sensor_boxes(rig, camera, "tactile1", POSE, ahead_m=ahead_m).box
    np.testing.assert_allclose(found, sensor_boxes(further, camera, "tactile1", POSE).box, atol=1e-9)
    other = other_finger_boxes(rig, camera, "tactile1", POSE).box
    plain = sensor_boxes(rig, camera, "tactile1", POSE).box
    apart, nearer = (np.linalg.norm((a - other)[:2] + (a - other)[2:]) for a in (plain, found))
    assert nearer < apart, "the pad looks at the other finger"
    joints = torch.from_numpy(POSE).requires_grad_()
    by_torch = sensor_boxes(rig, camera, "tactile1", joints, ahead_m=ahead_m).box
    np.testing.assert_allclose(by_torch.detach(), found, atol=1e-9)


@pytest.mark.parametrize("ahead_m", [-0.01, 16.0, np.nan])
def test_a_box_is_not_put_behind_the_pad_nor_millimetres_taken_for_metres_before_it(ahead_m: float) -> None:
    with pytest.raises(ValueError, match=r"ahead_m must be .* less than 0\.2 m; got"):
        sensor_boxes(load_rig("cell"), "top", "tactile1", POSE, ahead_m=ahead_m)


@pytest.mark.parametrize(
    ("T", "reason"),
    [
        (at(0, 0, -0.3), "behind"),
        (at(0, 0, -0.0151), "behind"),
        (at(0.5, 0, 0.3), "outside"),
        (at(0, -0.5, 0.3), "outside"),
        (at(0, 0, 9.0), "too small"),
    ],
)
def test_no_box_is_nan_with_its_reason(T: np.ndarray, reason: str) -> None:
    found = project_solids(PINHOLE, T, CUBE)
    assert found.reason_text() == reason
    assert not found.visible and np.isnan(found.box).all()


def test_beyond_the_lens_model_there_is_no_box() -> None:
    lens = Camera("test", 640, 480, K, "brown", (-0.4, 0.0, 0.0, 0.0))
    assert project_solids(lens, at(0.3, 0, 0.2), CUBE).reason_text() == "beyond lens model"


def test_a_solid_through_the_camera_plane_is_cut_in_3d_before_projecting() -> None:
    through = (Solid(center_m=(0, 0, 0), size_m=(0.02, 0.02, 0.4)),)
    found = project_solids(PINHOLE, at(0.03, 0.0, 0.1), through)
    # In front it starts at x/z = 0.02 / 0.3 and leaves by the right border as z falls; nothing is mirrored.
    assert found.raw[0] == pytest.approx(319.5 + 600 * 0.02 / 0.3, abs=1e-9)
    assert found.box[2] == 639.5 and found.visible


def test_a_box_is_too_small_below_the_side_asked_for() -> None:
    T = at(0, 0, 2.0)  # 6 px wide, 8.8 px high
    assert project_solids(PINHOLE, T, CUBE, min_side_px=4).visible
    assert not project_solids(PINHOLE, T, CUBE, min_side_px=7).visible


def test_the_cells_wrist_box_agrees_with_opencvs_projection_of_its_corners() -> None:
    rig = load_rig("cell")
    found = sensor_boxes(rig, "left_wrist", "tactile1", POSE)
    T = rig.T_camera_sensor("left_wrist", "tactile1", POSE)
    corners = np.concatenate([solid.corners for solid in rig.sensors["tactile1"].body])
    rotation, _ = cv2.Rodrigues(T[:3, :3])
    uv, _ = cv2.projectPoints(corners[:, None], rotation, T[:3, 3], rig.cameras["left_wrist"].stored.K, None)
    np.testing.assert_allclose(found.raw, [*uv.min((0, 1)), *uv.max((0, 1))], atol=1e-9)


def test_boxes_are_those_of_the_stored_image() -> None:
    rig = load_rig("cell")
    plain = rig.with_camera("top", image_map=())
    full = sensor_boxes(plain, "top", "tactile1", POSE)
    half = sensor_boxes(rig, "top", "tactile1", POSE)
    np.testing.assert_allclose(half.raw, (full.raw + 0.5) / 2 - 0.5, atol=1e-9)


def test_the_pad_lies_inside_the_body() -> None:
    rig = load_rig("cell")
    body = sensor_boxes(rig, "left_wrist", "tactile1", POSE).raw
    pad = sensor_boxes(rig, "left_wrist", "tactile1", POSE, solid="pad").raw
    assert (pad[:2] >= body[:2]).all() and (pad[2:] <= body[2:]).all() and (pad != body).any()


def test_batches_keep_their_axes_and_torch_agrees_and_has_a_gradient() -> None:
    rig = load_rig("cell")
    qpos = np.broadcast_to(POSE, (2, 3, 7)).copy()
    qpos[..., 6] = np.linspace(0.1, 0.9, 6).reshape(2, 3)
    found = sensor_boxes(rig, "top", "tactile1", qpos)
    assert found.box.shape == (2, 3, 4) and found.reason.dtype == np.uint8
    t = torch.tensor(qpos, requires_grad=True)
    other = sensor_boxes(rig, "top", "tactile1", t)
    np.testing.assert_allclose(other.box.detach().numpy(), found.box, atol=1e-9)
    other.box.sum().backward()
    assert t.grad is not None and torch.isfinite(t.grad).all() and (t.grad[..., 6] != 0).all()


def test_unknown_names_list_the_known_ones() -> None:
    rig = load_rig("cell")
    with pytest.raises(ValueError, match=r"no camera 'side'.*: left_wrist, top"):
        sensor_boxes(rig, "side", "tactile1", POSE)
    with pytest.raises(ValueError, match=r"no sensor 'digit'.*: tactile1"):
        sensor_boxes(rig, "top", "digit", POSE)


HOME = np.array([0.298, -0.294, -1.911, 0.634, 1.571, -1.273, 0.5])
OPENING = np.array([[0.010, 0.014], [0.030, 0.025]])


def turned_cell() -> Rig:
    """The cell with its sensor turned and shifted on the finger, so that nothing is symmetric by itself."""
    rig = load_rig("cell")
    axis = np.array([0.3, -0.5, 0.81])
    axis /= np.linalg.norm(axis)
    quat = (float(np.cos(0.4)), *(float(x) for x in np.sin(0.4) * axis))
    return rig.with_sensor("tactile1", translation_m=(0.004, -0.006, 0.15), quat_wxyz=quat)


def test_a_bare_finger_is_the_mirror_image_of_the_one_with_the_sensor() -> None:
    rig = turned_cell()
    qpos = np.stack([HOME, HOME + 0.05])
    found = other_finger_boxes(rig, "left_wrist", "tactile1", qpos, OPENING)
    touch, camera = rig.sensors["tactile1"], rig.cameras["left_wrist"]
    T = touch.T_parent_this
    for row in range(2):
        uv = []
        for solid in touch.body:
            # In the flange's frame the fingers open along y: finger1 to -y, finger2 to +y.
            on_finger = solid.corners @ T[:3, :3].T + T[:3, 3]
            mirrored = on_finger * [1, -1, 1] + [0, OPENING[row, 1], 0]
            R, t = camera.T_parent_this[:3, :3], camera.T_parent_this[:3, 3]
            uv.append(camera.stored.project((mirrored - t) @ R)[0])
        corners = np.concatenate(uv)
        want = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
        np.testing.assert_allclose(found.raw[row], want, atol=1e-6)


def test_the_mirror_image_of_the_mirror_image_is_the_sensor_itself() -> None:
    rig = turned_cell()
    there = other_finger(rig, "tactile1")
    assert there.parent == "left/finger2"
    back = other_finger(rig.with_sensor("tactile1", there), "tactile1")
    own = rig.sensors["tactile1"]
    assert back.parent == own.parent
    np.testing.assert_allclose(back.T_parent_this, own.T_parent_this, atol=1e-12)
    np.testing.assert_allclose(back.pad.normal, own.pad.normal, atol=1e-12)


def test_a_sensor_on_the_other_finger_is_taken_as_the_rig_states_it() -> None:
    rig = turned_cell()
    second = rig.sensors["tactile1"]
    both = rig.with_sensor("tactile2", second, parent="left/finger2", translation_m=(0.01, 0.0, 0.14))
    found = other_finger_boxes(both, "left_wrist", "tactile1", HOME[None], OPENING[:1])
    np.testing.assert_array_equal(found.box, sensor_boxes(both, "left_wrist", "tactile2", HOME[None], OPENING[:1]).box)


def test_a_sensor_that_sits_on_no_finger_has_no_other_one() -> None:
    fixed = turned_cell().with_sensor("tactile1", parent="left/flange")
    with pytest.raises(ValueError, match=r"'tactile1' of rig cell.*'left/flange'.*finger1 or"):
        other_finger(fixed, "tactile1")


def uncertain_cell() -> tuple[Rig, np.ndarray]:
    rig = load_rig("cell")
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(6, 6)) * np.array([1e-3] * 3 + [3e-3] * 3)[:, None]
    C = mixed @ mixed.T / 6
    return rig.with_camera("left_wrist", covariance=((C + C.T) / 2).tolist()), C


def test_the_spread_is_that_of_calibrations_drawn_from_the_covariance() -> None:
    rig, C = uncertain_cell()
    qpos = np.stack([HOME, HOME + np.array([0.1, -0.1, 0.1, 0.1, 0, 0.2, 0.3])])
    found = pixel_sigma(rig, "left_wrist", "tactile1", qpos)
    entry, T = rig.cameras["left_wrist"], rig.T_camera_sensor("left_wrist", "tactile1", qpos)
    p = T[..., :3, :3] @ np.asarray(rig.sensors["tactile1"].pad.center_m) + T[..., :3, 3]
    R, t = entry.T_parent_this[:3, :3], entry.T_parent_this[:3, 3]
    in_parent = p @ R.T + t
    seen = []
    for d in np.random.default_rng(1).multivariate_normal(np.zeros(6), C, size=1500):
        turned = R @ Rotation.from_rotvec(d[3:]).as_matrix()
        seen.append(entry.stored.project((in_parent - t - d[:3]) @ turned)[0])
    np.testing.assert_allclose(found, np.std(seen, axis=0), rtol=0.08)
    assert found.shape == (2, 2) and found.min() > 0.5


def test_a_rig_without_covariance_says_where_one_comes_from() -> None:
    with pytest.raises(ValueError, match=r"'left_wrist'.*no pose covariance.*calibrate hand-eye"):
        pixel_sigma(load_rig("cell"), "left_wrist", "tactile1", HOME[None])

"""The other finger's box: a mirror image of the sensor's, or that of the sensor which sits there."""

import numpy as np
import pytest

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.projection.other_finger import other_finger, other_finger_boxes
from tactile_align.projection.sensor_box import sensor_boxes

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

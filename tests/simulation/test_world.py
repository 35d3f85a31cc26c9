"""The cell is the rig made solid: its truth, from MuJoCo and pixel masks, is where the rig says the sensor is."""

import numpy as np
import pytest

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.geometry.frames import rotation_from_rpy
from tactile_align.kinematics.arm import forward_kinematics
from tactile_align.projection.sensor_box import sensor_boxes
from tactile_align.simulation.looks import draw_look
from tactile_align.simulation.scene import read_hand
from tactile_align.simulation.world import HOME, World, lens_of, tool_pose, true_sensor_boxes

RIG = load_rig("cell")
LOOK = draw_look(np.random.default_rng(0))


def changed(**cameras: dict[str, object]) -> Rig:
    rig = RIG
    for name, values in cameras.items():
        rig = rig.with_camera(name, **values)
    return rig


def poses(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Joints over the whole work space and openings over the whole stroke."""
    world, rng, found = World(RIG, LOOK), np.random.default_rng(seed), []
    while len(found) < count:
        place = rng.uniform([0.30, -0.18, 0.08], [0.50, 0.18, 0.22])
        tilt = (float(rng.uniform(-0.25, 0.25)), float(rng.uniform(-0.25, 0.25)))
        q, reached = world.reach(tool_pose(place, rng.uniform(-1.2, 1.2), tilt), HOME)
        if reached:
            found.append(q)
    return np.array(found), np.repeat(rng.uniform(0, 0.045, (count, 1)), 2, axis=1)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    common = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    return common / ((a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - common)


def test_wrist_boxes_lie_on_the_true_sensor_over_500_poses() -> None:
    q, opening = poses(500)
    truth = true_sensor_boxes(RIG, "left_wrist", q, opening, LOOK)
    boxes = sensor_boxes(RIG, "left_wrist", "tactile1", np.c_[q, opening[:, :1] / 0.045]).box
    quality = iou(boxes, truth)
    assert np.median(quality) >= 0.98 and np.percentile(quality, 5) >= 0.97
    assert (np.abs(np.median(boxes - truth, axis=0)) <= 0.25).all()


def test_top_boxes_lie_on_the_true_sensor_over_500_poses_and_a_flipped_joint_4_shows() -> None:
    q, opening = poses(500, seed=1)
    rig = changed(top={"image_map": ()})
    truth = true_sensor_boxes(RIG, "top", q, opening, LOOK)

    def errors(joints: np.ndarray) -> tuple[float, float]:
        boxes = sensor_boxes(rig, "top", "tactile1", np.c_[joints, opening[:, :1] / 0.045]).box
        off = boxes - truth
        centres = np.linalg.norm(off[:, :2] + off[:, 2:], axis=1) / 2
        return float(np.nanmedian(centres)), float((np.abs(off) <= 1).mean())

    centre, within = errors(q)
    assert centre <= 0.4 and within >= 0.99
    centre, within = errors(q * [1, 1, 1, -1, 1, 1])
    assert centre > 5 and within < 0.2  # and out of view for many, which counts as not within


def test_the_hand_is_where_forward_kinematics_puts_it() -> None:
    world = World(RIG, LOOK)
    rng = np.random.default_rng(0)
    for q in rng.uniform(-2, 2, (20, 6)):
        world.place_arm(q, 0.02)
        world.settle()
        T = forward_kinematics(world.arm, q)
        T[:3, 3] += 0.150 * T[:3, 2]
        np.testing.assert_allclose(world.T_world_tcp(), T, atol=1e-12)


def test_reach_finds_joints_that_forward_kinematics_confirms() -> None:
    world = World(RIG, LOOK)
    T = tool_pose(np.array([0.4, 0.1, 0.15]), 0.5, (0.1, -0.2))
    q, reached = world.reach(T, HOME)
    found = forward_kinematics(world.arm, q)
    found[:3, 3] += 0.150 * found[:3, 2]
    assert reached
    np.testing.assert_allclose(found, T, atol=2e-5)
    _, reached = world.reach(tool_pose(np.array([1.5, 0, 0.2]), 0.0), HOME)
    assert not reached


def test_a_ball_between_the_pads_is_as_thick_as_its_radius_says() -> None:
    look = draw_look(np.random.default_rng(1), kind="sphere", scale=1.1)
    world = World(RIG, look)
    world.place_arm(HOME, 0.03)
    world.settle()
    T = world.T_world_tcp()
    T[:3, 3] += T[:3, :3] @ np.array([0.003, 0.002, -0.004])
    world.place_thing(T)
    world.settle()
    radius, out = 0.014 * 1.1, world.hand.outwards
    assert world.thickness() == pytest.approx((radius + 0.002 * out, radius - 0.002 * out), abs=1e-6)


def test_what_hides_the_sensor_takes_from_its_unoccluded_share() -> None:
    look = draw_look(np.random.default_rng(1), kind="letter_T", scale=1.3)
    world = World(RIG, look)
    rng = np.random.default_rng(0)
    world.place_arm(HOME, 0.035)
    world.settle()
    free = world.observe(rng).truth
    T = world.T_world_tcp()
    R = rotation_from_rpy(np.array([0.3, 0.4, 0.5]))
    T_camera = world.T_world_camera("left_wrist")
    sensor = world.data.site("pad").xpos
    T[:3, :3], T[:3, 3] = R, 0.5 * sensor + 0.5 * T_camera[:3, 3]
    world.place_thing(T)
    world.settle()
    hidden = world.observe(rng).truth
    assert free.unoccluded["left_wrist"] == 1.0
    assert hidden.unoccluded["left_wrist"] < 0.7
    np.testing.assert_array_equal(hidden.box["left_wrist"], free.box["left_wrist"])  # amodal


def test_a_rig_that_the_cell_cannot_be_built_from_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"one sensor on left/finger1.*cell has 0"):
        read_hand(RIG.with_sensor("tactile1", parent="left/finger2"), "left")
    law = {**RIG.gripper("left").law.model_dump(), "axis": (0.0, 1.0, 0.0)}
    with pytest.raises(ValueError, match=r"sensors\.tactile1\.pad of rig cell has normal"):
        read_hand(RIG.with_gripper("left", law=law), "left")
    with pytest.raises(ValueError, match=r"cameras\.left_wrist\.parent of rig cell is left/finger1"):
        World(changed(left_wrist={"parent": "left/finger1"}), LOOK)
    bent = changed(left_wrist={"model": "brown", "distortion": (0.1, 0, 0, 0)})
    with pytest.raises(ValueError, match=r"cameras\.left_wrist\.model of rig cell is 'brown'"):
        lens_of(bent, "left_wrist")

"""The rig: its chain of frames, what it refuses by name, and that a saved one is the same one."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomlkit
import torch

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.errors import FactError
from tactile_align.facts import fact_folder
from tactile_align.geometry.frames import rotation_from_rpy
from tactile_align.kinematics.arm import forward_kinematics
from tactile_align.sessions.write_rig import edited
from tests.kinematics.conftest import RAIL, urdf_with_hand

POSE = np.array([0.298, -0.294, -1.911, 0.634, 1.571, -1.273, 0.6])


def facts(name: str = "cell") -> dict[str, Any]:
    return tomllib.loads((fact_folder("calibration") / f"{name}.toml").read_text(encoding="utf-8"))


def written(tmp_path: Path, data: dict[str, Any]) -> Path:
    path = tmp_path / "my rig é.toml"
    path.write_bytes(tomlkit.dumps(data).encode())
    return path


def homogeneous(R: np.ndarray, t: Any) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return T


def quaternion_matrix(q: Any) -> np.ndarray:
    """The textbook sandwich q v q*, column by column."""
    w, v = q[0], np.asarray(q[1:])
    columns = [e + 2 * w * np.cross(v, e) + 2 * np.cross(v, np.cross(v, e)) for e in np.eye(3)]
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("name", ["cell", "parallel_gripper", "xtrainer"])
def test_a_shipped_rig_loads_and_every_camera_sees_in_front_of_itself(name: str) -> None:
    rig = load_rig(name)
    for camera in rig.cameras.values():
        assert camera.stored.width == camera.map.width


def test_the_sensors_of_the_template_face_each_other_across_the_tool_axis() -> None:
    rig, q = load_rig("parallel_gripper"), np.array([0.0, 0.3, 0.5, 0.1, 1.0, 0.0, 0.06])
    first, second = (rig.T_from_to("arm/flange", name.parent, q) @ name.T_parent_this for name in rig.sensors.values())
    normal = np.asarray(rig.sensors["tactile1"].pad.normal)
    apart = second[:3, 3] - first[:3, 3]
    assert apart == pytest.approx([0.0, -0.06, 0.0]), "the pads are as far apart as the width that was read"
    assert first[:3, :3] @ normal == pytest.approx(apart / 0.06) and second[:3, :3] @ normal == pytest.approx(
        -apart / 0.06
    )


@pytest.mark.parametrize("camera", ["left_wrist", "top"])
def test_the_chain_from_camera_to_sensor_is_the_product_of_its_links(camera: str) -> None:
    data, rig = facts(), load_rig("cell")
    cam, touch = data["cameras"][camera], data["sensors"]["tactile1"]
    T_base_flange = forward_kinematics(rig.arms["left"].arm, POSE[:6])
    T_flange_finger = homogeneous(np.eye(3), [0.0, -0.045 * 0.6, 0.0])
    T_finger_sensor = homogeneous(quaternion_matrix(touch["quat_wxyz"]), touch["translation_m"])
    T_parent_camera = homogeneous(quaternion_matrix(cam["quat_wxyz"]), cam["translation_m"])
    T_world_camera = T_base_flange @ T_parent_camera if camera == "left_wrist" else T_parent_camera
    expected = np.linalg.inv(T_world_camera) @ T_base_flange @ T_flange_finger @ T_finger_sensor
    np.testing.assert_allclose(rig.T_camera_sensor(camera, "tactile1", POSE), expected, atol=1e-12)


def test_joints_cancel_between_frames_on_one_flange() -> None:
    rig = load_rig("cell")
    turned = POSE + np.array([0.7, 0.3, -0.2, 0.5, -0.4, 1.0, 0.0])
    a = rig.T_camera_sensor("left_wrist", "tactile1", POSE)
    np.testing.assert_array_equal(a, rig.T_camera_sensor("left_wrist", "tactile1", turned))
    opened = np.append(POSE[:6], 0.7)
    assert np.abs(a - rig.T_camera_sensor("left_wrist", "tactile1", opened)).max() > 1e-3


def test_the_second_finger_moves_the_other_way() -> None:
    data = facts()
    data["sensors"]["other"] = {**copy.deepcopy(data["sensors"]["tactile1"]), "parent": "left/finger2"}
    rig = Rig.model_validate(data)
    a, b = (rig.T_from_to("left/flange", f"left/finger{i}", POSE)[:3, 3] for i in (1, 2))
    np.testing.assert_allclose(a, [0, -0.027, 0], atol=1e-12)
    np.testing.assert_allclose(b, [0, 0.027, 0], atol=1e-12)


def test_a_known_opening_replaces_the_gripper_reading_finger_by_finger() -> None:
    rig = load_rig("cell")
    T = rig.T_from_to("left/flange", "left/finger1", POSE, np.array([0.011, 0.02]))
    np.testing.assert_allclose(T[:3, 3], [0, -0.011, 0], atol=1e-15)


def test_the_right_arms_frames_are_reached_through_the_world() -> None:
    rig = load_rig("xtrainer")
    q = np.concatenate([POSE, POSE])
    T = rig.T_from_to("left/base", "right/base", q)
    # Left base is turned +90 deg about z: world x is its -y; the right one stands 1.06 m along world x.
    np.testing.assert_allclose(T[:3, 3], [0, -1.06, 0], atol=1e-12)
    np.testing.assert_allclose(T[:3, :3], rotation_from_rpy(np.array([0, 0, np.pi])), atol=1e-12)


def test_degrees_in_the_recording_are_declared_in_the_rig() -> None:
    data = facts()
    data["arms"]["left"]["joints"]["unit"] = "deg"
    degrees = np.concatenate([np.degrees(POSE[:6]), POSE[6:]])
    np.testing.assert_allclose(
        Rig.model_validate(data).T_camera_sensor("top", "tactile1", degrees),
        load_rig("cell").T_camera_sensor("top", "tactile1", POSE),
        atol=1e-12,
    )


def test_batches_and_torch_give_the_same_poses() -> None:
    rig = load_rig("cell")
    batch = np.broadcast_to(POSE, (3, 2, 7)).copy()
    batch[1, 1, 0] += 0.4
    T = rig.T_camera_sensor("top", "tactile1", batch)
    assert T.shape == (3, 2, 4, 4)
    np.testing.assert_allclose(T[1, 1], rig.T_camera_sensor("top", "tactile1", batch[1, 1]), atol=1e-14)
    t = rig.T_camera_sensor("top", "tactile1", torch.tensor(batch))
    np.testing.assert_allclose(t.numpy(), T, atol=1e-13)


def edit(path: str, value: Any) -> dict[str, Any]:
    """Return the cell's facts with one key set; a value of ... removes it."""
    data = facts()
    *way, last = path.split(".")
    node: Any = data
    for key in way:
        node = node[int(key)] if isinstance(node, list) else node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return data


MIRROR = [[1.0, 0, 0, 0.085], [0, 1.0, 0, 0.018], [0, 0, -1.0, 0.035], [0, 0, 0, 1]]


def mirrored() -> dict[str, Any]:
    data = edit("cameras.left_wrist.matrix", MIRROR)
    del data["cameras"]["left_wrist"]["translation_m"], data["cameras"]["left_wrist"]["quat_wxyz"]
    return data


def skewed() -> dict[str, Any]:
    data = mirrored()
    data["cameras"]["left_wrist"]["matrix"] = [[1.0, 0.1, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]]
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (mirrored(), r"cameras\.left_wrist: .*matrix.*determinant is -1\.000: a mirror image"),
        (skewed(), r"cameras\.left_wrist: .*matrix.*not orthonormal"),
        (edit("cameras.left_wrist.translation_m", [85.0, 18.0, 35.0]), r"left_wrist.*Give metres"),
        (edit("cameras.left_wrist.quat_wxyz", [1.0, 1.0, 0, 0]), r"left_wrist.*quat_wxyz.*norm 1\.41421, not 1"),
        (
            edit("cameras.left_wrist.colour", "bgr"),
            r"left_wrist\.colour: unknown key; known keys: K, .*image_map.*width",
        ),
        (edit("cameras.left_wrist.K", [[465.6, 0, 239.5], [0, 465.6, 519.5], [0, 0, 1]]), "swapped"),
        (edit("cameras.left_wrist.width", 200), r"principal point \(319\.5, 239\.5\) lies outside the raw 200x480"),
        (edit("cameras.left_wrist.K", [[-465.6, 0, 319.5], [0, 465.6, 239.5], [0, 0, 1]]), "Put any flip in image_map"),
        (edit("cameras.left_wrist.K", [[0.4656, 0, 319.5], [0, 0.4656, 239.5], [0, 0, 1]]), "below one pixel"),
        (edit("cameras.left_wrist.parent", "right/flange"), r"left_wrist\.parent.*'right/flange' .*an arm.*left/"),
        (edit("cameras.left_wrist.parent", "left/hand"), r"no frame 'hand'.*base, link1.*flange, finger1, finger2"),
        (edit("cameras.top.image_map", [["turn", 90]]), r"cameras\.top.*image_map step.*turn.*unknown step.*rotate180"),
        (edit("cameras.top.image_map", [["resize", 320]]), "got 1 numbers, but resize needs 2"),
        (
            edit("cameras.top.image_map", ["rotate180"]),
            r'top\.image_map: each step must be a list; got \["rotate180"\]\. Write image_map = \[\["rotate180"\]\]',
        ),
        (
            edit("cameras.top.image_map", ["crop", 1, 2, 30, 40]),
            r'each step must be a list; got .*image_map = \[\["crop", 1, 2, 30, 40\]\]',
        ),
        (edit("cameras.top.image_map", "flip_u"), r'got "flip_u".*image_map = \[\["flip_u"\]\]'),
        (edit("cameras.top.image_maps", []), r"cameras\.top\.image_maps: unknown key; did you mean 'image_map'\?"),
        (edit("camera", {}), r"camera: unknown key; did you mean 'cameras'\?"),
        (edit("arms.left.gripper.law.open_mm", 45), r"open_mm: unknown key; did you mean 'open_m'\?"),
        (edit("sensors.tactile1.body.0.sizes_m", 1), r"body\.0\.sizes_m: unknown key; did you mean 'size_m'\?"),
        (edit("arms.left.joints.columns", [0, 1, 2, 3, 4]), "nova2 has 6 joints but joints.columns has 5"),
        (edit("arms.left.tip", "link6"), r"arms\.left: nova2: .*apply only to a URDF"),
        (edit("arms.left.joints.unit", "degree"), r"arms\.left\.joints\.unit"),
        (edit("arms.left.gripper.reading", ...), r"arms\.left\.gripper\.reading: Field required"),
        (edit("sensors.tactile1.body.0.size_m", [20.0, 12.0, 30.0]), r"sensors\.tactile1\.body\.0\.size_m"),
        (edit("sensors.tactile1.pad.normal", [0.0, 2.0, 0.0]), "normal = .* is not a unit vector"),
        ({**facts(), "override": [{"episodes": "*", "cameras": {"side": {}}}]}, r"override 0: .*no cameras\.side"),
        (
            {**facts(), "override": [{"episodes": "*", "cameras": {"top": {"K": []}}}]},
            r"cameras\.top\.K cannot be overridden\. Override only",
        ),
    ],
)
def test_a_wrong_rig_is_refused_naming_file_and_key(tmp_path: Path, data: dict, message: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(FactError, match=message) as caught:
        load_rig(path)
    assert str(path) in str(caught.value)


def test_a_rig_names_the_links_of_a_urdf_that_goes_on_to_a_hand(tmp_path: Path) -> None:
    (tmp_path / "arm.urdf").write_text(urdf_with_hand("nova2"), encoding="utf-8")
    data = edit("arms.left.model", "arm.urdf")
    with pytest.raises(FactError, match=r'arms\.left: .*arm\.urdf.*left_finger, right_finger.*tip = "LINK" next to'):
        load_rig(written(tmp_path, data))
    data["arms"]["left"] |= {"base": "base", "tip": "link6"}
    rig, cell = load_rig(written(tmp_path, data)), load_rig("cell")
    for camera in ("left_wrist", "top"):
        off = rig.T_camera_sensor(camera, "tactile1", POSE) - cell.T_camera_sensor(camera, "tactile1", POSE)
        assert np.abs(off).max() < 2e-5, "the same arm, from its URDF and from its fact"
    rig.save(tmp_path / "saved.toml")
    assert load_rig(tmp_path / "saved.toml") == rig
    # What names no link is written as before: prepared episodes are called after it.
    assert not {"base", "tip"} & set(cell.arms["left"].model_dump())
    data["arms"]["left"]["tip"] = "flange"
    with pytest.raises(FactError, match=r"tip 'flange' is not a link of this file.*: base, link1"):
        load_rig(written(tmp_path, data))


def test_a_finger_of_an_arm_without_gripper_asks_for_the_gripper(tmp_path: Path) -> None:
    data = load_rig("cell").model_dump(mode="json", exclude_none=True)
    del data["arms"]["left"]["gripper"]
    with pytest.raises(FactError) as caught:
        load_rig(written(tmp_path, data))
    text = (
        "sensors.tactile1.parent: left/finger1 exists only with [arms.left.gripper]. Add it with column, open, closed"
    )
    assert f".toml: {text}" in str(caught.value)


def test_a_rig_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(FactError, match=r"'cel'.*cell, parallel_gripper, xtrainer"):
        load_rig("cel")


def test_qpos_with_too_few_columns_or_normalised_is_refused() -> None:
    rig = load_rig("cell")
    with pytest.raises(ValueError, match="column 6 of qpos, whose last column is 4"):
        rig.T_camera_sensor("top", "tactile1", POSE[:5])
    with pytest.raises(ValueError, match=r"last column is 4.*joints\.columns"):
        rig.joints("left", POSE[:5])
    with pytest.raises(ValueError, match=r"row 1: joint3.*normalised"):
        rig.T_camera_sensor("top", "tactile1", np.stack([POSE, np.where(np.arange(7) == 2, -4.0, POSE)]))
    with pytest.raises(ValueError, match=r"row 0: gripper reading -1\.3.*normalised"):
        rig.T_camera_sensor("top", "tactile1", np.append(POSE[:6], -1.3))


@pytest.mark.parametrize("to", [np.asarray, torch.as_tensor])
def test_a_sliding_joint_stays_in_metres_when_the_angles_are_degrees(tmp_path: Path, to: Any) -> None:
    data = facts()
    (tmp_path / "rail.urdf").write_text(RAIL)
    del data["cameras"]["left_wrist"], data["sensors"], data["arms"]["left"]["gripper"]
    data["arms"]["left"] |= {"model": "rail.urdf", "joints": {"columns": [0, 1, 2, 3], "unit": "deg"}}
    rig = load_rig(written(tmp_path, data))
    T = rig.T_from_to("world", "left/flange", to(np.array([0.8, 30.0, 60.0, 5.0])))
    reach = 0.4 + 0.3 * 0.5  # the elbow turns the lower link by 60 degrees out of the plane
    expected = [0.2 + reach * np.cos(np.pi / 6), 0.8 + reach * 0.5, -0.3 * np.sin(np.pi / 3)]
    np.testing.assert_allclose(T[:3, 3], expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"rail = 800 m is outside .* Give sliding joints in metres, not mm"):
        rig.joints("left", to(np.array([800.0, 30.0, 60.0, 5.0])))


@pytest.mark.parametrize("name", ["cell", "xtrainer"])
def test_a_saved_rig_reads_back_equal(tmp_path: Path, name: str) -> None:
    rig = load_rig(name)
    rig.save(tmp_path / "saved.toml")
    assert load_rig(tmp_path / "saved.toml") == rig
    assert list(tmp_path.iterdir()) == [tmp_path / "saved.toml"]


def test_a_matrix_is_read_as_the_pose_it_is(tmp_path: Path) -> None:
    data = mirrored()
    T = homogeneous(rotation_from_rpy(np.array([0.3, -0.4, 2.0])), [0.01, 0.02, 0.03])
    data["cameras"]["left_wrist"]["matrix"] = T.tolist()
    np.testing.assert_allclose(load_rig(written(tmp_path, data)).cameras["left_wrist"].T_parent_this, T, atol=1e-12)


def test_overrides_hold_for_their_episodes_only(tmp_path: Path) -> None:
    data = facts()
    data["override"] = [
        {"episodes": "2025-10-*/**", "cameras": {"left_wrist": {"translation_m": [0.09, 0.018, 0.035]}}},
        {"episodes": "**/episode_7.hdf5", "cameras": {"top": {"image_map": [["rotate180"]], "delay_s": 0.05}}},
    ]
    rig = load_rig(written(tmp_path, data))
    october = rig.for_episode(Path("data") / "2025-10-03" / "a" / "episode_7.hdf5")
    assert october.cameras["left_wrist"].translation_m == (0.09, 0.018, 0.035)
    assert october.cameras["top"].stored.K[0, 0] < 0 and october.cameras["top"].delay_s == 0.05
    november = rig.for_episode(Path("data") / "2025-11-03" / "a" / "episode_8.hdf5")
    assert november.cameras == rig.cameras


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "key", ["cameras.left_wrist.distortion.1", "sensors.tactile1.pad.center_m.2", "sensors.tactile1.pad.normal.0"]
)
def test_a_number_that_is_not_finite_is_refused_by_key(value: float, key: str, tmp_path: Path) -> None:
    data = facts()
    data["cameras"]["left_wrist"] |= {"model": "fisheye", "distortion": [0.1, 0.0, 0.0, 0.0]}
    entry: Any = data
    *place, last = key.split(".")
    for part in place:
        entry = entry[part]
    entry[int(last)] = value
    with pytest.raises(FactError, match=rf"my rig é\.toml: {key}: .*finite"):
        load_rig(written(tmp_path, data))


def with_lens(tmp_path: Path, **keys: Any) -> Path:
    data = facts()
    lens = {key: value for key, value in data["cameras"]["top"].items() if key not in ("K", "model", "distortion")}
    data["cameras"]["top"] = {**lens, **keys}
    return written(tmp_path, data)


FOUR = {"fx": 600.0, "fy": 601.0}


@pytest.mark.parametrize("centre", [("cx", "cy"), ("ppx", "ppy")])
def test_intrinsics_are_read_as_drivers_print_them(tmp_path: Path, centre: tuple[str, str]) -> None:
    path = with_lens(tmp_path, **FOUR, **dict(zip(centre, (319.0, 240.0), strict=True)))
    rig = load_rig(path)
    assert rig.cameras["top"].K == ((600, 0, 319), (0, 601, 240), (0, 0, 1))
    changed = rig.with_camera("top", K=((610, 0, 320), (0, 611, 241), (0, 0, 1)))
    path.write_text(edited(path.read_text(encoding="utf-8"), rig, changed), encoding="utf-8")
    assert load_rig(path).cameras["top"].K == changed.cameras["top"].K and "fx" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({**FOUR, "cx": 319.0}, r"cameras\.top: intrinsics need fx, fy and cx, cy.*; cy missing"),
        ({**FOUR, "cx": 319.0, "cy": 240.0, "ppx": 319.0}, r"ppx beside cx, cy"),
        (
            {**FOUR, "K": [[600.0, 0.0, 319.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]]},
            r"given twice: as K and as fx, fy",
        ),
        ({**FOUR, "cx": 319.0, "cy": 240.0, "distortion": [0.1, 0, 0, 0, 0.2]}, r'5 coefficients.*Add model = "brown"'),
        ({**FOUR, "cx": 319.0, "cy": 240.0, "distortion": [0.1, 0, 0, 0]}, r'model = "brown" or model = "fisheye"'),
        ({**FOUR, "cx": 319.0, "cy": 240.0, "distortion": 0.1}, r"cameras\.top\.distortion: Input should be a"),
    ],
)
def test_incomplete_or_ambiguous_intrinsics_are_named(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(FactError, match=message):
        load_rig(with_lens(tmp_path, **keys))


def test_an_inverse_brown_conrady_lens_of_a_realsense_is_brown_with_a_warning_unless_it_is_zero(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {**FOUR, "ppx": 319.0, "ppy": 240.0, "model": "distortion.inverse_brown_conrady"}
    flat = load_rig(with_lens(tmp_path, **keys, distortion=[0.0] * 5)).cameras["top"]
    assert (flat.model, flat.distortion) == ("pinhole", ()) and not caplog.records
    k = [-0.0553, 0.0677, -0.0002, 0.0004, -0.0213]
    path = with_lens(tmp_path, **keys, distortion=k)
    bent = load_rig(path).cameras["top"]
    assert (bent.model, bent.distortion) == ("brown", tuple(k)) and "straight edge" in caplog.text
    words = load_rig(with_lens(tmp_path, **{**keys, "model": "Inverse Brown Conrady"}, distortion=k)).cameras["top"]
    assert words == bent
    dumped = load_rig(with_lens(tmp_path, **keys, coeffs=k))
    assert dumped.cameras["top"] == bent
    changed = dumped.with_camera("top", distortion=(0.1, 0.0, 0.0, 0.0, 0.0))
    text = edited(path.read_text(encoding="utf-8"), dumped, changed)
    assert 'model = "brown"' in text and "coeffs" not in text and "distortion = [0.1" in text
    with pytest.raises(FactError, match="twice: as distortion and as coeffs"):
        load_rig(with_lens(tmp_path, **keys, coeffs=k, distortion=k))

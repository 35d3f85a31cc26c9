"""The cameras that a recording describes come into the draft of its rig, and what is no pose does not."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tactile_align.calibration.rig import carry_rig, load_rig
from tactile_align.cli import run
from tactile_align.datasets.draft import draft, draft_rig
from tactile_align.datasets.episodes import write_episode
from tactile_align.errors import InputError
from tests.datasets.containers.twins import zarr_store
from tests.datasets.making import frames, parts

WIDTH, HEIGHT = 64, 48


def transform(rotvec: list[float], t: list[float]) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_rotvec(rotvec).as_matrix(), t
    return T


T_WORLD_FRONT = transform([1.2, -0.3, 0.4], [0.5, 0.1, 1.4])
T_HAND_EYE = transform([0.1, 0.2, -1.5], [0.05, 0.0, -0.04])
K_CORNER = [[60.0, 0.0, WIDTH / 2], [0.0, 60.0, HEIGHT / 2], [0.0, 0.0, 1.0]]


def robomimic(path: Path, change: Callable[[int, dict[str, Any]], object] = lambda i, info: None) -> Path:
    """Write demonstrations with camera_info as robomimic computes it, each with another pose of the hand at reset."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        kwargs = {"camera_names": ["agentview", "robot0_eye_in_hand"], "camera_widths": WIDTH, "camera_heights": HEIGHT}
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": kwargs})
        for i in (0, 1, 10):
            T_world_hand = transform([0.3 * i, 1.0, -0.2], [0.4, 0.02 * i, 1.1])
            T_world_eye = T_world_hand @ T_HAND_EYE
            info: dict[str, Any] = {
                "agentview": {"intrinsics": K_CORNER, "extrinsics": T_WORLD_FRONT.tolist()},
                "robot0_eye_in_hand": {
                    "intrinsics": K_CORNER,
                    "extrinsics": (T_world_eye @ np.linalg.inv(T_world_hand)).tolist(),
                },
            }
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = demo["obs/robot0_joint_pos"] = np.zeros((3, 7))
            demo["obs/robot0_gripper_qpos"] = np.zeros((3, 2))
            demo["obs/agentview_image"], demo["obs/robot0_eye_in_hand_image"] = frames(1, 3), frames(2, 3)
            demo["obs/robot0_eef_pos"] = np.repeat(T_world_hand[None, :3, 3], 3, axis=0)
            quat_xyzw = Rotation.from_matrix(T_world_hand[:3, :3]).as_quat()
            demo["obs/robot0_eef_quat"] = np.repeat(quat_xyzw[None], 3, axis=0)
            change(i, info)
            demo.attrs["camera_info"] = json.dumps(info)
    return path


def cameras_of(text: str) -> dict[str, Any]:
    cameras: dict[str, Any] = tomllib.loads(text)["cameras"]
    return cameras


def pose_in(camera: dict[str, Any]) -> np.ndarray:
    w, x, y, z = camera["quat_wxyz"]
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_quat([x, y, z, w]).as_matrix(), camera["translation_m"]
    return T


def test_both_traps_of_robomimic_are_avoided(tmp_path: Path) -> None:
    text = draft_rig(robomimic(tmp_path / "lift.hdf5"), tmp_path).files["rig.toml"]
    front, eye = (cameras_of(text)[name] for name in ("agentview_image", "robot0_eye_in_hand_image"))
    for camera in (front, eye):
        assert camera["K"] == [[60.0, 0.0, 31.5], [0.0, 60.0, 23.5], [0.0, 0.0, 1.0]]
        assert (camera["width"], camera["height"]) == (WIDTH, HEIGHT)
    assert front["parent"] == "world" and eye["parent"] == "arm/flange"
    np.testing.assert_allclose(pose_in(front), T_WORLD_FRONT, atol=1e-6)
    np.testing.assert_allclose(pose_in(eye), T_HAND_EYE, atol=1e-6)
    assert "A guess: the pose is in the frame of robot0_eef_pos" in text and "is no pose" in text
    arm = tomllib.loads(text)["arms"]["arm"]
    assert arm["translation_m"] == "?", "the world is the simulator's, so the arm's base is unknown"
    assert draft(tmp_path / "lift.hdf5", tmp_path).files["rig.toml"] == text


def shift_front(i: int, info: dict[str, Any]) -> None:
    info["agentview"]["extrinsics"] = (transform([0, 0, 0], [0.01 * i, 0, 0]) @ T_WORLD_FRONT).tolist()


def turn_eye(i: int, info: dict[str, Any]) -> None:
    info["robot0_eye_in_hand"]["extrinsics"] = T_HAND_EYE.tolist()


@pytest.mark.parametrize(("change", "name"), [(shift_front, "agentview"), (turn_eye, "robot0_eye_in_hand")])
def test_a_pose_that_differs_between_demonstrations_is_not_taken(tmp_path: Path, change: Any, name: str) -> None:
    text = draft_rig(robomimic(tmp_path / "lift.hdf5", change), tmp_path).files["rig.toml"]
    cameras = cameras_of(text)
    assert [key for key, camera in cameras.items() if camera["translation_m"] == "?"] == [f"{name}_image"]
    assert "No pose: it differs between the demonstrations demo_0, demo_1, demo_10" in text


def mirror(i: int, info: dict[str, Any]) -> None:
    info["agentview"]["extrinsics"][0][0] *= -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (mirror, r"lift\.hdf5#demo_0: camera_info of agentview: extrinsics: .*Write the matrix again"),
        (lambda i, info: info["agentview"].pop("intrinsics"), r"intrinsics: needs 3 x 3 numbers; got None"),
        (lambda i, info: info.update(agentview=3), r"needs intrinsics and extrinsics"),
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draft_rig(robomimic(tmp_path / "lift.hdf5", change), tmp_path)


def test_the_rig_that_a_recording_carries_is_written_as_it_is_and_its_cameras_alone_are_drafted(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_episode(tmp_path / "in/episode_init_0.hdf5", **parts(3), fps=20)
    assert run(["convert", str(tmp_path / "in"), str(tmp_path / "set"), "--to", "lerobot"]) == 0
    rig = load_rig("cell").with_camera("top", image_map=(("resize", 64, 48),))
    carry_rig(rig, tmp_path / "set")
    assert run(["rig-from", str(tmp_path / "set"), "--out", str(tmp_path / "whole")]) == 0
    assert load_rig(tmp_path / "whole/rig.toml") == rig
    (tmp_path / "set/meta/rig.toml").unlink()
    assert run(["rig-from", str(tmp_path / "set"), "--out", str(tmp_path / "part")]) == 0
    top = cameras_of((tmp_path / "part/rig.toml").read_text())["top"]
    np.testing.assert_allclose(pose_in(top), rig.camera("top").T_parent_this, atol=1e-6)
    assert top["K"] == [list(row) for row in rig.camera("top").K] and top["image_map"] == [["resize", 64, 48]]
    assert top["parent"] == rig.camera("top").parent


@pytest.mark.parametrize(("speed", "pose_known"), [(0.0, True), (0.1, False)])
def test_the_pose_of_oxts_camera_is_taken_only_while_it_rests(tmp_path: Path, speed: float, pose_known: bool) -> None:
    pytest.importorskip("zarr")
    rotvec, t = np.array([0.4, -1.0, 0.3]), np.array([0.1, 0.2, 0.5])
    ego = np.concatenate([t + speed * np.arange(3)[:, None], np.tile(rotvec, (3, 1))], axis=1)
    arrays = {
        "timestamps": np.arange(3) / 30,
        "right_wrist_pose": np.zeros((3, 6)),
        "camera_ego_rgb": frames(1, 3),
        "camera_ego_pose": ego,
    }
    path = zarr_store(tmp_path / "a.zarr", arrays, [3], 2, chunk=3)
    text = draft_rig(path, tmp_path).files["rig.toml"]
    camera = cameras_of(text)["camera_ego_rgb"]
    assert camera["K"] == "?" and "has no K" in text
    if pose_known:
        np.testing.assert_allclose(pose_in(camera), transform(rotvec.tolist(), t.tolist()), atol=1e-6)
        assert camera["parent"] == "world" and "A guess: the pose is T_world_camera" in text
    else:
        assert camera["translation_m"] == "?" and "the camera moves, by up to 0.346 m" in text

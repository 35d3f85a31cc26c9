"""Poses of the flange that recordings contain are compared with the arm of the rig."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tactile_align.calibration.rig import Rig
from tactile_align.cli import run
from tactile_align.errors import InputError
from tactile_align.kinematics.arm import forward_kinematics
from tactile_align.verify.verify import verify_poses
from tests.finger.two_sensors import JOINTS, NAME, REACH, two_sensor_rig, write

LAYOUT = """
name = "lab"
title = "a lab"
source = "a recorder"
file_name = "episode_{index}.hdf5"
fps = 10.0
[state]
qpos = ["observations/qpos"]
action = ["action"]
carried = ["flange"]
[cameras]
group = "observations/images"
[touches]
groups = ["observations/images"]
names = ["tactile*"]
[storage]
kind = "padded_jpeg"
[channels]
encoded = "rgb"
"""


def recorded(folder: Path, form: str, reach: float | np.ndarray = REACH, zero: float = 0.0) -> tuple[Path, Path, Rig]:
    """Write an episode with its flange poses in a form, and return the folder, the layout and the rig.

    `reach` is the half range of the joints, rad, and `zero` the error of the zero of the third joint, rad.
    """
    rig, rng = two_sensor_rig(), np.random.default_rng(2)
    q = JOINTS + rng.uniform(-1, 1, (24, 6)) * reach
    write(folder, rig, np.column_stack([q, np.linspace(0.1, 1.0, 24)]), ("top",))
    T = np.asarray(forward_kinematics(rig.arms["left"].arm, q + zero * np.eye(6)[2]))
    R = Rotation.from_matrix(T[:, :3, :3])
    turned = {"euler": R.as_euler("ZYX")[:, ::-1], "xyzw": R.as_quat(), "wxyz": R.as_quat()[:, [3, 0, 1, 2]]}[form]
    with h5py.File(folder / NAME, "a") as file:
        file["flange"] = np.column_stack([T[:, :3, 3], turned])
    layout = folder / "layout.toml"
    layout.write_text(LAYOUT, encoding="utf-8")
    return folder, layout, rig


@pytest.mark.parametrize("form", ["euler", "xyzw", "wxyz"])
def test_the_right_arm_agrees_with_the_poses_of_a_recording_and_a_turned_joint_does_not(
    tmp_path: Path, form: str
) -> None:
    folder, layout, rig = recorded(tmp_path, form)
    report = verify_poses(folder, "flange", rig, layout=layout)
    assert report.verdict == "pass" and report.check("position-rms").value < 1e-3
    assert "24 poses of flange in" in report.subject
    columns = (0, 2, 1, 3, 4, 5)
    wrong = rig.with_arm("left", joints={"columns": columns, "unit": "rad"})
    assert verify_poses(folder, "flange", wrong, layout=layout).verdict == "fail"


def test_poses_of_a_tool_in_a_user_frame_are_a_fact_of_a_recording_whose_arm_is_right(tmp_path: Path) -> None:
    folder, layout, rig = recorded(tmp_path, "wxyz")
    with h5py.File(folder / NAME, "a") as file:
        file["flange"][:, :3] += (0.4, 0.2, 0.1)
    report = verify_poses(folder, "flange", rig, layout=layout)
    trap = report.check("trap/user-frame-left-in")
    assert report.verdict == "pass" and trap.status == "info" and not trap.advice
    assert "need no change" in report.check("residual").advice


def test_an_array_that_is_not_carried_and_an_arm_that_is_unknown_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, layout, rig = recorded(tmp_path, "euler")
    rig.save(tmp_path / "rig.toml")
    command = ["verify", str(folder), "--layout", str(layout), "--poses"]
    assert run([*command, "observations/qpos"]) == 2
    assert "Choose one of: flange" in capsys.readouterr().err
    assert run([*command, "flange"]) == 0
    with pytest.raises(InputError, match=r"got right\. Choose one with --arm: left"):
        verify_poses(folder, "flange", rig, arm="right", layout=layout)


def test_a_quaternion_at_the_pole_of_the_angles_keeps_its_rotation(tmp_path: Path) -> None:
    folder, layout, rig = recorded(tmp_path, "wxyz")
    with h5py.File(folder / NAME, "a") as file:
        poses = file["flange"][:]
        R = Rotation.from_quat(poses[:, [4, 5, 6, 3]])
        frame = Rotation.from_quat([-0.5, 0.5, 0.5, 0.5]) * R[0].inv()
        turned = (frame * R).as_quat()[:, [3, 0, 1, 2]]
        turned[0] = 0.5, -0.5, 0.5, 0.5
        file["flange"][:] = np.column_stack([frame.apply(poses[:, :3]), turned])
    report = verify_poses(folder, "flange", rig, layout=layout)
    assert report.verdict == "pass" and report.check("trap/user-frame-left-in").status == "info"


def test_an_arm_with_a_wrong_zero_that_hardly_moves_is_not_called_right(tmp_path: Path) -> None:
    folder, layout, rig = recorded(tmp_path, "xyzw", reach=0.02, zero=np.radians(10))
    report = verify_poses(folder, "flange", rig, layout=layout)
    assert report.verdict == "warn" and "The arm is right" not in report.text()
    still = report.check("still-joints")
    assert still.status == "warn" and "can hide a wrong zero" in still.advice


def test_options_without_effect_on_poses_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, layout, rig = recorded(tmp_path, "euler")
    rig.save(tmp_path / "rig.toml")
    page = tmp_path / "page.html"
    command = ["verify", str(folder), "--layout", str(layout), "--poses", "flange"]
    assert run([*command, "--write", "--page", str(page), "--labels", "boxes.csv", "--most", "1"]) == 2
    assert "got --most, --write, --labels, --page" in capsys.readouterr().err and not page.exists()
    assert run(["verify", "--poses", str(tmp_path / "poses.csv"), "--arm", "nova2", "--rig", "cell"]) == 2
    assert "got --rig" in capsys.readouterr().err

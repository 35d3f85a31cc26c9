"""Controller poses with each known trap planted: the trap is named, and clean files are met with silence.

The thresholds were set on seeds below 100; the seeds here start at 1000.
"""

import json
import re
from collections.abc import Callable
from math import pi
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tactile_align.cli import run
from tactile_align.errors import FactError
from tactile_align.kinematics.arm import Arm, forward_kinematics, load_arm
from tactile_align.kinematics.controller import ControllerFit, check_controller_poses
from tests.kinematics.conftest import RAIL, urdf_with_hand

HOME = np.radians([-90.0, 0, -90, 0, 90, 90])
DH_ZERO = np.array([0, -pi / 2, 0, -pi / 2, 0, 0])
Sample = tuple[np.ndarray, np.ndarray, dict[str, str]]


def offset(xyz_mm: tuple[float, float, float], turn: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
    T[:3, 3] = np.array(xyz_mm) / 1000
    return T


def sample(seed: int, name: str = "nova2") -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Joint angles and the poses of an arm that is not quite its drawing: 0.1 mm and 0.01 deg off."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(10, 60))
    q = rng.uniform(-1, 1, (rows, 6)) * [2.5, 1.5, 2.2, 2.5, 2.0, 2.5]
    if rng.random() < 0.4:
        q = HOME + rng.uniform(-0.6, 0.6, (rows, 6))
    arm = load_arm(name)
    T = arm.T_link_joint.copy()
    T[1:, :3, 3] += rng.normal(0, 1e-4, (5, 3)) * (T[1:, :3, 3] != 0)
    real = Arm(name, arm.joint_names, arm.lower, arm.upper, T)
    return q, forward_kinematics(real, q + np.radians(rng.normal(0, 0.01, 6))), rng


def write(
    folder: Path,
    q: np.ndarray,
    T: np.ndarray,
    order: str = "ZYX",
    joints: str = "deg",
    lengths: str = "mm",
    angles: str = "deg",
) -> Path:
    """Print three decimals, as a pendant does. Euler angles by scipy: intrinsic `order`, R = product in that order."""
    if order == "rotation vector":
        euler = Rotation.from_matrix(T[:, :3, :3]).as_rotvec()
    else:
        euler = Rotation.from_matrix(T[:, :3, :3]).as_euler(order)[:, [order.index(axis) for axis in "XYZ"]]
    columns = [
        np.degrees(q) if joints == "deg" else q,
        T[:, :3, 3] * (1000 if lengths == "mm" else 1),
        np.degrees(euler) if angles == "deg" else euler,
    ]
    path = folder / "poses.csv"
    digits = 3 if (joints, lengths, angles) == ("deg", "mm", "deg") else 6
    np.savetxt(
        path,
        np.concatenate(columns, axis=1),
        fmt=f"%.{digits}f",
        delimiter=",",
        header="j1,j2,j3,j4,j5,j6,x,y,z,rx,ry,rz",
        comments="",
    )
    return path


def shuffled(rng: np.random.Generator) -> list[int]:
    while True:
        order = list(rng.permutation(6))
        if order != list(range(6)):
            return order


# Each plants one mistake, or two: (q, T, rng) -> what is written.
PLANTED: dict[str, tuple[set[str], Callable[[np.ndarray, np.ndarray, np.random.Generator], Sample]]] = {
    "Gazebo signs": ({"trap/gazebo-axis-signs"}, lambda q, T, r: (q * [-1, 1, 1, -1, -1, 1], T, {})),
    "other signs": ({"trap/axis-signs"}, lambda q, T, r: (q * [1, -1, 1, 1, 1, -1], T, {})),
    "tool along z": ({"trap/tool-left-in"}, lambda q, T, r: (q, T @ offset((0, 0, r.uniform(100, 200))), {})),
    "tilted tool": ({"trap/tool-left-in"}, lambda q, T, r: (q, T @ offset((8, -5, 197), r.normal(0, 0.4, 3)), {})),
    "lifted base": ({"trap/user-frame-left-in"}, lambda q, T, r: (q, offset((0, 0, 30)) @ T, {})),
    "turned base": ({"trap/user-frame-left-in"}, lambda q, T, r: (q, offset((1060, 0, 0), (0, 0, -pi / 2)) @ T, {})),
    "tool and base": (
        {"trap/tool-left-in", "trap/user-frame-left-in"},
        lambda q, T, r: (q, offset((0, 50, 30), (0, 0, 0.7)) @ T @ offset((0, 0, 145.68)), {}),
    ),
    "radians": ({"trap/degrees"}, lambda q, T, r: (q, T, {"joints": "rad"})),
    "reversed": ({"trap/joint-order"}, lambda q, T, r: (q[:, ::-1], T, {})),
    "shuffled": ({"trap/joint-order"}, lambda q, T, r: (q[:, shuffled(r)], T, {})),
    "two swapped": ({"trap/joint-order"}, lambda q, T, r: (q[:, [0, 1, 2, 4, 3, 5]], T, {})),
    "other Euler order": (
        {"trap/euler-order"},
        lambda q, T, r: (q, T, {"order": str(r.choice(["XYZ", "XZY", "YXZ", "YZX", "ZXY", "rotation vector"]))}),
    ),
    "metres": ({"trap/length-unit"}, lambda q, T, r: (q, T, {"lengths": "m"})),
    "pose in radians": ({"trap/pose-angle-unit"}, lambda q, T, r: (q, T, {"angles": "rad"})),
    "DH zero": ({"trap/zero-pose"}, lambda q, T, r: (q + DH_ZERO, T, {})),
    "signs and tool": (
        {"trap/gazebo-axis-signs", "trap/tool-left-in"},
        lambda q, T, r: (q * [-1, 1, 1, -1, 1, 1], T @ offset((0, 0, 197)), {}),
    ),
}
OTHERS = ["nova5", "cr3", "cr5", "cr7", "cr10", "cr12", "cr16", "cr20"]
SPEAKING = {"trap", "unexplained", "still-joints"}


def traps(fit: ControllerFit) -> set[str]:
    return {check.id for check in fit.report.checks if check.kind == "trap"}


# `tests.benchmarks.sweeps` calls the next three with more seeds.
@pytest.mark.parametrize(("kind", "seed"), [(kind, 1000 + i % 12) for i, kind in enumerate(PLANTED)])
def test_a_planted_trap_is_named(kind: str, seed: int, tmp_path: Path) -> None:
    expected, plant = PLANTED[kind]
    q, T, rng = sample(seed)
    q, T, options = plant(q, T, rng)
    fit = check_controller_poses(write(tmp_path, q, T, **options), "nova2")
    assert traps(fit) == expected, fit.report.text()
    # Mistakes of the file alone do not concern the arm, so they only warn.
    of_file = {"tool-left-in", "user-frame-left-in", "euler-order", "length-unit", "pose-angle-unit", "degrees"}
    of_file_alone = expected <= {f"trap/{name}" for name in of_file}
    assert fit.report.verdict == ("warn" if of_file_alone else "fail")
    first = fit.report.checks[0]
    assert first.id == "residual" and ("The arm is right" in first.advice) == of_file_alone
    has_offset = bool(expected & {"trap/tool-left-in", "trap/user-frame-left-in"})
    assert ("zero of its first or last joint" in first.advice) == (has_offset and of_file_alone)
    assert fit.fitted.rms_mm < 1.0 < fit.raw.rms_mm or fit.raw.rms_deg > 0.15


@pytest.mark.parametrize(("name", "seed"), [("nova5", 1000), ("cr3", 1001), ("cr7", 1002), ("cr20", 1003)])
def test_the_right_other_model_is_named(name: str, seed: int, tmp_path: Path) -> None:
    q, T, _ = sample(seed, name)
    fit = check_controller_poses(write(tmp_path, q, T), "nova2")
    assert traps(fit) == {"trap/other-model"} and name in fit.report.check("trap/other-model").measured


@pytest.mark.parametrize("name", ["nova2", "nova5", "cr5"])
def test_clean_files_pass_in_silence(name: str, tmp_path: Path, seeds: range = range(1000, 1007)) -> None:
    for seed in seeds:
        q, T, _ = sample(seed, name)
        fit = check_controller_poses(write(tmp_path, q, T), name)
        assert fit.report.verdict == "pass" and not {check.kind for check in fit.report.checks} & SPEAKING, (
            seed,
            fit.report.text(),
        )


def test_offsets_are_measured_to_a_tenth_of_a_millimetre(tmp_path: Path) -> None:
    rng = np.random.default_rng(2000)
    q = rng.uniform(-2, 2, (30, 6))
    T = forward_kinematics(load_arm("nova2"), q)
    X, Z = offset((3, -4, 197), (0.1, 0.2, -0.3)), offset((500, -20, 30), (0, 0, 1.2))
    fit = check_controller_poses(write(tmp_path, q, Z @ T @ X), "nova2")
    np.testing.assert_allclose(fit.T_flange_tool, X, atol=1e-4)
    np.testing.assert_allclose(fit.T_reference_base, Z, atol=1e-4)
    assert fit.fitted.max_mm < 0.01


def test_the_report_is_read_by_people_and_by_json(tmp_path: Path) -> None:
    q, T, _ = sample(1000)
    fit = check_controller_poses(write(tmp_path, q, T @ offset((0, 0, 197))), "nova2")
    text = fit.report.text()
    assert "Rz(rz) Ry(ry) Rx(rx)" in text and "trap/tool-left-in" in text and text.endswith("verdict: warn")
    plain = json.loads(fit.report.json())
    assert [check["id"] for check in plain["checks"] if check["status"] == "warn"] == ["trap/tool-left-in"]
    assert abs(plain["T_flange_tool"][2][3] - 0.197) < 1e-3


def test_poses_of_a_ur_are_explained_by_rotation_vector_tool_and_turned_base_together(tmp_path: Path) -> None:
    """A UR reports its TCP, with a rotation vector, in a base that is turned by 180 deg against its URDF's root."""
    q, T, _ = sample(1003)
    T = offset((0, 0, 0), (0, 0, pi)) @ T @ offset((0, 0, 150))
    fit = check_controller_poses(write(tmp_path, q, T, order="rotation vector"), "nova2")
    assert traps(fit) == {"trap/euler-order", "trap/tool-left-in", "trap/user-frame-left-in"}
    assert fit.report.verdict == "warn" and fit.raw.rms_mm > 100
    millimetres, degrees = re.findall(r"[\d.]+", fit.report.check("residual").measured)
    assert float(millimetres) == pytest.approx(fit.fitted.rms_mm, abs=0.01) and float(millimetres) < 1
    assert float(degrees) == pytest.approx(fit.fitted.rms_deg, abs=0.01)


def test_an_unknown_difference_is_said_to_be_unknown(tmp_path: Path) -> None:
    q, T, rng = sample(1000)
    T[:, :3, 3] += rng.normal(0, 0.02, (len(T), 3))
    fit = check_controller_poses(write(tmp_path, q, T), "nova2")
    assert fit.report.verdict == "fail" and not traps(fit) and fit.report.check("unexplained").advice
    q, T, rng = sample(1001)
    fit = check_controller_poses(write(tmp_path, q, T + rng.normal(0, 0.002, T.shape) * (np.arange(4) == 3)), "nova2")
    assert fit.report.verdict in ("warn", "fail") and not traps(fit)


def test_a_urdf_that_goes_on_to_a_hand_is_checked_at_the_links_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    q, T, _ = sample(1000)
    poses, model = write(tmp_path, q, T), tmp_path / "arm.urdf"
    model.write_text(urdf_with_hand("nova2"), encoding="utf-8")
    fit = check_controller_poses(poses, model, base="base", tip="link6")
    assert (fit.report.verdict, traps(fit)) == ("pass", set()), fit.report.text()
    fit = check_controller_poses(poses, model, tip="hand")
    assert traps(fit) == {"trap/tool-left-in", "trap/user-frame-left-in"}, "hand and pedestal are seen"
    command = ["verify", "--poses", str(poses), "--arm", str(model)]
    assert run([*command, "--base", "base", "--tip", "link6"]) == 0 and "verdict: pass" in capsys.readouterr().out
    assert run(command) == 2
    error = capsys.readouterr().err
    assert "2 links end the tree below 'pedestal' (left_finger, right_finger)" in error and "--tip LINK" in error
    assert run(["verify", str(tmp_path), "--tip", "link6"]) == 2
    assert "set base and tip of the arm in the rig" in capsys.readouterr().err


def test_joints_that_hardly_move_are_noted(tmp_path: Path) -> None:
    q, _, _ = sample(1000)
    q[:, 3] = q[0, 3]
    fit = check_controller_poses(write(tmp_path, q, forward_kinematics(load_arm("nova2"), q)), "nova2")
    assert fit.report.verdict == "pass" and "joint4 move" in fit.report.check("still-joints").measured


def test_units_in_the_header_are_believed(tmp_path: Path) -> None:
    q, T, _ = sample(1000)
    path = write(tmp_path, q, T, joints="rad", lengths="m", angles="rad")
    text = path.read_text().replace("j1,j2,j3,j4,j5,j6,x,y,z", "j1_rad,j2_rad,j3_rad,j4_rad,j5_rad,j6_rad,x_m,y_m,z_m")
    path.write_text(
        text.replace("rx,ry,rz", "Rx_rad, Ry_rad, Rz_rad,note").replace("\n", ",ok\n").replace("note,ok", "note")
    )
    assert check_controller_poses(path, "nova2").report.verdict == "pass"


@pytest.mark.parametrize(
    ("names", "factor", "mistake"),
    [
        ("j1,j2,j3,j4", 1.0, set()),
        ("j1_m,j2_deg,j3_deg,j4_deg", 1.0, set()),
        ("j1_mm,j2,j3,j4", 1e3, set()),
        ("j1,j2,j3,j4", 1e3, {"trap/length-unit"}),
    ],
)
def test_a_sliding_joint_is_in_metres_beside_angles_in_degrees(
    names: str, factor: float, mistake: set[str], tmp_path: Path
) -> None:
    (tmp_path / "rail.urdf").write_text(RAIL)
    arm = load_arm(tmp_path / "rail.urdf")
    q = np.random.default_rng(1000).uniform(-1.1, 1.1, (12, 4))
    T = forward_kinematics(arm, q)
    euler = Rotation.from_matrix(T[:, :3, :3]).as_euler("ZYX", degrees=True)[:, ::-1]
    lines = np.hstack([q[:, :1] * factor, np.degrees(q[:, 1:]), T[:, :3, 3] * 1000, euler])
    path = tmp_path / "poses.csv"
    np.savetxt(path, lines, delimiter=",", header=f"{names},x,y,z,rx,ry,rz", comments="")
    fit = check_controller_poses(path, tmp_path / "rail.urdf")
    assert traps(fit) == mistake
    assert fit.fitted.rms_mm < 1e-6 and (mistake or fit.report.verdict == "pass")
    assert not mistake or fit.report.check("trap/length-unit").advice == "Rename the columns to j1_mm."


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("j3,", "joint3,", r"poses\.csv: expected one column j3 or j3_rad or j3_deg, found 0"),
        ("j2,", "j2_rad,", r"columns j1, j2.*mix deg and rad"),
        ("x,y", "x,x", r"expected one column x or .*found 2"),
        ("first", "one,", r"line 2, column j1: expected a number, got 'one'"),
    ],
)
def test_a_malformed_pose_file_names_line_and_column(old: str, new: str, message: str, tmp_path: Path) -> None:
    q, T, _ = sample(1000)
    path = write(tmp_path, q, T)
    header, body = path.read_text().split("\n", 1)
    if old == "first":
        path.write_text(header + "\n" + new + body.split(",", 1)[1])
    else:
        path.write_text(header.replace(old, new, 1) + "\n" + body)
    with pytest.raises(ValueError, match=message):
        check_controller_poses(path, "nova2")


def test_too_few_poses_and_missing_files_are_refused(tmp_path: Path) -> None:
    q, T, _ = sample(1000)
    with pytest.raises(ValueError, match=r"found 7 poses, but at least 8"):
        check_controller_poses(write(tmp_path, q[:7], T[:7]), "nova2")
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file"):
        check_controller_poses(tmp_path / "none.csv", "nova2")
    with pytest.raises(FactError, match="nova9"):
        check_controller_poses(tmp_path / "none.csv", "nova9")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match=r"empty\.csv: .*empty"):
        check_controller_poses(tmp_path / "empty.csv", "nova2")

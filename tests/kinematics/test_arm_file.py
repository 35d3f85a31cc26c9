"""Fact files: a DH table is the same arm as joint origins, and numbers in a wrong unit are refused."""

from collections.abc import Callable
from math import pi
from pathlib import Path

import numpy as np
import pytest

from tactile_align.errors import FactError
from tactile_align.facts import fact_folder
from tactile_align.kinematics.arm import forward_kinematics, jacobian, load_arm

HEAD = 'name = "mine"\ntitle = "Mine"\nsource = "a table"\nreach_m = 0.3\n'


def dh_text(rows: list[tuple[float, float, float, float]], convention: str) -> str:
    text = HEAD + f'dh_convention = "{convention}"\n'
    for i, (offset, d, a, alpha) in enumerate(rows, start=1):
        text += (
            (
                f'[[dh]]\nname = "joint{i}"\noffset_deg = {np.degrees(offset)!r}\nd_m = {d!r}\na_m = {a!r}\n'
                f"alpha_deg = {np.degrees(alpha)!r}\nlimits_deg = [-180.0, 180.0]\n"
            )
            .replace("np.float64(", "")
            .replace(")", "")
        )
    return text


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["nova2", "cr16", "cr20"])
def test_a_dh_table_is_the_same_arm_as_joint_origins(
    name: str, dh_table: Callable, random_q: Callable, tmp_path: Path
) -> None:
    arm = load_arm(write(tmp_path, dh_text(dh_table(name), "standard")))
    q = random_q(1000)
    np.testing.assert_allclose(forward_kinematics(arm, q), forward_kinematics(load_arm(name), q), atol=1e-12)
    np.testing.assert_allclose(jacobian(arm, q), jacobian(load_arm(name), q), atol=1e-12)


@pytest.mark.parametrize("convention", ["standard", "modified"])
def test_both_dh_conventions_agree_with_roboticstoolbox(convention: str, random_q: Callable, tmp_path: Path) -> None:
    import roboticstoolbox as rtb

    rng = np.random.default_rng(5)
    rows = [(float(o), float(d), float(a), float(w)) for o, d, a, w in rng.uniform(-0.4, 0.4, (5, 4))]
    arm = load_arm(write(tmp_path, dh_text(rows, convention)))
    link = rtb.RevoluteDH if convention == "standard" else rtb.RevoluteMDH
    other = rtb.DHRobot([link(offset=o, d=d, a=a, alpha=w) for o, d, a, w in rows])
    q = random_q(30, dof=5)
    np.testing.assert_allclose(forward_kinematics(arm, q), other.fkine(q).A, atol=1e-12)
    np.testing.assert_allclose(jacobian(arm, q[0]), other.jacob0(q[0]), atol=1e-12)


def shipped(name: str) -> str:
    return fact_folder("kinematics").joinpath(f"{name}.toml").read_text(encoding="utf-8")


WRONG = {
    "unknown key": ("reach_m = 0.625", "reach_m = 0.625\nreech_m = 1.0", "reech_m: unknown key"),
    "missing key": ("rpy_deg = [90.0, 90.0, 0.0]\n", "", "joints.1.rpy_deg: Field required"),
    "millimetres": ("[-0.28, 0.0, 0.0]", "[-280.0, 0.0, 0.0]", "joints.2.xyz_m.0"),
    "radian limits": ("[-156.0, 156.0]", "[-2.72, 2.72]", "joints.2: limits_deg spans.*radians"),
    "radian tilt": ("[90.0, 90.0, 0.0]", "[1.5708, 1.5708, 0.0]", r"joints.1: rpy_deg .*1.5708.*radians"),
    "swapped limits": ("[-156.0, 156.0]", "[156.0, -156.0]", "joints.2: limits_deg must be"),
    "cut short": ('[[joints]]\nname = "joint6"', "[[foreign]]", "foreign: unknown key"),
    "twin joints": ('name = "joint6"', 'name = "joint5"', "joint .joint5. is defined twice"),
    "not a number": ("[-0.28, 0.0, 0.0]", "[nan, 0.0, 0.0]", "joints.2.xyz_m.0"),
    "text": ("[-0.28, 0.0, 0.0]", '["-0.28", 0.0, 0.0]', "joints.2.xyz_m.0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_fact_names_file_and_key(case: str, tmp_path: Path) -> None:
    old, new, message = WRONG[case]
    text = shipped("nova2")
    assert old in text
    with pytest.raises(FactError, match=r"mine\.toml: .*" + message):
        load_arm(write(tmp_path, text.replace(old, new, 1)))


def test_a_file_cut_at_a_joint_is_refused(tmp_path: Path) -> None:
    text = shipped("nova5")
    cut = text[: text.index('[[joints]]\nname = "joint6"')]
    with pytest.raises(FactError, match="dof = 6 but the file has 5 joints"):
        load_arm(write(tmp_path, cut))


def test_links_shorter_than_the_reach_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FactError, match=r"reach_m = 0.625, but the links add up to only 0\.\d+ m"):
        load_arm(write(tmp_path, shipped("nova2").replace("[-0.28, 0.0,", "[0.0, 0.0,").replace("-0.22501", "-0.002")))


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(FactError, match=r"'nova3' in kinematics.*nova2, nova5"):
        load_arm("nova3")


@pytest.mark.parametrize("name", ["nova2", "nova5", "cr3", "cr5", "cr7", "cr10", "cr12", "cr16", "cr20"])
def test_every_arm_states_source_reach_and_limits(name: str) -> None:
    arm = load_arm(name)
    assert arm.name == name and arm.source and arm.disagreements and arm.reach_m
    # The maker's reach is the arm stretched out with the wrist across: elbow lengths and the wrist's length.
    stretched = forward_kinematics(arm, np.array([0.0, pi / 2, 0, 0, 0, 0]))[:3, 3]
    assert abs(np.hypot(stretched[0], stretched[2] - arm.T_link_joint[0, 2, 3]) - arm.reach_m) < 0.006
    assert (arm.upper > 2.7).all() and (arm.upper < 6.3).all()

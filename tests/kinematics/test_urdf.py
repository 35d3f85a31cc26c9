"""URDF files: random chains against pinocchio, and everything that is refused by name."""

from collections.abc import Callable
from math import pi
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactile_align.errors import FactError
from tactile_align.kinematics.arm import forward_kinematics, jacobian, link_poses, load_arm
from tactile_align.kinematics.arm_files import Links, read_links, tips_beside
from tests.verify.two_sensors import write_urdf


def joint(name: str, kind: str, parent: str, child: str, inner: str = "") -> str:
    return f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>{inner}</joint>'


def robot(*parts: str, links: str = "abcd") -> str:
    return "<robot name='r'>" + "".join(f"<link name='{link}'/>" for link in links) + "".join(parts) + "</robot>"


LIMIT = '<limit lower="-1" upper="1" effort="1" velocity="1"/>'
Z = '<axis xyz="0 0 1"/>'
GOOD = (joint("one", "revolute", "a", "b", Z + LIMIT), joint("two", "revolute", "b", "c", Z + LIMIT))


def write(folder: Path, text: str) -> Path:
    path = folder / "arm.urdf"
    path.write_text(text, encoding="utf-8")
    return path


def random_chain(seed: int, axes: str) -> tuple[str, list[str]]:
    """A chain of random joints; a mass on each link, since pinocchio likes one."""
    rng = np.random.default_rng(seed)
    kinds = [*rng.choice(["revolute", "continuous", "prismatic", "fixed"], rng.integers(1, 8)), "revolute", "fixed"]
    lines = ['<link name="l0"/>']
    for i, kind in enumerate(kinds):
        axis = rng.normal(size=3) if axes == "any" else np.eye(3)[rng.integers(3)] * rng.choice([-1, 1])
        axis = axis / np.linalg.norm(axis)
        xyz, rpy = rng.uniform(-0.5, 0.5, 3), rng.uniform(-pi, pi, 3)
        if axes == "aligned" and rng.random() < 0.7:
            axis, rpy = np.array([0.0, 0.0, 1.0]), rpy * [0, 0, 1]
        lines.append(f'<link name="l{i + 1}"/>')
        text = f'<origin xyz="{" ".join(map(repr, map(float, xyz)))}" rpy="{" ".join(map(repr, map(float, rpy)))}"/>'
        text += f'<axis xyz="{" ".join(map(repr, map(float, axis)))}"/>' + LIMIT
        lines.append(joint(f"j{i}", kind, f"l{i}", f"l{i + 1}", text))
    return f"<robot name='random'>{''.join(lines)}</robot>", [str(kind) for kind in kinds]


@given(seed=st.integers(0, 10**6), axes=st.sampled_from(["any", "principal", "aligned"]))
@settings(max_examples=100, deadline=None)
def test_random_chains_agree_with_pinocchio(seed: int, axes: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    pinocchio = pytest.importorskip("pinocchio", reason="pinocchio is not installed (the test extra brings it)")
    text, kinds = random_chain(seed, axes)
    arm = load_arm(write(tmp_path_factory.mktemp("urdf"), text))
    moving = [kind for kind in kinds if kind != "fixed"]
    assert arm.dof == len(moving) and arm.prismatic == tuple(kind == "prismatic" for kind in moving)
    q = np.random.default_rng(seed).uniform(-1, 1, arm.dof)
    model = pinocchio.buildModelFromXML(text)
    data = model.createData()
    theirs = [[np.cos(v), np.sin(v)] if kind == "continuous" else [v] for v, kind in zip(q, moving, strict=True)]
    frame = model.getFrameId(f"l{len(kinds)}")
    J = pinocchio.computeFrameJacobian(model, data, np.concatenate(theirs), frame, pinocchio.LOCAL_WORLD_ALIGNED)
    pinocchio.updateFramePlacement(model, data, frame)
    np.testing.assert_allclose(forward_kinematics(arm, q), data.oMf[frame].homogeneous, atol=1e-9)
    J = J.reshape(6, arm.dof)
    np.testing.assert_allclose(jacobian(arm, q), J, atol=1e-9)
    # Our link frames have the axis as z: the origin is theirs, the z column is their axis in the base.
    for i, T in enumerate(link_poses(arm, q)):
        np.testing.assert_allclose(T[:3, 3], data.oMi[i + 1].translation, atol=1e-9)
        np.testing.assert_allclose(T[:3, 2], J[:3, i] if arm.prismatic[i] else J[3:, i], atol=1e-9)


def test_base_and_tip_choose_the_chain(tmp_path: Path) -> None:
    finger = joint("finger", "prismatic", "b", "d", Z + LIMIT)
    path = write(tmp_path, robot(*GOOD, finger))
    assert load_arm(path, tip="c").joint_names == ("one", "two")
    assert load_arm(path, base="b", tip="d").joint_names == ("finger",)
    assert load_arm(path, base="b", tip="d").prismatic == (True,)
    said = r"arm\.urdf: <robot>: 2 links end the tree below 'a' \(c, d\);.* the tip: .*tip = .*--tip LINK.*load_arm"
    with pytest.raises(FactError, match=said):
        load_arm(path)


def test_a_fixed_tool_ends_up_behind_the_last_link(tmp_path: Path) -> None:
    tool = joint("tool", "fixed", "c", "d", '<origin xyz="0 0 0.2" rpy="0 1.5707963267948966 0"/>')
    arm = load_arm(write(tmp_path, robot(*GOOD, tool)))
    T = forward_kinematics(arm, np.array([pi / 2, 0.0]))
    np.testing.assert_allclose(T[:3, 3], [0, 0, 0.2], atol=1e-15)
    np.testing.assert_allclose(T[:3, 2], [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(link_poses(arm, np.zeros(2))[-1], np.eye(4), atol=1e-15)


def test_a_continuous_joint_has_no_limit_and_a_revolute_one_its_own(tmp_path: Path) -> None:
    parts = (joint("one", "continuous", "a", "b", Z), joint("two", "revolute", "b", "c", Z + LIMIT))
    arm = load_arm(write(tmp_path, robot(*parts, links="abc")))
    np.testing.assert_array_equal(arm.lower, [-np.inf, -1])
    np.testing.assert_array_equal(arm.upper, [np.inf, 1])


def test_meshes_are_never_opened(urdf_text: Callable, tmp_path: Path) -> None:
    mesh = '<visual><geometry><mesh filename="package://nowhere/at_all.STL"/></geometry></visual>'
    arm = load_arm(write(tmp_path, urdf_text("nova2").replace('<link name="link1">', f'<link name="link1">{mesh}')))
    assert arm.dof == 6


def without(text: str, part: str) -> str:
    assert part in text
    return text.replace(part, "", 1)


MIMIC = joint("two", "revolute", "b", "c", Z + LIMIT + '<mimic joint="one"/>')
REFUSED = {
    "not XML": ("<robot><link", "not valid XML"),
    "empty": ("", "not valid XML"),
    "doctype": ('<!DOCTYPE robot [<!ENTITY x "y">]>' + robot(*GOOD), "DOCTYPE"),
    "other root": ("<mujoco/>", "<mujoco>.*starts with <robot>"),
    "foreign joint in the chain": (robot(*GOOD, joint("grip", "screw", "c", "d")), "unknown type 'screw'"),
    "turned axis": (
        robot(*GOOD, links="abc").replace("<axis ", '<axis rpy="0 0 1" ', 1),
        "'one': <axis>: rpy .*no mean",
    ),
    "xacro": ('<robot xmlns:xacro="http://ros.org/xacro"><xacro:include filename="a"/></robot>', "xacro"),
    "xacro value": (robot(joint("one", "revolute", "a", "b", f'<origin xyz="${{x}} 0 0"/>{Z}{LIMIT}')), "xacro"),
    "mimic": (robot(GOOD[0], MIMIC, links="abc"), "'two'.*mimic"),
    "closed loop": (robot(*GOOD, joint("back", "fixed", "a", "c")), "'back'.*'c'.*child of joint 'two'.*one parent"),
    "ring": (robot(*GOOD, joint("back", "fixed", "c", "a"), links="abc"), "closed loop"),
    "two roots": (robot(*GOOD, links="abce"), r"2 links have no parent \(a, e\).*Choose the base: .*base = .*--base"),
    "free joint": (robot(GOOD[0], joint("two", "floating", "b", "c"), links="abc"), "'two': type 'floating'"),
    "unknown type": (robot(GOOD[0], joint("two", "revolut", "b", "c"), links="abc"), "'two': unknown type 'revolut'"),
    "no joints move": (robot(joint("one", "fixed", "a", "b"), links="ab"), "no joint moves between 'a' and 'b'"),
    "unknown child": (robot(joint("one", "fixed", "a", "z"), links="a"), "'one'.*refers to link 'z'"),
    "no parent": (without(robot(*GOOD, links="abc"), '<parent link="a"/>'), "'one'.*<parent"),
    "no limit": (without(robot(*GOOD, links="abc"), LIMIT), "'one': <limit>: missing"),
    "no lower": (
        without(robot(*GOOD, links="abc"), ' upper="1"'),
        "'one': <limit>: upper is missing".replace("'", "."),
    ),
    "limit swapped": (robot(*GOOD, links="abc").replace('lower="-1"', 'lower="2"'), "lower 2 must be below upper 1"),
    "limit in degrees": (robot(*GOOD, links="abc").replace('upper="1"', 'upper="180"'), "radians, not degrees"),
    "two numbers": (robot(*GOOD, links="abc").replace("0 0 1", "0 1"), "'one': <axis>: xyz must be 3 .*'0 1'"),
    "not a number": (robot(*GOOD, links="abc").replace("0 0 1", "0 0 one"), "'one': <axis>: xyz must be 3 .*'0 0 one'"),
    "nan": (robot(*GOOD, links="abc").replace("0 0 1", "0 0 nan"), "'one': <axis>: .*finite"),
    "zero axis": (robot(*GOOD, links="abc").replace("0 0 1", "0 0 0"), "'one': <axis>: .*length 0"),
    "long axis": (robot(*GOOD, links="abc").replace("0 0 1", "0 0 2"), "'one': <axis>: .*length 2"),
    "mm": (robot(*GOOD, links="abc").replace(Z, Z + '<origin xyz="0 0 223.4"/>'), "metres, not mm"),
    "degrees": (robot(*GOOD, links="abc").replace(Z, Z + '<origin rpy="0 90 0"/>'), "radians, not degrees"),
    "misspelt part": (robot(*GOOD, links="abc").replace(Z, Z + '<orign xyz="0 0 1"/>'), "<orign>.*mean <origin>"),
    "misspelt key": (robot(*GOOD, links="abc").replace(Z, Z + '<origin xzy="0 0 1"/>'), "unknown attribute xzy"),
    "misspelt joint": (robot(*GOOD, links="abc").replace("joint name", "jiont name"), "not valid|mean <joint>"),
    "two origins": (robot(*GOOD, links="abc").replace(Z, Z + "<origin/><origin/>"), "<origin> is given 2 times"),
    "twin joints": (robot(*GOOD, links="abc").replace('"two"', '"one"'), "joint 'one' is defined twice"),
    "twin links": (robot(*GOOD, links="abcc"), "link 'c' is defined twice"),
    "no name": (robot(*GOOD, links="abc").replace(' name="one"', ""), "<joint>: attribute name is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_is_refused_by_name(case: str, tmp_path: Path) -> None:
    text, message = REFUSED[case]
    with pytest.raises(FactError, match=r"arm\.urdf: .*" + f"(?s:.*)({message})"):
        load_arm(write(tmp_path, text))


def test_links_fixed_to_the_flange_are_listed_nearest_first(tmp_path: Path) -> None:
    assert tips_beside(write_urdf(tmp_path), None, "hand") == ("link8", "tcp", "link7")


MOUNTS = (joint("left", "fixed", "r", "a"), joint("right", "fixed", "r", "d"))
OTHER = (joint("three", "revolute", "d", "e", Z + LIMIT), joint("four", "revolute", "e", "f", Z + LIMIT))


def test_one_of_two_equal_arms_is_not_taken_for_the_arm(tmp_path: Path) -> None:
    links = read_links(write(tmp_path, robot(*MOUNTS, *GOOD, *OTHER, links="rabcdef")))
    assert links == Links("r", None, (), None)
    shorter = read_links(write(tmp_path, robot(*MOUNTS, *GOOD, OTHER[0], links="rabcde")))
    assert (shorter.tip, shorter.tips) == ("c", ("c",))


def test_links_fixed_to_the_end_of_the_arm_can_all_be_its_flange(tmp_path: Path) -> None:
    links = read_links(write(tmp_path, robot(*GOOD, joint("fix", "fixed", "c", "d"), links="abdc")))
    assert links.base == "a" and links.tip is None and links.tips == ("d", "c")


def test_a_missing_base_tip_or_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, robot(*GOOD, links="abc"))
    with pytest.raises(FactError, match=r"tip 'hand' is not a link of this file.*: a, b, c"):
        load_arm(path, tip="hand")
    with pytest.raises(FactError, match="base 'world' is not a link"):
        load_arm(path, base="world")
    with pytest.raises(FactError, match="tip 'a' is not below base 'b'"):
        load_arm(path, base="b", tip="a")
    with pytest.raises(FactError, match="no such file"):
        load_arm(tmp_path / "none.urdf")
    with pytest.raises(FactError, match="Expand xacro first"):
        load_arm(tmp_path / "arm.xacro")
    with pytest.raises(FactError, match="apply only to a URDF"):
        load_arm("nova2", tip="link6")


HAND = joint("grip", "screw", "c", "d", "<limits/><origin/><origin/>")
FOREIGN = {
    "a reference": robot(*GOOD, '<RefLink ref="a"/>', links="abc"),
    "a shell variable": robot(*GOOD, '<ros2_control name="x"><param value="${HOME}"/></ros2_control>', links="abc"),
    "a namespace": robot(*GOOD, links="abc").replace("<robot ", '<robot xmlns="http://www.ros.org" '),
    "another namespace": robot(*GOOD, '<x:links xmlns:x="http://x" name="y"/>', links="abc"),
    "an axis with rpy": robot(*GOOD, links="abc").replace("<axis ", '<axis rpy="0 0 0" ', 1),
    "a foreign joint below the tip": robot(*GOOD, HAND, links="abcd"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_elements_that_hold_no_data_of_the_chain_are_passed_over(what: str, tmp_path: Path) -> None:
    plain = load_arm(write(tmp_path, robot(*GOOD, links="abc")))
    arm = load_arm(write(tmp_path, FOREIGN[what]), tip="c")
    q = np.array([0.3, -0.4])
    assert arm.joint_names == ("one", "two")
    np.testing.assert_array_equal(forward_kinematics(arm, q), forward_kinematics(plain, q))


@pytest.mark.parametrize("root", ["mujoco", "sdf"])
@pytest.mark.parametrize("name", ["arm.xml", "arm.urdf"])
def test_a_model_in_another_format_is_told_what_it_is(name: str, root: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(f"<{root} name='arm'/>")
    told = {"mujoco": "MJCF", "sdf": "SDF"}[root]
    with pytest.raises(FactError, match=rf"{name}: the root element is <{root}>, which is {told}.*Give the URDF"):
        load_arm(tmp_path / name)

"""Hand-typed joint origins and DH lengths of the Dobot arms, and the same arms in other engines' formats."""

from collections.abc import Callable
from math import pi

import numpy as np
import pytest

# Joint origins (xyz m, rpy rad) as in the makers' URDF files, 1.5708 replaced by pi/2.
ORIGINS = {
    "nova2": [
        ((0, 0, 0.2234), (0, 0, 0)),
        ((0, 0, 0), (pi / 2, pi / 2, 0)),
        ((-0.28, 0, 0), (0, 0, 0)),
        ((-0.22501, 0, 0.1175), (0, 0, -pi / 2)),
        ((0, -0.12, 0), (pi / 2, 0, 0)),
        ((0, 0.088004, 0), (-pi / 2, 0, 0)),
    ],
    "nova5": [
        ((0, 0, 0.24), (0, 0, 0)),
        ((0, 0, 0), (-1.570802877, 1.535866228, pi)),
        ((-0.399756009, -0.013969003, 0), (0, 0, 0)),
        ((-0.329798708, -0.011524428, 0.134999533), (0, 0, -1.535866228)),
        ((0, -0.12, 0), (pi / 2, 0, 0)),
        ((0, 0.088328, 0), (-pi / 2, 0, 0)),
    ],
}

# Standard DH lengths d1, a2, a3, d4, d5, d6, metres.
LENGTHS = {
    "nova2": (0.2234, 0.280, 0.22501, 0.1175, 0.120, 0.088004),
    "nova5": (0.240, 0.400, 0.330, 0.135, 0.120, 0.088328),
    "cr3": (0.1348, 0.274, 0.230, 0.1283, 0.116, 0.105),
    "cr5": (0.147, 0.427, 0.357, 0.141, 0.116, 0.105),
    "cr7": (0.147, 0.377, 0.307, 0.141, 0.116, 0.105),
    "cr10": (0.1765, 0.607, 0.568, 0.191, 0.125, 0.1084),
    "cr12": (0.1765, 0.557, 0.518, 0.191, 0.125, 0.1114),
    "cr16": (0.1765, 0.512, 0.363, 0.191, 0.125, 0.1084),
    "cr20": (0.230, 0.8252, 0.746, 0.1756, 0.1288, 0.1365),
}


# Where along joint 3's axis the maker puts link 3, metres.
LINK3 = {"cr7": 0.025, "cr12": 0.066, "cr20": 0.0468}


def origins_of(name: str) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Joint origins (xyz m, rpy rad): a Nova's own, or a CR's from its lengths."""
    if name in ORIGINS:
        return ORIGINS[name]
    d1, a2, a3, d4, d5, d6 = LENGTHS[name]
    split = LINK3.get(name, 0.0)
    return [
        ((0, 0, d1), (0, 0, 0)),
        ((0, 0, 0), (pi / 2, pi / 2, 0)),
        ((-a2, 0, split), (0, 0, 0)),
        ((-a3, 0, d4 - split), (0, 0, -pi / 2)),
        ((0, -d5, 0), (pi / 2, 0, 0)),
        ((0, d6, 0), (-pi / 2, 0, 0)),
    ]


def dh_rows(name: str) -> list[tuple[float, float, float, float]]:
    """Rows (offset, d, a, alpha) of the standard DH table."""
    d1, a2, a3, d4, d5, d6 = LENGTHS[name]
    return [
        (0, d1, 0, pi / 2),
        (-pi / 2, 0, -a2, 0),
        (0, 0, -a3, 0),
        (-pi / 2, d4, 0, pi / 2),
        (0, d5, 0, -pi / 2),
        (0, d6, 0, 0),
    ]


def urdf(name: str) -> str:
    """URDF text of an arm, with the inertias a physics engine wants."""
    lines = [f'<robot name="{name}">', '<mujoco><compiler fusestatic="false"/></mujoco>', '<link name="base"/>']
    parent = "base"
    for i, (xyz, rpy) in enumerate(origins_of(name), start=1):
        inertia = '<inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/>'
        lines.append(f'<link name="link{i}"><inertial><mass value="1"/>{inertia}</inertial></link>')
        numbers = " ".join(map(repr, map(float, xyz))), " ".join(map(repr, map(float, rpy)))
        lines.append(
            f'<joint name="joint{i}" type="revolute"><parent link="{parent}"/><child link="link{i}"/>'
            f'<origin xyz="{numbers[0]}" rpy="{numbers[1]}"/><axis xyz="0 0 1"/>'
            f'<limit lower="-6.28" upper="6.28" effort="1" velocity="1"/></joint>'
        )
        parent = f"link{i}"
    return "\n".join([*lines, "</robot>"])


def urdf_with_hand(name: str) -> str:
    """URDF text of an arm as vendors ship it: on a pedestal, with a gripper of two fingers behind its flange."""
    slide = '<axis xyz="0 1 0"/><limit lower="0" upper="0.04" effort="1" velocity="1"/>'
    links = "".join(f'<link name="{link}"/>' for link in ("pedestal", "hand", "left_finger", "right_finger"))
    joints = "".join(
        f'<joint name="{child}_joint" type="{kind}"><parent link="{parent}"/><child link="{child}"/>{inner}</joint>'
        for child, parent, kind, inner in (
            ("base", "pedestal", "fixed", '<origin xyz="0 0 0.5"/>'),
            ("hand", "link6", "fixed", '<origin xyz="0 0 0.06"/>'),
            ("left_finger", "hand", "prismatic", slide),
            ("right_finger", "hand", "prismatic", slide + '<mimic joint="left_finger_joint"/>'),
        )
    )
    return urdf(name).replace("</robot>", f"{links}{joints}</robot>")


RAIL = (
    '<robot name="rail"><link name="floor"/><link name="carriage"/><link name="upper"/><link name="lower"/>'
    '<link name="hand"/>'
    + "".join(
        f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
        f'<origin xyz="{x} 0 0"/><axis xyz="{axis}"/><limit lower="-1.2" upper="1.2" effort="1" velocity="1"/></joint>'
        for name, kind, parent, child, x, axis in (
            ("rail", "prismatic", "floor", "carriage", 0, "0 1 0"),
            ("shoulder", "revolute", "carriage", "upper", 0.2, "0 0 1"),
            ("elbow", "revolute", "upper", "lower", 0.4, "0 1 0"),
            ("wrist", "revolute", "lower", "hand", 0.3, "1 0 0"),
        )
    )
    + "</robot>"
)
"""URDF text of an arm on a rail: joint 1 slides along y, joints 2 to 4 turn about z, y and x."""


@pytest.fixture
def urdf_text() -> Callable[[str], str]:
    return urdf


@pytest.fixture
def origins() -> Callable[[str], list[tuple[tuple[float, ...], tuple[float, ...]]]]:
    return origins_of


@pytest.fixture
def dh_table() -> Callable[[str], list[tuple[float, float, float, float]]]:
    return dh_rows


@pytest.fixture
def random_q() -> Callable[..., np.ndarray]:
    """Uniform joint angles over the whole turn, rad."""

    def draw(count: int, dof: int = 6, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).uniform(-pi, pi, (count, dof))

    return draw

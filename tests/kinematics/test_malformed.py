"""Three hundred damaged files: each is refused by a message that names file and element, none becomes another arm."""

import random
import re
import tomllib
from collections.abc import Callable
from math import pi
from pathlib import Path

import numpy as np
import pytest

from tactile_align.errors import FactError
from tactile_align.facts import fact_folder
from tactile_align.kinematics.arm import forward_kinematics, load_arm

NOVAS = ("nova2", "nova5")
Damage = Callable[[str, random.Random], str]


def one_of(text: str, pattern: str, rng: random.Random, change: Callable[[re.Match[str]], str]) -> str:
    """Replace one random match of a pattern; the pattern must occur."""
    matches = list(re.finditer(pattern, text))
    assert matches, pattern
    found = rng.choice(matches)
    return text[: found.start()] + change(found) + text[found.end() :]


JUNK = ("word", "nan", "inf", "1e999", "", "0,1", "--1", "0x1p3", "1_0", "None")
NUMBER = r"-?\d+\.?\d*(?:e-?\d+)?"


def bad_number(text: str, rng: random.Random) -> str:
    found = lambda m: m[1] + re.sub(NUMBER, rng.choice([j for j in JUNK if j]), m[2], count=1) + '"'  # noqa: E731
    return one_of(text, r'((?:xyz|rpy|lower|upper)=")([^"]*)"', rng, found)


def wrong_count(text: str, rng: random.Random) -> str:
    extra = rng.choice([" 0", " 0 0 0", None])
    return one_of(
        text, r'((?:xyz|rpy)=")([^"]*)"', rng, lambda m: m[1] + (m[2] + extra if extra else m[2].split()[0]) + '"'
    )


def scaled(key: str, factor: float) -> Damage:
    """All numbers of one origin or limit in another unit."""

    def damage(text: str, rng: random.Random) -> str:
        def change(m: re.Match[str]) -> str:
            return m[1] + " ".join(repr(float(v) * factor) for v in m[2].split()) + '"'

        nonzero = r'(?=[^"]*[1-9])'
        return one_of(text, rf'({key}="){nonzero}([^"]*)"', rng, change)

    return damage


def dropped(pattern: str) -> Damage:
    return lambda text, rng: one_of(text, pattern, rng, lambda m: "")


def renamed(pattern: str, new: str) -> Damage:
    return lambda text, rng: one_of(text, pattern, rng, lambda m: new)


URDF_DAMAGE: dict[str, Damage] = {
    "bad number": bad_number,
    "wrong count": wrong_count,
    "millimetres": scaled("xyz", 1000.0),
    "degrees": scaled("rpy", 180 / pi),
    "limits in degrees": scaled("(?:lower|upper)", 180 / pi),
    "no name": dropped(r'(?<=<joint) name="[^"]*"'),
    "no type": dropped(r' type="[^"]*"'),
    "no parent": dropped(r"<parent[^>]*/>"),
    "no child": dropped(r"<child[^>]*/>"),
    "no link": dropped(r'(?<=<(?:parent|childx)) link="[^"]*"'.replace("parent|childx", "parent")),
    "no limit": dropped(r"<limit[^>]*/>"),
    "no lower": dropped(r' lower="[^"]*"'),
    "no axis numbers": dropped(r'(?<=<axis) xyz="[^"]*"'),
    "other type": renamed(r"revolute", "revolut"),
    "misspelt origin": renamed(r"<origin", "<origen"),
    "misspelt axis": renamed(r"<axis", "<axes"),
    "misspelt limit": renamed(r"<limit", "<limits"),
    "misspelt xyz": renamed(r'xyz(?==")', "xzy"),
    "misspelt rpy": renamed(r'rpy(?==")', "ryp"),
    "foreign parent": renamed(r'(?<=<parent link=")[^"]*', "elsewhere"),
    "foreign child": renamed(r'(?<=<child link=")[^"]*', "elsewhere"),
    "itself": lambda t, r: one_of(
        t, r'<parent link="([^"]*)"/><child link="([^"]*)"', r, lambda m: m[0].replace(m[1], m[2])
    ),
    "loop": lambda t, r: one_of(t, r'(?<=<child link=")link[2-6]', r, lambda m: "link1"),
    "twin joint": lambda t, r: one_of(t, r"<joint.*?</joint>", r, lambda m: m[0] + m[0]),
    "twin link": lambda t, r: one_of(t, r"<link.*?</link>", r, lambda m: m[0] + m[0]),
    "twin origin": lambda t, r: one_of(t, r"<origin[^>]*/>", r, lambda m: m[0] + m[0]),
    "lost link": lambda t, r: one_of(t, r"<link name=\"link.*?</link>", r, lambda m: ""),
    "lost joint": lambda t, r: one_of(t, r"<joint.*?</joint>", r, lambda m: ""),
    "mimic": lambda t, r: one_of(t, r"<axis", r, lambda m: '<mimic joint="joint1"/><axis'),
    "zero axis": lambda t, r: one_of(t, r"0 0 1(?=\")", r, lambda m: "0 0 0"),
    "free": renamed(r"revolute", "floating"),
    "cut": lambda t, r: t[: r.randrange(1, len(t) - len("</robot>"))],
    "doctype": lambda t, r: '<!DOCTYPE robot SYSTEM "other.dtd">' + t,
    "no robot": lambda t, r: t.replace("robot", r.choice(["model", "mujoco", "sdf"])),
    "branch": lambda t, r: t.replace(
        "</robot>",
        '<link name="x"/><joint name="x" type="fixed">'
        f'<parent link="link{r.randint(1, 5)}"/><child link="x"/></joint></robot>',
    ),
}


def other_value(text: str, rng: random.Random) -> str:
    junk = rng.choice(['"word"', "nan", "inf", "true", "[]", "{}", '"0.1"', "1979-05-27"])
    return one_of(text, rf"(?<=[\[ ]){NUMBER}(?=[,\]])", rng, lambda m: junk)


def fact_scaled(key: str, factor: float) -> Damage:
    def damage(text: str, rng: random.Random) -> str:
        def change(m: re.Match[str]) -> str:
            return m[1] + ", ".join(repr(float(v) * factor) for v in m[2].split(",")) + "]"

        return one_of(text, rf"({key} = \[)(?=[^\]]*[1-9])([^\]]*)\]", rng, change)

    return damage


FACT_DAMAGE: dict[str, Damage] = {
    "other value": other_value,
    "millimetres": fact_scaled("xyz_m", 1000.0),
    "radians": fact_scaled("limits_deg", pi / 180),
    "lost key": dropped(r"\n(?:xyz_m|rpy_deg|limits_deg|name|source|reach_m) = [^\n]*"),
    "misspelt key": lambda t, r: one_of(t, r"\n(?:xyz_m|rpy_deg|limits_deg|reach_m)", r, lambda m: m[0] + "x"),
    "lost number": lambda t, r: one_of(t, r"\[-?[\d.]+, ", r, lambda m: "["),
    "more numbers": lambda t, r: one_of(t, r"(?<=\d)\]\n", r, lambda m: ", 0.0]\n"),
    "swapped limits": lambda t, r: one_of(t, r"\[(-\d[\d.]*), (\d[\d.]*)\]", r, lambda m: f"[{m[2]}, {m[1]}]"),
    "lost joint": dropped(r"(?s)\[\[joints\]\]\nname.*?limits[^\n]*"),
    "twin joint": lambda t, r: one_of(t, r"(?s)\[\[joints\]\]\nname.*?limits[^\n]*", r, lambda m: m[0] + "\n" + m[0]),
    "other dof": renamed(r"dof = 6", "dof = 7"),
    "far reach": renamed(r"reach_m = [\d.]+", "reach_m = 3.5"),
    "cut": lambda t, r: t[: r.randrange(1, t.rindex("limits_deg"))],
    "two forms": lambda t, r: (
        t + '\n[[dh]]\nname = "x"\nd_m = 0.1\na_m = 0.1\nalpha_deg = 0.0\nlimits_deg = [-90.0, 90.0]\n'
    ),
    "dh convention": lambda t, r: t.replace("dof = 6", 'dof = 6\ndh_convention = "standard"'),
    "broken toml": lambda t, r: one_of(t, r" = ", r, lambda m: r.choice([" ", " = = ", ": ", " = ["])),
}


def cases() -> list[tuple[str, str, int]]:
    """Three hundred: 35 + 16 kinds of damage, in turn over both arms."""
    kinds = [("urdf", kind) for kind in URDF_DAMAGE] + [("toml", kind) for kind in FACT_DAMAGE]
    return [(*kinds[i % len(kinds)], i) for i in range(300)]


def test_three_hundred_damaged_files_are_refused_by_name(urdf_text: Callable, tmp_path: Path) -> None:
    passed = []
    for form, kind, seed in cases():
        rng = random.Random(seed)
        name = NOVAS[seed % 2]
        if form == "urdf":
            whole, damage = urdf_text(name), URDF_DAMAGE[kind]
        else:
            whole, damage = fact_folder("kinematics").joinpath(f"{name}.toml").read_text("utf-8"), FACT_DAMAGE[kind]
        text = damage(whole, rng)
        assert text != whole, kind
        path = tmp_path / f"damaged_{seed}.{form}"
        path.write_text(text, encoding="utf-8")
        try:
            load_arm(path)
        except FactError as error:
            message = str(error)
            element = (
                r"<\w+>|joint '|link '|not valid XML: .*line \d+|DOCTYPE|tip"
                if form == "urdf"
                else r": \S+: |: \w+ = |dh_convention|\[\[joints\]\]|line \d+|end of document"
            )
            if path.name not in message or not re.search(element, message):
                passed.append((kind, seed, message))
        else:
            passed.append((kind, seed, "loaded"))
    assert not passed, passed


def from_toml(text: str) -> list[tuple[list[float], list[float]]]:
    return [(joint["xyz_m"], np.radians(joint["rpy_deg"])) for joint in tomllib.loads(text)["joints"]]


def test_random_bytes_never_make_another_arm(urdf_text: Callable, tmp_path: Path) -> None:
    """A stray byte may leave a file readable; then another reader must find the same arm in it."""
    pinocchio = pytest.importorskip("pinocchio", reason="pinocchio is not installed (the test extra brings it)")
    loaded = 0
    for seed in range(1000):
        rng = random.Random(seed)
        text = urdf_text(NOVAS[seed % 2])
        for _ in range(rng.randint(1, 3)):
            i = rng.randrange(len(text))
            text = (
                text[:i]
                + rng.choice(["", "x", "<", '"', "9", " ", "-", text[i : i + 40]])
                + text[i + rng.randint(0, 3) :]
            )
        path = tmp_path / "damaged.urdf"
        path.write_text(text, encoding="utf-8")
        try:
            arm = load_arm(path)
        except FactError as error:
            assert "damaged.urdf" in str(error)
            continue
        try:
            model = pinocchio.buildModelFromXML(text)
        except ValueError:
            continue  # It minds masses and efforts, which are nothing to us.
        loaded += 1
        q = np.random.default_rng(seed).uniform(-pi, pi, arm.dof)
        assert model.nq == arm.dof
        data = model.createData()
        pinocchio.forwardKinematics(model, data, q)
        np.testing.assert_allclose(forward_kinematics(arm, q), data.oMi[arm.dof].homogeneous, atol=1e-9)
    assert loaded > 20

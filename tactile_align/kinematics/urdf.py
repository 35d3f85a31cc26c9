"""An arm from a URDF: the serial chain of joints between two links, read with the standard library alone."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tactile_align.errors import FactError
from tactile_align.geometry.frames import pose, rotation_exp, rotation_from_rpy
from tactile_align.kinematics.chain import Arm
from tactile_align.kinematics.urdf_xml import (
    attribute,
    numbers,
    parse,
    refuse_attributes,
    refuse_near_miss,
    refuse_twins,
)

MOVING = ("revolute", "continuous", "prismatic")
TYPES = (*MOVING, "fixed", "planar", "floating")
PARTS = ("origin", "parent", "child", "axis", "limit", "mimic", "calibration", "dynamics", "safety_controller")
MAX_OFFSET_M = 10.0


@dataclass(frozen=True)
class _Joint:
    name: str
    kind: str
    parent: str
    child: str
    element: ElementTree.Element


def read_urdf(path: Path, base: str | None = None, tip: str | None = None) -> Arm:
    """Read the chain from `base` to `tip` of a URDF file; meshes are never opened.

    Joints may be revolute, continuous, prismatic or fixed. Where a file's axis is not +z, the joint's frame is
    turned so that it is, by the smallest turn (a half turn about x for -z).

    Args:
        path: The .urdf file.
        base: First link; the root when None.
        tip: Last link, the flange; the only end of the tree when None.

    Raises:
        FactError: Names file and element: not XML, DOCTYPE, xacro, mimic or free joints in the chain, a link
            with two parents, a missing base or tip, missing limits, numbers that are none or in a wrong unit.
    """
    if not path.is_file():
        raise FactError(f"{path}: no such file. Needed: a URDF.")
    try:
        return _Reader(parse(path)).arm(path, base, tip)
    except FactError as error:
        raise FactError(f"{path}: {error}") from error


class _Reader:
    """The links and joints of one file, checked as a tree."""

    def __init__(self, robot: ElementTree.Element) -> None:
        self.name = robot.get("name") or ""
        for child in robot:
            refuse_near_miss(child.tag, ("link", "joint"), "<robot>")
        self.links = [attribute(element, "name", "<link>") for element in robot.findall("link")]
        refuse_twins(self.links, "link")
        self.joints = [self._joint(element) for element in robot.findall("joint")]
        refuse_twins([joint.name for joint in self.joints], "joint")
        self.above: dict[str, _Joint] = {}
        for joint in self.joints:
            if joint.child in self.above:
                raise FactError(
                    f"joint '{joint.name}': link '{joint.child}' hangs on joint '{self.above[joint.child].name}' "
                    f"already; a closed loop is no serial chain. Cut the loop in the file"
                )
            self.above[joint.child] = joint

    def _joint(self, element: ElementTree.Element) -> _Joint:
        name = attribute(element, "name", "<joint>")
        where = f"joint '{name}'"
        for child in element:
            refuse_near_miss(child.tag, PARTS, where)
        for part in ("origin", "parent", "child", "axis", "limit", "mimic"):
            if len(element.findall(part)) > 1:
                raise FactError(f"{where}: <{part}> stands there {len(element.findall(part))} times; leave one")
        kind = attribute(element, "type", where)
        if kind not in TYPES:
            raise FactError(f"{where}: type '{kind}' is unknown; URDF has {', '.join(TYPES)}")
        ends = []
        for part in ("parent", "child"):
            found = element.find(part)
            if found is None:
                raise FactError(f"{where}: <{part} link=...> is missing")
            link = attribute(found, "link", f"{where}: <{part}>")
            if link not in self.links:
                raise FactError(f"{where}: <{part}> names link '{link}', which the file does not have")
            ends.append(link)
        return _Joint(name, kind, ends[0], ends[1], element)

    def arm(self, path: Path, base: str | None, tip: str | None) -> Arm:
        """Return the chain between two links as an arm."""
        chain = self._chain(self._base(base), tip)
        T = np.eye(4)
        origins, limits, names, slides = [], [], [], []
        for joint in chain:
            T = T @ _origin(joint)
            if joint.kind == "fixed":
                continue
            if joint.element.find("mimic") is not None:
                raise FactError(
                    f"joint '{joint.name}': <mimic> ties it to another joint; only joints that move on their own "
                    f"can be in the chain. Choose another tip, or make it fixed"
                )
            if joint.kind not in MOVING:
                raise FactError(
                    f"joint '{joint.name}': type '{joint.kind}' in the chain; supported: {', '.join(MOVING)}"
                )
            A = _axis_turn(joint)
            origins.append(T @ A)
            T = A.T
            limits.append(_limits(joint))
            names.append(joint.name)
            slides.append(joint.kind == "prismatic")
        if not names:
            raise FactError(f"no joint moves between '{chain[0].parent}' and '{chain[-1].child}'; choose base and tip")
        bounds = np.array(limits)
        return Arm(
            name=self.name or path.stem,
            joint_names=tuple(names),
            lower=bounds[:, 0],
            upper=bounds[:, 1],
            T_link_joint=np.stack(origins),
            source=str(path),
            T_link_flange=T,
            prismatic=tuple(slides),
        )

    def _base(self, base: str | None) -> str:
        if base is not None:
            return self._known(base, "base")
        roots = [link for link in self.links if link not in self.above]
        if len(roots) != 1:
            raise FactError(
                f"<robot>: {len(roots)} links have no parent ({', '.join(roots) or 'a closed loop'}); a tree has one "
                f"root. {_name_one('base')}, or mend the file"
            )
        return roots[0]

    def _known(self, link: str, what: str) -> str:
        if link not in self.links:
            raise FactError(f"{what} '{link}' is no link of this file; it has {', '.join(self.links)}")
        return link

    def _chain(self, base: str, tip: str | None) -> list[_Joint]:
        if tip is None:
            ends = [link for link in self.links if self._path(base, link) and not self._below(link)]
            if len(ends) != 1:
                raise FactError(
                    f"<robot>: {len(ends)} links end the tree below '{base}' ({', '.join(ends) or 'none'}); "
                    f"the flange is one link. {_name_one('tip')}"
                )
            tip = ends[0]
        chain = self._path(base, self._known(tip, "tip"))
        if not chain:
            raise FactError(f"tip '{tip}' does not hang below base '{base}'")
        return chain

    def _below(self, link: str) -> list[_Joint]:
        return [joint for joint in self.joints if joint.parent == link]

    def _path(self, base: str, link: str) -> list[_Joint]:
        """Joints from base to link, empty when link is not below base."""
        path: list[_Joint] = []
        while link != base:
            joint = self.above.get(link)
            if joint is None:
                return []
            if joint in path:
                raise FactError(f"joint '{joint.name}': its links form a closed loop")
            path.insert(0, joint)
            link = joint.parent
        return path


def _name_one(end: str) -> str:
    return (
        f'Name the {end}: {end} = "LINK" beside the model in the rig (beside arm in a session), --{end} LINK beside '
        f'--arm, load_arm(path, {end}="LINK") in Python'
    )


def _origin(joint: _Joint) -> np.ndarray:
    element = joint.element.find("origin")
    if element is None:
        return np.eye(4)
    where = f"joint '{joint.name}': <origin>"
    refuse_attributes(element, ("xyz", "rpy"), where)
    xyz = numbers(element, "xyz", where, (0.0, 0.0, 0.0))
    rpy = numbers(element, "rpy", where, (0.0, 0.0, 0.0))
    if np.abs(xyz).max() > MAX_OFFSET_M:
        raise FactError(f"{where}: xyz {xyz.tolist()} is beyond {MAX_OFFSET_M:g} m; URDF takes metres, are these mm?")
    if np.abs(rpy).max() > 2 * np.pi + 1e-3:
        raise FactError(f"{where}: rpy {rpy.tolist()} is beyond a full turn; URDF takes radians, are these degrees?")
    T: np.ndarray = pose(rotation_from_rpy(rpy), xyz)
    return T


def _axis_turn(joint: _Joint) -> np.ndarray:
    """Return the pose (4, 4) whose z column is the joint's axis, by the smallest turn."""
    element = joint.element.find("axis")
    where = f"joint '{joint.name}': <axis>"
    axis = np.array([1.0, 0.0, 0.0])
    if element is not None:
        refuse_attributes(element, ("xyz",), where)
        if "xyz" not in element.attrib:
            raise FactError(f"{where}: xyz is missing")
        axis = numbers(element, "xyz", where, (1.0, 0.0, 0.0))
    length = float(np.linalg.norm(axis))
    if not abs(length - 1) < 1e-3:
        raise FactError(f"{where}: xyz {axis.tolist()} has length {length:.4g}; an axis is a unit vector")
    x, y, z = axis / length
    sine, angle = float(np.hypot(x, y)), float(np.arctan2(np.hypot(x, y), z))
    turn = np.array([0.0 if z > 0 else np.pi, 0.0, 0.0])
    if sine > 1e-12:
        turn = angle * np.array([-y, x, 0.0]) / sine
    T: np.ndarray = pose(rotation_exp(turn), np.zeros(3))
    return T


def _limits(joint: _Joint) -> tuple[float, float]:
    if joint.kind == "continuous":
        return -np.inf, np.inf
    where = f"joint '{joint.name}': <limit>"
    element = joint.element.find("limit")
    if element is None:
        raise FactError(f"{where}: missing; a {joint.kind} joint needs lower and upper (a free one is 'continuous')")
    bounds = [numbers(element, key, where, None)[0] for key in ("lower", "upper")]
    if not bounds[0] < bounds[1]:
        raise FactError(f"{where}: lower {bounds[0]:g} must be below upper {bounds[1]:g}")
    most, unit, wrong = (10.0, "metres", "mm") if joint.kind == "prismatic" else (6 * np.pi, "radians", "degrees")
    if max(abs(bound) for bound in bounds) > most:
        raise FactError(f"{where}: [{bounds[0]:g}, {bounds[1]:g}] is too wide; URDF takes {unit}, are these {wrong}?")
    return bounds[0], bounds[1]

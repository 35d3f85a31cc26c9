"""Arm files: serial chains in URDF, read with the standard library only, and TOML facts (joint origins or DH)."""

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from xml.etree import ElementTree

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from tactile_align.errors import FactError, InputError
from tactile_align.facts import Strict
from tactile_align.geometry.frames import pose, rotation_exp, rotation_from_rpy
from tactile_align.kinematics.chain import Arm


class _NoDoctype(ElementTree.TreeBuilder):
    """XML tree builder that refuses a DOCTYPE, whose entities could read files or grow without bound."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise FactError("<!DOCTYPE> found; it is not allowed in a URDF because it can load files. Remove the line")


OTHER_FORMATS = {"mujoco": ", which is MJCF (MuJoCo)", "sdf": ", which is SDF (Gazebo)"}


def parse(path: Path) -> ElementTree.Element:
    """Return the <robot> element of a URDF file; raise FactError for invalid XML, a DOCTYPE, or xacro.

    The elements have no namespace if theirs is that of <robot>.
    """
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(path.read_bytes())
        root: ElementTree.Element = parser.close()
    except FactError:
        raise
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise FactError(f"not valid XML: {error}. Check that the file is a complete URDF") from error
    space = root.tag[: root.tag.find("}") + 1]
    for element in root.iter():
        element.tag = element.tag.removeprefix(space)
    if root.tag != "robot":
        what = OTHER_FORMATS.get(root.tag, "")
        text = f"the root element is <{root.tag}>{what}, but a URDF starts with <robot>"
        raise FactError(f"{text}. {'Give the URDF of this arm' if what else 'Choose a URDF file'}")
    tree = {root, *(part for element in root if element.tag in ("link", "joint") for part in element.iter())}
    for element in root.iter():
        if "xacro" in element.tag or (element in tree and any("${" in value for value in element.attrib.values())):
            raise FactError(f"<{element.tag}>: the file is xacro. Expand it first: xacro arm.urdf.xacro > arm.urdf")
    return root


def numbers(element: ElementTree.Element, key: str, where: str, default: tuple[float, ...] | None) -> np.ndarray:
    """Return the numbers in attribute `key` of an XML element, or `default` if the element lacks the attribute.

    The attribute must contain as many finite numbers as `default`, or one if `default` is None; otherwise FactError is
    raised. `where` is the place of the element, for its message.
    """
    text = element.get(key)
    if text is None:
        if default is None:
            raise FactError(f"{where}: {key} is missing. Add the attribute")
        return np.array(default)
    count = 1 if default is None else len(default)
    try:
        values = np.array([float(word) for word in text.replace("_", "?").split()])  # only Python reads 1_0 as 10
    except ValueError:
        values = np.zeros(0)
    if values.shape != (count,) or not np.all(np.isfinite(values)):
        raise FactError(f"{where}: {key} must be {count} finite number(s); got '{text}'. Replace this value")
    return values


def attribute(element: ElementTree.Element, key: str, where: str) -> str:
    """Return the text of attribute `key` of an XML element; raise FactError if it is missing or empty.

    `where` is the place of the element, for the error message.
    """
    if not (value := element.get(key)):
        raise FactError(f"{where}: attribute {key} is missing. Add the attribute")
    return value


def refuse_attributes(element: ElementTree.Element, known: tuple[str, ...], where: str) -> None:
    """Raise FactError if an XML element has an attribute that is not in `known`.

    A misspelt attribute would silently keep its default. `where` is the place of the element, for the message.
    """
    if unknown := [key for key in element.attrib if key not in known]:
        raise FactError(f"{where}: unknown attribute {unknown[0]}. Use only {', '.join(known)}")


def refuse_near_miss(tag: str, known: tuple[str, ...], where: str) -> None:
    """Raise FactError if an XML element's name `tag` looks like a misspelt name in `known`, such as <orign>.

    Ignoring such an element would change the arm. A name that is not similar to any known name is allowed. `where` is
    the place of the element, for the message.
    """
    close = difflib.get_close_matches(tag.lower(), known, n=1, cutoff=0.7)
    if tag not in known and close:
        raise FactError(f"{where}: unknown element <{tag}>. Did you mean <{close[0]}>?")


def refuse_twins(names: Iterable[str], what: str) -> None:
    """Raise FactError if `names` contains a name twice; `what` is the kind of named thing for the message: "joint"."""
    if twins := [name for name, count in Counter(names).items() if count > 1]:
        raise FactError(f"{what} '{twins[0]}' is defined twice. Rename one of the two")


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
    """Return the serial chain from `base` to `tip` of a URDF file as an arm; mesh files are never opened.

    Joints may be revolute, continuous, prismatic or fixed. If a joint's axis in the file is not +z, the joint's frame
    is rotated by the smallest rotation that makes the axis +z (half a turn about x for -z).

    Args:
        path: The .urdf file.
        base: First link. None: the root link.
        tip: Last link, which is the flange. None: the only link that has no child.

    Raises:
        FactError: The file is not XML, not a URDF, has a DOCTYPE or is xacro; the chain has mimic or free joints, a
            link with two parents, no base or tip, or no limits; or values are not numbers or have a wrong unit. The
            message contains file and element.
    """
    if not path.is_file():
        raise FactError(f"{path}: no such file. Give a URDF file")
    try:
        return _Reader(parse(path)).arm(path, base, tip)
    except FactError as error:
        raise FactError(f"{path}: {error}") from error


def tips_beside(path: Path, base: str | None, tip: str | None) -> tuple[str, ...]:
    """Return the links of a URDF file that are fixed to the link `tip`, nearest first, without `tip` itself.

    Each of them gives an arm with the same joints and another flange. Arguments and errors are those of `read_urdf`.
    """
    try:
        reader = _Reader(parse(path))
        chain = reader._chain(base, tip)
        return reader.fixed_to(chain[0].parent, chain[-1].child)
    except FactError as error:
        raise FactError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Links:
    """Links of a URDF file that can be the flange of its arm.

    Attributes:
        base: The root link; None if there are several.
        tip: The link that carries the fingers, or else the only end of the chain; None if the file shows neither.
        tips: All links behind the last joint of the arm, in the order of the file; () without a single arm.
        arm: The arm up to `tip`, or up to the last of `tips`; None if the file has no single arm.
        finger_axis: Direction in which the first finger opens, in the frame of `tip`; None if no finger slides.
        finger_open_m: Largest distance that the first finger slides, m.
    """

    base: str | None
    tip: str | None
    tips: tuple[str, ...]
    arm: Arm | None
    finger_axis: tuple[float, float, float] | None = None
    finger_open_m: float | None = None


def read_links(path: Path) -> Links:
    """Return the links of a URDF file that can be the flange of its arm.

    Raises:
        FactError: As `read_urdf`, except that several roots or ends are no error.
    """
    if not path.is_file():
        raise FactError(f"{path}: no such file. Give a URDF file")
    try:
        return _Reader(parse(path)).arm_links(path)
    except FactError as error:
        raise FactError(f"{path}: {error}") from error


class _Reader:
    """Links and joints of one URDF file, checked to form a tree."""

    def __init__(self, robot: ElementTree.Element) -> None:
        self.name = robot.get("name") or ""
        for child in robot:
            if "name" in child.attrib:  # as every link and joint has, but not, for example, <RefLink ref="...">
                refuse_near_miss(child.tag, ("link", "joint"), "<robot>")
        self.links = [attribute(element, "name", "<link>") for element in robot.findall("link")]
        refuse_twins(self.links, "link")
        self.joints = [self._joint(element) for element in robot.findall("joint")]
        refuse_twins([joint.name for joint in self.joints], "joint")
        self.above: dict[str, _Joint] = {}
        for joint in self.joints:
            if joint.child in self.above:
                text = f"link '{joint.child}' is already the child of joint '{self.above[joint.child].name}'"
                raise FactError(f"joint '{joint.name}': {text}; a link has one parent. Remove one of the two joints")
            self.above[joint.child] = joint

    def _joint(self, element: ElementTree.Element) -> _Joint:
        name = attribute(element, "name", "<joint>")
        where = f"joint '{name}'"
        kind = attribute(element, "type", where)
        ends = []
        for part in ("parent", "child"):
            end = element.find(part)
            if end is None:
                raise FactError(f"{where}: <{part} link=...> is missing. Add the element")
            link = attribute(end, "link", f"{where}: <{part}>")
            if link not in self.links:
                raise FactError(f"{where}: <{part}> refers to link '{link}', which does not exist. Correct the name")
            ends.append(link)
        return _Joint(name, kind, ends[0], ends[1], element)

    def arm(self, path: Path, base: str | None, tip: str | None) -> Arm:
        """Return the chain between two links as an arm."""
        chain = self._chain(base, tip)
        T = np.eye(4)
        origins, moving = [], []
        for joint in chain:
            _require_plain(joint)
            T = T @ _origin(joint)
            if joint.kind == "fixed":
                continue
            if joint.element.find("mimic") is not None:
                text = "<mimic> couples it to another joint; joints of the chain must move independently"
                raise FactError(f"joint '{joint.name}': {text}. Choose another tip, or make this joint fixed")
            if joint.kind not in MOVING:
                raise FactError(f"joint '{joint.name}': type '{joint.kind}' is not supported. Use {', '.join(MOVING)}")
            A = _axis_turn(joint)
            origins.append(T @ A)
            T = A.T
            moving.append(joint)
        if not moving:
            raise FactError(f"no joint moves between '{chain[0].parent}' and '{chain[-1].child}'. Choose another tip")
        bounds = np.array([_limits(joint) for joint in moving])
        return Arm(
            name=self.name or path.stem,
            joint_names=tuple(joint.name for joint in moving),
            lower=bounds[:, 0],
            upper=bounds[:, 1],
            T_link_joint=np.stack(origins),
            source=str(path),
            T_link_flange=T,
            prismatic=tuple(joint.kind == "prismatic" for joint in moving),
        )

    def arm_links(self, path: Path) -> Links:
        """Return the links that can be the flange of the only arm of the file."""
        roots = [link for link in self.links if link not in self.above]
        if len(roots) != 1:
            return Links(None, None, (), None)
        moving = {link: sum(j.kind in MOVING for j in self._path(roots[0], link)) for link in self.links}
        fingers = {link: [j for j in self.joints if j.parent == link and j.kind in MOVING] for link in self.links}
        hands = [link for link in self.links if len(fingers[link]) > 1]
        if len(hands) > 1 or not max(moving.values()) or (hands and not moving[hands[0]]):
            return Links(roots[0], None, (), None)
        end = hands[0] if hands else max(self.links, key=lambda link: moving[link])
        fixed = {end, *self.fixed_to(roots[0], end)}
        tips = tuple(link for link in self.links if link in fixed)
        if any(moving[link] == moving[end] for link in self.links if link not in fixed):
            return Links(roots[0], None, (), None)
        tip = hands[0] if hands else tips[0] if len(tips) == 1 else None
        arm = self.arm(path, roots[0], tip or tips[-1])
        if tip is None or not hands or fingers[tip][0].kind != "prismatic":
            return Links(roots[0], tip, tips, arm)
        finger = fingers[tip][0]
        axis = (_origin(finger) @ _axis_turn(finger))[:3, 2]
        x, y, z = (float(n) for n in np.round(axis, 9) + 0.0)
        return Links(roots[0], tip, tips, arm, (x, y, z), _limits(finger)[1])

    def _end(self, link: str | None, end: str, candidates: list[str], kind: str) -> str:
        """Return the link at `end` ("base" or "tip") of the chain: `link` if given, otherwise the only candidate."""
        if link is None and len(candidates) != 1:
            text = f"{len(candidates)} links {kind} ({', '.join(candidates) or 'perhaps there is a closed loop'})"
            raise FactError(f"<robot>: {text}; expected exactly one. {_name_one(end)}")
        if link is not None and link not in self.links:
            raise FactError(f"{end} '{link}' is not a link of this file. Use one of: {', '.join(self.links)}")
        return candidates[0] if link is None else link

    def _chain(self, base: str | None, tip: str | None) -> list[_Joint]:
        base = self._end(base, "base", [link for link in self.links if link not in self.above], "have no parent")
        parents = {joint.parent for joint in self.joints}
        below = [link for link in self.links if tip is None and self._path(base, link) and link not in parents]
        tip = self._end(tip, "tip", below, f"end the tree below '{base}'")
        chain = self._path(base, tip)
        if not chain:
            raise FactError(f"tip '{tip}' is not below base '{base}' in the tree. Choose another base or tip")
        return chain

    def fixed_to(self, base: str, tip: str) -> tuple[str, ...]:
        """Return the links below `base` whose chain has the moving joints of the chain to `tip`, nearest first."""
        ends = {link: self._path(base, link) for link in self.links}
        moving = {link: [one.name for one in path if one.kind != "fixed"] for link, path in ends.items()}
        names = {link: {one.name for one in path} for link, path in ends.items()}
        near = [link for link in self.links if link not in (base, tip) and moving[link] == moving[tip]]
        return tuple(sorted(near, key=lambda link: len(names[link] ^ names[tip])))

    def _path(self, base: str, link: str) -> list[_Joint]:
        """Return the joints from base to link; [] if link is not below base."""
        path: list[_Joint] = []
        while link != base:
            joint = self.above.get(link)
            if joint is None:
                return []
            if joint in path:
                raise FactError(f"joint '{joint.name}': its links form a closed loop. Cut the loop in the file")
            path.insert(0, joint)
            link = joint.parent
        return path


def _require_plain(joint: _Joint) -> None:
    """Raise FactError if a joint of the chain has an unknown type, or an element that is misspelt or given twice."""
    where = f"joint '{joint.name}'"
    for child in joint.element:
        refuse_near_miss(child.tag, PARTS, where)
    for part in ("origin", "parent", "child", "axis", "limit", "mimic"):
        if (times := len(joint.element.findall(part))) > 1:
            raise FactError(f"{where}: <{part}> is given {times} times. Leave only one")
    if joint.kind not in TYPES:
        raise FactError(f"{where}: unknown type '{joint.kind}'. Use one of: {', '.join(TYPES)}")


def _name_one(end: str) -> str:
    files = f'write {end} = "LINK" next to the model in the rig (next to arm in a session)'
    return f'Choose the {end}: {files}, add --{end} LINK to --arm, or call load_arm(path, {end}="LINK") in Python'


def _origin(joint: _Joint) -> np.ndarray:
    element = joint.element.find("origin")
    if element is None:
        return np.eye(4)
    where = f"joint '{joint.name}': <origin>"
    refuse_attributes(element, ("xyz", "rpy"), where)
    xyz = numbers(element, "xyz", where, (0.0, 0.0, 0.0))
    rpy = numbers(element, "rpy", where, (0.0, 0.0, 0.0))
    if np.abs(xyz).max() > MAX_OFFSET_M:
        raise FactError(f"{where}: xyz {xyz.tolist()} exceeds {MAX_OFFSET_M:g} m. Give metres, not mm")
    if np.abs(rpy).max() > 2 * np.pi + 1e-3:
        raise FactError(f"{where}: rpy {rpy.tolist()} exceeds a full turn. Give radians, not degrees")
    return np.asarray(pose(rotation_from_rpy(rpy), xyz))


def _axis_turn(joint: _Joint) -> np.ndarray:
    """Return the smallest rotation, as a pose (4, 4), whose z column is the joint's axis."""
    element = joint.element.find("axis")
    where = f"joint '{joint.name}': <axis>"
    axis = np.array([1.0, 0.0, 0.0])
    if element is not None:
        refuse_attributes(element, ("xyz", "rpy"), where)
        if (rpy := numbers(element, "rpy", where, (0.0, 0.0, 0.0))).any():
            raise FactError(f"{where}: rpy {rpy.tolist()} has no meaning here. Turn <origin> or xyz in its place")
        attribute(element, "xyz", where)
        axis = numbers(element, "xyz", where, (1.0, 0.0, 0.0))
    length = float(np.linalg.norm(axis))
    if not abs(length - 1) < 1e-3:
        raise FactError(f"{where}: xyz {axis.tolist()} has length {length:.4g}. Give a unit vector")
    x, y, z = axis / length
    sine = float(np.hypot(x, y))
    turn = np.array([0.0 if z > 0 else np.pi, 0.0, 0.0])
    if sine > 1e-12:
        turn = np.arctan2(sine, z) * np.array([-y, x, 0.0]) / sine
    return np.asarray(pose(rotation_exp(turn), np.zeros(3)))


def _limits(joint: _Joint) -> tuple[float, float]:
    if joint.kind == "continuous":
        return -np.inf, np.inf
    where = f"joint '{joint.name}': <limit>"
    element = joint.element.find("limit")
    if element is None:
        raise FactError(f"{where}: missing. Add <limit lower=... upper=...>, or make the joint continuous")
    bounds = [numbers(element, key, where, None)[0] for key in ("lower", "upper")]
    if not bounds[0] < bounds[1]:
        raise FactError(f"{where}: lower {bounds[0]:g} must be below upper {bounds[1]:g}. Exchange or correct the two")
    most, unit, wrong = (10.0, "metres", "mm") if joint.kind == "prismatic" else (6 * np.pi, "radians", "degrees")
    if max(abs(bound) for bound in bounds) > most:
        raise FactError(f"{where}: [{bounds[0]:g}, {bounds[1]:g}] exceeds {most:.4g} {unit}. Give {unit}, not {wrong}")
    return bounds[0], bounds[1]


# strict, because true and "0.28" are not numbers in TOML.
Metres = Annotated[float, Field(ge=-3.0, le=3.0, strict=True)]
Degrees = Annotated[float, Field(ge=-360.0, le=360.0, strict=True)]
Limit = Annotated[float, Field(ge=-1080.0, le=1080.0, strict=True)]


def _refuse_radians(key: str, *values: float) -> None:
    """Raise InputError for pi and its simple fractions in degrees: no manufacturer tilts a joint by 1.5708 degrees."""
    for value in values:
        if any(abs(abs(value) - np.pi / k) < 5e-5 for k in (1, 2, 3, 4, 6)):
            raise InputError(f"{key} contains {value:g}, which looks like radians. Write {np.degrees(value):.4g} (deg)")


class Joint(Strict):
    """Joint of an arm in a fact file: base class with the joint's name and its lower and upper limit."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1)]
    limits_deg: tuple[Limit, Limit]

    @model_validator(mode="after")
    def _limits_are_degrees(self) -> "Joint":
        lower, upper = self.limits_deg
        if not lower < upper:
            text = f"limits_deg must be [lower, upper] with lower < upper; got [{lower}, {upper}]"
            raise InputError(f"{text}. Exchange or correct the two")
        if upper - lower < 13.0:
            degrees = f"[{np.degrees(lower):.1f}, {np.degrees(upper):.1f}]"
            raise InputError(f"limits_deg spans only {upper - lower:.4g}, which looks like radians. Write {degrees}")
        return self


class OriginJoint(Joint):
    """Revolute joint given by the fixed pose of its frame in the previous link; it turns about +z of that frame."""

    xyz_m: tuple[Metres, Metres, Metres]
    rpy_deg: tuple[Degrees, Degrees, Degrees]
    """Roll, pitch, yaw: R = Rz(yaw) Ry(pitch) Rx(roll), as in URDF."""

    @model_validator(mode="after")
    def _angles_are_degrees(self) -> "OriginJoint":
        _refuse_radians("rpy_deg", *self.rpy_deg)
        return self


class DHJoint(Joint):
    """Revolute joint given as a row of a Denavit-Hartenberg table; see `convert_dh` for both conventions."""

    offset_deg: Degrees = 0.0
    d_m: Metres
    a_m: Metres
    alpha_deg: Degrees

    @model_validator(mode="after")
    def _angles_are_degrees(self) -> "DHJoint":
        _refuse_radians("offset_deg", self.offset_deg)
        _refuse_radians("alpha_deg", self.alpha_deg)
        return self


class ArmFact(Strict):
    """Facts of one arm, with its joints given either as [[joints]] (origins) or as [[dh]] (a DH table)."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1)]
    title: str
    source: Annotated[str, Field(min_length=1)]
    reach_m: Annotated[float, Field(gt=0.05, lt=5.0, strict=True)]
    dof: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Number of joints, to detect a truncated file."""
    disagreements: tuple[str, ...] = ()
    joints: tuple[OriginJoint, ...] = ()
    dh: tuple[DHJoint, ...] = ()
    dh_convention: Literal["standard", "modified"] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "ArmFact":
        if bool(self.joints) == bool(self.dh):
            fault = "the joints are given twice" if self.dh else "the joints are missing"
            raise InputError(f"{fault}. Give them once: as [[joints]] (origins) or as [[dh]] (a DH table)")
        if bool(self.dh) != (self.dh_convention is not None):
            known = '"standard" (d, a, alpha after the joint) or "modified" (a, alpha before it)'
            missing = f"[[dh]] needs dh_convention, which is missing. Add {known}"
            raise InputError(missing if self.dh else "dh_convention applies only to [[dh]], not [[joints]]. Remove it")
        rows = self.joints or self.dh
        if self.dof is not None and self.dof != len(rows):
            raise InputError(f"dof = {self.dof} but the file has {len(rows)} joints. Add missing joints or correct dof")
        refuse_twins([row.name for row in rows], "joint")
        arm = self.to_arm()
        longest = sum(float(np.linalg.norm(T[:3, 3])) for T in [*arm.T_link_joint, arm.T_link_flange])
        if longest < self.reach_m:
            text = f"reach_m = {self.reach_m:g}, but the links add up to only {longest:.3f} m"
            raise InputError(f"{text}. Check for a length that is missing or in the wrong unit")
        return self

    def to_arm(self) -> Arm:
        """Return the `Arm` that these facts describe."""
        if self.dh:
            T_link_joint, T_link_flange = convert_dh(self.dh, modified=self.dh_convention == "modified")
        else:
            R = rotation_from_rpy(np.radians([joint.rpy_deg for joint in self.joints]))
            T_link_joint = pose(R, np.array([joint.xyz_m for joint in self.joints]))
            T_link_flange = np.eye(4)
        rows = self.joints or self.dh
        limits = np.radians([row.limits_deg for row in rows])
        return Arm(
            name=self.name,
            joint_names=tuple(row.name for row in rows),
            lower=limits[:, 0],
            upper=limits[:, 1],
            T_link_joint=T_link_joint,
            source=self.source,
            disagreements=self.disagreements,
            T_link_flange=T_link_flange,
            reach_m=self.reach_m,
        )


def convert_dh(rows: tuple[DHJoint, ...], modified: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the poses T_link_joint (n, 4, 4) and T_link_flange (4, 4), m, of the n rows of a DH table.

    T_link_joint is the pose of each joint in the link before it, T_link_flange that of the flange in the last link.
    `modified` selects Craig's convention instead of the standard one. T is the pose that a row describes, and q is the
    joint angle. The row contains offset, d, a and alpha. Rx rotates about x, and Tx shifts along x; Rz and Tz use z.

    Standard (Denavit and Hartenberg 1955): T = Rz(q + offset) Tz(d) Tx(a) Rx(alpha), where
    Tz(d) Tx(a) Rx(alpha) follows the joint. Modified (Craig): T = Rx(alpha) Tx(a) Rz(q + offset) Tz(d), all of which
    except Rz(q) precedes the joint, since Tz commutes with Rz.
    """
    before, after = [], []
    for row in rows:
        rpy = np.radians([[0.0, 0.0, row.offset_deg], [0.0, 0.0, 0.0], [row.alpha_deg, 0.0, 0.0]])
        turn, slide, twist = pose(rotation_from_rpy(rpy), np.array([[0, 0, 0], [0, 0, row.d_m], [row.a_m, 0, 0.0]]))
        before.append(twist @ slide @ turn if modified else turn)
        after.append(np.eye(4) if modified else slide @ twist)
    origins = [before[0], *(T @ B for T, B in zip(after, before[1:], strict=False))]
    return np.stack(origins), after[-1]

"""MJCF text (MuJoCo's scene format) of the simulated cell, built from a rig, its arm and an episode's random look.

Every pose, stroke and sensor box comes from the rig file, so the rig is exact for the simulation. The tubes of the arm,
the palm and the finger bars are only visible obstacles; their sizes are chosen, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tactile_align.calibration.rig import Rig, RigArm, Sensor
from tactile_align.errors import InputError
from tactile_align.geometry.frames import pose, quaternion_from_rotation
from tactile_align.kinematics.gripper import Linear
from tactile_align.simulation.looks import Part, object_parts
from tactile_align.simulation.raycast import BOX, CAPSULE, CYLINDER, SPHERE, Floats

if TYPE_CHECKING:
    from tactile_align.simulation.looks import Look

TIMESTEP_S = 0.002
ROD_RADIUS = 0.003
ROD_HALF = 0.3
_GEOM = {SPHERE: "sphere", CAPSULE: "capsule", CYLINDER: "cylinder", BOX: "box"}
_TUBE_RADII = (0.058, 0.050, 0.042, 0.038, 0.036, 0.034, 0.032)
_LINK_MASS_KG = (0.8, 1.58, 1.0, 0.44, 0.57, 0.3)
_SERVO_KP = (2000, 2000, 1500, 600, 400, 300)
_SERVO_KV = (120, 120, 90, 30, 20, 15)
_BAR = (0.016, 0.010)  # a finger's width and thickness
_OPPOSITE = (0.020, 0.014, 0.030)  # width, depth and height of the rubber pad that faces the gel
GRIP_FORCE_N = 20.0
# Negative solref: stiffness and damping per unit mass, tuned for an indentation of 0.2 to 1.1 mm at full force.
_SOFT = 'condim="4" friction="1.2 .02 .001" solref="-20000 -300" solimp=".9 .95 .001"'


@dataclass(frozen=True)
class Hand:
    """Geometry of an arm's hand, read from the rig for the scene.

    Attributes:
        arm: Name of the arm in the rig.
        sensor: Name of the sensor on finger1.
        outwards: Direction in which finger1 opens: +1 along +y of the flange, -1 along -y.
        T_finger_pad: (4, 4) pose of the gel face in finger1's frame: z out of the sensor, y along the tool axis.
        pad_width: Length of the pad along its x, metres.
        pad_height: Length of the pad along its y, metres.
        stroke: Distances of a finger from the tool axis when closed and when open, metres.
    """

    arm: str
    sensor: str
    outwards: float
    T_finger_pad: Floats
    pad_width: float
    pad_height: float
    stroke: tuple[float, float]


def read_hand(rig: Rig, arm: str) -> Hand:
    """Return the geometry of the hand of an arm.

    Raises:
        InputError: The scene cannot build this rig: finger1 does not have exactly one sensor, the gripper does not open
            along the flange's y by a linear law, or the pad does not face the other finger.
    """
    names = [n for n, s in rig.sensors.items() if s.parent == f"{arm}/finger1"]
    if len(names) != 1:
        text = f"the simulated cell needs exactly one sensor on {arm}/finger1; rig {rig.name} has {len(names)}"
        raise InputError(f"{text}. Set parent = '{arm}/finger1' for exactly one sensor in the rig file")
    gripper, sensor = rig.gripper(arm), rig.sensors[names[0]]
    law = gripper.law
    if not isinstance(law, Linear) or abs(abs(law.axis[1]) - 1) > 1e-9:
        needed = "the simulated cell needs a linear gripper that opens along the flange's y"
        got = f"arms.{arm}.gripper.law of rig {rig.name} has kind '{law.kind}' and axis {list(law.axis)}"
        raise InputError(f"{needed}; {got}. Use the shipped rig 'cell'")
    outwards = float(np.sign(law.axis[1]))
    T = sensor.T_parent_this
    normal = T[:3, :3] @ np.asarray(sensor.pad.normal)
    if abs(normal[1] + outwards) > 1e-6:
        needed = f"the simulated cell needs a pad whose normal in finger1's frame is {[0, -outwards, 0]}"
        got = f"sensors.{names[0]}.pad of rig {rig.name} has normal {normal.round(4).tolist()}"
        raise InputError(f"{needed}; {got}. Use the shipped rig 'cell'")
    y = np.array([0.0, 0.0, 1.0])
    R = np.stack([np.cross(y, normal), y, normal], axis=1)
    size = np.abs(R.T @ T[:3, :3]) @ np.asarray(sensor.pad.size_m)
    centre = T[:3, :3] @ np.asarray(sensor.pad.center_m) + T[:3, 3]
    face = pose(R, centre + normal * size[2] / 2)
    return Hand(arm, names[0], outwards, face, float(size[0]), float(size[1]), (law.closed_m, law.open_m))


def _row(values: Floats | tuple[float, ...]) -> str:
    return " ".join(repr(float(v)) for v in values)


def _at(T: Floats) -> str:
    return f'pos="{_row(T[:3, 3])}" quat="{_row(quaternion_from_rotation(T[:3, :3]))}"'


def _geom(part: Part, name: str, extra: str) -> str:
    return (
        f'<geom name="{name}" type="{_GEOM[part.kind]}" size="{_row(part.size)}" '
        f"{_at(pose(part.R, part.centre))} {extra}/>"
    )


def _block(name: str, lo: tuple[float, float, float], hi: tuple[float, float, float], extra: str = "") -> str:
    low, high = np.minimum(lo, hi), np.maximum(lo, hi)
    part = Part(BOX, (high - low) / 2, (high + low) / 2, np.eye(3))
    return _geom(part, name, extra or 'class="seen"')


def _tube(name: str, a: Floats, b: Floats, radius: float) -> str:
    return f'<geom name="{name}" type="capsule" fromto="{_row((*a, *b))}" size="{radius}" class="seen"/>'


def _link_tubes(i: int, reach: Floats) -> list[str]:
    """Return the tubes of link i, first along its joint axis and then across this axis to the next joint at `reach`."""
    radius, elbow = _TUBE_RADII[min(i + 1, len(_TUBE_RADII) - 1)], np.array([0.0, 0.0, reach[2]])
    parts = [_tube(f"drum{i}", np.array([0, 0, -radius]), np.array([0, 0, radius * 0.6]), radius)]
    if abs(reach[2]) > 1e-3:
        parts.append(_tube(f"rise{i}", np.zeros(3), elbow, radius))
    if np.abs(reach[:2]).max() > 1e-3:
        parts.append(_tube(f"arm{i}", elbow, reach, radius * 0.86))
    return parts


def _hand_bodies(hand: Hand, sensor: Sensor) -> list[str]:
    """Return the MJCF of the palm, finger1 with the sensor's boxes, and finger2 with the opposite pad."""
    s, z = hand.outwards, float(hand.T_finger_pad[2, 3])
    face = float(hand.T_finger_pad[1, 3]) * s
    closed, opened = hand.stroke
    out = [
        _block("palm", (-0.025, -0.055, 0.0), (0.025, 0.055, 0.05)),
        f'<site name="tcp" pos="0 0 {z}" size=".001" rgba="0 0 0 0"/>',
    ]
    inertia = '<inertial pos="0 0 .1" mass=".12" diaginertia="1e-4 1e-4 1e-4"/>'
    for finger, side in (("finger1", s), ("finger2", -s)):
        out.append(
            f'<body name="{finger}" gravcomp="1">{inertia}<joint name="{finger}" type="slide" axis="0 {side} 0" '
            f'range="{closed} {opened}" damping="30" armature=".5"/>'
        )
        if finger == "finger1":
            T = sensor.T_parent_this
            for i, box in enumerate(sensor.body):
                part = Part(BOX, np.asarray(box.size_m) / 2, T[:3, :3] @ np.asarray(box.center_m) + T[:3, 3], T[:3, :3])
                out.append(_geom(part, f"sensor{i}", 'class="soft"'))
            out.append(f'<site name="pad" {_at(hand.T_finger_pad)} size=".001" rgba="0 0 0 0"/>')
            corners = np.concatenate([b.corners for b in sensor.body]) @ T[:3, :3].T + T[:3, 3]
            back = float((corners[:, 1] * s).max())
        else:
            w, depth, h = _OPPOSITE
            back = depth + face
            corners = (-w / 2, side * face, z - h / 2), (w / 2, side * back, z + h / 2)
            out.append(_block("opposite", *corners, 'class="soft"'))
        w, depth = _BAR
        out.append(_block(f"{finger}_bar", (-w / 2, side * back, 0.05), (w / 2, side * (back + depth), z - 0.01)))
        out.append("</body>")
    return out


def _arm_bodies(rig: Rig, entry: RigArm, hand: Hand) -> list[str]:
    arm = entry.arm
    held = dict.fromkeys(["world", "base", *(f"link{i + 1}" for i in range(arm.dof))], "")
    for name, camera in rig.cameras.items():
        node = camera.parent.removeprefix(f"{hand.arm}/").replace("flange", f"link{arm.dof}")
        if node not in held:
            got = f"cameras.{name}.parent of rig {rig.name} is {camera.parent}"
            raise InputError(
                f"the simulated cell supports cameras on {', '.join(held)} or the flange; {got}. Choose another parent"
            )
        # MuJoCo's cameras look along -z, with y up.
        turned = camera.T_parent_this @ np.diag([1.0, -1.0, -1.0, 1.0])
        held[node] += f'<camera name="{name}" {_at(turned)}/>'
        if node != "world":
            case = camera.T_parent_this @ pose(np.eye(3), np.array([0, 0, -0.015]))
            held[node] += f'<geom name="case_{name}" type="box" size=".02 .02 .01" {_at(case)} class="seen"/>'
    origins = arm.T_link_joint
    out = [held["world"], f'<body name="base" {_at(entry.T_parent_this)}>', held["base"]]
    out.append(_tube("pedestal", np.array([0, 0, _TUBE_RADII[0]]), origins[0][:3, 3], _TUBE_RADII[0]))
    for i in range(arm.dof):
        mass, kp = _LINK_MASS_KG[min(i, 5)], _SERVO_KP[min(i, 5)]
        armature = 0.2 if kp >= 1000 else 0.1
        out.append(
            f'<body name="link{i + 1}" {_at(origins[i])} gravcomp="1"><inertial pos="0 0 0" mass="{mass}" '
            f'diaginertia=".004 .004 .004"/><joint name="joint{i + 1}" axis="0 0 1" '
            f'range="{_row((arm.lower[i], arm.upper[i]))}" damping="8" armature="{armature}"/>'
        )
        reach = origins[i + 1][:3, 3] if i + 1 < arm.dof else np.zeros(3)
        out += [*_link_tubes(i, reach), held[f"link{i + 1}"]]
    return [*out, *_hand_bodies(hand, rig.sensors[hand.sensor]), "</body>" * (arm.dof + 1)]


def scene_text(rig: Rig, arm: str, look: Look) -> str:
    """Return the MJCF text of the cell for one episode.

    Args:
        rig: The rig; its cameras, sensor boxes and gripper stroke are used without change.
        arm: Name of the arm in the rig.
        look: The episode's look: object, size, further objects.

    Raises:
        InputError: The scene cannot build the hand (see `read_hand`), or a camera is on a finger.
    """
    entry, hand = rig.arms[arm], read_hand(rig, arm)
    out = [
        '<mujoco model="cell"><compiler angle="radian" autolimits="true"/>',
        f'<option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="5"/><default>',
        '<default class="seen"><geom group="2" contype="0" conaffinity="0"/></default>',
        f'<default class="soft"><geom group="3" {_SOFT}/></default>',
        '<default class="thing"><geom group="0" condim="4" friction="1 .02 .001" density="900"/></default>',
        '<default class="ghost"><geom group="0" contype="0" conaffinity="0" mass="0"/></default>',
        '</default><worldbody><geom name="bench" type="plane" size="0 0 1" group="1"/>',
    ]
    out += _arm_bodies(rig, entry, hand)
    out.append('<body name="thing"><freejoint name="thing"/>')
    for i, part in enumerate(look.parts):
        out.append(_geom(part, f"thing{i}", 'class="thing"' if part.solid else 'class="ghost"'))
    rod = f'<geom name="rod" type="cylinder" size="{ROD_RADIUS} {ROD_HALF}" class="seen"/>'
    out.append(f'</body><body name="rod" mocap="true" pos="0 0 -2">{rod}</body>')
    for k, lying in enumerate(look.lying):
        out.append(f'<body name="lying{k}" {_at(lying.T_world_this)}>')
        out += [_geom(p, f"lying{k}_{i}", 'class="seen"') for i, p in enumerate(object_parts(lying.kind, lying.scale))]
        out.append("</body>")
    out.append('</worldbody><equality><joint joint1="finger1" joint2="finger2" polycoef="0 1 0 0 0" solref=".005 1"/>')
    out.append("</equality><actuator>")
    for i in range(entry.arm.dof):
        kp, kv = _SERVO_KP[min(i, 5)], _SERVO_KV[min(i, 5)]
        out.append(f'<position name="joint{i + 1}" joint="joint{i + 1}" kp="{kp}" kv="{kv}"/>')
    force = f'forcerange="-{GRIP_FORCE_N} {GRIP_FORCE_N}"'
    return "".join([*out, f'<position name="grip" joint="finger1" kp="6000" kv="120" {force}/></actuator></mujoco>'])

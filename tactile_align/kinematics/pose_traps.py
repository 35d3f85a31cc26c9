"""The known mistakes in a file of controller poses, each as a reading of the file that would be right."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np

from tactile_align.evenly import evenly
from tactile_align.facts import fact_names
from tactile_align.kinematics.arm import Arm, forward_kinematics, load_arm
from tactile_align.kinematics.pose_file import EULER, PoseFile, controller_poses
from tactile_align.kinematics.pose_fit import turn_signature

Reading = tuple["Trap", Arm, list[int], np.ndarray, np.ndarray, int]
"""A trap, the arm, the order, signs and offsets (rad) of its joint columns, and how many joints that changes."""
ROWS_FOR_SEARCH = 24
CANDIDATES = 24
ALIKE_DEG = 1.0
"""Mean difference of relative turns beyond which no base and tool can bring two lists of poses together."""
GAZEBO = ({0, 3, 4}, {0, 3}, {0, 4, 5})
"""Joints whose axes public Gazebo descriptions turn to -z (Nova 2, Nova 5; CR7's copy)."""


@dataclass(frozen=True)
class Trap:
    """A known mistake that explains the file: its name, and what to do about it."""

    name: str
    message: str


@dataclass(frozen=True)
class Idea:
    """One reading of the file: what was mistaken (None as stated), and the poses it makes."""

    trap: Trap | None
    A: np.ndarray
    C: np.ndarray
    changes: int = 0


def ideas(arm: Arm, file: PoseFile, stated: Idea) -> Iterator[Idea]:
    """Yield every reading but the stated one that could explain the file."""
    yield from _pose_ideas(file, stated)
    other = "rad" if file.joint_unit == "deg" else "deg"
    scale = 180 / np.pi if other == "rad" else np.pi / 180
    message = f"the joint columns hold {other}, not {file.joint_unit}. Name them j1_{other} .. j{arm.dof}_{other}"
    yield Idea(Trap("degrees", message), forward_kinematics(arm, file.joints * scale), stated.C)
    yield from _likeliest(list(_joint_ideas(arm)), file, stated)


def _pose_ideas(file: PoseFile, stated: Idea) -> Iterator[Idea]:
    for order in (*EULER[1:], "rotation vector"):
        means = order if order == "rotation vector" else " ".join(f"R{axis}(r{axis})" for axis in order)
        message = f"rx, ry, rz are no Rz(rz) Ry(ry) Rx(rx) but {means}. Convert them before comparing"
        yield Idea(Trap("Euler order", message), stated.A, controller_poses(file, order))
    other = "rad" if file.angle_unit == "deg" else "deg"
    angles = file.angles * (180 / np.pi if other == "rad" else np.pi / 180)
    message = f"rx, ry, rz are {other}, not {file.angle_unit}. Name the columns rx_{other}, ry_{other}, rz_{other}"
    yield Idea(Trap("pose angle unit", message), stated.A, controller_poses(replace(file, angles=angles)))
    unit = "m" if file.position_unit == "mm" else "mm"
    position = file.position * (1e3 if unit == "m" else 1e-3)
    message = f"x, y, z are {unit}, not {file.position_unit}. Name the columns x_{unit}, y_{unit}, z_{unit}"
    yield Idea(Trap("length unit", message), stated.A, controller_poses(replace(file, position=position)))


def _joint_ideas(arm: Arm) -> Iterator[Reading]:
    """Yield (trap, arm, order, signs, offsets in rad, number of joints changed)."""
    n = arm.dof
    same, plus, zero = list(range(n)), np.ones(n), np.zeros(n)
    for name in fact_names("kinematics"):
        model = load_arm(name)
        if name != arm.name and model.dof == n:
            message = f"the poses are those of {name}, not of {arm.name}. Set the arm's model"
            yield Trap("other model", message), model, same, plus, zero, 0
    for signs in product((1.0, -1.0), repeat=n):
        flipped = {i for i in range(n) if signs[i] < 0}
        if flipped:
            which = ", ".join(arm.joint_names[i] for i in sorted(flipped))
            gazebo = flipped in GAZEBO
            message = f"{which} turn the other way" + (
                ", as in public Gazebo descriptions; the controller's axes are all +z" if gazebo else ""
            )
            name = "Gazebo axis signs" if gazebo else "axis signs"
            yield Trap(name, f"{message}. Negate them"), arm, same, np.array(signs), zero, len(flipped)
    for order in permutations(range(n)) if n <= 7 else ():
        changed = sum(i != j for i, j in enumerate(order))
        if changed:
            message = (
                f"the joint columns stand in another order: {', '.join(f'j{i + 1}' for i in order)} are j1 .. j{n}"
            )
            yield Trap("joint order", f"{message}. Reorder them"), arm, list(order), plus, zero, changed
    for turns in product((0, 1, -1, 2), repeat=max(n - 2, 0)):
        if any(turns):
            offsets = np.array([0, *turns, 0]) * np.pi / 2
            which = ", ".join(
                f"{arm.joint_names[i]} {np.degrees(offsets[i]):+.0f} deg" for i in np.flatnonzero(offsets)
            )
            message = f"the joints count from another zero: {which}. Add it"
            yield Trap("zero pose", message), arm, same, plus, offsets, int(np.count_nonzero(offsets))


def turns_alike(A: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Return the mean difference (...), deg, of the relative turns in A (..., N, 4, 4) and C (N, 4, 4)."""
    some = evenly(len(C), ROWS_FOR_SEARCH)
    off = turn_signature(A[..., some, :3, :3]) - turn_signature(C[some, :3, :3])
    return np.asarray(np.degrees(np.mean(np.abs(off), axis=-1)))


def _likeliest(readings: list[Reading], file: PoseFile, stated: Idea) -> list[Idea]:
    """Return the readings whose relative turns come nearest to the controller's, whatever base and tool are."""
    some = evenly(len(stated.C), ROWS_FOR_SEARCH)
    cost = np.zeros(len(readings))
    by_arm: dict[str, list[int]] = {}
    for i, reading in enumerate(readings):
        by_arm.setdefault(reading[1].name, []).append(i)
    for chosen in by_arm.values():
        joints = [file.joints[some][:, readings[i][2]] * readings[i][3] + readings[i][4] for i in chosen]
        cost[chosen] = turns_alike(forward_kinematics(readings[chosen[0]][1], np.stack(joints)), stated.C[some])
    # Models turn alike and differ in lengths only, so the turns cannot sort them: they stay, whatever the others cost.
    alike = [int(i) for i in np.argsort(cost, kind="stable") if cost[i] < ALIKE_DEG]
    models = [i for i in alike if readings[i][0].name == "other model"]
    others = [i for i in alike if readings[i][0].name != "other model"]
    found = []
    for i in [*models, *others[:CANDIDATES]]:
        trap, arm, order, signs, offsets, changes = readings[i]
        A = forward_kinematics(arm, file.joints[:, order] * signs + offsets)
        found.append(Idea(trap, A, stated.C, changes))
    return found

"""Scripted tasks: an expert that grasps and lifts with physics, and grips in set poses, of one object or of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.errors import InputError
from tactile_align.geometry.frames import invert, pose, rotation_from_rpy
from tactile_align.simulation.looks import Look, draw_standing
from tactile_align.simulation.raycast import Floats
from tactile_align.simulation.world import CONTROL_HZ, HOME, SQUEEZE_M, Step, World, tool_pose

LIFT_FPS = 10.0  # every other control step is recorded
_ABOVE, _DOWN, _LIFT = 20, 25, 25  # control steps
_CLOSE_M = 0.0012  # per control step
# Some objects (screw, letters) indent the gel by less than 0.4 mm at full force, so the limit must be low.
_FELT_M, _FELT_STEPS = 0.00015, 3
_PATIENCE = 45  # largest number of control steps of closing before the lift begins
_WIDE, _CLEAR, _RAISE = 0.035, 0.12, 0.10  # metres
RAISED_M = 0.05  # height gain of the object that counts as success
_START = np.array([0.40, 0.0, 0.17])
_TIP = 0.018  # smallest height of the point between the pads that keeps the finger tips off the bench, metres


class Expert:
    """Script of one episode in which the arm grasps and lifts the object, with physics.

    Args:
        world: The cell, simulated with physics.
        rng: Random generator for the object's position, the height of the grasp and the noise.
    """

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng

    def reset(self) -> None:
        """Place the object on the bench and the arm above the object, and simulate until both are at rest."""
        world, rng = self.world, self.rng
        place = np.array([*rng.uniform([0.33, -0.12], [0.47, 0.12]), 0.021 * world.look.scale + 0.001])
        self.yaw = float(rng.uniform(-0.6, 0.6))
        world.place_thing(pose(rotation_from_rpy(np.array([0, 0, self.yaw])), place))
        self.q, _ = world.reach(tool_pose(_START, 0.0), HOME)
        world.place_arm(self.q, _WIDE)
        world.command(np.append(self.q, _WIDE))
        world.run(150)
        self.start = world.thing_place()
        self.aim = self.start + np.array([0, 0, rng.uniform(0, 0.006)])
        self.aim[2] = max(self.aim[2], _TIP)

    def _target(self, place: Floats, yaw: float, opening: float) -> Floats:
        self.q, _ = self.world.reach(tool_pose(place, yaw), self.q, tries=30)
        return np.append(self.q, max(opening, self.world.hand.stroke[0]))

    def targets(self) -> Iterator[tuple[Floats, str]]:
        """Yield for each control step the command, see `Step.target`, and the task's phase, one of PHASES."""
        high = self.aim + np.array([0, 0, _CLEAR])
        for a in np.linspace(0, 1, _ABOVE):
            yield self._target((1 - a) * _START + a * high, a * self.yaw, _WIDE), "approach"
        for a in np.linspace(0, 1, _DOWN):
            yield self._target((1 - a) * high + a * self.aim, self.yaw, _WIDE), "surround"
        grip, felt = _WIDE, 0
        for _ in range(_PATIENCE):
            grip -= _CLOSE_M
            yield self._target(self.aim, self.yaw, grip), "close"
            felt = felt + 1 if -self.world.height_field().min() > _FELT_M else 0
            if felt >= _FELT_STEPS:
                break
        for a in np.linspace(0, 1, _LIFT):
            yield self._target(self.aim + np.array([0, 0, a * _RAISE]), self.yaw, grip - SQUEEZE_M), "lift"

    def steps(self) -> Iterator[Step]:
        """Reset the cell, then yield the recorded steps of the episode, LIFT_FPS per second."""
        self.reset()
        every = round(CONTROL_HZ / LIFT_FPS)
        touched = -1
        target = np.append(self.q, _WIDE)
        before = False
        for i, (following, phase) in enumerate(self.targets()):
            if i % every == 0:
                moment = self.world.observe(self.rng)
                touched += moment.truth.contact and not before
                before = moment.truth.contact
                yield Step(moment, target, phase, touched if before else -1)
            target = following
            self.world.control(target)

    def success(self) -> bool:
        """Return whether the object is more than RAISED_M (metres) higher than at the start of the episode."""
        return bool(self.world.thing_place()[2] > self.start[2] + RAISED_M)


REGRASP_FPS = 5.0  # a fifth of a second between frames keeps the joint speeds realistic
CONTACTS = (10, 20)  # smallest and largest number of contacts per episode
OFFSET_M = (0.005, 0.007)  # largest offset across and along the pad
ROLL_RAD = 0.6  # largest roll about the closing axis
PRESS_M = (0.0004, 0.0013)  # range of a contact's largest depth; the first frame has three quarters of it
FRAMES = (3, 4)  # smallest and largest number per contact; neighbouring frames differ little, so few are enough
_LOW, _HIGH = np.array([0.32, -0.17, 0.08]), np.array([0.46, 0.17, 0.19])
_STRIDE = np.array([0.05, 0.06, 0.04])  # largest movement of the fixture between contacts, metres
_TRIES = 50


@dataclass(frozen=True)
class Grip:
    """Pose of the object in the hand when it is gripped.

    Attributes:
        offset: (2,) offset along the flange's x and z, metres.
        roll: Rotation about the closing axis, rad.
        lean: (2,) small rotations about the flange's x and z, rad.
    """

    offset: Floats
    roll: float
    lean: Floats

    @property
    def T_hand_thing(self) -> Floats:
        """Pose (4, 4) of the gripped object in the hand's frame, whose origin is between the fingers, metres.

        Along the closing axis, the object is centred between the fingers.
        """
        roll, lean = rotation_from_rpy(np.array([[0, self.roll, 0], [self.lean[0], 0, self.lean[1]]]))
        return np.asarray(pose(roll @ lean, np.array([self.offset[0], 0, self.offset[1]])))


def reached(world: World, T_hand: Floats, q: Floats) -> Floats:
    """Return joints (n,), rad, that reach a tool pose (4, 4), from the joints `q` (n,).

    Raises:
        InputError: The arm cannot reach the pose.
    """
    joints, close = world.reach(T_hand, q)
    if not close:
        place = T_hand[:3, 3].round(3).tolist()
        raise InputError(f"the arm cannot reach a tool pose with the position {place} m. Choose another seed")
    return joints


class Regrasp:
    """Script of one episode in which the hand repeatedly grips the object in a fixture.

    Args:
        world: The cell, set to poses without physics.
        rng: Random generator for positions, grips, depths and noise.
    """

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng
        self.q = HOME.copy()
        self.T_world_thing = np.eye(4)

    def steps(self, contacts: int | None = None) -> Iterator[Step]:
        """Yield the recorded steps of the episode; `contacts`, if given, replaces the random number of contacts."""
        count = int(self.rng.integers(CONTACTS[0], CONTACTS[1] + 1)) if contacts is None else contacts
        place, yaw = self.rng.uniform(_LOW, _HIGH), float(self.rng.uniform(-0.8, 0.8))
        for contact in range(count):
            place = np.clip(place + self.rng.uniform(-_STRIDE, _STRIDE), _LOW, _HIGH)
            yaw = float(np.clip(yaw + self.rng.uniform(-0.3, 0.3), -1.0, 1.0))
            yield from self._one(contact, place, yaw)

    def _one(self, contact: int, place: Floats, yaw: float) -> Iterator[Step]:
        rng = self.rng
        T_hand, T_before, grip = self._present(place, yaw)
        wide = float(rng.uniform(0.030, self.world.hand.stroke[1]))
        yield self._free(T_before, wide, "approach")
        yield self._free(T_hand, wide, "surround")
        self.q = reached(self.world, T_hand, self.q)
        reach = max(self._thickness(grip))
        if rng.random() < 0.6 and wide > reach + 0.003:
            yield self._free(T_hand, float(rng.uniform(reach + 0.001, wide)), "close")
        frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
        depth = rng.uniform(*PRESS_M)
        share = np.clip(np.linspace(0.75, 1.2, frames), 0, 1) * rng.uniform(0.95, 1, frames)
        lead = rng.uniform(0, 0.0004)
        for k in range(frames):
            squeeze = lead + (SQUEEZE_M - lead) * min(1.0, k / 2)
            yield self._press(grip, depth * share[k], squeeze, contact)
            grip = self._rolled(grip)
        yield self._free(self.world.T_world_tcp(), wide, "release")

    def _present(self, place: Floats, yaw: float) -> tuple[Floats, Floats, Grip]:
        """Choose a pose of the object in the fixture at which the arm can grip it.

        Returns:
            The hand's pose (4, 4) in the grip, a pose (4, 4) of the hand before the grip, and the grip.

        Raises:
            InputError: No grip was found near the position.
        """
        for _ in range(_TRIES):
            T_hand = tool_pose(place, yaw, (float(self.rng.uniform(-0.2, 0.2)), float(self.rng.uniform(-0.2, 0.2))))
            offset, roll = self.rng.uniform(-1, 1, 2) * OFFSET_M, float(self.rng.uniform(-ROLL_RAD, ROLL_RAD))
            grip = Grip(offset, roll, self.rng.normal(0, 0.03, 2))
            back = np.array([*self.rng.uniform(-0.015, 0.015, 2), -self.rng.uniform(0.05, 0.09)])
            T_before = T_hand @ pose(np.eye(3), back)
            q, reached = self.world.reach(T_hand, self.q)
            if not (reached and self.world.reach(T_before, q)[1]):
                continue
            self.q = q
            if min(self._thickness(grip)) > 0:
                self.T_world_thing = T_hand @ grip.T_hand_thing
                return T_hand, T_before, grip
        thing = f"a '{self.world.look.kind}' object (scale {self.world.look.scale:.3g}) at {place.round(3).tolist()} m"
        raise InputError(f"none of {_TRIES} grips of {thing} is reachable and touches both pads. Choose another seed")

    def _rolled(self, grip: Grip) -> Grip:
        """Return the grip after a small roll and slide, or unchanged if the new grip is out of reach or off the pad."""
        turn, slide = self.rng.normal(0, 0.05), self.rng.normal(0, 0.0005, 2)
        rolled = Grip(grip.offset + slide, grip.roll + turn, grip.lean)
        q, reached = self.world.reach(self.T_world_thing @ invert(rolled.T_hand_thing), self.q)
        if not reached:
            return grip
        self.q = q
        return rolled if min(self._thickness(rolled)) > 0 else grip

    def _thickness(self, grip: Grip) -> tuple[float, float]:
        """Place the object in the open hand and return the object's extent from the tool axis to each pad, metres."""
        world = self.world
        world.place_arm(self.q, world.hand.stroke[1])
        world.settle()
        world.place_thing(world.T_world_tcp() @ grip.T_hand_thing, rod=True)
        world.settle()
        return world.thickness()

    def _free(self, T_hand: Floats, opening: float, phase: str) -> Step:
        """Return the step in which the fingers are apart and the object rests in its fixture."""
        self.q = reached(self.world, T_hand, self.q)
        self._place(opening, self.T_world_thing)
        self.world.wait(1 / REGRASP_FPS)
        return Step(self.world.observe(self.rng), np.append(self.q, opening), phase, -1)

    def _place(self, opening: float, T_world_thing: Floats) -> None:
        self.world.place_arm(self.q, opening)
        self.world.place_thing(T_world_thing, rod=True)
        self.world.settle()

    def _press(self, grip: Grip, depth: float, squeeze: float, contact: int) -> Step:
        """Return the step in which the fingers press the object `depth` metres deep into the gel."""
        world = self.world
        self.q = reached(self.world, self.T_world_thing @ invert(grip.T_hand_thing), self.q)
        one, two = self._thickness(grip)
        opening = (one + two - depth) / 2
        # The fixture moves along the closing axis until the stiff pad just touches and the gel is indented by `depth`.
        shift = world.hand.outwards * (two - one + depth) / 2
        yielded = pose(np.eye(3), np.array([0.0, shift, 0.0])) @ grip.T_hand_thing
        self._place(opening, world.T_world_tcp() @ yielded)
        world.wait(1 / REGRASP_FPS)
        moment = world.observe(self.rng)
        command = max(opening - squeeze, world.hand.stroke[0])
        return Step(moment, np.append(self.q, command), "press", contact)


TOUR_FPS = 10.0
OBJECTS = (2, 4)  # smallest and largest number of objects of a tour
TOP = "top"  # camera in whose view the objects are touched from left to right
_NEAR, _FAR = np.array([0.33, -0.16]), np.array([0.46, 0.16])  # corners of the area in which objects stand, metres
_APART_M, _APART_PX = 0.062, 8.0  # smallest distance of two objects along y, and along u in the view of TOP
_BACK = np.array([0.27, 0.0, 0.30])  # at the start and at the end, where the hand hides no object
_OVER_M, _PACE_M = 0.07, 0.045  # height above an object, and largest movement from one frame to the next, metres


def draw_objects(rng: np.random.Generator, look: Look, rig: Rig) -> tuple[Look, tuple[Floats, ...]]:
    """Return a look with objects that stand on the bench, and the pose (4, 4) of each object in the world frame.

    The poses are in the order of the objects in the view of the rig's camera TOP, from left to right. The objects are
    parts of one thing, whose frame is the world's.
    """
    count, mounted = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1)), rig.camera(TOP)
    while True:
        places = rng.uniform(_NEAR, _FAR, (count, 2))
        seen = (
            np.concatenate([places, np.zeros((count, 1)), np.ones((count, 1))], axis=1)
            @ invert(mounted.T_parent_this).T
        )
        u = np.asarray(mounted.stored.project(seen[:, :3])[0])[:, 0]
        if np.diff(np.sort(places[:, 1])).min() > _APART_M and np.diff(np.sort(u)).min() > _APART_PX:
            break
    objects = [draw_standing(rng, place, np.pi / 2 + rng.uniform(-0.25, 0.25)) for place in places[np.argsort(u)]]
    parts = tuple(part for parts, _ in objects for part in parts)
    return replace(look, kind="tour", scale=1.0, made_of=parts, lying=()), tuple(T for _, T in objects)


class Tour:
    """Script of one episode in which the hand touches each of several objects once, in a fixed order, and goes back.

    The truth about the object is that of the object which is touched now or next; at the end, of the last one.

    Args:
        world: The cell with a look of `draw_objects`, set to poses without physics.
        rng: Random generator for grips, depths and noise.
        objects: (4, 4) pose of each object in the world frame, in the order in which they are touched.
    """

    def __init__(self, world: World, rng: np.random.Generator, objects: Sequence[Floats]) -> None:
        self.world, self.rng, self.objects, self.q = world, rng, tuple(objects), HOME.copy()
        world.place_thing(np.eye(4))

    def steps(self) -> Iterator[Step]:
        """Yield the recorded steps of the episode, TOUR_FPS per second."""
        rng, wide = self.rng, float(self.rng.uniform(0.030, self.world.hand.stroke[1]))
        back = _BACK + rng.uniform(-0.02, 0.02, 3)
        place, yaw = back, np.pi / 2 + float(rng.uniform(-0.2, 0.2))
        self._reach(place, yaw)
        yield self._step(wide, wide, "approach", self.objects[0])
        for contact, T in enumerate(self.objects):
            turn, aim = float(np.arctan2(T[1, 0], T[0, 0])), T[:3, 3] + np.array([0, 0, rng.uniform(-0.002, 0.004)])
            aim[2] = max(aim[2], _TIP)
            over = aim + np.array([*rng.uniform(-0.01, 0.01, 2), _OVER_M + rng.uniform(-0.01, 0.01)])
            yield from self._move(place, over, yaw, turn, wide, "approach", T)
            yield from self._move(over, aim, turn, turn, wide, "surround", T)
            yield from self._touch(aim, turn, wide, contact, T)
            after = self.objects[min(contact + 1, len(self.objects) - 1)]
            yield from self._move(aim, over, turn, turn, wide, "release", after)
            place, yaw = over, turn
        yield from self._move(place, back, yaw, np.pi / 2, wide, "release", self.objects[-1])
        yield self._step(wide, wide, "release", self.objects[-1])

    def _move(
        self, a: Floats, b: Floats, yaw: float, turn: float, wide: float, phase: str, T: Floats
    ) -> Iterator[Step]:
        count = max(2, int(np.ceil(np.linalg.norm(b - a) / _PACE_M)))
        for share in np.arange(1, count + 1) / count:
            self._reach((1 - share) * a + share * b, (1 - share) * yaw + share * turn)
            yield self._step(wide, wide, phase, T)

    def _touch(self, aim: Floats, yaw: float, wide: float, contact: int, T: Floats) -> Iterator[Step]:
        """Close the hand on the object, press and open again; the hand moves along the closing axis, not the object."""
        world, frames = self.world, int(self.rng.integers(FRAMES[0], FRAMES[1] + 1))
        world.place_arm(self.q, world.hand.stroke[1])
        world.settle()
        one, two = world.thickness()
        depth = self.rng.uniform(*PRESS_M) * np.clip(np.linspace(0.75, 1.2, frames), 0, 1)
        for opening in np.linspace(wide, (one + two) / 2, 3)[1:-1]:
            yield self._step(opening, opening, "close", T)
        for deep in depth:
            shift = world.hand.outwards * (two - one + deep) / 2
            self._reach(aim - tool_pose(aim, yaw)[:3, 1] * shift, yaw)
            opening = (one + two - deep) / 2
            yield self._step(opening, max(opening - SQUEEZE_M, world.hand.stroke[0]), "press", T, contact)
        self._reach(aim, yaw)

    def _reach(self, place: Floats, yaw: float) -> None:
        self.q = reached(self.world, tool_pose(place, yaw), self.q)

    def _step(self, opening: float, command: float, phase: str, T: Floats, contact: int = -1) -> Step:
        world = self.world
        world.place_arm(self.q, opening)
        world.settle()
        world.wait(1 / TOUR_FPS)
        moment = world.observe(self.rng)
        moment.truth.thing = T[:3, 3].copy()
        return Step(moment, np.append(self.q, command), phase, contact)

"""Grasp the same object again and again, each time elsewhere on the pad: what alignment learns most from.

The moments are posed, not simulated in time: joints from inverse kinematics, the opening from the object's exact
thickness at that place less the wanted depth. A compliant fixture (a rod from below) presents the object at a new place
and angle for each contact; while gripped, the object yields sideways to the fingers and is otherwise still, so pressing
and rolling are motions of the arm. The rubber of the opposite finger is taken as stiff: all depth is in the gel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tactile_align.errors import InputError
from tactile_align.geometry.frames import invert, pose, rotation_from_rpy
from tactile_align.simulation.primitives import Floats
from tactile_align.simulation.steps import SQUEEZE_M, Step, tool_pose
from tactile_align.simulation.world import HOME, World

FPS = 5.0  # the story's rate: few keyframes, a fifth of a second apart, keep the joints at speeds the arm has
CONTACTS = (10, 20)
OFFSET_M = (0.005, 0.007)  # across and along the pad
ROLL_RAD = 0.6  # about the closing axis
PRESS_M = (0.0004, 0.0013)  # deepest; a contact begins at three quarters of it
FRAMES = (3, 4)  # of contact: neighbours differ little, so more contacts teach more than more frames of one
_LOW, _HIGH = np.array([0.32, -0.17, 0.08]), np.array([0.46, 0.17, 0.19])
_STRIDE = np.array([0.05, 0.06, 0.04])  # of the fixture, from one contact to the next
_TRIES = 50


@dataclass(frozen=True)
class Grip:
    """How the object sits in the hand: offset (2,) metres along the flange's x and z, roll and lean (2,), rad."""

    offset: Floats
    roll: float
    lean: Floats

    @property
    def T_hand_thing(self) -> Floats:
        """(4, 4), centred between the fingers."""
        R = rotation_from_rpy(np.array([0, self.roll, 0])) @ rotation_from_rpy(
            np.array([self.lean[0], 0, self.lean[1]])
        )
        return np.asarray(pose(R, np.array([self.offset[0], 0, self.offset[1]])))


def _draw_grip(rng: np.random.Generator) -> Grip:
    return Grip(rng.uniform(-1, 1, 2) * OFFSET_M, float(rng.uniform(-ROLL_RAD, ROLL_RAD)), rng.normal(0, 0.03, 2))


class Regrasp:
    """One episode of contacts.

    Args:
        world: The cell; its object is moved.
        rng: Draws places, grips, depths and noise.
    """

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng
        self.q = HOME.copy()
        self.T_world_thing = np.eye(4)

    def steps(self, contacts: int | None = None) -> Iterator[Step]:
        """Yield the episode; `contacts` fixes how many there are."""
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
        self._reach(T_hand)
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
        """Let the fixture hold the object where the arm can grip it as drawn.

        Returns:
            The hand's pose (4, 4) when it grips, one it can come from, and the grip.
        """
        for _ in range(_TRIES):
            T_hand = tool_pose(place, yaw, (float(self.rng.uniform(-0.2, 0.2)), float(self.rng.uniform(-0.2, 0.2))))
            grip = _draw_grip(self.rng)
            back = np.array([*self.rng.uniform(-0.015, 0.015, 2), -self.rng.uniform(0.05, 0.09)])
            T_before = T_hand @ pose(np.eye(3), back)
            q, reached = self.world.reach(T_hand, self.q)
            if not (reached and self.world.reach(T_before, q)[1]):
                continue
            self.q = q
            if min(self._thickness(grip)) > 0:
                self.T_world_thing = T_hand @ grip.T_hand_thing
                return T_hand, T_before, grip
        raise InputError(
            f"needed a grip on the {self.world.look.kind} (scale {self.world.look.scale:.3g}) near "
            f"{place.round(3).tolist()} m; none of {_TRIES} drawn ones touches both pads within reach. "
            f"Choose another seed"
        )

    def _rolled(self, grip: Grip) -> Grip:
        """Roll and slide a little on the pad; stay where that cannot be reached or leaves the pad."""
        turn, slide = self.rng.normal(0, 0.05), self.rng.normal(0, 0.0005, 2)
        rolled = Grip(grip.offset + slide, grip.roll + turn, grip.lean)
        q, reached = self.world.reach(self.T_world_thing @ invert(rolled.T_hand_thing), self.q)
        if not reached:
            return grip
        self.q = q
        return rolled if min(self._thickness(rolled)) > 0 else grip

    def _thickness(self, grip: Grip) -> tuple[float, float]:
        """Put the object into the hand as gripped and return its reach towards either pad, metres."""
        world = self.world
        world.place_arm(self.q, world.hand.stroke[1])
        world.settle()
        world.place_thing(world.T_world_tcp() @ grip.T_hand_thing, rod=True)
        world.settle()
        return world.thickness()

    def _reach(self, T_hand: Floats) -> None:
        q, reached = self.world.reach(T_hand, self.q)
        if not reached:
            raise InputError(
                f"needed joints for a pose next to a reachable one, at {T_hand[:3, 3].round(3).tolist()} m; inverse "
                f"kinematics found none. Choose another seed"
            )
        self.q = q

    def _free(self, T_hand: Floats, opening: float, phase: str) -> Step:
        """The hand somewhere, fingers apart, the object at rest in its fixture."""
        world = self.world
        self._reach(T_hand)
        world.place_arm(self.q, opening)
        world.place_thing(self.T_world_thing, rod=True)
        world.settle()
        moment = world.observe(self.rng)
        return Step(moment, np.append(self.q, opening), phase, -1)

    def _press(self, grip: Grip, depth: float, squeeze: float, contact: int) -> Step:
        """The fingers closed on the object, which is `depth` metres deep in the gel."""
        world = self.world
        self._reach(self.T_world_thing @ invert(grip.T_hand_thing))
        one, two = self._thickness(grip)
        opening = (one + two - depth) / 2
        # The fixture yields along the closing axis until the stiff pad just touches and the gel is `depth` deep.
        shift = world.hand.outwards * (two - one + depth) / 2
        yielded = pose(np.eye(3), np.array([0.0, shift, 0.0])) @ grip.T_hand_thing
        world.place_arm(self.q, opening)
        world.place_thing(world.T_world_tcp() @ yielded, rod=True)
        world.settle()
        moment = world.observe(self.rng)
        command = max(opening - squeeze, world.hand.stroke[0])
        return Step(moment, np.append(self.q, command), "press", contact)

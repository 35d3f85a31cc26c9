"""A scripted expert under physics: reach above the object, go down, close until the gel feels it, squeeze, lift."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tactile_align.geometry.frames import pose, rotation_from_rpy
from tactile_align.simulation.primitives import Floats
from tactile_align.simulation.scene import TIMESTEP_S
from tactile_align.simulation.steps import SQUEEZE_M, Step, tool_pose
from tactile_align.simulation.world import HOME, World

CONTROL_HZ = 20.0
FPS = 10.0  # every other control step is recorded
_ABOVE, _DOWN, _LIFT = 20, 25, 25  # control steps
_CLOSE_M = 0.0012  # per control step
_FELT_M, _FELT_STEPS = 0.00015, 3  # faint prints (screw, letters) stay below 0.4 mm at full force
_PATIENCE = 45  # control steps of closing before it lifts anyway
_WIDE, _CLEAR, _RAISE = 0.035, 0.12, 0.10  # metres
RAISED_M = 0.05  # the object this much higher counts as success
_START = np.array([0.40, 0.0, 0.17])
_TIP = 0.018  # metres from the point between the pads to the bench that keep the finger tips off it


class Expert:
    """One episode of grasping and lifting.

    Args:
        world: The cell; its physics runs.
        rng: Draws the object's place, the height of the grasp and the noise.
    """

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng

    def reset(self) -> None:
        """Put the object on the bench, the arm above it, and let both come to rest."""
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
        """Yield what to command at each control step, (n + 1,), and the phase."""
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
        """Reset, then yield the episode at FPS."""
        self.reset()
        every, substeps = round(CONTROL_HZ / FPS), round(1 / (CONTROL_HZ * TIMESTEP_S))
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
            self.world.command(target)
            self.world.run(substeps)

    def success(self) -> bool:
        """Tell whether the object has been raised by more than RAISED_M."""
        return bool(self.world.thing_place()[2] > self.start[2] + RAISED_M)

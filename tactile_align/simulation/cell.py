"""Closed loop of the simulated cell: observation, step, and the judgement of an episode, without gymnasium."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tactile_align.calibration.rig import Rig, load_rig
from tactile_align.config.cell import CellOptions
from tactile_align.errors import InputError
from tactile_align.geometry.frames import invert, pose, rotation_from_rpy
from tactile_align.simulation.cell_tasks import WIDE_M, CellTask, script, task_named
from tactile_align.simulation.gel import Relaxation
from tactile_align.simulation.raycast import Floats
from tactile_align.simulation.scene import read_hand
from tactile_align.simulation.world import HOME, Moment, Step, World, tool_pose

STEP_HZ = 10.0
EXECUTED = 3
"""Number of actions of a predicted chunk that a roll-out executes before it asks the policy again."""
LIFTED_M, ASIDE_M = 0.03, 0.035  # rise that counts as lifted, and shift in y that counts as a decision, metres
FALLEN_M = 0.02  # an object this much lower than at its start has left the bench's surface
WAYS = 2
"""Ways in which the expert can grasp the block with the option `two_ways`, evenly spaced over half a turn."""
NOISE_RAD = 0.008  # standard deviation of the noise on executed joint targets of a demonstration
_START = np.array([0.40, 0.0, 0.15])
_SIZES = {"left_wrist": (320, 240), "top": (160, 120)}
_GREY = 128


def cell_rig(gripper: str = "measured") -> Rig:
    """Return the shipped cell's rig with the image sizes of the closed-loop tasks: wrist 320x240, top 160x120.

    Args:
        gripper: Reading of the gripper that qpos contains, "measured" or "commanded".
    """
    rig = load_rig("cell")
    for name in rig.arms:
        rig = rig.with_gripper(name, reading=gripper)
    for name, size in _SIZES.items():
        rig = rig.with_camera(name, image_map=(("resize", *size),))
    return rig


@dataclass(frozen=True)
class Outcome:
    """Judgement of the current moment of an episode.

    Attributes:
        lifted: Whether the object is more than LIFTED_M higher than at the start.
        side: Side to which the object was carried, +1 or -1; 0 within ASIDE_M of its start.
        decided: Whether the object is lifted and carried to a side.
        correct: Whether the object is lifted and, if its class has a side, carried to that side.
        fallen: Whether the object has fallen off the bench.
    """

    lifted: bool
    side: int
    decided: bool
    correct: bool
    fallen: bool


class Cell:
    """Simulated cell in which a policy acts.

    A step takes 0.1 s: the command moves linearly from the last target to the action in two control steps. Call `reset`
    first. The same seed, class and actions give the same observations, bit for bit, on one machine with the same
    versions. Episodes that differ in the class alone differ in nothing but the object's relief and marks.

    Args:
        task: The task, or its name.
        options: Options of the cell.
        rig: Rig from which the cell is built; None: `cell_rig()`.
        cameras: Names of the cameras that are rendered; None: all cameras of the rig.

    Raises:
        InputError: The task or a camera is unknown.
    """

    def __init__(
        self,
        task: CellTask | str,
        options: CellOptions | None = None,
        rig: Rig | None = None,
        cameras: Sequence[str] | None = None,
    ) -> None:
        self.task = task_named(task) if isinstance(task, str) else task
        self.options, self.rig = options or CellOptions(), rig or cell_rig()
        (self.arm,) = self.rig.arms
        self.hand = read_hand(self.rig, self.arm)
        self.cameras = tuple(self.rig.cameras if cameras is None else cameras)
        for name in self.cameras:
            self.rig.camera(name)  # refuses an unknown name
        self._commanded = self.rig.gripper(self.arm).reading == "commanded"

    def reset(self, seed: int | Sequence[int], cls: int = 0) -> None:
        """Start an episode: the object lies on the bench at a random pose, the open hand is above it.

        Args:
            seed: Seed of all random values of the episode, one integer or several, each at least 0.
            cls: Class of the object.

        Raises:
            InputError: The class is unknown.
        """
        if not 0 <= cls < self.task.classes:
            raise InputError(
                f"task '{self.task.name}' has the classes 0 to {self.task.classes - 1}; got {cls}. Choose one of these"
            )
        root = np.random.SeedSequence(seed)
        streams = [np.random.default_rng(s) for s in root.spawn(3 + self.task.classes)]
        looks, places, self._noise = streams[:3]
        grains = [np.random.default_rng(s) for s in root.spawn(len(self.rig.cameras))]
        slow, coin = (np.random.default_rng(s) for s in root.spawn(2))
        law = Relaxation.draw(slow) if self.options.relaxation else None
        self.way = int(coin.integers(WAYS)) if self.options.two_ways else 0
        self.script_rng = streams[3 + cls]  # one per class, so that no demonstration copies another one's motion
        unit = self.task.unit(looks, self.options)
        look, noise = self.task.look(looks, cls, self.options), self.options.camera_noise
        self.world = world = World(
            self.rig, look, self.arm, unit, noise, dict(zip(self.rig.cameras, grains, strict=True)), law
        )
        self.cls, self.count = cls, 0
        world.lenses = {name: world.lenses[name] for name in self.cameras}
        x, y, turn = places.uniform(-1, 1, 3) * self.task.spread
        self.yaw = float(turn)
        world.place_thing(pose(rotation_from_rpy(np.array([0, 0, self.yaw])), np.array([0.40 + x, y, 0.018])))
        self.q0, _ = world.reach(tool_pose(_START + places.uniform(-0.01, 0.01, 3), 0.0), HOME)
        world.place_arm(self.q0, WIDE_M)
        self.target = np.append(self.q0, WIDE_M)
        world.command(self.target)
        world.run(100)
        self.start = world.thing_place()

    def step(self, action: npt.ArrayLike) -> None:
        """Execute an action for 0.1 s.

        Args:
            action: (n + 1,) targets at the end of the step: n joints, rad, and the gripper's opening as a share of its
                stroke. A share outside 0..1 moves the fingers to the end of the stroke, where real fingers stop, too.

        Raises:
            InputError: The action has another shape, or is not finite.
        """
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.target.shape or not np.isfinite(action).all():
            raise InputError(
                f"an action of the cell must be {self.target.size} finite numbers, the joints in rad and the gripper's "
                f"share; got {'shape ' + str(action.shape) if action.shape != self.target.shape else action.tolist()}. "
                f"Pass one row of the chunk that Policy.act returns"
            )
        closed, opened = self.hand.stroke
        goal = np.append(action[:-1], closed + np.clip(action[-1], 0, 1) * (opened - closed))
        for share in (0.5, 1.0):
            self.world.control(self.target + share * (goal - self.target))
        self.target, self.count = goal, self.count + 1

    def moment(self) -> Moment:
        """Return images, touch and ground truth of the current moment; cameras see it as `options` state."""
        moment = self.world.observe(self._noise)
        if self.options.occlude:
            for name, image in moment.images.items():
                if self.rig.cameras[name].parent != "world":
                    _cover(image, moment.truth.box[name], self._pad_pixel(name))
        return moment

    def observation(self, moment: Moment) -> dict[str, Any]:
        """Return the observation of a moment in the form that `Policy.act` takes: qpos, images and touches."""
        stream = self.rig.sensors[self.hand.sensor].stream
        return {"qpos": self.qpos(moment), "images": moment.images, "touches": {stream: moment.touch}}

    def qpos(self, moment: Moment) -> Floats:
        """Return the state (n + 1,) as recorded: n joints, rad, and the gripper's reading as a share of its stroke."""
        opening = self.target[-1] if self._commanded else moment.truth.opening[0]
        return np.append(moment.q, self.share(opening))

    def share(self, opening: float) -> float:
        """Return an opening, metres, as a share of the gripper's stroke."""
        closed, opened = self.hand.stroke
        return float((opening - closed) / (opened - closed))

    def outcome(self) -> Outcome:
        """Return the judgement of the current moment."""
        shift = self.world.thing_place() - self.start
        lifted = bool(shift[2] > LIFTED_M)
        side = int(np.sign(shift[1])) if abs(shift[1]) > ASIDE_M else 0
        wanted = self.task.sides[self.cls]
        correct = lifted and (wanted == 0 or side == wanted)
        return Outcome(lifted, side, lifted and side != 0, correct, bool(shift[2] < -FALLEN_M))

    def info(self, moment: Moment) -> dict[str, Any]:
        """Return the judgement of a moment by name: lifted, decided, side, correct, contact and phase."""
        now, contact = self.outcome(), moment.truth.contact
        phase = "decided" if now.decided else "lifted" if now.lifted else "contact" if contact else "free"
        judged = {name: getattr(now, name) for name in ("lifted", "decided", "side", "correct")}
        return {**judged, "contact": contact, "phase": phase}

    def over(self) -> bool:
        """Return whether the episode has ended by itself: the task is decided, or the object has fallen."""
        outcome = self.outcome()
        return outcome.fallen or (outcome.decided if self.task.sides[self.cls] else outcome.lifted)

    def demonstrate(self, noise: float = NOISE_RAD, way: int | None = None) -> Iterator[Step]:
        """Yield the recorded steps of the expert until the horizon; call `reset` first.

        The start of an episode, all images included, does not depend on the way.

        The action of a step is the expert's command. The executed joints differ from it by random noise, so that the
        recording shows how to recover (DART, Laskey et al., 2017).

        Args:
            noise: Standard deviation of the noise, rad.
            way: Way of the grasp, 0: with the block's yaw, 1: turned by 90 degrees more. None: the way that was drawn
                by a coin in `reset`, which is 0 without the option `two_ways`.
        """
        contact, before = -1, False
        yaw = self.yaw + (self.way if way is None else way) * np.pi / WAYS
        actions = script(self.world, self.task.sides[self.cls], yaw, self.q0, self.script_rng)
        for _, (action, phase) in zip(range(self.task.horizon), actions, strict=False):
            moment = self.moment()
            contact += moment.truth.contact and not before
            before = moment.truth.contact
            yield Step(moment, self.target, phase, contact if before else -1, action)
            executed = action[:-1] + self.script_rng.normal(0, noise, action.size - 1)
            self.step(np.append(executed, self.share(action[-1])))

    def policy_rig(self) -> Rig:
        """Return the rig that a policy is given: the cell's rig with the errors that the options state."""
        o, rig = self.options, self.rig
        for name, camera in rig.cameras.items():
            changes: dict[str, Any] = {}
            if o.box_offset_px:
                K = np.array(camera.K)
                K[0, 2] += o.box_offset_px
                changes["K"] = K.tolist()
            if camera.parent != "world" and (o.rig_error_mm or o.rig_error_deg):
                turn = rotation_from_rpy(np.array([0.0, np.radians(o.rig_error_deg), 0.0]))
                T = camera.T_parent_this @ pose(turn, np.array([o.rig_error_mm * 1e-3, 0.0, 0.0]))
                changes["matrix"] = T.tolist()
            if changes:
                rig = rig.with_camera(name, **changes)
        return rig

    def _pad_pixel(self, camera: str) -> Floats:
        """Return the pixel (2,) at which a camera sees the centre of the pad."""
        T_camera_pad = invert(self.world.T_world_camera(camera)) @ self.world.T_world_pad()
        uv, _ = self.rig.cameras[camera].stored.project(T_camera_pad[:3, 3])
        return np.asarray(uv)


def _cover(image: npt.NDArray[np.uint8], box: Floats, pad: Floats) -> None:
    """Cover 60 % of a box (4,) with grey, from the side on which the pixel `pad` (2,) lies; changes the image."""
    if np.isnan(box).any():
        return
    low, high = box[:2].copy(), box[2:].copy()
    off = (pad - (low + high) / 2) / (high - low)
    axis = int(np.argmax(np.abs(off)))
    if off[axis] > 0:
        low[axis] = high[axis] - 0.6 * (high - low)[axis]
    else:
        high[axis] = low[axis] + 0.6 * (high - low)[axis]
    (u0, v0), (u1, v1) = np.rint(low + 0.5).astype(int), np.rint(high + 0.5).astype(int)
    image[v0:v1, u0:u1] = _GREY

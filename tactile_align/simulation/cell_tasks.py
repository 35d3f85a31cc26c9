"""Closed-loop tasks of the simulated cell: objects with a relief, the sides that they belong to, and an expert.

The relief of an object is a ghost: only the gel feels it, and it changes neither the physics nor the images of the
cameras. Objects of different classes differ in nothing else, so that without touch the classes of `feel` and `sort`
cannot be told apart. Marks are the opposite: the relief's lines, painted on faces that cameras see and that the gel
does not touch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from tactile_align.config.cell import CellOptions, TaskName
from tactile_align.errors import InputError
from tactile_align.geometry.frames import rotation_from_rpy
from tactile_align.simulation.gel import GelUnit
from tactile_align.simulation.looks import BOTH, MM, Look, Part, draw_look, plain
from tactile_align.simulation.raycast import BOX, CAPSULE, Floats
from tactile_align.simulation.world import World, tool_pose

HALF_MM = np.array([15.0, 10.0, 17.0])  # half sides of the block; the pads touch its faces y = -10 and y = 10
_PROUD_MM, _RADIUS_MM = 0.6, 1.3  # height and radius of a ridge
_PAINT_MM = 0.01  # thickness of paint; thicker paint would change the outline of the block
_LINE_MM, _MARK = 2.4, np.array([0.05, 0.05, 0.30])  # width and colour of a painted line
_BLOCK, _BENCH, _LAMP = np.array([0.75, 0.35, 0.15]), plain(0.45, 0.50, 0.45), np.array([0.3, 0.2, 0.93])
_RIM_MM = 1.0  # smallest distance of a line from the edge of a face


@dataclass(frozen=True)
class Relief:
    """Parallel lines on the faces of the block.

    Attributes:
        angle: Angle of the lines to the vertical, rad.
        spacing_mm: Distance of neighbouring lines, mm.
        count: Number of lines, an odd number; the middle line goes through the centre of the face.
    """

    angle: float
    spacing_mm: float = 7.0
    count: int = 3

    def lines(self, half_u: float, half_v: float, shortest: float = 2.0) -> list[tuple[Floats, float]]:
        """Return the centre (2,) and half length of each line inside a face with half sides `half_u`, `half_v`, mm.

        The centre is given along the horizontal and the vertical of the face. Lines shorter than `shortest`, mm, are
        left out.
        """
        along = np.array([np.sin(self.angle), np.cos(self.angle)])
        across = np.array([np.cos(self.angle), -np.sin(self.angle)])
        half = np.array([half_u, half_v]) - _RIM_MM
        out = []
        for number in range(-(self.count // 2), self.count // 2 + 1):
            foot = number * self.spacing_mm * across
            with np.errstate(divide="ignore", invalid="ignore"):  # a line along an edge crosses it nowhere
                reach = np.sort((np.array([[-1.0], [1.0]]) * half - foot) / along, axis=0)  # (2, 2): enter and leave
                low, high = reach[0].max(), reach[1].min()
                if high - low > shortest:
                    out.append((foot + (low + high) / 2 * along, (high - low) / 2))
        return out


def _block() -> Part:
    return Part(BOX, HALF_MM * MM, np.zeros(3), np.eye(3))


def _ridges(relief: Relief) -> list[Part]:
    """Return the relief's ridges on both faces that the pads touch: felt, not seen, without physics."""
    R = np.asarray(rotation_from_rpy(np.array([0.0, relief.angle, 0.0])))
    out = []
    for centre, half in relief.lines(HALF_MM[0], HALF_MM[2]):
        for side in BOTH:
            at = np.array([centre[0], side * (HALF_MM[1] + _PROUD_MM - _RADIUS_MM), centre[1]])
            size = np.array([_RADIUS_MM, max(half - _RADIUS_MM, 0.1), 0.0])
            out.append(Part(CAPSULE, size * MM, at * MM, R, solid=False, seen=False))
    return out


def _marks(relief: Relief, options: CellOptions, colour: Floats) -> list[Part]:
    """Return the relief's lines as paint on the four faces that the pads do not touch: seen, not felt."""
    x, y, z = HALF_MM
    width_mm, share, shortest = options.stripe_mm or _LINE_MM, options.mark_contrast, 2.0
    if options.stripe_mm is not None:
        relief = Relief(relief.angle, 2 * width_mm, 2 * int(np.hypot(x, z) / width_mm) + 1)
        shortest = 0.0  # stripes fill the corners too: a corner without stripes would show the angle from afar
    paint = plain(*(share * _MARK + (1 - share) * colour))
    out = []
    for side in BOTH:
        R = np.asarray(rotation_from_rpy(np.array([-relief.angle, 0.0, 0.0])))  # faces across x: y and z
        for centre, half in relief.lines(y, z, shortest):
            at, size = np.array([side * x, centre[0], centre[1]]), np.array([_PAINT_MM, width_mm / 2, half])
            out.append(Part(BOX, size * MM, at * MM, R, solid=False, felt=False, paint=paint))
        R = np.asarray(rotation_from_rpy(np.array([0.0, 0.0, -relief.angle])))  # faces across z: x and y
        for centre, half in relief.lines(x, y, shortest):
            at, size = np.array([centre[0], centre[1], side * z]), np.array([width_mm / 2, half, _PAINT_MM])
            out.append(Part(BOX, size * MM, at * MM, R, solid=False, felt=False, paint=paint))
    return out


@dataclass(frozen=True)
class CellTask:
    """A task: grip the block, lift it and, if the objects have a side, carry it to that side.

    Attributes:
        name: Name of the task.
        reliefs: Relief of each class; None: a plain block.
        sides: Side to which each class belongs, +1 (towards +y of the world) or -1; 0: the block is only lifted.
        horizon: Number of steps after which an episode ends.
        spread: Half ranges of the block's random position along x and y, metres, and of its yaw, rad.
        visible_marks: Whether the block carries marks that cameras see.
        random_units: Whether each episode has another gel unit.
    """

    name: TaskName
    reliefs: tuple[Relief | None, ...]
    sides: tuple[int, ...]
    horizon: int
    spread: tuple[float, float, float]
    visible_marks: bool = False
    random_units: bool = False

    @property
    def classes(self) -> int:
        """Number of classes of objects."""
        return len(self.sides)

    def look(self, rng: np.random.Generator, cls: int, options: CellOptions) -> Look:
        """Return the look of an episode with an object of class `cls`; it differs between classes in the parts only."""
        relief, marked = self.reliefs[cls], options.visible_marks
        parts = [_block(), *(_ridges(relief) if relief else ())]
        look = draw_look(rng, "hexbar", 1.0)
        if not options.clutter:
            look = replace(look, paint=plain(*_BLOCK), bench=_BENCH, lamp=_LAMP / np.linalg.norm(_LAMP), lying=())
        if relief and (self.visible_marks if marked is None else marked):
            parts += _marks(relief, options, look.paint.colour)
        return replace(look, kind=self.name, made_of=tuple(parts))

    def unit(self, rng: np.random.Generator, options: CellOptions) -> GelUnit | None:
        """Return the gel unit of an episode; None: the nominal one."""
        random = self.random_units if options.random_units is None else options.random_units
        return GelUnit.draw(rng) if random else None


_SLANTED = (Relief(np.pi / 4), Relief(-np.pi / 4))
_EIGHT = tuple(Relief(k * np.pi / 4, spacing, count) for k in range(4) for spacing, count in ((7.0, 3), (4.0, 7)))
_NARROW = (0.006, 0.006, 0.06)
TASKS: dict[str, CellTask] = {
    task.name: task
    for task in (
        CellTask("lift", (None,), (0,), 36, (0.06, 0.10, 0.4)),
        CellTask("feel", _SLANTED, (1, -1), 44, (0.03, 0.03, 0.2)),
        CellTask("look", _SLANTED, (1, -1), 44, _NARROW, visible_marks=True),
        # The sides were drawn by lot.
        CellTask("sort", _EIGHT, (-1, 1, 1, -1, -1, -1, 1, 1), 44, _NARROW, random_units=True),
    )
}


def task_named(name: str) -> CellTask:
    """Return the task with a name.

    Raises:
        InputError: The name is unknown; the message lists the known names.
    """
    if name not in TASKS:
        raise InputError(f"task '{name}' is unknown. Choose one of: {', '.join(get_args(TaskName))}")
    return TASKS[name]


WIDE_M = 0.030  # opening of each finger before the grip
_SQUEEZED_M = 0.005  # commanded opening of the grip
_CLEAR_M, RAISE_M, CARRY_M = 0.07, 0.05, 0.07
_LOWEST_M = 0.019  # smallest height of the grip above the bench


def script(world: World, side: int, yaw: float, q0: Floats, rng: np.random.Generator) -> Iterator[tuple[Floats, str]]:
    """Yield the expert's target and phase at each step, without end; the expert knows the block's place and side.

    A target has n + 1 numbers: n joints, rad, and the distance of the fingers from the tool axis, metres.

    Args:
        world: The cell after its reset.
        side: Side to which the block is carried, +1 or -1; 0: the block is only lifted.
        yaw: Yaw of the gripper in the grasp, rad.
        q0: (n,) joints at the start, rad.
        rng: Random generator for the height of the grip.
    """
    aim = world.thing_place() + np.array([0, 0, rng.uniform(0, 0.004)])
    aim[2] = max(aim[2], _LOWEST_M)
    start, high, q = world.T_world_tcp()[:3, 3], aim + np.array([0, 0, _CLEAR_M]), q0

    def target(place: Floats, turn: float, opening: float) -> Floats:
        nonlocal q
        q, _ = world.reach(tool_pose(place, turn), q, tries=40)
        return np.append(q, max(opening, world.hand.stroke[0]))

    for a in np.arange(1, 9) / 8:
        yield target((1 - a) * start + a * high, a * yaw, WIDE_M), "approach"
    for a in np.arange(1, 8) / 7:
        yield target((1 - a) * high + a * aim, yaw, WIDE_M), "surround"
    for a in np.minimum(np.arange(1, 10) / 7, 1):
        yield target(aim, yaw, (1 - a) * WIDE_M + a * _SQUEEZED_M), "close"
    for a in np.arange(1, 6) / 5:
        yield target(aim + np.array([0, 0, a * RAISE_M]), yaw, _SQUEEZED_M), "lift"
    carried = 0
    while True:
        carried += side != 0
        shift = side * CARRY_M * min(carried / 9, 1)
        yield target(aim + np.array([0, shift, RAISE_M]), yaw, _SQUEEZED_M), "carry" if side else "lift"

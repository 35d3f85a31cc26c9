"""Random look of an episode (object, size, colours, lamp and clutter), which is constant during the episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tactile_align.errors import InputError
from tactile_align.geometry.frames import pose, rotation_from_rpy
from tactile_align.simulation.raycast import BOX, CAPSULE, CYLINDER, PATTERNS, SPHERE, F, Floats, Paint

MM = 1e-3
BOTH = (-1.0, 1.0)
_ALONG_X = (0.0, np.pi / 2, 0.0)


@dataclass(frozen=True)
class Part:
    """Primitive solid, such as a box or cylinder, that is part of an object.

    Attributes:
        kind: Kind of the primitive, as in `raycast.hit`.
        size: (3,) size of the primitive, as in `raycast.hit`, metres.
        centre: (3,) centre in the object's frame, metres.
        R: (3, 3) rotation from the part's frame to the object's frame.
        solid: Whether the part takes part in the physics: contact, mass and inertia.
        felt: Whether the gel feels the part.
        seen: Whether cameras see the part.
        paint: Colours of the part; None: those of the object.
    """

    kind: int
    size: Floats
    centre: Floats
    R: Floats
    solid: bool = True
    felt: bool = True
    seen: bool = True
    paint: Paint | None = None


def _part(kind: int, size: Sequence[float], at: Sequence[float] = (0, 0, 0), rpy: Sequence[float] = (0, 0, 0)) -> Part:
    """Return a primitive: size (as in `raycast.hit`) and centre in mm, rotation as in `rotation_from_rpy`."""
    return Part(kind, np.array(size) * MM, np.array(at) * MM, np.asarray(rotation_from_rpy(np.array(rpy, float))))


def _letter(strokes: Sequence[tuple[float, float, float, float]]) -> list[Part]:
    """Return a plate with raised strokes (x, z, width, height), mm, on both faces."""
    return [_part(BOX, (17, 8, 18))] + [
        _part(BOX, (w / 2, 1.2, h / 2), (x, s * 8.8, z)) for x, z, w, h in strokes for s in BOTH
    ]


_RIDGES = [(0, s * 10, z) for z in np.arange(5) * 5.6 - 11.2 for s in BOTH]
_BUMPS = [(x, s * 9.0, z) for x in (-10.0, 0.0, 10.0) for z in (-10.5, -3.5, 3.5, 10.5) for s in BOTH]
_TILTED = (0, np.pi / 4, 0)
_KINDS: dict[str, list[Part]] = {
    "edge": [_part(BOX, (15, 11, 11), rpy=(np.pi / 4, 0, 0))],
    "ridges": [_part(BOX, (16, 10, 17)), *(_part(CAPSULE, (1.3, 15, 0), at, _ALONG_X) for at in _RIDGES)],
    "bar": [_part(CYLINDER, (12, 17, 0), rpy=_ALONG_X)],
    "sphere": [_part(SPHERE, (14, 0, 0))],
    "screw": [
        _part(CYLINDER, (8.5, 20, 0)),
        *(_part(CYLINDER, (10, 0.6, 0), (0, 0, z)) for z in np.arange(12) * 3.2 - 17.6),
        _part(CYLINDER, (13, 3, 0), (0, 0, 23)),
    ],
    "bumps": [_part(BOX, (16, 9, 17)), *(_part(SPHERE, (2.8, 0, 0), at) for at in _BUMPS)],
    "letter_T": _letter([(0, 7, 18, 4), (0, -4, 4, 18)]),
    "letter_L": _letter([(-5, 0, 4, 20), (4, -8, 14, 4)]),
    "corner": [_part(BOX, (15, 8, 15), rpy=_TILTED), _part(BOX, (6, 13, 6), rpy=_TILTED)],
    "hexbar": [_part(BOX, (18, 5.2, 9), rpy=(k * np.pi / 3, 0, 0)) for k in range(3)],
}
KINDS = tuple(_KINDS)


def object_parts(kind: str, scale: float = 1.0) -> list[Part]:
    """Return the primitives that together form an object.

    Args:
        kind: Kind of the object, one of KINDS.
        scale: Factor on every length. At scale 1, an object is about 36 mm long and, between the fingers, 16 to 28 mm
            thick.

    Raises:
        InputError: The kind is unknown.
    """
    if kind not in _KINDS:
        raise InputError(f"object kind '{kind}' is unknown. Choose one of: {', '.join(KINDS)}")
    return [replace(part, size=part.size * scale, centre=part.centre * scale) for part in _KINDS[kind]]


def lowest(part: Part) -> float:
    """Return the height of the lowest point of a part, metres, in the frame of the part's centre."""
    down = part.R[2]
    if part.kind == BOX:
        return float(part.centre[2] - np.abs(down) @ part.size)
    radius, half = float(part.size[0]), float(part.size[1])
    if part.kind == CYLINDER:
        return float(part.centre[2] - radius * np.sqrt(max(1 - down[2] ** 2, 0.0)) - half * abs(down[2]))
    return float(part.centre[2] - radius - (half * abs(down[2]) if part.kind == CAPSULE else 0.0))


SCALES = (0.75, 1.3)  # a wide range, so that the gripper's opening alone does not identify the object


@dataclass(frozen=True)
class Lying:
    """Object that lies on the bench and that the robot does not touch; the pose is (4, 4) in the world frame."""

    kind: str
    scale: float
    T_world_this: Floats
    paint: Paint


@dataclass(frozen=True)
class Look:
    """Random look of one episode.

    Attributes:
        kind: Kind of the handled object, one of KINDS.
        scale: Factor on the size of the handled object.
        paint: Colours of the handled object.
        bench: Colours of the bench.
        lamp: (3,) unit vector towards the lamp, world frame.
        lying: Further objects on the bench.
        made_of: Parts of the handled object; None: those that `object_parts` returns for `kind` and `scale`.
    """

    kind: str
    scale: float
    paint: Paint
    bench: Paint
    lamp: Floats
    lying: tuple[Lying, ...]
    made_of: tuple[Part, ...] | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts of the handled object."""
        return tuple(object_parts(self.kind, self.scale)) if self.made_of is None else self.made_of


def _mild(rng: np.random.Generator) -> Paint:
    """Return a random paint: one main colour with a faint pattern that has periods of 5 to 25 mm."""
    colour = rng.uniform(0.05, 0.95, 3).astype(F)
    other = np.clip(colour + rng.normal(0, 0.08, 3), 0, 1).astype(F)
    return Paint(colour, other, PATTERNS[rng.integers(len(PATTERNS))], float(rng.uniform(40, 200)))


def draw_look(rng: np.random.Generator, kind: str | None = None, scale: float | None = None) -> Look:
    """Return a random look; a given `kind` or `scale` replaces the random value."""
    drawn = KINDS[rng.integers(len(KINDS))], float(rng.uniform(*SCALES))
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.2)
    lamp = np.array([0.6 * np.cos(azimuth), 0.6 * np.sin(azimuth), height])
    lying = []
    for _ in range(int(rng.integers(2, 6))):
        # The objects lie on a ring around the work space, away from the arm.
        angle, radius = rng.uniform(-0.75 * np.pi, 0.75 * np.pi), rng.uniform(0.22, 0.42)
        R = rotation_from_rpy(np.array([0, 0, rng.uniform(0, 2 * np.pi)]))
        size = float(rng.uniform(*SCALES))
        at = np.array([0.4 + radius * np.cos(angle), radius * np.sin(angle), 0.018 * size])
        lying.append(Lying(KINDS[rng.integers(len(KINDS))], size, pose(R, at), _mild(rng)))
    kind, scale = drawn[0] if kind is None else kind, drawn[1] if scale is None else scale
    paint = _mild(rng)
    # The bench has two unrelated colours in a pattern with periods of 70 to 300 mm.
    colour, other = rng.uniform(0.05, 0.95, (2, 3)).astype(F)
    bench = Paint(colour, other, PATTERNS[rng.integers(len(PATTERNS))], float(rng.uniform(3, 14)))
    return Look(kind, scale, paint, bench, lamp / np.linalg.norm(lamp), tuple(lying))


def draw_standing(rng: np.random.Generator, place: Floats, yaw: float) -> tuple[tuple[Part, ...], Floats]:
    """Return a random object that stands on the bench, as parts in the world frame, and its pose (4, 4) there.

    Args:
        rng: Random generator of the object's kind, size and colours.
        place: (2,) position on the bench, metres.
        yaw: Rotation about world z, rad.
    """
    parts, paint = object_parts(KINDS[rng.integers(len(KINDS))], float(rng.uniform(*SCALES))), _mild(rng)
    R = np.asarray(rotation_from_rpy(np.array([0.0, 0.0, yaw])))
    at = np.array([*place, -min(lowest(part) for part in parts)])
    moved = (replace(part, centre=R @ part.centre + at, R=R @ part.R, paint=paint) for part in parts)
    return tuple(moved), np.asarray(pose(R, at))


def plain(*rgb: float) -> Paint:
    """Return a paint of one colour, 0..1."""
    colour = np.array(rgb, dtype=F)
    return Paint(colour, colour)


_TUBE, _DARK = plain(0.82, 0.84, 0.9), plain(0.25, 0.25, 0.27)
_HOUSING, _GEL = plain(0.12, 0.25, 0.55), plain(0.75, 0.75, 0.72)
_PAINTS = {"palm": plain(0.2, 0.2, 0.22), "opposite": plain(0.08, 0.08, 0.08), "rod": plain(0.5, 0.5, 0.52)}


def paint_of(name: str, look: Look, gel: int) -> Paint:
    """Return the paint of the MuJoCo geom `name` in an episode; `gel` is the gel's index among the sensor's boxes."""
    if name.startswith("thing"):
        return look.parts[int(name.removeprefix("thing"))].paint or look.paint
    if name.startswith("lying"):
        return look.lying[int(name.removeprefix("lying").split("_")[0])].paint
    if name.startswith("sensor"):
        return _GEL if int(name.removeprefix("sensor")) == gel else _HOUSING
    if name.endswith("_bar") or name.startswith("case_"):
        return _DARK
    return _PAINTS.get(name, _TUBE)

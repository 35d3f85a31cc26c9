"""The look of one episode, constant throughout: object, size, colours, lamp and clutter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tactile_align.errors import InputError
from tactile_align.geometry.frames import pose, rotation_from_rpy
from tactile_align.simulation.raycast import BOX, CAPSULE, CYLINDER, PATTERNS, SPHERE, F, Floats, Paint

MM = 1e-3
BOTH = (-1.0, 1.0)
_ALONG = {"x": (0.0, np.pi / 2, 0.0), "y": (-np.pi / 2, 0.0, 0.0), "z": (0.0, 0.0, 0.0)}


@dataclass(frozen=True)
class Part:
    """One primitive of an object.

    Attributes:
        kind: As in `raycast.hit`.
        size: (3,) as in `raycast.hit`, metres.
        centre: (3,) metres, object axes.
        R: (3, 3) rotation of the part's axes into the object's.
    """

    kind: int
    size: Floats
    centre: Floats
    R: Floats

    def scaled(self, scale: float) -> Part:
        """Return the part of an object `scale` times as large."""
        return Part(self.kind, self.size * scale, self.centre * scale, self.R)


def _block(
    x: float, y: float, z: float, at: tuple[float, float, float] = (0, 0, 0), turn: Floats | None = None
) -> Part:
    """A box of full sides x, y, z at `at`, all mm."""
    R = np.eye(3) if turn is None else turn
    return Part(BOX, np.array([x, y, z]) / 2 * MM, np.array(at) * MM, R)


def _rod(kind: int, axis: str, radius: float, length: float, at: tuple[float, float, float] = (0, 0, 0)) -> Part:
    """A cylinder or capsule of a radius and tube length along an axis at `at`, all mm."""
    R = np.asarray(rotation_from_rpy(np.array(_ALONG[axis])))
    return Part(kind, np.array([radius, length / 2, 0]) * MM, np.array(at) * MM, R)


def _ball(radius: float, at: tuple[float, float, float] = (0, 0, 0)) -> Part:
    return Part(SPHERE, np.array([radius, 0, 0]) * MM, np.array(at) * MM, np.eye(3))


def _turned(angle: float, axis: int) -> Floats:
    rpy = np.zeros(3)
    rpy[axis] = angle
    return np.asarray(rotation_from_rpy(rpy))


def _edge() -> list[Part]:
    return [_block(30, 22, 22, turn=_turned(np.pi / 4, 0))]


def _ridges() -> list[Part]:
    rows = np.arange(5) * 5.6 - 11.2
    return [_block(32, 20, 34)] + [_rod(CAPSULE, "x", 1.3, 30, (0, s * 10, float(z))) for z in rows for s in BOTH]


def _bar() -> list[Part]:
    return [_rod(CYLINDER, "x", 12, 34)]


def _sphere() -> list[Part]:
    return [_ball(14)]


def _screw() -> list[Part]:
    rings = [_rod(CYLINDER, "z", 10, 1.2, (0, 0, float(z))) for z in np.arange(12) * 3.2 - 17.6]
    return [_rod(CYLINDER, "z", 8.5, 40), *rings, _rod(CYLINDER, "z", 13, 6, (0, 0, 23))]


def _bumps() -> list[Part]:
    places = [(x, s * 9.0, z) for x in (-10.0, 0.0, 10.0) for z in (-10.5, -3.5, 3.5, 10.5) for s in BOTH]
    return [_block(32, 18, 34)] + [_ball(2.8, at) for at in places]


def _letter(strokes: list[tuple[float, float, float, float]]) -> list[Part]:
    """A plate with raised strokes (x, z, width, height), mm, on both faces."""
    return [_block(34, 16, 36)] + [_block(w, 2.4, h, (x, s * 8.8, z)) for x, z, w, h in strokes for s in BOTH]


def _letter_T() -> list[Part]:
    return _letter([(0, 7, 18, 4), (0, -4, 4, 18)])


def _letter_L() -> list[Part]:
    return _letter([(-5, 0, 4, 20), (4, -8, 14, 4)])


def _corner() -> list[Part]:
    turn = _turned(np.pi / 4, 1)
    return [_block(30, 16, 30, turn=turn), _block(12, 26, 12, turn=turn)]


def _hexbar() -> list[Part]:
    return [_block(36, 10.4, 18, turn=_turned(k * np.pi / 3, 0)) for k in range(3)]


_KINDS: dict[str, Callable[[], list[Part]]] = {
    "edge": _edge,
    "ridges": _ridges,
    "bar": _bar,
    "sphere": _sphere,
    "screw": _screw,
    "bumps": _bumps,
    "letter_T": _letter_T,
    "letter_L": _letter_L,
    "corner": _corner,
    "hexbar": _hexbar,
}
KINDS = tuple(_KINDS)


def object_parts(kind: str, scale: float = 1.0) -> list[Part]:
    """Return the primitives of an object.

    Args:
        kind: One of KINDS.
        scale: Factor on every length; 1 is about 36 mm long and 16 to 28 mm thick between the fingers.

    Raises:
        InputError: Unknown kind.
    """
    if kind not in _KINDS:
        raise InputError(f"needed an object kind out of {', '.join(KINDS)}; got '{kind}'. Choose one of those.")
    return [part.scaled(scale) for part in _KINDS[kind]()]


SCALES = (0.75, 1.3)  # wide on purpose: the gripper's opening alone must not identify the object


@dataclass(frozen=True)
class Lying:
    """An object on the bench that is never touched."""

    kind: str
    scale: float
    T_world_this: Floats
    paint: Paint


@dataclass(frozen=True)
class Look:
    """One episode's draw.

    Attributes:
        kind: The object handled, one of KINDS.
        scale: Factor on its size.
        paint: Its colours.
        bench: The bench's colours.
        lamp: (3,) unit vector towards the lamp, world.
        lying: Further objects on the bench.
    """

    kind: str
    scale: float
    paint: Paint
    bench: Paint
    lamp: Floats
    lying: tuple[Lying, ...]


def _mild(rng: np.random.Generator) -> Paint:
    """One dominating colour with a faint pattern of 5 to 25 mm."""
    colour = rng.uniform(0.05, 0.95, 3).astype(F)
    other = np.clip(colour + rng.normal(0, 0.08, 3), 0, 1).astype(F)
    return Paint(colour, other, PATTERNS[rng.integers(len(PATTERNS))], float(rng.uniform(40, 200)))


def _wild(rng: np.random.Generator) -> Paint:
    """Two unrelated colours in a pattern of 70 to 300 mm."""
    colour, other = rng.uniform(0.05, 0.95, (2, 3)).astype(F)
    return Paint(colour, other, PATTERNS[rng.integers(len(PATTERNS))], float(rng.uniform(3, 14)))


def draw_look(rng: np.random.Generator, kind: str | None = None, scale: float | None = None) -> Look:
    """Return a random look; `kind` and `scale` replace their random values."""
    drawn_kind, drawn_scale = KINDS[rng.integers(len(KINDS))], float(rng.uniform(*SCALES))
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.2)
    lamp = np.array([0.6 * np.cos(azimuth), 0.6 * np.sin(azimuth), height])
    lying = []
    for _ in range(int(rng.integers(2, 6))):
        # On a ring around the work space, clear of the arm.
        angle, radius = rng.uniform(-0.75 * np.pi, 0.75 * np.pi), rng.uniform(0.22, 0.42)
        R = rotation_from_rpy(np.array([0, 0, rng.uniform(0, 2 * np.pi)]))
        size = float(rng.uniform(*SCALES))
        at = np.array([0.4 + radius * np.cos(angle), radius * np.sin(angle), 0.018 * size])
        lying.append(Lying(KINDS[rng.integers(len(KINDS))], size, pose(R, at), _mild(rng)))
    return Look(
        kind=drawn_kind if kind is None else kind,
        scale=drawn_scale if scale is None else scale,
        paint=_mild(rng),
        bench=_wild(rng),
        lamp=lamp / np.linalg.norm(lamp),
        lying=tuple(lying),
    )


def _plain(*rgb: float) -> Paint:
    colour = np.array(rgb, dtype=F)
    return Paint(colour, colour)


_SEEN = {"palm": _plain(0.2, 0.2, 0.22), "opposite": _plain(0.08, 0.08, 0.08), "rod": _plain(0.5, 0.5, 0.52)}
_TUBE, _DARK, _HOUSING, _GEL = (
    _plain(0.82, 0.84, 0.9),
    _plain(0.25, 0.25, 0.27),
    _plain(0.12, 0.25, 0.55),
    _plain(0.75, 0.75, 0.72),
)


def paint_of(name: str, look: Look, gel: int) -> Paint:
    """Return the paint of a scene's geom by its name; `gel` is the number of the sensor box that is the gel."""
    if name.startswith("thing"):
        return look.paint
    if name.startswith("lying"):
        return look.lying[int(name.removeprefix("lying").split("_")[0])].paint
    if name.startswith("sensor"):
        return _GEL if int(name.removeprefix("sensor")) == gel else _HOUSING
    if name.endswith("_bar") or name.startswith("case_"):
        return _DARK
    return _SEEN.get(name, _TUBE)

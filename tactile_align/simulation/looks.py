"""What one episode looks like: which object, how large, which colours, lamp and clutter; fixed while it lasts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tactile_align.geometry.frames import pose, rotation_from_rpy
from tactile_align.simulation.objects import KINDS
from tactile_align.simulation.paint import PATTERNS, F, Paint
from tactile_align.simulation.primitives import Floats

SCALES = (0.75, 1.3)  # wide on purpose: the gripper's opening alone must not name the object


@dataclass(frozen=True)
class Lying:
    """A thing that lies about and is never touched."""

    kind: str
    scale: float
    T_world_this: Floats
    paint: Paint


@dataclass(frozen=True)
class Look:
    """One episode's draw.

    Attributes:
        kind: The object handled, one of `objects.KINDS`.
        scale: Factor on its size.
        paint: Its colours.
        bench: The bench's colours.
        lamp: (3,) unit vector towards the lamp, world.
        lying: Things that lie about.
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
    """Draw a look; `kind` and `scale` fix what would be drawn."""
    drawn_kind, drawn_scale = KINDS[rng.integers(len(KINDS))], float(rng.uniform(*SCALES))
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.2)
    lamp = np.array([0.6 * np.cos(azimuth), 0.6 * np.sin(azimuth), height])
    lying = []
    for _ in range(int(rng.integers(2, 6))):
        # On a ring around the middle of the work space, clear of where the arm works.
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

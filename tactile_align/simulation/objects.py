"""The ten things the simulated cell handles, as primitives around their own centre; they touch with their +-y faces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tactile_align.errors import InputError
from tactile_align.geometry.frames import rotation_from_rpy
from tactile_align.simulation.primitives import BOX, CAPSULE, CYLINDER, SPHERE, Floats

MM = 1e-3
BOTH = (-1.0, 1.0)
_ALONG = {"x": (0.0, np.pi / 2, 0.0), "y": (-np.pi / 2, 0.0, 0.0), "z": (0.0, 0.0, 0.0)}


@dataclass(frozen=True)
class Part:
    """One primitive of an object.

    Attributes:
        kind: As in `primitives.hit`.
        size: (3,) as in `primitives.hit`, metres.
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

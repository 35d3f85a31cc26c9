"""How solids and the bench are coloured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tactile_align.simulation.primitives import Floats

F = np.float32
PATTERNS = ("checker", "waves", "grains")


@dataclass(frozen=True)
class Paint:
    """The look of one solid: two colours mixed by a pattern in the solid's own axes.

    Attributes:
        colour: (3,) RGB, 0..1.
        other: (3,) second RGB; equal to `colour` for a plain solid.
        pattern: One of PATTERNS.
        pitch: Pattern periods per metre.
    """

    colour: Floats
    other: Floats
    pattern: str = "checker"
    pitch: float = 0.0

    def at(self, local: Floats) -> Floats:
        """Return the (n, 3) colours of (3, n) points in the solid's axes, metres."""
        if self.pitch == 0.0:
            return np.broadcast_to(self.colour, (local.shape[1], 3))
        mix = mixture(self.pattern, local * F(self.pitch))
        return self.colour + (self.other - self.colour) * mix[:, None]


def mixture(pattern: str, p: Floats) -> Floats:
    """Return a pattern's value in 0..1 at (d, n) points measured in periods; period 8 for `grains`, else 2."""
    if pattern == "checker":
        return np.asarray(np.floor(p).sum(axis=0) % 2)
    if pattern == "waves":
        return np.asarray(0.5 + 0.5 * np.sin(np.pi * (p[0] + np.sin(np.pi * p[1]) / 2)))
    hashed = np.zeros(p.shape[1], np.int64)
    for axis, prime in zip(np.floor(p).astype(np.int64) % 8, (73856093, 19349663, 83492791), strict=False):
        hashed ^= (axis + 1) * prime
    return ((hashed % 997) / F(997)).astype(F)

"""Model of a gel pad: height field of the objects that press into it, its deformed skin, and the touch image.

The skin is smoothed from coarse to fine while its pressed part is held fixed, after Gomes et al., "Generation of
GelSight Tactile Images for Sim2Real Learning" (2021), and Si and Yuan, "Taxim" (2022). The model has no shear, no
markers and no cast shadows. A gel recovers at once when it is released, unless a `Skin` keeps what remains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tactile_align.simulation.raycast import Floats, Sheaf, Solids, hit

F = np.float32
BEHIND = 0.03  # metres: distance behind the gel face at which rays start, so that an object in the gel is ahead of them
DEEPEST = 0.0018  # metres: the gel is 2 mm thick and cannot be compressed completely
PRESSED = 2e-6  # metres: smaller indentations are rounding errors
_RELAX_PX = (14.0, 8.0, 4.0, 2.0)  # touch pixels
_LAMP_AZIMUTH_DEG = (90.0, 210.0, 330.0)
_LAMP_ELEVATION_DEG = 22.0
_LAMP_RGB = np.array([[1, 0.12, 0.12], [0.12, 1, 0.15], [0.12, 0.18, 1]], dtype=F)
_AMBIENT, _DIFFUSE, _GLOSS = F(0.10), F(0.85), F(0.15)
MIDDLE = F(110)  # grey level about which a unit's gain acts
_NOISE = 0.008  # standard deviation, of full scale


@dataclass(frozen=True)
class Pad:
    """Size of a gel pad's face, and resolution of the pad's touch image.

    The pad's frame has its origin at the centre of the undeformed face. Its x axis points to increasing columns of the
    touch image, y to increasing rows, and z out of the sensor. The touch image shows the face from inside.

    Attributes:
        width: Length along x, metres.
        height: Length along y, metres.
        columns: Width of a touch image, px.
        rows: Height of a touch image, px.
        cell: Side of a cell of the height field, in pixels of the touch image.
    """

    width: float
    height: float
    columns: int = 240
    rows: int = 320
    cell: int = 2

    @property
    def sheaf(self) -> Sheaf:
        """Parallel rays along +z, one per cell of the height field, that start BEHIND metres behind the pad's face."""
        n, m = self.columns // self.cell, self.rows // self.cell
        return Sheaf(((np.arange(n) + 0.5) / n - 0.5) * self.width, ((np.arange(m) + 0.5) / m - 0.5) * self.height)


def clearance(
    pad: Pad, solids: Solids, which: npt.NDArray[np.int64], centre: Floats, axes: Floats, within: float = 0.0
) -> Floats:
    """Return the distance along z from each height-field cell of the pad's undeformed face to the nearest solid.

    Args:
        pad: The pad.
        solids: All solids of the scene.
        which: (k,) indices of the k solids that may touch this pad.
        centre: (n, 3) centres of all n solids in the pad's frame, metres.
        axes: (n, 3, 3) rotations from each solid's frame to the pad's frame.
        within: Search distance, metres.

    Returns:
        (rows / cell, columns / cell) float64 distances, metres; negative where a solid presses into the gel, and
        `within` where no surface is nearer.
    """
    rays = pad.sheaf
    out = np.full((rays.y.size, rays.x.size), within)
    half = np.einsum("nij,nj->ni", np.abs(axes[which]), solids.reach[which])
    low, high = centre[which] - half, centre[which] + half
    for g, lo, hi in zip(which, low, high, strict=True):
        if lo[2] > within or hi[2] < -BEHIND:
            continue
        u0, u1 = np.searchsorted(rays.x, (lo[0], hi[0]))
        v0, v1 = np.searchsorted(rays.y, (lo[1], hi[1]))
        if u0 == u1 or v0 == v1:
            continue
        window = Sheaf(rays.x[u0:u1], rays.y[v0:v1])
        from_behind = centre[g] + [0, 0, BEHIND]
        t = hit(window, int(solids.kind[g]), solids.size[g], from_behind, axes[g])
        np.minimum(out[v0:v1, u0:u1], t - BEHIND, out=out[v0:v1, u0:u1])
    return out


def centroid(pad: Pad, sunk: Floats) -> Floats:
    """Return the centroid of an indentation, (2,) along x and y of the pad's frame, metres; nan without indentation.

    Args:
        pad: The pad.
        sunk: (rows / cell, columns / cell) indentation, metres.
    """
    rays, weight = pad.sheaf, np.where(sunk > PRESSED, sunk, 0.0)
    if not weight.any():
        return np.full(2, np.nan)
    return np.array([weight.sum(axis=0) @ rays.x, weight.sum(axis=1) @ rays.y]) / weight.sum()


def membrane(pad: Pad, sunk: Floats) -> npt.NDArray[np.float32]:
    """Return the depth of the pressed skin at each pixel of the touch image, (rows, columns), in pixels of that image.

    The skin follows the pressing surface, at most to the depth DEEPEST, and is smooth around the pressed part.

    Args:
        pad: The pad.
        sunk: (rows / cell, columns / cell) indentation, metres.
    """
    held = np.clip(sunk, 0, DEEPEST).astype(F) * F(pad.rows / pad.height)
    pressed = sunk > PRESSED
    if not pressed.any():
        return np.zeros((pad.rows, pad.columns), F)
    skin: npt.NDArray[Any] = held.copy()
    for sigma in _RELAX_PX:
        skin = cv2.GaussianBlur(skin, (0, 0), sigma / pad.cell)
        np.maximum(skin, held, out=skin, where=pressed)
    skin = cv2.resize(skin, (pad.columns, pad.rows), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.GaussianBlur(skin, (0, 0), 1.2), dtype=F)


@dataclass(frozen=True)
class GelUnit:
    """Colours of one exemplar of a touch sensor, relative to the nominal sensor.

    Attributes:
        channels: (3,) colour channel of the nominal image that each channel shows: another order of the lamps.
        gain: (3,) gain of each channel, about the grey level MIDDLE.
        tint: (3,) grey levels added to each channel.
    """

    channels: tuple[int, int, int]
    gain: Floats
    tint: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator) -> GelUnit:
        """Return a random unit: channels in any order, gains 0.6 to 1.3, tints up to 25 grey levels."""
        a, b, c = (int(channel) for channel in rng.permutation(3))
        return cls((a, b, c), rng.uniform(0.6, 1.3, 3), rng.uniform(-25, 25, 3))

    def seen(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the image (H, W, 3) that this unit shows in place of the nominal sensor's `image`, grey levels."""
        return np.asarray((image[..., self.channels] - MIDDLE) * self.gain + (MIDDLE + self.tint), dtype=F)


@dataclass(frozen=True)
class Relaxation:
    """Share of an indentation that remains after release: remains + (at_once - remains) exp(-(t / time_s)^stretch).

    A stretch of 1 is an exponential. A smaller stretch falls faster at first and more slowly later, as the recovery of
    polymers does (Kohlrausch's stretched exponential).

    Attributes:
        at_once: Share that remains immediately after release, 0 to 1.
        remains: Share that remains for good, 0 to `at_once`.
        time_s: Time constant, seconds.
        stretch: Exponent of the time, above 0 and at most 1.
    """

    at_once: float
    remains: float
    time_s: float
    stretch: float = 1.0

    @classmethod
    def draw(cls, rng: np.random.Generator, stretch: float = 1.0) -> Relaxation:
        """Return a relaxation with random values in the ranges measured on GelSight gels under a force gauge.

        Of the peak indentation 10 to 20 % remain at once and 3 to 8 % for good. 95 % of the difference between the two
        recover within 1 to 3 s.
        """
        fall = rng.uniform(1.0, 3.0) / np.log(20.0) ** (1.0 / stretch)
        return cls(float(rng.uniform(0.10, 0.20)), float(rng.uniform(0.03, 0.08)), float(fall), stretch)

    def share(self, seconds: Floats) -> Floats:
        """Return the share (...) of the peak indentation that remains `seconds` (...) after release."""
        fallen = np.exp(-((seconds / self.time_s) ** self.stretch))
        return np.asarray(self.remains + (self.at_once - self.remains) * fallen)


class Skin:
    """Indentation of a gel that recovers slowly, moment by moment; `relaxation` None: at once and completely.

    Each cell of the height field remembers the depth of its last press and the time since its release.
    """

    def __init__(self, relaxation: Relaxation | None = None) -> None:
        self.relaxation = relaxation
        self._peak, self._since = np.zeros(()), np.zeros(())

    def press(self, sunk: Floats, seconds: float) -> Floats:
        """Return the indentation of the skin, (rows / cell, columns / cell) metres.

        Args:
            sunk: (rows / cell, columns / cell) indentation by the objects at this moment, metres.
            seconds: Time since the previous moment, seconds.
        """
        if self.relaxation is None:
            return sunk
        released = self._since + seconds
        left = self._peak * self.relaxation.share(released)
        touched = sunk > left
        deepest = np.where(self._since == 0, self._peak, left)
        self._peak = np.where(touched, np.maximum(sunk, deepest), self._peak)
        self._since = np.where(touched, 0.0, released)
        return np.maximum(sunk, left)


class GelCamera:
    """Camera and three lamps inside one touch sensor.

    Args:
        pad: The pad that the camera sees.
        device: Seed of this sensor's lamp directions, which differ from the nominal directions by up to 5 degrees.
        unit: Colours of this sensor; None: those of the nominal sensor.
    """

    def __init__(self, pad: Pad, device: int = 0, unit: GelUnit | None = None) -> None:
        rng = np.random.default_rng(device)
        self.pad, self.unit = pad, unit
        azimuth = np.radians(np.array(_LAMP_AZIMUTH_DEG) + rng.uniform(-5, 5, 3))
        lift = np.radians(_LAMP_ELEVATION_DEG)
        self.lamps = np.stack(
            [np.cos(azimuth) * np.cos(lift), np.sin(azimuth) * np.cos(lift), np.full(3, np.sin(lift))], axis=1
        ).astype(F)
        y = ((np.arange(pad.rows) + 0.5) / pad.rows - 0.5)[:, None]
        x = ((np.arange(pad.columns) + 0.5) / pad.columns - 0.5)[None, :]
        self.fall_off = [
            (1 + 0.35 * (x * np.cos(a) + y * np.sin(a)) - 0.25 * (x * x + y * y)).astype(F) for a in azimuth
        ]
        self.flat = self.shade(np.zeros((pad.rows, pad.columns), F))
        # This noise image is larger than a touch, because a random crop of it is faster than new random numbers.
        self._noise = rng.normal(0, _NOISE * 255, (pad.rows + 64, pad.columns + 64, 3)).astype(F)

    def shade(self, skin: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the noise-free image (rows, columns, 3), 0..255, of a skin; `skin` is its depth from `membrane`."""
        slope_x = cv2.Sobel(skin, cv2.CV_32F, 1, 0, scale=0.125)
        slope_y = cv2.Sobel(skin, cv2.CV_32F, 0, 1, scale=0.125)
        nz = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
        nx, ny = slope_x * nz, slope_y * nz
        out = np.full((*skin.shape, 3), _AMBIENT * 255, F)
        for lamp, rgb, fall_off in zip(self.lamps, _LAMP_RGB, self.fall_off, strict=True):
            facing = nx * lamp[0] + ny * lamp[1] + nz * lamp[2]
            mirrored = np.maximum(2 * nz * facing - lamp[2], 0)
            sixth = mirrored * mirrored * mirrored
            sixth *= sixth
            light = fall_off * (_DIFFUSE * np.maximum(facing, 0) + _GLOSS * sixth * sixth)
            for channel in range(3):
                out[..., channel] += light * (rgb[channel] * 255)
        image = np.asarray(cv2.GaussianBlur(out, (0, 0), 0.8), dtype=F)
        return image if self.unit is None else self.unit.seen(image)

    def touch(self, sunk: Floats, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Return the touch image (rows, columns, 3) uint8 RGB, with camera noise.

        Args:
            sunk: (rows / cell, columns / cell) indentation, metres.
            rng: Random generator for the noise.
        """
        clean = self.shade(membrane(self.pad, sunk)) if (sunk > PRESSED).any() else self.flat
        v, u = rng.integers(0, 64, 2)
        noise = self._noise[v : v + self.pad.rows, u : u + self.pad.columns]
        return np.asarray(cv2.add(clean, noise, dtype=cv2.CV_8U))

    @property
    def reference(self) -> npt.NDArray[np.uint8]:
        """Touch image without contact and without noise (the no-contact reference), (rows, columns, 3) uint8."""
        return np.clip(np.rint(self.flat), 0, 255).astype(np.uint8)

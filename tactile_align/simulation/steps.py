"""What a recording is made of: one step after another, whichever script moved the arm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tactile_align.geometry.frames import pose, rotation_from_rpy
from tactile_align.simulation.primitives import Floats

PHASES = ("approach", "surround", "close", "press", "release", "lift")
TOOL_DOWN = np.diag([1.0, -1.0, -1.0])
TOUCHING = 2e-5  # metres of indentation that count as contact: the least that shows above the touch camera's noise
SQUEEZE_M = 0.003  # how far the command goes on closing once the fingers are stopped by an object


@dataclass
class Truth:
    """What is true at one moment.

    Attributes:
        box: By camera, (4,) amodal box of the sensor in stored pixels, nan where out of view.
        unoccluded: By camera, share of the sensor's pixels that nothing hides; nan where out of view.
        indentation: Deepest point in the gel, metres.
        contact: Whether the gel is touched (indentation > TOUCHING).
        opening: (2,) metres of each finger from the tool axis.
        thing: (3,) the object's place in the world, metres.
    """

    box: dict[str, Floats]
    unoccluded: dict[str, float]
    indentation: float
    contact: bool
    opening: Floats
    thing: Floats


@dataclass
class Moment:
    """One synchronised instant: images and touch (H, W, 3) uint8 RGB, joints (n,) rad, and the truth."""

    images: dict[str, npt.NDArray[np.uint8]]
    touch: npt.NDArray[np.uint8]
    q: Floats
    truth: Truth


@dataclass
class Step:
    """One recorded moment.

    Attributes:
        moment: What was seen, felt and true.
        target: (n + 1,) what was commanded last: joints, rad, and the fingers' opening, metres from the tool axis.
        phase: One of PHASES.
        contact: Which contact of the episode this belongs to, -1 while nothing is touched.
    """

    moment: Moment
    target: Floats
    phase: str
    contact: int


def tool_pose(place: Floats, yaw: float, tilt: tuple[float, float] = (0.0, 0.0)) -> Floats:
    """Return a pose (4, 4) of the point between the pads: tool down, then tilted about world x and y, then turned."""
    R = rotation_from_rpy(np.array([tilt[0], tilt[1], yaw])) @ TOOL_DOWN
    return np.asarray(pose(R, np.asarray(place, dtype=np.float64)))

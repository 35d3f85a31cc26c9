"""What one overlay picture shows: plain facts of one moment, no model and no file behind them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Region:
    """A sensor in a view.

    Attributes:
        name: The sensor.
        colour: The sensor's place in the rig, which picks its colour.
        box: (4,) clipped to the image, px of the recorded frame; nan where there is none.
        inside: Share of the whole box inside the image, 0..1.
        reason: Why there is no box; "" where there is one.
        weights: (rows, columns) share of each token that the box covers, 0..1; None: not drawn.
        compared: (4,) the box by a second rig, nan where it has none; None: no second rig.
        overlap: IoU of both boxes, nan where one is missing; None: no second rig.
        sigma_px: (4,) standard deviation of each edge, px; None: not known.
    """

    name: str
    colour: int
    box: np.ndarray
    inside: float
    reason: str = ""
    weights: np.ndarray | None = None
    compared: np.ndarray | None = None
    overlap: float | None = None
    sigma_px: np.ndarray | None = None


@dataclass(frozen=True)
class View:
    """A camera's frame.

    Attributes:
        name: The camera.
        image: (H, W, 3) uint8 RGB; never written to.
        width: Width of the recorded frame the boxes belong to, px (`image` may be a smaller copy).
        height: Its height, px.
        regions: The sensors in it.
        cells: Edges of the tokens in the recorded frame: columns + 1 along u and rows + 1 along v, px.
        note: A remark beside the name.
    """

    name: str
    image: np.ndarray
    width: int
    height: int
    regions: tuple[Region, ...] = ()
    cells: tuple[np.ndarray, np.ndarray] | None = None
    note: str = ""


@dataclass(frozen=True)
class Closer:
    """A square cut out of a camera's frame around a box.

    Attributes:
        name: Which sensor in which camera.
        colour: As in Region.
        image: (S, S, 3) uint8 RGB.
        box: (4,) px of `image`; nan where there is none, `image` then says nothing.
        compared: (4,) the box by a second rig, nan where there is none.
    """

    name: str
    colour: int
    image: np.ndarray
    box: np.ndarray
    compared: np.ndarray


@dataclass(frozen=True)
class Touch:
    """A touch image and whether it is in contact; `colour` as in Region."""

    name: str
    image: np.ndarray
    contact: bool
    colour: int


@dataclass(frozen=True)
class Hand:
    """An arm's joints and gripper.

    Attributes:
        name: The arm.
        q: (n,) rad.
        lower: (n,) rad.
        upper: (n,) rad.
        opening_m: One finger's distance from the tool axis as drawn, m; None: no gripper.
        reading_m: The same by the gripper's reading alone (a command may go on closing in contact).
        full_m: The same when fully open.
        commanded: Whether the reading is a command.
    """

    name: str
    q: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    opening_m: float | None = None
    reading_m: float | None = None
    full_m: float | None = None
    commanded: bool = False


@dataclass(frozen=True)
class Track:
    """A sensor's contacts over the whole episode: (T,) bool; `colour` as in Region."""

    name: str
    contact: np.ndarray
    colour: int


@dataclass(frozen=True)
class Moment:
    """All of one instant.

    Attributes:
        t: Its row in the episode.
        steps: Rows of the episode.
        seconds: Time since its start, s; None when the rate is not known.
        views: One or more cameras.
        touches: Touch images.
        hands: Arms.
        tracks: Contacts over time.
        title: What is shown, e.g. the episode and the rigs.
        closer: Boxes that the views show too small, larger.
    """

    t: int
    steps: int
    seconds: float | None
    views: tuple[View, ...]
    touches: tuple[Touch, ...] = ()
    hands: tuple[Hand, ...] = ()
    tracks: tuple[Track, ...] = ()
    title: str = ""
    closer: tuple[Closer, ...] = ()

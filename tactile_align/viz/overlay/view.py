"""Drawing of one camera frame with tinted tokens, boxes and captions, or with the reason why a box is missing."""

from dataclasses import dataclass

import cv2
import numpy as np

from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.viz.ink import COMPARED, DIM, WHITE, Colour, Ink, fill, frame, pixels_of, sensor_colour, tint
from tactile_align.viz.overlay.boxes import difference


@dataclass(frozen=True)
class Region:
    """Box of a sensor in a camera frame.

    Attributes:
        name: Name of the sensor.
        colour: Index of the sensor in the rig, which determines the colour.
        box: (4,) box clipped to the image, px of the recorded frame; nan if the box is missing.
        inside: Share of the unclipped box that lies inside the image, 0..1.
        reason: Reason for a missing box; "" if the box exists.
        weights: (rows, columns) share of each token that the box covers, 0..1; None: tokens are not drawn.
        compared: (4,) box of a second rig, px; nan if that box is missing; None: no second rig.
        sigma_px: (4,) standard deviation of each edge, px; None: not known.
    """

    name: str
    colour: int
    box: np.ndarray
    inside: float
    reason: str = ""
    weights: np.ndarray | None = None
    compared: np.ndarray | None = None
    sigma_px: np.ndarray | None = None

    @property
    def overlap(self) -> float | None:
        """IoU of the boxes of both rigs; nan if a box is missing; None without a second rig."""
        return None if self.compared is None else float(intersection_over_union(self.box, self.compared))


@dataclass(frozen=True)
class View:
    """Camera frame with the boxes of its sensors.

    Attributes:
        name: Name of the camera.
        image: (H, W, 3) uint8 RGB; may be a smaller copy of the recorded frame. It is never changed.
        width: Width of the recorded frame, px; the boxes are in pixels of the recorded frame.
        height: Height of the recorded frame, px.
        regions: Boxes of the sensors in the frame.
        cells: Edges of the tokens in the recorded frame, px: (columns + 1,) along u and (rows + 1,) along v; None: no
            tokens are drawn.
        note: Text that is drawn after the name of the camera.
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
    """Square cut-out of a camera frame around a box.

    Attributes:
        name: Names of the sensor and the camera.
        colour: Index of the sensor in the rig, which determines the colour.
        image: (S, S, 3) uint8 RGB, S px wide and high.
        box: (4,) box, px of `image`; nan if the box is missing, and then `image` is not drawn.
        compared: (4,) box of a second rig, px of `image`; nan if that box is missing.
    """

    name: str
    colour: int
    image: np.ndarray
    box: np.ndarray
    compared: np.ndarray


@dataclass(frozen=True)
class Touch:
    """Touch image of a sensor, (H, W, 3) uint8 RGB, and whether the sensor is in contact; `colour` as in `Region`."""

    name: str
    image: np.ndarray
    contact: bool
    colour: int


@dataclass(frozen=True)
class Hand:
    """Joints and gripper of an arm at one moment.

    Attributes:
        name: Name of the arm.
        q: (n,) angles of the n joints, rad.
        lower: (n,) lower joint limits, rad.
        upper: (n,) upper joint limits, rad.
        opening_m: Distance of one finger from the tool axis as drawn, m; None: no gripper.
        reading_m: The same distance computed from the gripper's reading alone, m. A commanded reading may continue to
            close during contact.
        full_m: The same distance when the gripper is fully open, m.
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
    """Contacts of a sensor over the T rows of an episode; `contact` is (T,) bool, `colour` as in `Region`."""

    name: str
    contact: np.ndarray
    colour: int


@dataclass(frozen=True)
class Moment:
    """Everything that the picture of one row of an episode shows.

    Attributes:
        t: The row.
        steps: Number of rows of the episode.
        seconds: Time since the start of the episode, s; None when the rate is not known.
        views: Camera frames, at least one.
        touches: Touches of the sensors.
        hands: Joints and grippers of the arms.
        tracks: Contacts of the sensors over the episode.
        title: Title of the picture, e.g. the episode and the rigs.
        closer: Enlarged cut-outs around boxes that are too small in the camera frames.
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


TOKEN_ALPHA = 0.4
"""Opacity of the tint of a token that lies entirely in the box."""
CLEAR, CLEAR_SHARE = 4, 1 / 6
"""Distance from the box within which no token is tinted, so that the sensor's own edge is seen: in widths of a rimmed
line, but at most this share of the box's shorter side."""
BAND_SIGMAS = 2.0
"""Half width of the uncertainty band of an edge, in standard deviations of the edge."""


def fit_into(target: np.ndarray, image: np.ndarray) -> None:
    """Copy an image into `target`, resized to the size of `target`."""
    high, wide = target.shape[:2]
    if image.shape[:2] == (high, wide):
        target[:] = image
        return
    shrinks = image.shape[0] > high
    if image.shape[0] >= 2 * high and not (image.shape[0] % 2 or image.shape[1] % 2):
        # OpenCV halves an image ten times as fast as it shrinks it by an arbitrary factor.
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    cv2.resize(image, (wide, high), dst=target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def draw_view(image: np.ndarray, view: View, ink: Ink) -> None:
    """Fill `image` (H, W, 3) with a camera frame and draw its tokens, boxes and captions."""
    fit_into(image, view.image)
    scale = np.array([image.shape[1] / view.width, image.shape[0] / view.height] * 2)
    for region in view.regions:
        _draw_tokens(image, region, view.cells, scale, ink)
    taken = [ink.plate(image, f"{view.name} {view.note}".strip(), 0, 0)]
    for region in view.regions:
        _draw_band(image, region, scale)
        _draw_boxes(image, region.box, region.compared, scale, sensor_colour(region.colour), ink)
    absent = image.shape[0]
    for region in view.regions:
        if np.isfinite(region.box).all():
            taken.append(_draw_caption(image, region, scale, taken, ink))
        else:
            absent -= ink.row
            _, _, right, _ = ink.plate(image, f"{region.name}: {region.reason}{_overlap(region)}", ink.row, absent)
            low, high = absent + ink.pad, absent + ink.row - ink.pad
            fill(image, ink.pad, low, ink.row - ink.pad, high, sensor_colour(region.colour))
            taken.append((0, absent, right, absent + ink.row))


def draw_closer(image: np.ndarray, shown: Closer, ink: Ink) -> None:
    """Fill `image` (S, S, 3) with a cut-out and its boxes, or with grey if the box is missing."""
    fill(image, 0, 0, image.shape[1], image.shape[0], DIM)
    if np.isfinite(shown.box).all():
        fit_into(image, shown.image)
        scale = np.array([image.shape[1], image.shape[0]] * 2) / shown.image.shape[0]
        _draw_boxes(image, shown.box, shown.compared, scale, sensor_colour(shown.colour), ink)


def _draw_boxes(
    image: np.ndarray, box: np.ndarray, compared: np.ndarray | None, scale: np.ndarray, colour: Colour, ink: Ink
) -> None:
    """Draw the dashed box of the second rig and over it the box of the first rig; missing boxes are skipped."""
    if compared is not None and np.isfinite(compared).all():
        frame(image, _moved(compared, scale), COMPARED, ink, dashed=True)
    if np.isfinite(box).all():
        frame(image, _moved(box, scale), colour, ink)


def _moved(box: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return a box of the recorded frame in pixels of the drawn frame; `scale` is (4,), one factor per edge."""
    moved: np.ndarray = (box + 0.5) * scale - 0.5
    return moved


def _overlap(region: Region) -> str:
    if region.overlap is None:
        return ""
    return f"  IoU {region.overlap:.2f}" if np.isfinite(region.overlap) else "  no IoU"


def _draw_caption(
    image: np.ndarray, region: Region, scale: np.ndarray, taken: list[tuple[int, int, int, int]], ink: Ink
) -> tuple[int, int, int, int]:
    """Write the caption of a box and return the caption's pixels (x0, y0, x1, y1).

    The caption is the sensor's name and the difference to the box of a second rig. It lies above the box, below it or
    inside it: the first of these places that does not overlap a rectangle in `taken`.
    """
    lines = [f"{region.name} {100 * region.inside:.0f} %{_overlap(region)}"]
    other = region.box if region.compared is None else region.compared
    if region.compared is not None and np.isfinite(other).all():
        (du, dv), (wider, higher) = difference(region.box, other)
        lines.append(f"du {du:+z.1f}  dv {dv:+z.1f} px  size {wider:.2f} x {higher:.2f}")
    left, top = (int(edge) for edge in _moved(np.fmin(region.box, other), scale)[:2])
    bottom, gap = int(_moved(np.fmax(region.box, other), scale)[3]), ink.line + ink.rim
    wide, high = max(ink.width(line) for line in lines) + 2 * ink.pad, len(lines) * ink.row
    x = max(0, min(left, image.shape[1] - wide))
    above, below, inside = top - high - gap, bottom + gap, top + gap
    for y in (above, below, inside, inside + ink.row, inside + 2 * ink.row):
        free = all(x + wide <= a or c <= x or y + high <= b or d <= y for a, b, c, d in taken)
        if free and 0 <= y <= image.shape[0] - high:
            break
    plates = [ink.plate(image, line, x, y + i * ink.row, WHITE) for i, line in enumerate(lines)]
    x0, _, x1, bottom = plates[-1]
    fill(image, x0, bottom - ink.rim, x1, bottom, sensor_colour(region.colour))
    return x, plates[0][1], x + wide, bottom


def _draw_band(image: np.ndarray, region: Region, scale: np.ndarray) -> None:
    """Tint the band in which each edge probably lies; does nothing if the standard deviations are not known."""
    if region.sigma_px is None or not np.isfinite([region.box, region.sigma_px]).all():
        return
    edges, half = _moved(region.box, scale), BAND_SIGMAS * region.sigma_px * scale
    low, high = (np.rint(edges + sign * half).astype(int).tolist() for sign in (-1, 1))
    for i in (0, 2, 1, 3):
        band = np.rint(edges).astype(int).tolist()
        band[i % 2], band[i % 2 + 2] = low[i], high[i] + 1
        u0, v0, u1, v1 = band
        tint(image, u0, v0, u1, v1, sensor_colour(region.colour), 0.5)


def _draw_tokens(
    image: np.ndarray, region: Region, cells: tuple[np.ndarray, np.ndarray] | None, scale: np.ndarray, ink: Ink
) -> None:
    """Tint each token in proportion to the share that the box covers; gaps between the tokens show the grid.

    The frame is not tinted along the edges of the box.
    """
    if region.weights is None or cells is None or not np.isfinite(region.weights).all():
        return
    u, v = (np.rint((edges + 0.5) * k).astype(int).tolist() for edges, k in zip(cells, scale[:2], strict=True))
    box = _moved(region.box, scale)
    clear = min(CLEAR * (ink.line + ink.rim), CLEAR_SHARE * float((box[2:] - box[:2]).min()))
    grown = (np.maximum(pixels_of(box + off * np.array([-1, -1, 1, 1])), 0) for off in (clear, -clear))
    outer, inner = (image[v0:v1, u0:u1] for u0, v0, u1, v1 in grown)
    untinted = outer.copy()
    for i, j in np.argwhere(region.weights > 0).tolist():
        sides = u[j], v[i], u[j + 1] - ink.rim, v[i + 1] - ink.rim
        tint(image, *sides, sensor_colour(region.colour), TOKEN_ALPHA * float(region.weights[i, j]))
    tinted = inner.copy()
    outer[:], inner[:] = untinted, tinted

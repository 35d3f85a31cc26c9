"""Drawing of one camera's view: frame, tinted tokens, boxes, captions, and the reason where a box is absent."""

from dataclasses import dataclass

import cv2
import numpy as np

from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.viz.ink import COMPARED, DIM, WHITE, Colour, Ink, fill, frame, sensor_colour, tint
from tactile_align.viz.overlay.boxes import difference


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
        compared: (4,) the box of a second rig, nan where it has none; None: no second rig.
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
        """IoU of both boxes, nan where one is missing; None: no second rig."""
        return None if self.compared is None else float(intersection_over_union(self.box, self.compared))


@dataclass(frozen=True)
class View:
    """A camera's frame.

    Attributes:
        name: The camera.
        image: (H, W, 3) uint8 RGB; never written to.
        width: Width of the recorded frame to which the boxes belong, px (`image` may be a smaller copy).
        height: Height of that frame, px.
        regions: The sensors in it.
        cells: Edges of the tokens in the recorded frame: columns + 1 along u and rows + 1 along v, px.
        note: Text beside the name.
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
        name: The sensor and the camera.
        colour: As in Region.
        image: (S, S, 3) uint8 RGB.
        box: (4,) px of `image`; nan where there is none: `image` is then not drawn.
        compared: (4,) the box of a second rig, nan where there is none.
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
        opening_m: Distance of one finger from the tool axis as drawn, m; None: no gripper.
        reading_m: The same from the gripper's reading alone (a command may go on closing in contact).
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
    """All that a picture of one row of an episode shows.

    Attributes:
        t: The row.
        steps: Number of rows of the episode.
        seconds: Time since the start of the episode, s; None when the rate is not known.
        views: One or more cameras.
        touches: Touch images.
        hands: Arms.
        tracks: Contacts over time.
        title: Title of the picture, e.g. the episode and the rigs.
        closer: Enlarged cut-outs of boxes that are too small in the views.
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
"""Opacity of the tint of a token that lies wholly in the box."""
BAND_SIGMAS = 2.0
"""Half the width of the error band, in standard deviations of the edge."""


def fit_into(target: np.ndarray, image: np.ndarray) -> None:
    """Copy an image into `target`, resampled to its size."""
    high, wide = target.shape[:2]
    if image.shape[:2] == (high, wide):
        target[:] = image
        return
    shrinks = image.shape[0] > high
    if image.shape[0] >= 2 * high and not (image.shape[0] % 2 or image.shape[1] % 2):
        # OpenCV halves ten times as fast as it shrinks by an odd factor.
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    cv2.resize(image, (wide, high), dst=target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def draw_view(image: np.ndarray, view: View, ink: Ink) -> None:
    """Fill `image` (H, W, 3) with a view, its tokens, boxes and captions."""
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
    """Fill `image` (S, S, 3) with a cut-out and its boxes, or with grey where there is no box."""
    fill(image, 0, 0, image.shape[1], image.shape[0], DIM)
    if np.isfinite(shown.box).all():
        fit_into(image, shown.image)
        scale = np.array([image.shape[1], image.shape[0]] * 2) / shown.image.shape[0]
        _draw_boxes(image, shown.box, shown.compared, scale, sensor_colour(shown.colour), ink)


def _draw_boxes(
    image: np.ndarray, box: np.ndarray, compared: np.ndarray | None, scale: np.ndarray, colour: Colour, ink: Ink
) -> None:
    """Draw a box over the dashed box of a second rig, each where it is known."""
    if compared is not None and np.isfinite(compared).all():
        frame(image, _moved(compared, scale), COMPARED, ink, dashed=True)
    if np.isfinite(box).all():
        frame(image, _moved(box, scale), colour, ink)


def _moved(box: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Move a box from the recorded frame to the drawn one; pixel (0, 0) is a centre, `scale` has a factor an edge."""
    moved: np.ndarray = (box + 0.5) * scale - 0.5
    return moved


def _overlap(region: Region) -> str:
    if region.overlap is None:
        return ""
    return f"  IoU {region.overlap:.2f}" if np.isfinite(region.overlap) else "  no IoU"


def _draw_caption(
    image: np.ndarray, region: Region, scale: np.ndarray, taken: list[tuple[int, int, int, int]], ink: Ink
) -> tuple[int, int, int, int]:
    """Write a box's name and its difference from a second rig's; return the caption's pixels (x0, y0, x1, y1).

    The caption lies above the box, else below, else inside: the first place where no pixels are `taken`.
    """
    lines = [f"{region.name} {100 * region.inside:.0f} %{_overlap(region)}"]
    other = region.box if region.compared is None else region.compared
    if region.compared is not None and np.isfinite(other).all():
        (du, dv), (wider, higher) = difference(region.box, other)
        lines.append(f"du {du:+.1f}  dv {dv:+.1f} px  size {wider:.2f} x {higher:.2f}")
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
    """Tint the pixels where each edge may lie, where the standard deviation of the edges is known."""
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
    """Tint each token by the share of it that the box covers; gaps between the tokens show the grid."""
    if region.weights is None or cells is None or not np.isfinite(region.weights).all():
        return
    u, v = (np.rint((edges + 0.5) * k).astype(int).tolist() for edges, k in zip(cells, scale[:2], strict=True))
    for i, j in np.argwhere(region.weights > 0).tolist():
        sides = u[j], v[i], u[j + 1] - ink.rim, v[i + 1] - ink.rim
        tint(image, *sides, sensor_colour(region.colour), TOKEN_ALPHA * float(region.weights[i, j]))

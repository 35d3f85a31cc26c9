"""Draw one camera's view: frame, lit tokens, boxes, labels, and why a box is absent."""

from dataclasses import dataclass

import cv2
import numpy as np

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


TOKEN_ALPHA = 0.4
"""How strongly a token that lies wholly in the box is tinted."""
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
    """Fill `image` (H, W, 3) with a view and what is known about it."""
    fit_into(image, view.image)
    scale = np.array([image.shape[1] / view.width, image.shape[0] / view.height])
    for region in view.regions:
        if region.weights is not None and view.cells is not None:
            _draw_tokens(image, region.weights, view.cells, scale, sensor_colour(region.colour), ink.rim)
    taken = [ink.plate(image, f"{view.name} {view.note}".strip(), 0, 0)]
    for region in view.regions:
        _draw_band(image, region, scale)
        if region.compared is not None and np.isfinite(region.compared).all():
            frame(image, _moved(region.compared, scale), COMPARED, ink, dashed=True)
        if np.isfinite(region.box).all():
            frame(image, _moved(region.box, scale), sensor_colour(region.colour), ink)
    absent = image.shape[0]
    for region in view.regions:
        colour = sensor_colour(region.colour)
        if np.isfinite(region.box).all():
            other = region.box if region.compared is None else region.compared
            u0, v0, *_ = _moved(np.fmin(region.box, other), scale)
            v1 = _moved(np.fmax(region.box, other), scale)[3]
            taken.append(_label(image, _captions(region), int(u0), int(v0), int(v1), taken, colour, ink))
        else:
            absent -= ink.row
            _, _, right, _ = ink.plate(image, f"{region.name}: {region.reason}{_overlap(region)}", ink.row, absent)
            fill(image, ink.pad, absent + ink.pad, ink.row - ink.pad, absent + ink.row - ink.pad, colour)
            taken.append((0, absent, right, absent + ink.row))


def draw_closer(image: np.ndarray, shown: Closer, ink: Ink) -> None:
    """Fill `image` (S, S, 3) with a closer look at a box."""
    if not np.isfinite(shown.box).all():
        fill(image, 0, 0, image.shape[1], image.shape[0], DIM)
        return
    fit_into(image, shown.image)
    scale = np.array([image.shape[1], image.shape[0]]) / shown.image.shape[0]
    if np.isfinite(shown.compared).all():
        frame(image, _moved(shown.compared, scale), COMPARED, ink, dashed=True)
    frame(image, _moved(shown.box, scale), sensor_colour(shown.colour), ink)


def _moved(box: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Move a box or edges from the recorded frame to the drawn one; pixel (0, 0) is a centre."""
    both = np.concatenate([scale, scale])
    moved: np.ndarray = (np.asarray(box) + 0.5) * both - 0.5
    return moved


def _captions(region: Region) -> list[str]:
    """Return the lines beside a box: its name, and where a second rig's box lies."""
    lines = [f"{region.name} {100 * region.inside:.0f} %{_overlap(region)}"]
    if region.compared is not None and np.isfinite(region.compared).all():
        (du, dv), (wide, high) = difference(region.box, region.compared)
        lines.append(f"du {du:+.1f}  dv {dv:+.1f} px  size {wide:.2f} x {high:.2f}")
    return lines


def _overlap(region: Region) -> str:
    if region.overlap is None:
        return ""
    return f"  IoU {region.overlap:.2f}" if np.isfinite(region.overlap) else "  no IoU"


def _label(
    image: np.ndarray,
    lines: list[str],
    x: int,
    top: int,
    bottom: int,
    taken: list[tuple[int, int, int, int]],
    colour: Colour,
    ink: Ink,
) -> tuple[int, int, int, int]:
    """Write a box's caption above it, else below, else inside: wherever no other word stands."""
    gap = ink.line + ink.rim
    wide, high = max(ink.width(line) for line in lines) + 2 * ink.pad, len(lines) * ink.row
    x = max(0, min(x, image.shape[1] - wide))
    above, below, inside = top - high - gap, bottom + gap, top + gap
    for y in (above, below, inside, inside + ink.row, inside + 2 * ink.row):
        free = all(x + wide <= a or c <= x or y + high <= b or d <= y for a, b, c, d in taken)
        if free and 0 <= y <= image.shape[0] - high:
            break
    plates = [ink.plate(image, line, x, y + i * ink.row, WHITE) for i, line in enumerate(lines)]
    x0, _, x1, bottom = plates[-1]
    fill(image, x0, bottom - ink.rim, x1, bottom, colour)
    return x, plates[0][1], x + wide, bottom


def _draw_band(image: np.ndarray, region: Region, scale: np.ndarray) -> None:
    """Tint where each edge may lie, when that is known."""
    if region.sigma_px is None or not (np.isfinite(region.box).all() and np.isfinite(region.sigma_px).all()):
        return
    half = BAND_SIGMAS * np.asarray(region.sigma_px) * np.concatenate([scale, scale])
    u0, v0, u1, v1 = _moved(region.box, scale)
    a, b, c, d = (round(float(edge)) for edge in (u0, v0, u1, v1))
    for edge, reach, upright in ((u0, half[0], True), (u1, half[2], True), (v0, half[1], False), (v1, half[3], False)):
        low, high = round(float(edge - reach)), round(float(edge + reach)) + 1
        sides = (low, b, high, d) if upright else (a, low, c, high)
        tint(image, *sides, sensor_colour(region.colour), 0.5)


def _draw_tokens(
    image: np.ndarray,
    weights: np.ndarray,
    cells: tuple[np.ndarray, np.ndarray],
    scale: np.ndarray,
    colour: Colour,
    gap: int,
) -> None:
    """Tint each token by the share of it that the box covers; gaps between them show the grid."""
    if not np.isfinite(weights).all():
        return
    u, v = (np.rint((edges + 0.5) * k).astype(int).tolist() for edges, k in zip(cells, scale, strict=True))
    for i, j in np.argwhere(weights > 0).tolist():
        tint(image, u[j], v[i], u[j + 1] - gap, v[i + 1] - gap, colour, TOKEN_ALPHA * float(weights[i, j]))

"""Picture of one moment: cameras side by side, and below them touches, arms and the contacts over time."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tactile_align.errors import InputError
from tactile_align.viz.ink import DIM, GREY, INK, VERMILLION, WHITE, Ink, fill, require_image, sensor_colour
from tactile_align.viz.overlay.view import Closer, Hand, Moment, Touch, Track, View, draw_closer, draw_view, fit_into

PANEL_SHARE = 0.36
"""Height of the panel below the camera frames, as a share of the height of these frames."""


@dataclass(frozen=True)
class _Item:
    """Part of the panel: its width, px, and the function that draws the part into an image."""

    width: int
    draw: Callable[[np.ndarray], None]


def draw_frame(moment: Moment, height: int | None = None, ink: Ink | None = None) -> np.ndarray:
    """Return the picture of a moment.

    Args:
        moment: What to draw; the images in it are not changed.
        height: Height at which the camera frames are drawn side by side, px. None: the height of the tallest frame.
        ink: Sizes of text and lines; None: those for a picture of that height.

    Returns:
        (H, W, 3) uint8 RGB, H and W even, as video codecs require.

    Raises:
        InputError: The moment contains no camera.
        ValueError: An image is not (H, W, 3) uint8.
    """
    if not moment.views:
        raise InputError("a picture needs at least one camera; the moment has no camera. Choose a recorded camera")
    pictures: list[View | Touch] = [*moment.views, *moment.touches]
    for picture in pictures:
        require_image(picture.image, picture.name)
    tall = height if height is not None else max(view.image.shape[0] for view in moment.views)
    ink = ink or Ink.of(tall)
    widths = [max(1, round(tall * view.width / view.height)) for view in moment.views]
    deep = max([round(PANEL_SHARE * tall), *(_hand_rows(hand) * _step(ink) for hand in moment.hands)])
    items = [_touch_item(touch, deep, ink) for touch in moment.touches]
    items += [_closer_item(closer, deep, ink) for closer in moment.closer]
    items += [_hand_item(hand, ink) for hand in moment.hands]
    gap = 2 * ink.rim
    wide = max([sum(widths) + gap * (len(widths) - 1), *(item.width + 2 * ink.pad for item in items)])
    wide += wide % 2
    lines = _flow(items, wide, ink)
    strip = (len(moment.tracks) + 1) * _step(ink) + 2 * ink.pad
    total = tall + len(lines) * (deep + ink.pad) + strip
    canvas = np.empty((total + total % 2, wide, 3), np.uint8)
    fill(canvas, 0, tall, wide, canvas.shape[0], INK)
    fill(canvas, sum(widths), 0, wide, tall, INK)
    x = 0
    for view, width in zip(moment.views, widths, strict=True):
        fill(canvas, x - gap, 0, x, tall, INK)
        draw_view(canvas[:tall, x : x + width], view, ink)
        x += width + gap
    y = tall + ink.pad
    for line in lines:
        x = ink.pad
        for item in line:
            item.draw(canvas[y : y + deep, x : x + item.width])
            x += item.width + 2 * ink.pad
        y += deep + ink.pad
    _draw_timeline(canvas[y : y + strip], moment, ink)
    return canvas


def _step(ink: Ink) -> int:
    """Return the height of one row of the panel, px."""
    return ink.cap + ink.pad


def _flow(items: list[_Item], wide: int, ink: Ink) -> list[list[_Item]]:
    """Return the items arranged in lines of at most `wide` px."""
    lines: list[list[_Item]] = []
    free = 0
    for item in items:
        need = item.width + 2 * ink.pad
        if not lines or need > free:
            lines.append([])
            free = wide
        lines[-1].append(item)
        free -= need
    return lines


def _touch_item(touch: Touch, deep: int, ink: Ink) -> _Item:
    def draw(inset: np.ndarray) -> None:
        fit_into(inset, touch.image)
        state, colour = ("contact", sensor_colour(touch.colour)) if touch.contact else ("free", GREY)
        thick = 2 * ink.line if touch.contact else ink.line
        for side in (inset[:thick], inset[-thick:], inset[:, :thick], inset[:, -thick:]):
            side[:] = colour
        ink.plate(inset, state, thick, thick, WHITE if touch.contact else GREY)

    return _captioned(touch, touch.image.shape[1] / touch.image.shape[0], draw, deep, ink)


def _closer_item(closer: Closer, deep: int, ink: Ink) -> _Item:
    return _captioned(closer, 1.0, lambda inset: draw_closer(inset, closer, ink), deep, ink)


def _captioned(
    part: Touch | Closer, aspect: float, draw_inset: Callable[[np.ndarray], None], deep: int, ink: Ink
) -> _Item:
    """Return an item that shows a picture of the given width / height, and the name of the part below it."""
    high = max(1, deep - _step(ink))
    wide = max(1, round(high * aspect))

    def draw(image: np.ndarray) -> None:
        draw_inset(image[:high, :wide])
        ink.text(image, ink.fit(part.name, image.shape[1]), 0, high + ink.rim, sensor_colour(part.colour))

    return _Item(max(wide, min(ink.width(part.name), 2 * wide)), draw)


def _hand_rows(hand: Hand) -> int:
    return 1 + len(hand.q) + (3 if hand.opening_m is not None else 0)


def _hand_item(hand: Hand, ink: Ink) -> _Item:
    label, value = ink.width(f"J{len(hand.q)} "), ink.width("-180")
    track = 8 * ink.cap

    def draw(image: np.ndarray) -> None:
        ink.text(image, ink.fit(f"{hand.name}, deg", image.shape[1]), 0, 0)
        y = _step(ink)
        for i, (q, low, high) in enumerate(zip(hand.q, hand.lower, hand.upper, strict=True)):
            ink.text(image, f"J{i + 1}", 0, y, GREY)
            middle = y + ink.cap // 2
            fill(image, label, middle - ink.rim, label + track, middle + ink.rim, DIM)
            x = label + round((q - low) / (high - low) * (track - 1))
            fill(image, x - ink.line, y, x + ink.line + 1, y + ink.cap, WHITE)
            number = f"{np.degrees(q):.0f}"
            ink.text(image, number, label + track + ink.pad + value - ink.width(number), y, WHITE)
            y += _step(ink)
        if hand.opening_m is not None:
            _draw_gripper(image[y:], hand, hand.opening_m, ink)

    between = 0 if hand.opening_m is None else ink.width("000.0 mm between fingers")
    return _Item(max(label + track + ink.pad + value, between), draw)


def _draw_gripper(image: np.ndarray, hand: Hand, opening_m: float, ink: Ink) -> None:
    """Write the opening and draw it as a bar; a tick marks the command if it is further closed."""
    wide = image.shape[1]
    held = hand.reading_m is not None and opening_m > hand.reading_m + 1e-6
    kind = "held" if held else ("command" if hand.commanded else "measured")
    ink.text(image, ink.fit(f"{2000 * opening_m:.1f} mm between fingers", wide), 0, 0)
    ink.text(image, ink.fit(f"({1000 * opening_m:.1f} each), {kind}", wide), 0, _step(ink))
    y, full = 2 * _step(ink), max(hand.full_m or 0.0, 1e-9)
    fill(image, 0, y, wide, y + ink.cap, DIM)
    fill(image, 0, y, round(wide * min(1.0, max(0.0, opening_m / full))), y + ink.cap, WHITE)
    if held and hand.reading_m is not None:
        x = round(wide * hand.reading_m / full)
        fill(image, x - ink.line, y - 1, x + ink.line, y + ink.cap + 1, VERMILLION)


def _draw_timeline(image: np.ndarray, moment: Moment, ink: Ink) -> None:
    """Draw the contacts of each sensor over the episode, a mark at the current moment, and the title."""
    wide = image.shape[1]
    left = min(wide // 3, 2 * ink.pad + max([ink.width(track.name) for track in moment.tracks], default=0))
    span = wide - ink.pad - left
    for row, track in enumerate(moment.tracks):
        y = row * _step(ink)
        ink.text(image, ink.fit(track.name, left - 2 * ink.pad), ink.pad, y, sensor_colour(track.colour))
        fill(image, left, y, wide - ink.pad, y + ink.cap, DIM)
        for first, last in _runs(track):
            a, b = left + span * first // moment.steps, left + span * last // moment.steps
            fill(image, a, y, max(b, a + 1), y + ink.cap, sensor_colour(track.colour))
    y = len(moment.tracks) * _step(ink)
    if moment.tracks:
        x = left + round(span * (moment.t + 0.5) / moment.steps)
        fill(image, x - ink.line - ink.rim, 0, x + ink.line + ink.rim, y - ink.pad + ink.rim, INK)
        fill(image, x - ink.line, 0, x + ink.line, y - ink.pad + ink.rim, WHITE)
    when = f"{moment.t} / {moment.steps}" + ("" if moment.seconds is None else f"  {moment.seconds:.2f} s")
    right = wide - ink.pad - ink.width(when)
    ink.text(image, when, right, y + ink.pad // 2)
    ink.text(image, ink.fit(moment.title, right - 3 * ink.pad), ink.pad, y + ink.pad // 2, GREY)


def _runs(track: Track) -> list[tuple[int, int]]:
    """Return (first row, last row + 1) of each uninterrupted contact."""
    edges = np.flatnonzero(np.diff(np.pad(np.asarray(track.contact, np.int8), 1)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]

"""Pictures of features: similarity over the tokens of an image, touches with their most similar regions, and PCA.

All functions work on arrays only, without models or files. The colours (cividis, Okabe-Ito) are distinguishable for
colour-blind people.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from tactile_align.geometry.images import ImageMap
from tactile_align.viz.ink import INK, ORANGE, WHITE, Ink, fill, frame, require_image
from tactile_align.viz.overlay.view import fit_into


def similarity_map(
    image: np.ndarray,
    scores: np.ndarray,
    *,
    input_map: ImageMap | None = None,
    box: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
    title: str = "",
    alpha: float = 0.55,
) -> np.ndarray:
    """Return a camera image with the tokens coloured by score, e.g. by similarity to a touch or by attention.

    Args:
        image: (H, W, 3) uint8 RGB as recorded.
        scores: (rows, columns) score of each token; a token with the score nan is not coloured.
        input_map: Map from the image to the encoder's input, which `Encoder.input_map(W, H)` returns; None: the tokens
            cover the whole image.
        box: (4,) box of the sensor in the image, px; drawn if it is finite; None: not drawn.
        limits: Scores at the two ends of the colour scale; None: the smallest and the largest score. Use the same
            limits for maps that are to be compared.
        title: Title above the map, beside the scale.
        alpha: Opacity of the colours over the image, 0..1.

    Returns:
        (H + height of a text line, W, 3) uint8 RGB: a colour scale with its end values, and below it the grey image
        with the coloured tokens.

    Raises:
        ValueError: A shape or dtype is wrong, no score is finite, or the limits are not low < high.
    """
    if scores.ndim != 2:
        raise ValueError(
            f"scores must be (rows, columns), one number per token; got shape {scores.shape}. Reshape them to the grid"
        )
    require_image(image, "image")
    low, high = limits if limits is not None else _range(scores)
    if not low < high:
        raise ValueError(f"limits must be (low, high) with low < high; got ({low:g}, {high:g}). Give other limits")
    tall, wide = image.shape[:2]
    into = ImageMap.identity(wide, tall) if input_map is None else input_map
    if (into.source_width, into.source_height) != (wide, tall):
        raise ValueError(
            f"input_map is for images of {into.source_width}x{into.source_height}, but the image is {wide}x{tall} "
            f"(width x height). Make the map with Encoder.input_map({wide}, {tall})"
        )
    ink = Ink.of(max(tall, 240))
    picture = np.full((tall + ink.row, wide, 3), INK, np.uint8)
    shown = picture[ink.row :]
    # The image is grey, so that every colour in the picture belongs to the scale.
    shown[:] = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None]
    colours = _scale_colours((scores - low) / (high - low))
    # Looking up the token of every pixel handles crops, flips and letterbox bars without special cases.
    rows, columns = scores.shape
    u = into.scale[0] * np.arange(wide) + into.offset[0]
    v = into.scale[1] * np.arange(tall) + into.offset[1]
    j = np.floor((u + 0.5) * columns / into.width).astype(int)
    i = np.floor((v + 0.5) * rows / into.height).astype(int)
    across, down = (j >= 0) & (j < columns), (i >= 0) & (i < rows)
    part = np.ix_(np.flatnonzero(down), np.flatnonzero(across))
    which = np.ix_(i[down], j[across])
    blended = (1 - alpha) * shown[part] + alpha * colours[which]
    known = np.isfinite(scores)[which]
    shown[part] = np.where(known[..., None], np.rint(blended), shown[part]).astype(np.uint8)
    if box is not None and np.isfinite(box).all():
        frame(shown, box, ORANGE, ink)
    _draw_scale(picture[: ink.row], low, high, title, ink)
    return picture


def retrieval_gallery(
    touches: Sequence[np.ndarray],
    views: Sequence[np.ndarray],
    similarity: np.ndarray,
    *,
    right: np.ndarray | None = None,
    queries: Sequence[int] | None = None,
    top: int = 5,
    height: int = 120,
) -> np.ndarray:
    """Return a picture with one line per touch: the touch, and to its right the most similar region images.

    The region image that belongs to the touch is framed.

    Args:
        touches: Q touches (H, W, 3) uint8 RGB.
        views: N region images (H, W, 3) uint8 RGB, e.g. camera frames cropped to the box.
        similarity: (Q, N) similarity of each touch to each region image; larger is more similar.
        right: (Q,) index in `views` of the region image that belongs to each touch; None: touch i belongs to region
            image i.
        queries: Indices of the touches to show, one per line; None: the first 8.
        top: Number of region images in a line.
        height: Height of the images in a line, px.

    Returns:
        (H, W, 3) uint8 RGB; each line states the rank of the matching region image.

    Raises:
        ValueError: The shapes do not fit together, or there is no query touch.
    """
    if similarity.shape != (len(touches), len(views)):
        raise ValueError(
            f"similarity must have shape (touches, views) = ({len(touches)}, {len(views)}); got {similarity.shape}. "
            f"Give one similarity per touch and view"
        )
    truth = np.arange(len(touches)) if right is None else np.asarray(right)
    if truth.shape != (len(touches),) or not ((truth >= 0) & (truth < len(views))).all():
        fault = f"has shape {truth.shape}" if truth.shape != (len(touches),) else "contains other indices"
        raise ValueError(
            f"`right` must contain one index from 0 to {len(views) - 1} for each of the {len(touches)} touches, but it "
            f"{fault}. Give the index of the view that belongs to each touch"
        )
    shown = list(range(min(8, len(touches)))) if queries is None else list(queries)
    if not shown:
        empty = "touches" if queries is None else "queries"
        raise ValueError(f"a gallery needs at least one query touch, but {empty} is empty. Add a touch to {empty}")
    top = min(top, len(views))
    ink = Ink.of(max(240, 2 * height))
    wide = max(round(height * v.shape[1] / v.shape[0]) for v in (*touches, *views))
    gap, step = 2 * ink.pad, height + ink.row + 2 * ink.pad
    picture = np.full((ink.row + len(shown) * step, (top + 1) * (wide + gap) + gap, 3), INK, np.uint8)
    ink.text(picture, "touch", gap, ink.pad)
    ink.text(picture, f"nearest of {len(views)} regions, matching region framed", 2 * gap + wide, ink.pad)
    for line, query in enumerate(shown):
        y = ink.row + line * step + ink.pad
        _place(picture, touches[query], gap, y, wide, height)
        order = np.argsort(-similarity[query], kind="stable")
        rank = int(np.flatnonzero(order == truth[query])[0]) + 1
        ink.text(picture, ink.fit(f"rank: {rank}", wide), gap, y + height + ink.pad)
        for place, view in enumerate(order[:top]):
            x = gap + (place + 1) * (wide + gap)
            _place(picture, views[view], x, y, wide, height)
            text, colour = f"{place + 1}: {similarity[query, view]:.2f}", WHITE
            if view == truth[query]:
                edges = np.array([x, y, x + wide, y + height]) - 0.5
                frame(picture, edges, ORANGE, replace(ink, line=2 * ink.line))
                text, colour = f"{text} match", ORANGE
            ink.text(picture, ink.fit(text, wide), x, y + height + ink.pad, colour)
    return picture


def principal_components(features: np.ndarray, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of features along the directions of largest variance, computed with numpy's SVD.

    Args:
        features: N features with D numbers each, (N, D).
        count: Number of directions.

    Returns:
        (N, count) coordinates, and (count,) share of the variance that each direction explains. The sign of a
        direction is chosen so that the coordinate with the largest magnitude is positive.

    Raises:
        ValueError: The features have fewer than `count` rows or columns, or contain non-finite numbers.
    """
    if features.ndim != 2 or min(features.shape) < count or not np.isfinite(features).all():
        fault = f"have shape {features.shape}" if np.isfinite(features).all() else "contain non-finite numbers"
        raise ValueError(
            f"features must be finite, of shape (N, D) with N and D at least {count}, but they {fault}. Give "
            f"finite features of at least {count} moments"
        )
    centred = features - features.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates = u[:, :count] * s[:count]
    largest = np.take_along_axis(coordinates, np.abs(coordinates).argmax(axis=0)[None], axis=0)
    total = float((s**2).sum())
    shares = s[:count] ** 2 / total if total > 0 else np.zeros(count)
    return coordinates * np.where(largest < 0, -1.0, 1.0), shares


def normalised(features: np.ndarray) -> np.ndarray:
    """Return features (N, D) with each row scaled to length 1; a row of zeros stays zero."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(length > 0, length, 1.0)


def _range(scores: np.ndarray) -> tuple[float, float]:
    finite = scores[np.isfinite(scores)]
    if finite.size == 0:
        raise ValueError("scores must contain a finite number; all scores are non-finite. Leave out this image")
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _scale_colours(share: np.ndarray) -> np.ndarray:
    """Return cividis colours (..., 3) uint8 RGB for values 0..1; values outside get the colours of the ends."""
    level = np.rint(np.clip(np.nan_to_num(share), 0, 1) * 255).astype(np.uint8)
    bgr = cv2.applyColorMap(level.reshape(-1, 1), cv2.COLORMAP_CIVIDIS)
    return bgr[..., ::-1].reshape(*share.shape, 3)


def _draw_scale(image: np.ndarray, low: float, high: float, title: str, ink: Ink) -> None:
    ends = f"{low:.2f}", f"{high:.2f}"
    bar = max(8, image.shape[1] // 5)
    right = image.shape[1] - ink.pad - ink.width(ends[1])
    start = right - ink.pad - bar
    image[ink.pad : ink.pad + ink.cap, start : start + bar] = _scale_colours(np.linspace(0, 1, bar))[None]
    left = start - ink.pad - ink.width(ends[0])
    ink.text(image, ends[1], right, ink.pad)
    ink.text(image, ends[0], left, ink.pad)
    ink.text(image, ink.fit(title, max(1, left - 2 * ink.pad)), ink.pad, ink.pad)


def _place(picture: np.ndarray, image: np.ndarray, x: int, y: int, wide: int, high: int) -> None:
    """Draw an image centred into a cell, with its aspect ratio kept."""
    require_image(image, "a picture of the gallery")
    factor = min(wide / image.shape[1], high / image.shape[0])
    w, h = max(1, round(factor * image.shape[1])), max(1, round(factor * image.shape[0]))
    left, top = x + (wide - w) // 2, y + (high - h) // 2
    fill(picture, x, y, x + wide, y + high, INK)
    fit_into(picture[top : top + h, left : left + w], image)

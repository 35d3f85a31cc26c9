"""A frame at the size a model takes, decoded no larger than that needs."""

import numpy as np

from tactile_align.datasets.episodes import Episode
from tactile_align.datasets.inputs import Input
from tactile_align.geometry.images import ImageMap

# Eighths of the full size at which a JPEG may be decoded, and how many pixels of it an input's pixel must then cover
# at least. libjpeg-turbo has vector code for a quarter and a half only: 3/8, 5/8, ... take longer than the full size.
# Its filter is sharper than averaging; with these margins a printed board, the hardest of scenes, comes out with a
# mean difference under 0.7 grey levels (and 10 at the 99th percentile, at edges), a camera's scene with half of that.
REDUCTIONS = ((2, 1.6), (4, 1.05))


def frame_of(episode: Episode, one: Input, t: int, facts: dict[str, np.ndarray]) -> np.ndarray:
    """Return moment t of an input, (height, width, 3) uint8 RGB.

    A JPEG that the input shrinks enough is decoded at half or a quarter of its size, which changes the result by a
    grey level in the mean. Box and map are those of the full frame.
    """
    width, height = episode.width_height(one.stream)
    box = facts[f"frame_box/{one.key}"][t] if one.zoom is not None else None
    whole = one.image_map(width, height, box)
    reduced = reduced_map(whole)
    at_least = None if reduced is None else (reduced.source_width, reduced.source_height)
    frame = episode.image(one.stream, t, at_least)
    # PNG and raw frames come whole whatever is asked for.
    fits = reduced is not None and frame.shape[:2] == (reduced.source_height, reduced.source_width)
    return np.asarray((reduced if reduced is not None and fits else whole).apply_to_image(frame))


def reduced_map(whole: ImageMap) -> ImageMap | None:
    """Return the map that does to a reduced frame what `whole` does to the full one; None where that does not pay.

    The reduced frame has 2/8 or 4/8 of the size. The window that `whole` shows must be made of whole pixels there
    too, for such windows are averaged many times faster than others.
    """
    scale, offset = np.asarray(whole.scale), np.asarray(whole.offset)
    if scale.ndim > 1:
        return None
    corners = np.array([-0.5, -0.5, whole.width - 0.5, whole.height - 0.5])
    window = np.asarray(whole.inverse().apply_to_box(corners)) + 0.5
    source = np.array([whole.source_width, whole.source_height])
    for eighths, margin in REDUCTIONS:
        small, edges = source * eighths / 8, window * eighths / 8
        pays = np.abs(scale).max() * margin <= eighths / 8
        if pays and not (small % 1).any() and np.abs(edges - edges.round()).max() < 1e-6:
            # uv_full = (uv_small + 0.5) 8 / eighths - 0.5
            width, height = (int(n) for n in small)
            factor, shift = scale * 8 / eighths, offset + scale * (4 / eighths - 0.5)
            return ImageMap(width, height, whole.width, whole.height, factor, shift)
    return None

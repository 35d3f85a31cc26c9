"""A frame at the size a model takes, decoded no larger than that needs."""

from collections.abc import Callable

import numpy as np

from tactile_align.datasets.episodes import Episode
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.geometry.images import ImageMap
from tactile_align.moments.inputs import Input

# Eighths of the full size at which a JPEG may be decoded, and how many pixels of it an input's pixel must then cover
# at least. libjpeg-turbo has vector code for a quarter and a half only: 3/8, 5/8, ... take longer than the full size.
# Its filter is sharper than averaging; with these margins a printed board, the hardest of scenes, comes out with a
# mean difference under 0.7 grey levels (and 10 at the 99th percentile, at edges), a camera's scene with half of that.
REDUCTIONS = ((2, 1.6), (4, 1.05))


def frame_of(episode: Episode, entry: Input, t: int, facts: dict[str, np.ndarray]) -> np.ndarray:
    """Return moment t of an input, (height, width, 3) uint8 RGB.

    A JPEG that the input shrinks enough is decoded at half or a quarter of its size, which changes the result by a
    grey level in the mean. Box and map are those of the full frame.
    """
    box = facts[f"frame_box/{entry.key}"][t] if entry.zoom is not None else None
    whole = entry.image_map(*episode.width_height(entry.stream), box)
    reduced = reduced_map(whole) or whole
    size = None if reduced is whole else (reduced.source_width, reduced.source_height)
    frame = episode.image(entry.stream, t, size)
    # PNG and raw frames come whole whatever the size asked for.
    fits = frame.shape[:2] == (reduced.source_height, reduced.source_width)
    return np.asarray((reduced if fits else whole).apply_to_image(frame))


def reduced_map(whole: ImageMap) -> ImageMap | None:
    """Return the map from a reduced frame to the output of `whole`; None where reducing does not pay.

    The reduced frame has 2/8 or 4/8 of the size. The window of `whole` must consist of whole pixels there too, since
    such windows are averaged many times faster than others.
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


MOST = 64  # frames a reference is made of
GREY = 128  # where nothing has changed


def reference_of(episode: Episode, entry: Input, contact: np.ndarray) -> np.ndarray:
    """Return the no-contact reference of one sensor in one episode, at the size of an input.

    It is the median over up to MOST moments without contact, spread over the episode, so that a missed contact leaves
    no trace. An episode with the same contact in every frame has no contact for `datasets.contact`; its differences
    are near GREY throughout.

    Args:
        episode: The episode.
        entry: The input of the touch stream.
        contact: (T,) bool, when that sensor touches something, see `datasets.contact.contact_of`.

    Returns:
        (height, width, 3) uint8.

    Raises:
        InputError: No moment is without contact; names the episode and the stream.
    """
    free = np.flatnonzero(~contact)
    if not len(free):
        raise InputError(
            f"{episode.ref}: {episode.stream(entry.stream).key} is in contact in all {len(contact)} frames: there is "
            f"no reference for differences. Needed: at least one frame without contact in each episode. Leave the "
            f"episode out, or set features.touch_input = 'image'"
        )
    chosen = free[evenly(len(free), MOST)]
    middle = np.median([frame_of(episode, entry, int(t), {}) for t in chosen], axis=0)
    return np.asarray(middle.round().astype(np.uint8))


def input_image(entry: Input, image: np.ndarray, reference: Callable[[], np.ndarray]) -> np.ndarray:
    """Return an image (height, width, 3) uint8 of an input as the model takes it, in training and when acting.

    Args:
        entry: The input; one with `difference` gets the image's difference to the reference.
        image: The frame at the input's size.
        reference: Gives the no-contact reference of that size; called only for such an input.
    """
    return difference(image, reference()) if entry.difference else image


def difference(touch: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return GREY + (touch - reference) / 2, rounded down: every difference of two images fits, none is cut.

    Args:
        touch: (..., H, W, 3) uint8.
        reference: (H, W, 3) uint8, see `reference_of`.

    Returns:
        Shape of `touch`, uint8.
    """
    apart = touch.astype(np.int16) - reference
    return np.asarray((GREY + (apart >> 1)).astype(np.uint8))

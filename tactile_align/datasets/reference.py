"""A touch as the difference to its reference: the touch of nothing of the same sensor in the same episode."""

import numpy as np

from tactile_align.datasets.episodes import Episode
from tactile_align.datasets.frames import frame_of
from tactile_align.datasets.inputs import Input
from tactile_align.errors import InputError
from tactile_align.evenly import evenly

MOST = 64  # frames a reference is made of
GREY = 128  # where nothing has changed


def reference_of(episode: Episode, one: Input, contact: np.ndarray) -> np.ndarray:
    """Return the touch of nothing of one sensor in one episode, at the size of an input.

    It is the median over up to MOST moments without contact, spread over the episode, so that a missed contact leaves
    no trace. An episode that touches something in every frame, always alike, has no contact in the eyes of
    `datasets.contact`; its differences are near GREY throughout.

    Args:
        episode: The episode.
        one: The input of the touch stream.
        contact: (T,) bool, when that sensor touches something, see `datasets.contact.contact_of`.

    Returns:
        (height, width, 3) uint8.

    Raises:
        InputError: No moment is without contact; names the episode and the stream.
    """
    free = np.flatnonzero(~contact)
    if not len(free):
        raise InputError(
            f"{episode.ref}: {episode.stream(one.stream).key} is in contact in all {len(contact)} frames, so there is "
            f"no touch of nothing to take differences to. Needed: at least one frame without contact in each episode. "
            f"Leave the episode out, or set features.touch_input = 'image'"
        )
    chosen = free[evenly(len(free), MOST)]
    middle = np.median([frame_of(episode, one, int(t), {}) for t in chosen], axis=0)
    return np.asarray(middle.round().astype(np.uint8))


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

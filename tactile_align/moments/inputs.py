"""Image inputs of a model: camera images, crops around a sensor's box, and touch images, each at its input size.

The images are decoded, resized and, for touches, preprocessed in the same way in training and when acting.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tactile_align.datasets.episodes import Episode
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.geometry.frames import Array
from tactile_align.geometry.images import ImageMap

Fit = Literal["stretch", "letterbox"]


@dataclass(frozen=True)
class Input:
    """One image input of a model.

    Attributes:
        key: Name of the input in a batch.
        stream: Camera stream or touch stream of the episode from which the input is computed.
        width: Width of the input image, px.
        height: Height of the input image, px.
        fit: Method that resizes a whole frame to the input size. "stretch": the aspect ratio may change. "letterbox":
            the aspect ratio is kept.
        sensor: Sensor whose box in the image is computed. None: the input has no box.
        zoom: Shorter side of the crop around the box, divided by the longer side of the box. None: the whole frame is
            used.
        difference: Whether a touch image is replaced by its difference from the no-contact reference. The key of such
            an input must be the name of its sensor.
        uncertain: Whether the standard deviation of the box's position is computed. Moments for which it is unknown
            then have no box.
        other_finger: Whether the box of the other finger is computed.
        ahead_m: Distance by which the box is moved forward from the sensor's pad, along the pad's normal, m.
        earlier: Ages of the earlier images of a window of touches, frames, increasing; empty: the present image alone.

    Raises:
        InputError: `zoom` is below 1 or has no sensor.
    """

    key: str
    stream: str
    width: int
    height: int
    fit: Fit = "stretch"
    sensor: str | None = None
    zoom: float | None = None
    difference: bool = False
    uncertain: bool = False
    other_finger: bool = False
    ahead_m: float = 0.0
    earlier: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.zoom is not None and (self.sensor is None or self.zoom < 1.0):
            fault = "zoom was set without a sensor, around whose box to crop. Set sensor, or omit zoom"
            small = f"zoom must be at least 1; got {self.zoom}. Increase zoom, or omit zoom to use the whole frame"
            raise InputError(f"input {self.key}: {fault if self.sensor is None else small}")

    def image_map(self, width: int, height: int, box: Array | None = None) -> ImageMap:
        """Return the map from pixels of a width x height frame to pixels of this input image.

        Args:
            width: Width of the frame, px.
            height: Height of the frame, px.
            box: Box (u0, v0, u1, v1) of the sensor in the frame, px. If the box is None or nan, an input
                with zoom shows the whole frame, and the alignment loss does not use the moment.
        """
        whole = ImageMap.identity(width, height)
        if self.zoom is not None and box is not None and not bool(np.isnan(np.asarray(box)).any()):
            return whole.crop_box(self._window(np.asarray(box)), self.width, self.height)
        if self.fit == "letterbox":
            return whole.letterbox(self.width, self.height)
        return whole.resize(self.width, self.height)

    def _window(self, box: np.ndarray) -> np.ndarray:
        """Return the crop window (4,) around a box, px: its shorter side is `zoom` times the longer side of the box.

        The window has the aspect ratio of the input, and its edges lie on pixel borders.
        """
        centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        assert self.zoom is not None
        shape = np.array([self.width, self.height]) / min(self.width, self.height)
        half = shape * sides.max() * self.zoom / 2
        return np.round(np.concatenate([centre - half, centre + half]) + 0.5) - 0.5


# (n, margin): a JPEG may be decoded at n / 8 of its size if one input pixel covers at least `margin` decoded pixels.
# libjpeg-turbo has fast code for 2/8 and 4/8 only; 3/8, 5/8, ... take longer than the full size. Its filter is sharper
# than averaging. With these margins, an image of a printed board (the most difficult scene) differs by less than 0.7
# grey levels in the mean and 10 at the 99th percentile (at edges); other scenes differ by half of that.
REDUCTIONS = ((2, 1.6), (4, 1.05))


def frame_of(episode: Episode, entry: Input, t: int, facts: dict[str, np.ndarray]) -> np.ndarray:
    """Return the image of an input at frame number t, (height, width, 3) uint8 RGB.

    If the input is much smaller than a JPEG frame, the JPEG is decoded at half or a quarter of its size. This changes
    the result by less than one grey level in the mean. `facts` are the facts about the episode from `moment_facts`.
    """
    box = facts[f"frame_box/{entry.key}"][t] if entry.zoom is not None else None
    whole = entry.image_map(*episode.width_height(entry.stream), box)
    reduced = reduced_map(whole) or whole
    size = None if reduced is whole else (reduced.source_width, reduced.source_height)
    frame = episode.image(entry.stream, t, size)
    # PNG and raw frames are always decoded at full size.
    fits = frame.shape[:2] == (reduced.source_height, reduced.source_width)
    return np.asarray((reduced if fits else whole).apply_to_image(frame))


def reduced_map(whole: ImageMap) -> ImageMap | None:
    """Return the map from a frame decoded at reduced size to the output of `whole`; None: decode at full size.

    The reduced frame has 2/8 or 4/8 of the full width and height. The edges of the cropped window must also lie on
    pixel borders of the reduced frame, because such windows are averaged much faster than others.
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


MOST = 64  # largest number of frames for a reference
GREY = 128  # value of a pixel without difference


def reference_of(episode: Episode, entry: Input, contact: np.ndarray) -> np.ndarray:
    """Return the no-contact reference image of one touch sensor in one episode, at the size of an input.

    The reference is the median of up to MOST frames without contact, evenly spread over the episode. A few undetected
    contacts therefore do not affect it. If all frames of an episode show the same contact, `datasets.contact` detects
    no contact, and all differences are near GREY, the value of a zero difference.

    Args:
        episode: The episode.
        entry: The input of the touch stream.
        contact: (T,) bool, whether the sensor touches something in each of the T frames of the episode; see
            `datasets.contact.contact_of`.

    Returns:
        (height, width, 3) uint8.

    Raises:
        InputError: Every moment is in contact. The message states the episode and the stream.
    """
    free = np.flatnonzero(~contact)
    if not len(free):
        raise InputError(
            f"{episode.ref}: {episode.stream(entry.stream).key}: all {len(contact)} frames are in contact, but "
            f"features.touch_input = 'difference' needs at least one frame without contact as the reference. Exclude "
            f"the episode, or set features.touch_input = 'image'"
        )
    chosen = free[evenly(len(free), MOST)]
    middle = np.median([frame_of(episode, entry, int(t), {}) for t in chosen], axis=0)
    return np.asarray(middle.round().astype(np.uint8))


def window(entry: Input, image: Callable[[int], np.ndarray], t: int) -> np.ndarray:
    """Return the images of an input at frame number t, stacked as channels, in training and when acting.

    Before the start of an episode, its first image takes the place of the missing ones.

    Args:
        entry: The input; `entry.earlier` states the ages of the earlier images.
        image: Function that returns the image (height, width, 3) uint8 of the input at a frame number.
        t: Frame number in the episode.

    Returns:
        (height, width, 3 K) uint8, the K images of the window, the newest first.
    """
    if not entry.earlier:
        return image(t)
    return np.concatenate([image(max(t - age, 0)) for age in (0, *entry.earlier)], axis=2)


def input_image(entry: Input, image: np.ndarray, reference: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the image (height, width, 3) uint8 that the model receives, in training and when acting.

    Args:
        entry: The input. If `entry.difference` is True, the difference between image and reference is returned.
        image: (height, width, 3) uint8 frame at the input's size.
        reference: Function that returns the no-contact reference of the same size. It is called only if
            `entry.difference` is True.
    """
    return difference(image, reference()) if entry.difference else image


def difference(touch: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return GREY + (touch - reference) / 2, rounded down. Every possible difference fits into uint8 without clipping.

    Args:
        touch: (..., H, W, 3) uint8 touch images of height H and width W.
        reference: (H, W, 3) uint8 no-contact reference, see `reference_of`.

    Returns:
        (..., H, W, 3) uint8 differences.
    """
    apart = touch.astype(np.int16) - reference
    return np.asarray((GREY + (apart >> 1)).astype(np.uint8))

"""Random augmentation of the images of a batch. Boxes and points move with their image, except in pretraining."""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Generator, Tensor

from tactile_align.config.pretrain import PretrainConfig
from tactile_align.config.train import AugmentConfig
from tactile_align.geometry.images import ImageMap
from tactile_align.moments.batch import MomentBatch, ObservationBatch, ViewBatch

Batch = TypeVar("Batch", bound=ObservationBatch)


def augment(
    batch: Batch, config: AugmentConfig, generator: Generator | None = None, rows: tuple[int, int] = (0, 1)
) -> Batch:
    """Return the batch with camera images cropped to the encoder's input size, with random position and random colours.

    Args:
        batch: Batch whose camera images are larger than the encoder's input by `shift_px` on each side. Touch images
            are not changed.
        config: Largest shift and strengths of the colour changes.
        generator: Random generator on the CPU, so that a seed gives the same crops on all devices. None: crop at the
            centre, and do not change colours.
        rows: (rank, n) if this process holds every n-th row of a larger batch, for n processes. A row is then changed
            in the same way as if one process held the larger batch.
    """
    views, ahead = {}, dict(batch.ahead) if isinstance(batch, MomentBatch) else {}
    for key, view in batch.views.items():
        cut = _cut(view.image, config, generator, *rows)
        if cut is not None:
            view = _moved(view, cut)
            if key in ahead:
                ahead[key] = ahead[key].through(cut)
        views[key] = view if generator is None else replace(view, image=_recolour(view.image, config, generator, *rows))
    if isinstance(batch, MomentBatch):
        return replace(batch, views=views, ahead=ahead)
    return replace(batch, views=views)


def with_second_views(
    batch: MomentBatch, raw: MomentBatch, config: AugmentConfig, generator: Generator, rows: tuple[int, int] = (0, 1)
) -> MomentBatch:
    """Return an augmented batch with `second_views`, another random augmentation of the same camera images.

    Args:
        batch: Result of `augment` for `raw`.
        raw: Batch before augmentation.
        config: Options of the augmentation.
        generator: Random generator; it continues after the draws for `batch`.
        rows: Rank of this process and number of processes, as for `augment`.
    """
    return replace(batch, second_views=augment(raw, config, generator, rows).views)


def with_one_crop(
    batch: MomentBatch,
    config: PretrainConfig,
    generator: Generator,
    rows: tuple[int, int] = (0, 1),
    differences: bool = False,
) -> MomentBatch:
    """Return a batch with a random augmentation of each image.

    An augmentation is a crop, a gain of the brightness, and noise; see `PretrainConfig`. Images are not flipped, and
    their colours not changed. The touches of a window have one crop and gain, and noises of their own. The boxes of
    views are not moved with their images.

    Args:
        batch: The moments, with images of the encoder's input size.
        config: Strengths of the augmentation.
        generator: Random generator on the CPU.
        rows: Rank of this process and number of processes, as for `augment`.
        differences: Whether touch images are differences from the no-contact reference, whose zero is grey (128).
    """
    images = {
        name: _crop_gain_noise(image, config, generator, rows, 128.0 * (differences and name in batch.touches))
        for name, image in batch.images().items()
    }
    return batch.with_images(images)


def with_two_crops(
    batch: MomentBatch,
    config: PretrainConfig,
    generator: Generator,
    rows: tuple[int, int] = (0, 1),
    differences: bool = False,
) -> MomentBatch:
    """Return a batch with two random augmentations of each image: in `touches` and `views`, and in the second ones.

    The arguments are those of `with_one_crop`.
    """
    first, again = (with_one_crop(batch, config, generator, rows, differences) for _ in range(2))
    return replace(first, second_views=again.views, second_touches=again.touches)


def _crop_gain_noise(
    images: Tensor, config: PretrainConfig, generator: Generator, rows: tuple[int, int], zero: float
) -> Tensor:
    """Return images (B, H, W, 3 K) uint8, each changed at random; the gain scales the distance from `zero`."""
    rank, world = rows
    count, (height, width, channels) = len(images) * world, images.shape[1:]
    side, u, v, gain = (x[rank::world].to(images.device) for x in torch.rand(4, count, generator=generator).double())
    noise = torch.randn(count, height, width, channels // 3, generator=generator)[rank::world].to(images.device)
    side = config.crop + (1 - config.crop) * side
    corner = torch.stack([u * width, v * height], dim=1) * (1 - side[:, None]) - 0.5
    box = torch.cat([corner, corner + side[:, None] * corner.new_tensor([width, height])], dim=1)
    shown = ImageMap.identity(width, height).crop_box(box, width, height).apply_to_image(images.float())
    factor = (1 + config.gain * (2 * gain - 1)).float()[:, None, None, None]
    changed = zero + factor * (shown - zero) + config.noise * noise.repeat_interleave(3, dim=3)
    return changed.round().clamp(0, 255).to(torch.uint8)


def _cut(images: Tensor, config: AugmentConfig, generator: Generator | None, rank: int, world: int) -> ImageMap | None:
    """Return the map that cuts each image (B, H, W, 3) to the encoder's input size; None if it has that size."""
    count, height, width = images.shape[:3]
    slack = 2 * config.shift_px
    if not slack:
        return None
    origin = _origins(count * world, slack, generator)[rank::world].to(images.device)
    return ImageMap.identity(width, height).crop(origin[:, 0], origin[:, 1], width - slack, height - slack)


def _moved(view: ViewBatch, cut: ImageMap) -> ViewBatch:
    image, box = cut.apply_to_image(view.image), cut.apply_to_box(view.box.double()).to(view.box.dtype)
    other = view.other_box
    other = None if other is None else cut.apply_to_box(other.double()).to(other.dtype)
    return replace(view, image=image, box=box, visible=view.visible & _in_sight(box, image), other_box=other)


def _in_sight(box: Tensor, images: Tensor) -> Tensor:
    """Return (B,) bool: whether each of B boxes still overlaps its image after the shift."""
    border = box.new_tensor([images.shape[2], images.shape[1]]) - 0.5
    return ((box[:, 2:] > -0.5) & (box[:, :2] < border)).all(dim=1)


def _origins(count: int, slack: int, generator: Generator | None) -> Tensor:
    if generator is None:
        return torch.full((count, 2), slack / 2, dtype=torch.float64)
    return torch.randint(0, slack + 1, (count, 2), generator=generator).double()


def _recolour(images: Tensor, config: AugmentConfig, generator: Generator, rank: int, world: int) -> Tensor:
    count = len(images) * world
    if config.shuffle_channels > 0:
        order = torch.rand(count, 3, generator=generator).argsort(dim=1)
        plain = torch.rand(count, generator=generator) >= config.shuffle_channels
        order[plain] = torch.arange(3)
        index = order[rank::world].to(images.device)[:, None, None, :].expand(images.shape)
        images = torch.gather(images, 3, index)
    if config.gain > 0:
        gain = (1 + config.gain * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1))[rank::world]
        # Values above white are clipped, as in a saturated camera.
        images = (images.float() * gain.to(images.device)).clamp(0, 255).to(torch.uint8)
    return images

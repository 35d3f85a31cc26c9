"""Random changes of training views on the device; a box moves by the same map as its image, or out of it."""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Generator, Tensor

from tactile_align.config.train import AugmentConfig
from tactile_align.geometry.images import ImageMap
from tactile_align.moments.batch import ObservationBatch, ViewBatch

Batch = TypeVar("Batch", bound=ObservationBatch)


def augment(
    batch: Batch, config: AugmentConfig, generator: Generator | None = None, rows: tuple[int, int] = (0, 1)
) -> Batch:
    """Bring packed views to the encoder's input size, at random places and colours or, without generator, centred.

    Args:
        batch: Its views are `shift_px` larger on each side than the encoder's input; touches stay as they are.
        config: How much.
        generator: A CPU generator, so that the same seed gives the same crops on any device.
        rows: (rank, processes) when the batch is every `processes`-th row of a whole one: a row is then changed as it
            would be in the whole batch.
    """
    views = {key: _augmented(view, config, generator, *rows) for key, view in batch.views.items()}
    return replace(batch, views=views)


def _augmented(view: ViewBatch, config: AugmentConfig, generator: Generator | None, rank: int, world: int) -> ViewBatch:
    count, height, width = view.image.shape[:3]
    slack = 2 * config.shift_px
    if slack:
        origin = _origins(count * world, slack, generator)[rank::world].to(view.image.device)
        cut = ImageMap.identity(width, height).crop(origin[:, 0], origin[:, 1], width - slack, height - slack)
        image, box = cut.apply_to_image(view.image), cut.apply_to_box(view.box.double()).to(view.box.dtype)
        other = view.other_box
        other = None if other is None else cut.apply_to_box(other.double()).to(other.dtype)
        visible = view.visible & _in_sight(box, image)
        view = replace(view, image=image, box=box, visible=visible, other_box=other)
    return view if generator is None else replace(view, image=_recolour(view.image, config, generator, rank, world))


def _in_sight(box: Tensor, images: Tensor) -> Tensor:
    """Return (B,) bool: which boxes still overlap their images; a box at the border may be pushed out."""
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
        # A sensor saturates too: brighter than white is white.
        images = (images.float() * gain.to(images.device)).clamp(0, 255).to(torch.uint8)
    return images

"""Defects planted on purpose: in the data, in the model, in the config."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tactile_align.features.towers import Features, Towers
from tactile_align.moments.batch import MomentBatch
from tactile_align.moments.dataset import Moments
from tactile_align.policies.aligned import AlignedPolicy, Losses
from tactile_align.training.data import Data

KEY, SENSOR = "left_wrist-tactile1", "tactile1"


def spoilt(data: Data, change: Callable[[MomentBatch], MomentBatch]) -> Data:
    """Return data whose batches are changed on their way out."""

    class Spoilt(Moments):
        def batch(self, indices: Any) -> MomentBatch:
            return change(super().batch(indices))

    train = copy.copy(data.train)
    train.__class__ = Spoilt
    return replace(data, train=train)


def bgr(batch: MomentBatch) -> MomentBatch:
    return batch.with_images({name: image.flip(-1) for name, image in batch.images().items()})


def constant_touch(batch: MomentBatch) -> MomentBatch:
    return batch.with_images({SENSOR: torch.full_like(batch.touches[SENSOR].image, 127)})


def one_image_for_all(batch: MomentBatch) -> MomentBatch:
    return batch.with_images({n: v[:1].expand_as(v).contiguous() for n, v in batch.images().items()})


def shuffled_pairs(batch: MomentBatch) -> MomentBatch:
    return batch.with_images({SENSOR: batch.touches[SENSOR].image.roll(1, 0)})


def box_scaled_by_the_smaller_factor(batch: MomentBatch) -> MomentBatch:
    view = batch.views[KEY]
    return replace(batch, views={KEY: replace(view, box=view.box * torch.tensor([0.75, 1.0, 0.75, 1.0]))})


class DetachedTouch(Towers):
    def of_touch(self, images: Tensor) -> Features:
        return Features(*(part.detach() for part in super().of_touch(images)))


class OneImageAtATime(Towers):
    def of_touch(self, images: Tensor) -> Features:
        found = [super(OneImageAtATime, self).of_touch(image[None]) for image in images]
        return Features(torch.cat([f.vector for f in found]), torch.cat([f.tokens for f in found]))


class RolledTouch(Towers):
    def of_touch(self, images: Tensor) -> Features:
        return Features(*(part.roll(1, 0) for part in super().of_touch(images)))


class TurnedRound(Towers):
    """Features whose gradient has the wrong sign: each step makes the alignment loss worse."""

    def of_touch(self, images: Tensor) -> Features:
        return _turned(super().of_touch(images))

    def at_box(self, *args: Any) -> Features:
        return _turned(super().at_box(*args))


def _turned(found: Features) -> Features:
    return Features(2 * found.vector.detach() - found.vector, found.tokens)


class BlindValidation(AlignedPolicy):
    def losses(self, *args: Any, **options: Any) -> Losses:
        found = super().losses(*args, **options)
        if self.training:
            return found
        return found._replace(alignment=None, log={n: v for n, v in found.log.items() if "hsa" not in n})


class NormalisesAgain(nn.Module):
    def __init__(self, first: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.first, self.mean, self.std = first, mean, std

    def forward(self, x: Tensor) -> Tensor:
        again: Tensor = self.first((x - self.mean) / self.std)
        return again


def towers_as(kind: type[Towers]) -> Callable[[AlignedPolicy], None]:
    def plant(model: AlignedPolicy) -> None:
        assert model.alignment.towers is not None
        model.alignment.towers.__class__ = kind

    return plant


def validation_left_out(model: AlignedPolicy) -> None:
    model.__class__ = BlindValidation


def imagenet_statistics(model: AlignedPolicy) -> None:
    model.alignment.towers.vision.mean.copy_(torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
    model.alignment.towers.vision.std.copy_(torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))


def normalised_again(model: AlignedPolicy) -> None:
    vision = model.alignment.towers.vision
    vision.visual.conv1 = NormalisesAgain(vision.visual.conv1, vision.mean, vision.std)


def blocks_behind_the_tokens_learn(model: AlignedPolicy) -> None:
    model.alignment.towers.vision._take = [0]
    model.alignment.towers.vision.requires_grad_(True)


def frozen_encoder(model: AlignedPolicy) -> None:
    model.alignment.towers.vision.requires_grad_(False)


def saturated_head(model: AlignedPolicy) -> None:
    with torch.no_grad():
        model.act.action_head.weight.mul_(300)
    model.act.action_head = nn.Sequential(model.act.action_head, nn.Tanh())


def outputs_of_spread_37(model: AlignedPolicy) -> None:
    with torch.no_grad():
        model.act.action_head.weight.mul_(37 / 0.3)


def touches_in_one_point(model: AlignedPolicy) -> None:
    with torch.no_grad():
        model.alignment.towers.touch_head.bias.fill_(1000.0)


def features_of_rank_one(model: AlignedPolicy) -> None:
    with torch.no_grad():
        project = next(m for m in model.alignment.towers.region_pooling.modules() if isinstance(m, nn.Linear))
        project.weight[1:] = project.weight[:1] * torch.linspace(-1, 1, len(project.weight) - 1)[:, None]
        project.bias.zero_()

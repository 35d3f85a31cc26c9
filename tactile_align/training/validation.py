"""Validation passes, which compute the values of training on fixed batches of held-out episodes."""

import numpy as np
import torch

from tactile_align.config.train import TrainConfig
from tactile_align.features.health import effective_rank, spread
from tactile_align.moments.augment import augment
from tactile_align.moments.batch import MomentBatch
from tactile_align.moments.dataset import Moments
from tactile_align.moments.sampling import MomentSampler
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.build import views_of
from tactile_align.training.data import contact_moments
from tactile_align.training.optimiser import validation_weights

FEWEST = 8  # pairs; with fewer pairs, the rank depends more on their number than on the features


@torch.no_grad()
def validate(model: AlignedPolicy, moments: Moments, config: TrainConfig, device: torch.device) -> dict[str, float]:
    """Return the means of the logged training values over `validation_batches` fixed batches of held-out episodes.

    Every pass uses the same batches, random numbers and loss weights, so that passes can be compared. The results also
    include `rank/SIDE/VIEW` and `spread/SIDE/VIEW`, the effective rank and the spread of the features of a view, where
    SIDE is `touch` or `region`.
    """
    model.eval()
    count = config.validation_batches
    sums: dict[str, float] = {}
    times: dict[str, int] = {}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        for indices in held_out_sampler(moments, config):
            batch = augment(moments.batch(indices).to(device), config.augment)
            _, parts = model(batch, validation_weights(config))
            for name, value in (parts | health(model, batch)).items():
                sums[name] = sums.get(name, 0.0) + float(value) / count
                times[name] = times.get(name, 0) + 1
    # A batch with few pairs has no rank. A mean that counted its rank as 0 would look like a collapse.
    return {name: value * count / times[name] if times[name] < count else value for name, value in sums.items()}


def held_out_sampler(moments: Moments, config: TrainConfig) -> MomentSampler:
    """Return the sampler of the fixed validation batches, which are smaller than usual if few moments are held out."""
    size = min(config.batch_size, len(moments))
    return MomentSampler(contact_moments(moments, config), size, config.contact_share, 0, 0, config.validation_batches)


def health(model: AlignedPolicy, batch: MomentBatch) -> dict[str, torch.Tensor]:
    """Return effective rank and spread of touch and region features over the valid pairs of a batch, by view."""
    if model.alignment is None or not model.aligns:
        return {}
    encoded = model.see(batch)
    values: dict[str, torch.Tensor] = {}
    for view in model.views:
        pairs = model.alignment.valid_pairs(batch, view)
        if pairs.sum() < FEWEST:
            continue
        for side, features in (("touch", encoded.touches[view.sensor]), ("region", encoded.regions[view.key])):
            vectors = features.vector[pairs]
            values |= {f"rank/{side}/{view.key}": effective_rank(vectors), f"spread/{side}/{view.key}": spread(vectors)}
    return values


def sample_picture(moments: Moments, config: TrainConfig) -> np.ndarray | None:
    """Return one picture (H, W, 3) uint8 of validation pairs: each touch above its image with the box drawn in.

    The result is None if the config has no views.
    """
    if not config.views:
        return None
    batch = moments.batch(next(iter(held_out_sampler(moments, config)))[:8])
    first = views_of(config)[0]
    view, touches = batch.views[first.key], batch.touches[first.sensor].image
    columns = []
    for touch, image, box in zip(touches.numpy(), view.image.numpy(), view.box.numpy(), strict=True):
        height, width = image.shape[:2]
        shown = image.copy()
        if np.isfinite(box).all():
            u0, v0, u1, v1 = np.clip(np.round(box), 0, [width - 1, height - 1] * 2).astype(int)
            shown[[v0, v1], u0 : u1 + 1] = shown[v0 : v1 + 1, [u0, u1]] = (255, 176, 0)
        above = np.zeros((touch.shape[0], width, 3), np.uint8)
        above[:, : min(width, touch.shape[1])] = touch[:, :width]
        columns.append(np.concatenate([above, shown]))
    return np.concatenate(columns, axis=1)

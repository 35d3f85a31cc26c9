"""Subject of a diagnosis: a training config with its data, its model and some batches."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tactile_align.config.train import TrainConfig
from tactile_align.evenly import evenly
from tactile_align.moments.augment import augment
from tactile_align.moments.batch import MomentBatch
from tactile_align.moments.sampling import MomentSampler
from tactile_align.policies.aligned import AlignedPolicy, Losses
from tactile_align.training.data import Data, contact_share

ROWS = 64
FEW_ROWS = 16  # backward passes of more rows would take hours with a large encoder on a CPU


@dataclass(frozen=True)
class Subject:
    """Training run under diagnosis.

    Attributes:
        config: Training config of the run.
        data: Data of the run.
        model: Network of the run, on the CPU.
        raw: First training batch, as the data set returns it.
        batch: The same batch at the encoders' input size, without random augmentation and with the policy's random
            numbers.
        few: Up to 16 moments of `batch` for the checks that compute gradients; moments with a box and a contact come
            first.
        wide: Up to 64 contact moments, spread over the episodes, at the encoders' input size.
    """

    config: TrainConfig
    data: Data
    model: AlignedPolicy
    raw: MomentBatch
    batch: MomentBatch
    few: MomentBatch
    wide: MomentBatch

    def losses(self, batch: MomentBatch, model: AlignedPolicy | None = None) -> Losses:
        """Return the losses of a batch, computed in eval mode, i.e. without dropout.

        Args:
            batch: The batch.
            model: Network that computes the losses; None: the run's network.
        """
        return (model or self.model).eval().losses(batch)


def examine(config: TrainConfig, data: Data, model: AlignedPolicy) -> Subject:
    """Return the subject of a diagnosis: the given config, data and network, and the batches that the checks use."""
    raw = data.train.batch(sampler_of(config, data).batch(0))
    batch = _at_the_door(raw, config, model)
    pool = np.flatnonzero(data.contact) if data.contact.any() else np.arange(len(data.train))
    wide = _at_the_door(data.train.batch(pool[evenly(len(pool), ROWS)]), config, model)
    return Subject(config, data, model, raw, batch, batch.rows(_few(batch, model)), wide)


def sampler_of(config: TrainConfig, data: Data) -> MomentSampler:
    """Return the sampler that draws the run's training batches."""
    # A run without any contact, or with nothing else, is reported by a check, so it must not raise here.
    both = data.contact.any() and not data.contact.all()
    share = contact_share(data.contact, config) if both else None
    return MomentSampler(data.contact, config.batch_size, share, config.seed, 0, 1)


def _few(batch: MomentBatch, model: AlignedPolicy) -> Tensor:
    pair = torch.zeros(len(batch), dtype=torch.bool)
    if model.alignment is not None:
        pair = torch.stack([model.alignment.valid_pairs(batch, view) for view in model.views]).any(dim=0)
    pairs, others = pair.nonzero().flatten(), (~pair).nonzero().flatten()
    pairs = pairs[evenly(len(pairs), FEW_ROWS)]
    others = others[evenly(len(others), FEW_ROWS - len(pairs))]
    return torch.cat([pairs, others]).sort().values


def _at_the_door(batch: MomentBatch, config: TrainConfig, model: AlignedPolicy) -> MomentBatch:
    at_door = augment(batch, config.augment)
    if model.act is None:
        return at_door
    return model.act.random(len(batch), torch.Generator().manual_seed(0)).into(at_door)


def total_of(losses: Losses) -> Tensor:
    """Return the sum of the losses that were computed."""
    return torch.stack([*losses.terms.values()]).sum()

"""Construction of the alignment loss, its temperature and the rules for its negatives from a config."""

from dataclasses import replace

import torch
from torch import Tensor

from tactile_align.config.hsa import HSAConfig
from tactile_align.losses.gather import gather_facts
from tactile_align.losses.hsa import HSALoss, LossOptions
from tactile_align.losses.mse import MSELoss
from tactile_align.losses.negatives import Facts, Negatives, unlike
from tactile_align.losses.temperature import Temperature


def loss_of(config: HSAConfig, gather: bool = False) -> HSALoss | MSELoss:
    """Return the alignment loss that a config describes.

    Its explicit hard negatives are used in addition to the negatives from the batch. `gather` is that of `HSALoss` and
    `MSELoss`: whether the loss covers the rows of all processes.
    """
    if config.kind == "mse":
        return MSELoss(gather)
    options = LossOptions(config.symmetric, config.hardness, config.hardest, config.chunk)
    return HSALoss(config.temperature, explicit="add", options=options, gather=gather)


def temperature_of(config: HSAConfig) -> Temperature:
    """Return the temperature module that a config describes."""
    return Temperature(
        config.temperature,
        config.learn_temperature,
        config.temperature_bounds,
        config.temperature_final,
        config.temperature_steps,
    )


def negatives_of(
    config: HSAConfig,
    episode: Tensor,
    time: Tensor,
    touch: Tensor | None,
    contact_index: Tensor,
    bank: Facts | None = None,
    gather: bool = False,
    touch_row: Tensor | None = None,
) -> Negatives:
    """Return the rule of a config that decides which of the B moments of a batch are negatives of each other.

    Args:
        config: Options of the alignment loss.
        episode: (B,) integer index of the episode of each moment.
        time: (B,) frame number of each moment in its episode.
        touch: (B, F) touch descriptions of F numbers each, from `losses.negatives.touch_pattern`. Required if the
            config has a touch_ceiling.
        contact_index: (B,) integer index of each moment's contact in its episode; -1 without contact.
        bank: Facts about the moments in the memory bank, with touch descriptions from `touch_pattern`. None: the batch
            is compared with itself only.
        gather: Whether the mean that is subtracted from the touch descriptions (see `losses.negatives.unlike`) is taken
            over the touches of all processes. False: over those of this process.
        touch_row: (B,) index of the row whose touch is compared with the region of each row; see `Negatives`.
    """
    if touch is not None:
        everybody = gather_facts(touch) if gather else touch
        if bank is not None and bank.touch is not None:
            everybody = torch.cat([everybody, bank.touch])
            bank = replace(bank, touch=unlike(bank.touch, everybody))
        touch = unlike(touch, everybody)
    contact = contact_index if config.exclude_same_contact else None
    if bank is not None and contact is None:
        bank = replace(bank, contact_index=None)
    gap, ceiling = config.min_gap, config.touch_ceiling
    return Negatives(
        episode, time, gap, touch=touch, ceiling=ceiling, bank=bank, contact_index=contact, touch_row=touch_row
    )

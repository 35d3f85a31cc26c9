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
    """Return the alignment loss of a config. Explicit hard negatives are used in addition to in-batch ones."""
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
    bank: Facts | None = None,
    gather: bool = False,
) -> Negatives:
    """Return the rule of a config that decides which of the B moments of a batch are negatives of each other.

    Args:
        config: Options of the alignment loss.
        episode: (B,) integer index of each moment's episode.
        time: (B,) frame number of each moment in its episode.
        touch: (B, F) touch descriptions from `touch_pattern`; required if the config has a touch_ceiling.
        bank: Facts of the moments in the memory bank, whose touch descriptions are also from `touch_pattern`. None: no
            bank.
        gather: Whether `unlike` subtracts the mean over the touches of all processes, instead of this process only.
    """
    if touch is not None:
        everybody = gather_facts(touch) if gather else touch
        if bank is not None and bank.touch is not None:
            everybody = torch.cat([everybody, bank.touch])
            bank = replace(bank, touch=unlike(bank.touch, everybody))
        touch = unlike(touch, everybody)
    return Negatives(episode, time, config.min_gap, touch=touch, ceiling=config.touch_ceiling, bank=bank)

"""Construction of the alignment loss and its temperature from a config."""

from tactile_align.config.hsa import HSAConfig
from tactile_align.losses.hsa import HSALoss, LossOptions
from tactile_align.losses.mse import MSELoss
from tactile_align.losses.temperature import Temperature


def loss_of(config: HSAConfig, gather: bool = False) -> HSALoss | MSELoss:
    """Return the loss that a config describes. Explicit hard negatives are added to the in-batch negatives."""
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

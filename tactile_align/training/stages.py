"""How much the action loss and the alignment loss count at each step."""

import math

from tactile_align.policies.aligned import Weights
from tactile_align.training.config import TrainConfig


def weights_at(config: TrainConfig, step: int) -> Weights:
    """Return what counts at a step (from 0): the mode's stage, times the warm-up, times the fall to `final`."""
    a = config.alignment
    if step < a.pretrain_steps:
        return Weights(action=0.0, alignment=_ramp(config, step))
    share = a.after if a.pretrain_steps else 1.0
    return Weights(action=1.0, alignment=share * _ramp(config, step))


def validation_weights(config: TrainConfig) -> Weights:
    """Return the weights of every validation pass, so that passes compare: the last stage's, without ramp."""
    return Weights(action=1.0, alignment=config.alignment.after if config.alignment.pretrain_steps else 1.0)


def _ramp(config: TrainConfig, step: int) -> float:
    a = config.alignment
    if step < a.warmup_steps:
        return (step + 1) / a.warmup_steps
    left = max(1, config.steps - 1 - a.warmup_steps)
    turn = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - a.warmup_steps) / left)))
    return a.final + (1 - a.final) * turn

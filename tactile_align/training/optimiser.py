"""Optimiser of a run: AdamW with its schedule, the running mean of the weights, and the weights of the losses."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tactile_align.config.train import TrainConfig
from tactile_align.policies.act import act_parameter_groups
from tactile_align.policies.aligned import AlignedPolicy, Weights
from tactile_align.policies.checkpoint import load_tensors, weights_of

Schedule = torch.optim.lr_scheduler.LambdaLR


def make_optimiser(model: AlignedPolicy, config: TrainConfig) -> tuple[torch.optim.Optimizer, Schedule]:
    """Return AdamW over all trainable parameters, and its schedule: a warm-up, then a cosine decay to zero."""
    o = config.optimiser
    groups = [] if model.act is None else act_parameter_groups(model.act, o.lr, o.lr_backbone, o.weight_decay)
    rest = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("act.")]
    # No weight decay for vectors and scalars (biases, norms, the temperature): zero is no sensible target for them.
    decayed, plain = [p for p in rest if p.ndim > 1], [p for p in rest if p.ndim <= 1]
    groups += [{"name": "aligned", "params": decayed, "lr": o.lr_encoder, "weight_decay": o.weight_decay}]
    groups += [{"name": "aligned, no decay", "params": plain, "lr": o.lr_encoder, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW([g for g in groups if g["params"]], betas=o.betas)
    return optimiser, Schedule(optimiser, warmup_cosine(o.warmup_steps, config.steps))


def warmup_cosine(warmup: int, steps: int) -> Callable[[int], float]:
    """Return a function of the step that gives the factor on the learning rates.

    The factor rises linearly over `warmup` steps and then falls to zero as a cosine.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor


class RunningMean:
    """Exponential moving average of a model's tensors.

    After n updates the decay is min(decay, (1 + n) / (10 + n)). It grows from 0.1 to `decay`, so that the average soon
    forgets the initial weights.
    """

    def __init__(self, model: AlignedPolicy, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.tensors = {name: value.clone() for name, value in weights_of(model).items()}

    @torch.no_grad()
    def update(self, model: AlignedPolicy) -> None:
        """Update the average with the weights after a step; integer tensors are copied."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in weights_of(model).items():
            mean = self.tensors[name]
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def state(self) -> dict[str, object]:
        """Return the state of the average for a checkpoint."""
        return {"tensors": self.tensors, "updates": self.updates}

    def load(self, state: dict[str, object]) -> None:
        """Load a state that `state` returned."""
        tensors, updates = state["tensors"], state["updates"]
        assert isinstance(tensors, dict) and isinstance(updates, int)
        self.updates = updates
        for name, value in tensors.items():
            self.tensors[name].copy_(value)


@contextmanager
def averaged(model: AlignedPolicy, mean: RunningMean | None) -> Iterator[None]:
    """Context in which the model has its averaged weights. With mean = None, the model keeps its own weights."""
    if mean is None:
        yield
        return
    own: dict[str, Tensor] = {name: value.clone() for name, value in weights_of(model).items()}
    load_tensors(model, mean.tensors, memory=False)
    try:
        yield
    finally:
        load_tensors(model, own, memory=False)


def weights_at(config: TrainConfig, step: int) -> Weights:
    """Return the weights of the losses at a step, counted from 0.

    The weight of the alignment loss depends on the stage of training, which alignment.mode defines. The weight is
    multiplied by a factor that rises to 1 over alignment.warmup_steps and then falls to alignment.final.
    """
    a = config.alignment
    if step < a.pretrain_steps:
        return Weights(action=0.0, alignment=_ramp(config, step))
    share = a.after if a.pretrain_steps else 1.0
    return Weights(action=1.0, alignment=share * _ramp(config, step))


def validation_weights(config: TrainConfig) -> Weights:
    """Return the weights of the losses in validation.

    They are the weights of the last stage of training, so that all validation passes are comparable.
    """
    return Weights(action=1.0, alignment=config.alignment.after if config.alignment.pretrain_steps else 1.0)


def _ramp(config: TrainConfig, step: int) -> float:
    a = config.alignment
    if step < a.warmup_steps:
        return (step + 1) / a.warmup_steps
    left = max(1, config.steps - 1 - a.warmup_steps)
    turn = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - a.warmup_steps) / left)))
    return a.final + (1 - a.final) * turn

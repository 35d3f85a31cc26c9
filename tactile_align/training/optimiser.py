"""Optimiser of a run: AdamW with its schedule, the running mean of the weights, and the weights of the losses."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tactile_align.config.train import TrainConfig
from tactile_align.errors import InputError
from tactile_align.features.towers import Towers
from tactile_align.policies.act import act_parameter_groups
from tactile_align.policies.aligned import Weights
from tactile_align.policies.checkpoint import load_tensors, weights_of
from tactile_align.training.pretraining import Model

Schedule = torch.optim.lr_scheduler.LambdaLR


TOWER = re.compile(r"(?:alignment\.towers\.(?:vision|touch)|tower)\.visual\.")
BLOCK = re.compile(r"visual\.(?:transformer\.resblocks|trunk\.blocks)\.(\d+)\.")  # in open_clip, in timm
DECAYED = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)


def make_optimiser(model: Model, config: TrainConfig) -> tuple[torch.optim.Optimizer, Schedule]:
    """Return an AdamW optimiser of all trainable parameters, and its schedule: a warm-up, then a cosine decay to zero.

    Each part of the model has its own learning rate: ACT, its ResNet, the towers, the temperature, the pointer, and all
    other layers, which always start from random weights. See `OptimiserConfig`.

    Raises:
        InputError: layer_decay is below 1, and no tower is pretrained and has trained transformer blocks.
    """
    o = config.optimiser
    groups = [] if model.act is None else act_parameter_groups(model.act, o.lr, o.lr_backbone, o.weight_decay)
    factors = {} if model.alignment is None else layer_factors(model.alignment.towers, o.layer_decay)
    matrices = {
        id(p)
        for module in model.modules()
        if isinstance(module, DECAYED)
        for p in module.parameters(recurse=False)
        if p.ndim > 1
    }
    found: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad or name.startswith("act."):
            continue
        part, rate = "heads", o.lr_head
        if name.startswith("alignment.temperature."):
            part, rate = "temperature", o.lr_temperature
        elif name.startswith("pointer."):
            part, rate = "pointer", o.lr_pointer
        elif TOWER.match(name):
            part, rate = "towers", o.lr_tower * factors.get(id(p), 1.0)
        decay = o.weight_decay if id(p) in matrices else 0.0
        found.setdefault((part, rate, decay), []).append(p)
    groups += [{"name": n, "params": ps, "lr": rate, "weight_decay": wd} for (n, rate, wd), ps in found.items()]
    optimiser = torch.optim.AdamW(groups, betas=o.betas)
    return optimiser, Schedule(optimiser, warmup_cosine(o.warmup_steps, config.steps))


def layer_factors(towers: Towers, decay: float) -> dict[int, float]:
    """Return the factor on the learning rate `lr_tower` of each parameter of the pretrained towers, by its `id`.

    The last trained block has the factor `decay`. Each earlier block has the factor of the block after it, times
    `decay`. The layers before the first block, such as positional embeddings, have the smallest factor, and the last
    norm has factor 1. Source: BEiT, arXiv 2106.08254.

    Raises:
        InputError: `decay` is below 1, and no tower is pretrained and has trained transformer blocks.
    """
    if decay == 1:
        return {}
    factors: dict[int, float] = {}
    for tower in {id(tower): tower for tower in (towers.vision, towers.touch) if not tower.scratch}.values():
        trained = [(BLOCK.match(name), p) for name, p in tower.named_parameters() if p.requires_grad]
        last = max((int(block[1]) for block, _ in trained if block), default=-1)
        depth = 0  # of the layers before the blocks; the layers after them have depth last + 2
        for block, p in trained if last >= 0 else ():
            depth = int(block[1]) + 1 if block else (last + 2 if depth else 0)
            factors[id(p)] = decay ** (last + 2 - depth)
    if not factors:
        raise InputError(
            f"optimiser.layer_decay = {decay:g} has no effect: it needs a pretrained tower with trained transformer "
            f"blocks, and no tower has these. Set layer_decay = 1, or set pretrained and tune of the tower"
        )
    return factors


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

    def __init__(self, model: Model, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.tensors = {name: value.clone() for name, value in weights_of(model).items()}

    @torch.no_grad()
    def update(self, model: Model) -> None:
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
def averaged(model: Model, mean: RunningMean | None) -> Iterator[None]:
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

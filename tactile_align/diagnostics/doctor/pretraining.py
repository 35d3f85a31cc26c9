"""Doctor checks of a pretraining run: images, objective, gradients, and some steps on one batch."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from tactile_align.checks import Check
from tactile_align.config.train import TrainConfig
from tactile_align.diagnostics.doctor.data import stream_checks
from tactile_align.diagnostics.doctor.limits import judged, stated
from tactile_align.diagnostics.doctor.model import relative_gradients
from tactile_align.evenly import evenly
from tactile_align.training.data import Data
from tactile_align.training.optimiser import make_optimiser
from tactile_align.training.parameters import parts_of
from tactile_align.training.pretraining import make_pretraining

WIDE, FEW, STEPS = 64, 16, 12
"""Moments whose images are checked, moments of the batch that is trained on, and steps on it."""


def pretraining_checks(config: TrainConfig, data: Data) -> Iterator[Check]:
    """Yield all checks of a config with [pretrain], in the order of the report; torch's global generator is seeded."""
    assert config.pretrain is not None
    pool = np.flatnonzero(data.contact) if data.contact.any() else np.arange(len(data.train))
    yield from stream_checks(data.train.batch(pool[evenly(len(pool), WIDE)]))
    weight = config.pretrain.sigreg_weight
    yield stated(
        "pushes-apart",
        "pass" if weight > 0 else "fail",
        f"pretrain.sigreg_weight = {weight:g}",
        "above 0",
        why="invariance alone is smallest if all features are equal, so they collapse",
        advice="set pretrain.sigreg_weight = 0.05",
    )
    model = make_pretraining(config).train()
    yield stated(
        "encoder-weights",
        "info" if model.tower.scratch else "pass",
        model.tower.name,
        "pretrained, or SCRATCH on purpose",
        why="pretraining from random weights needs more steps than pretraining that continues",
        advice="from scratch, use stem = 'conv' and optimiser.lr_tower of 5e-4 or more",
    )
    batch = model.prepared(data.train.batch(pool[evenly(len(pool), FEW)]), torch.Generator().manual_seed(config.seed))
    optimiser, _ = make_optimiser(model, config)
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"]
    losses: list[float] = []
    for step in range(STEPS + 1):
        torch.manual_seed(config.seed)  # equal directions, so that losses can be compared
        loss, _ = model(batch)
        losses.append(float(loss.detach()))
        if step == STEPS or not bool(torch.isfinite(loss)):
            break
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            yield from relative_gradients(_rms(model))
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimiser.clip_norm)
        optimiser.step()
    measured = f"{losses[0]:.3f} to {losses[-1]:.3f} in {len(losses) - 1} steps"
    yield judged("one-batch-overfits", losses[-1] / losses[0], measured=measured)


def _rms(model: nn.Module) -> dict[str, float]:
    """Return the gradient of each trained part of a model, rms per element."""
    rms = {}
    for part, named in parts_of(model).items():
        gradients = [p.grad.flatten() for _, p in named if p.grad is not None]
        if any(p.requires_grad for _, p in named):
            rms[part] = float(torch.cat(gradients).square().mean().sqrt()) if gradients else 0.0
    return rms

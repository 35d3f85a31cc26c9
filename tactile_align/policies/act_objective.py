"""What ACT is trained on: its output, its loss, its parameter groups, and the recorded defaults."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

# ACT was tuned at these numbers (Zhao et al. 2023, arXiv 2304.13705; LeRobot's preset). In the field an ACT
# trained at 1e-4, without clipping at 10 and without ImageNet statistics collapsed to one constant action.
LEARNING_RATE = 1e-5
BACKBONE_LEARNING_RATE = 1e-5
WEIGHT_DECAY = 1e-4
GRADIENT_CLIP_NORM = 10.0

# Per-channel RGB statistics of images scaled to 0..1, as torchvision's ResNet weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ACTOutput(NamedTuple):
    """Actions (B, C, A), normalised; mean and log variance (B, latent) of the posterior, None without one."""

    actions: Tensor
    mu: Tensor | None
    logvar: Tensor | None


def act_loss(
    output: ACTOutput,
    actions: Tensor,
    is_pad: Tensor | None,
    kl_weight: float = 10.0,
    reduction: Literal["valid", "all"] = "valid",
) -> dict[str, Tensor]:
    """Return `l1`, `kl` (unweighted) and `total` = l1 + kl_weight * kl, each a scalar tensor on the device.

    Args:
        output: What the network returned.
        actions: (B, C, A) normalised.
        is_pad: (B, C) bool; padded steps give no error. None: no step is padded.
        kl_weight: 10 in the paper. KL is summed over the latent and averaged over the batch; it is 0 without
            a posterior.
        reduction: "valid" divides by the real elements (LeRobot since 0.6), "all" by all of them (original,
            LeRobot 0.4), which weakens batches with much padding. A batch of padding alone gives nan, loudly.
    """
    error = (output.actions - actions).abs()
    if is_pad is None:
        l1 = error.mean()
    else:
        error = error.masked_fill(is_pad[..., None], 0)
        real = (~is_pad).sum() * actions.shape[-1]
        l1 = error.mean() if reduction == "all" else error.sum() / real
    if output.mu is None or output.logvar is None:
        return {"l1": l1, "kl": torch.zeros_like(l1), "total": l1}
    kl = -0.5 * (1 + output.logvar - output.mu**2 - output.logvar.exp()).sum(-1).mean()
    return {"l1": l1, "kl": kl, "total": l1 + kl_weight * kl}


def act_parameter_groups(
    model: nn.Module,
    lr: float = LEARNING_RATE,
    lr_backbone: float = BACKBONE_LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
) -> list[dict[str, Any]]:
    """Return AdamW groups `policy` and `backbone` of the trainable parameters; an empty group is left out."""
    named = [(k, p) for k, p in model.named_parameters() if p.requires_grad]
    seeing = [p for k, p in named if k.startswith(("backbone.", "backbones."))]
    acting = [p for k, p in named if not k.startswith(("backbone.", "backbones."))]
    groups = (("policy", acting, lr), ("backbone", seeing, lr_backbone))
    return [{"name": n, "params": p, "lr": rate, "weight_decay": weight_decay} for n, p, rate in groups if p]

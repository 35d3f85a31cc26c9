"""ACT beside the alignment loss: both read the same encoder, so the loss also trains the inputs of ACT."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from tactile_align.config.features import FeatureConfig
from tactile_align.config.hsa import HSAConfig
from tactile_align.config.policy import PolicyConfig
from tactile_align.features.towers import POLICY_GRID
from tactile_align.moments.batch import MomentBatch, ObservationBatch
from tactile_align.policies.act import ACT, IMAGENET_MEAN, IMAGENET_STD, ACTConfig, ACTOutput, act_loss
from tactile_align.policies.alignment import Alignment, BatchFeatures, View


@dataclass(frozen=True)
class Weights:
    """Weights of the losses at a step of training.

    Attributes:
        action: Factor on the action loss; at 0 ACT is not run.
        alignment: Share of hsa.weight on the alignment loss; at 0 it is not computed in training mode.
    """

    action: float = 1.0
    alignment: float = 1.0


class Losses(NamedTuple):
    """The two weighted losses of a batch, None where not computed, and the values for the log, by name."""

    action: Tensor | None
    alignment: Tensor | None
    log: dict[str, Tensor]


class AlignedPolicy(nn.Module):
    """ACT and the alignment of its encoders.

    ACT is built first, so that its random weights do not depend on whether an alignment follows. With weight 0 and no
    region or touch tokens there is none at all and the policy is plain ACT.

    Args:
        policy: ACT's shape and which tokens it reads; None trains the alignment alone.
        features: The towers.
        hsa: The alignment loss.
        views: The (camera, sensor) pairs.
        state_dim: Columns of qpos.
        action_dim: Columns of an action.
        region: "opening" replaces the image region by the gripper's opening: the baseline.
        stop_gradient: The action loss does not reach the encoders; only the alignment teaches them.
        fill: False leaves pretrained weights unread: a checkpoint is loaded right after.

    Attributes:
        act: ACT, None without a policy.
        alignment: Towers and loss, None where nothing uses them.
        region_to_act: From a region's tokens to ACT's, None where it does not read them.
        touch_to_act: From a touch's tokens to ACT's, None where it does not read them.
    """

    def __init__(
        self,
        *,
        policy: PolicyConfig | None,
        features: FeatureConfig,
        hsa: HSAConfig,
        views: tuple[View, ...],
        state_dim: int,
        action_dim: int,
        region: Literal["box", "opening"] = "box",
        stop_gradient: bool = False,
        fill: bool = True,
    ) -> None:
        super().__init__()
        self.views, self.stop_gradient = views, stop_gradient
        self.sensors = tuple(dict.fromkeys(view.sensor for view in views))
        self.act: ACT | None = None
        self.alignment: Alignment | None = None
        self.region_to_act: nn.Linear | None = None
        self.touch_to_act: nn.Linear | None = None
        regions = touches = False
        if policy is not None:
            regions, touches = bool(views) and policy.region_tokens, bool(views) and policy.touch_tokens
            shape = act_config(policy, state_dim, action_dim, len(views), len(self.sensors))
            self.act = ACT(shape, fill_vision=fill)
            if policy.init_gain != 1.0:
                scale_weights(self.act, policy.init_gain)
        if views and (hsa.weight > 0 or regions or touches):
            self.alignment = Alignment(features, hsa, views, region, fill)
            if hsa.weight == 0:
                self.alignment.freeze_unread(regions, touches)
            if policy is not None and regions:
                self.region_to_act = nn.Linear(self.alignment.towers.vision.width, policy.d_model)
            if policy is not None and touches:
                self.touch_to_act = nn.Linear(self.alignment.towers.touch.width, policy.d_model)

    @property
    def aligns(self) -> bool:
        """Whether the alignment loss counts."""
        return self.alignment is not None and self.alignment.hsa.weight > 0

    @property
    def reads_regions(self) -> bool:
        """Whether ACT reads tokens of the views."""
        return self.region_to_act is not None

    @property
    def reads_touches(self) -> bool:
        """Whether ACT reads tokens of the touches."""
        return self.touch_to_act is not None

    def see(self, batch: ObservationBatch, alignment: bool = True) -> BatchFeatures:
        """Return the features of a batch: each tower runs once, over all views or all touches.

        Args:
            batch: The moments.
            alignment: Whether the loss needs them; without it only towers that ACT reads run.
        """
        if self.alignment is None:
            return BatchFeatures({}, {})
        return self.alignment.see(batch, alignment or self.reads_regions, alignment or self.reads_touches)

    def counts(self, batch: MomentBatch) -> dict[str, Tensor]:
        """Return the denominators of a batch's means: rows, real action steps, valid pairs by view."""
        real = ~batch.is_pad
        if self.act is not None and self.act.config.loss_reduction == "all":
            real = torch.ones_like(real)
        counts = {"rows": torch.tensor(len(real), device=real.device), "steps": real.sum()}
        return counts if self.alignment is None else counts | self.alignment.counts(batch)

    def predict(
        self,
        batch: ObservationBatch,
        features: BatchFeatures,
        action: Tensor | None = None,
        is_pad: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> ACTOutput:
        """Run ACT on a batch.

        Args:
            batch: The moments.
            features: Its features, from `see`.
            action: (B, C, A) normalised actions, encoded into the latent as in training; None: the latent is zero.
            is_pad: (B, C) which of them are padding.
            noise: (B, latent) of the latent; None: drawn.

        Raises:
            ValueError: There is no policy.
        """
        if self.act is None:
            raise ValueError("needed a model with a policy; this one was trained with train_policy = false")
        tokens, absent = [], []
        if self.region_to_act is not None:
            tokens += [self.region_to_act(self._for_act(features.regions[view.key].tokens)) for view in self.views]
            absent += [~batch.views[view.key].visible for view in self.views]
        if self.touch_to_act is not None:
            tokens += [self.touch_to_act(self._for_act(features.touches[sensor].tokens)) for sensor in self.sensors]
            absent += [torch.zeros(len(batch), dtype=torch.bool, device=batch.qpos.device)] * len(self.sensors)
        extra = torch.cat(tokens, dim=1) if tokens else None
        pad = torch.cat([a[:, None].expand(-1, POLICY_GRID**2) for a in absent], dim=1) if absent else None
        images = _camera_images(batch, self.act.config.cameras)
        output: ACTOutput = self.act(batch.qpos, images, extra, action, is_pad, extra_is_pad=pad, noise=noise)
        return output

    def _for_act(self, tokens: Tensor) -> Tensor:
        return tokens.detach() if self.stop_gradient else tokens

    def losses(
        self, batch: MomentBatch, weights: Weights | None = None, totals: Mapping[str, Tensor] | None = None
    ) -> Losses:
        """Return the losses of a batch.

        Args:
            batch: The moments.
            weights: Weights of the losses; None: 1 for both.
            totals: `counts` of the whole step, over micro-batches and processes, when this batch is only a part of it:
                each mean is then this part's share of the whole step's mean. "world" is the number of processes, over
                which gradients will be averaged.
        """
        w = weights or Weights()
        aligns = self.aligns and (w.alignment > 0 or not self.training)
        features = self.see(batch, alignment=aligns)
        action = alignment = None
        log: dict[str, Tensor] = {}
        if self.act is not None and (w.action > 0 or not self.training):
            shape = self.act.config
            output = self.predict(batch, features, batch.action, batch.is_pad, batch.noise)
            l1, kl = act_loss(output, batch.action, batch.is_pad, shape.loss_reduction)
            if totals is not None:
                here = self.counts(batch)
                l1, kl = l1 * (here["steps"] / totals["steps"]), kl * (here["rows"] / totals["rows"])
            action = w.action * shape.loss(l1, kl)
            if totals is not None:
                action = action * totals["world"]  # the mean over processes becomes their sum
            log |= {"l1": l1.detach(), "kl": kl.detach()}
        if self.alignment is not None and aligns:
            hsa, details = self.alignment(batch, features, totals)
            weight = w.alignment * self.alignment.hsa.weight
            alignment = weight * hsa
            log |= {"hsa": hsa.detach(), "hsa_weight": hsa.new_tensor(weight), **details}
        return Losses(action, alignment, log)

    def forward(
        self, batch: MomentBatch, weights: Weights | None = None, totals: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training loss of a batch and its parts, by name, for the log; see `losses`."""
        action, alignment, log = self.losses(batch, weights, totals)
        total = sum((part for part in (action, alignment) if part is not None), start=batch.qpos.new_zeros(()))
        log["loss"] = total.detach()
        return total, log


def act_config(policy: PolicyConfig, state_dim: int, action_dim: int, views: int, sensors: int) -> ACTConfig:
    """Return ACT's shape, with room for the tokens of so many views and touches where the policy reads them.

    What both configs have goes by one name.
    """
    shared = {name: getattr(policy, name) for name in ACTConfig.model_fields if name in PolicyConfig.model_fields}
    tokens = POLICY_GRID**2 * (views * policy.region_tokens + sensors * policy.touch_tokens)
    own = {"state_dim": state_dim, "action_dim": action_dim, "extra_tokens": tokens}
    return ACTConfig.model_validate({**shared, **own, "vision": "resnet18" if policy.cameras else "none"})


@torch.no_grad()
def scale_weights(act: ACT, gain: float) -> None:
    """Multiply ACT's weight matrices by `gain`; embeddings and the ResNet stay as they are."""
    for name, p in act.named_parameters():
        if p.ndim > 1 and not name.startswith(("backbone", "encoder_img")) and "embed" not in name:
            p.mul_(gain)


def _camera_images(batch: ObservationBatch, cameras: tuple[str, ...]) -> Tensor | None:
    """Return the cameras' frames (B, cameras, 3, H, W), normalised as ImageNet's; None without cameras."""
    if not cameras:
        return None
    frames = torch.stack([batch.frames[name] for name in cameras], dim=1)
    x = frames.permute(0, 1, 4, 2, 3).to(batch.qpos.dtype) / 255.0
    mean, std = (x.new_tensor(v).view(1, 1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) / std

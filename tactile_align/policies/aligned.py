"""ACT beside the alignment loss: one encoder feeds both, so what the loss teaches reaches the action."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tactile_align.features.config import FeatureConfig
from tactile_align.features.towers import POLICY_GRID, Features, OpeningRegion, Towers
from tactile_align.losses.config import HSAConfig
from tactile_align.losses.hsa import HSALoss, HSAStats
from tactile_align.losses.rivals import Rivals
from tactile_align.losses.temperature import Temperature
from tactile_align.policies.act import ACT, ACTConfig, ACTOutput, act_loss
from tactile_align.policies.act_objective import IMAGENET_MEAN, IMAGENET_STD
from tactile_align.policies.config import PolicyConfig

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class View:
    """One camera in which one sensor is looked for.

    Attributes:
        key: The input's key in a batch.
        sensor: The sensor.
        weight: Weight of its loss.
    """

    key: str
    sensor: str
    weight: float


@dataclass(frozen=True)
class Seen:
    """Features of a batch: h_w and tokens by view key, h_tau and tokens by sensor."""

    regions: dict[str, Features]
    touches: dict[str, Features]


class AlignedPolicy(nn.Module):
    """ACT, the two towers and the HSA loss.

    ACT is built first, so that its random weights do not depend on whether towers follow. With weight 0 and no
    region or touch tokens there are no towers at all and the policy is plain ACT.

    Args:
        policy: ACT's shape and which tokens it reads; None trains the alignment alone.
        features: The towers.
        hsa: The alignment loss.
        views: Where the sensors are looked for.
        state_dim: Columns of qpos.
        action_dim: Columns of an action.
        region: "opening" replaces the image region by the gripper's opening: the baseline.
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
    ) -> None:
        super().__init__()
        self.policy, self.hsa, self.views, self.region = policy, hsa, views, region
        self.sensors = tuple(dict.fromkeys(view.sensor for view in views))
        self.act = None if policy is None else ACT(self._act_config(policy, state_dim, action_dim))
        reads_tokens = policy is not None and bool(views) and (policy.region_tokens or policy.touch_tokens)
        self.towers = Towers(features) if views and (hsa.weight > 0 or reads_tokens) else None
        if self.towers is None:
            return
        self.loss = HSALoss(hsa.temperature, symmetric=hsa.symmetric, explicit="add")
        self.temperature = Temperature(hsa.temperature, hsa.learn_temperature, hsa.temperature_bounds)
        if region == "opening":
            self.opening_region = OpeningRegion(features.dim)
        if self.act is not None and policy is not None:
            if policy.region_tokens:
                self.region_to_act = nn.Linear(self.towers.vision.width, policy.d_model)
            if policy.touch_tokens:
                self.touch_to_act = nn.Linear(self.towers.touch.width, policy.d_model)

    def _act_config(self, policy: PolicyConfig, state_dim: int, action_dim: int) -> ACTConfig:
        per_source = POLICY_GRID * POLICY_GRID
        tokens = len(self.views) * per_source * policy.region_tokens
        tokens += len(self.sensors) * per_source * policy.touch_tokens
        return ACTConfig(
            state_dim=state_dim,
            action_dim=action_dim,
            chunk_size=policy.chunk_size,
            cameras=policy.cameras,
            vision="resnet18" if policy.cameras else "none",
            vision_weights=policy.vision_weights,
            d_model=policy.d_model,
            heads=policy.heads,
            ffn_dim=policy.ffn_dim,
            encoder_layers=policy.encoder_layers,
            decoder_layers=policy.decoder_layers,
            vae_layers=policy.vae_layers,
            latent_dim=policy.latent_dim,
            dropout=policy.dropout,
            kl_weight=policy.kl_weight,
            extra_tokens=tokens,
        )

    def see(self, batch: Batch) -> Seen:
        """Run each tower once over all the views and touches of a batch (see `datasets.moments.Batch`)."""
        if self.towers is None:
            return Seen({}, {})
        touches = torch.cat([batch[f"image/{sensor}"] for sensor in self.sensors])
        found = self.towers.of_touch(touches)
        seen_touches = _split(found, self.sensors)
        if self.region == "opening":
            regions = {
                view.key: Features(self.opening_region(batch[f"opening/{view.sensor}"]), found.tokens[:0])
                for view in self.views
            }
            return Seen(regions, seen_touches)
        images = torch.cat([batch[f"image/{view.key}"] for view in self.views])
        region = self.towers.of_region(images, torch.cat([self._finite_box(batch, view) for view in self.views]))
        return Seen(_split(region, tuple(view.key for view in self.views)), seen_touches)

    def _finite_box(self, batch: Batch, view: View) -> Tensor:
        """Boxes (B, 4) with the whole image where there is none; such rows are never valid pairs."""
        assert self.towers is not None
        width, height = self.towers.vision.input_size
        box = batch[f"box/{view.key}"]
        whole = box.new_tensor([-0.5, -0.5, width - 0.5, height - 0.5])
        return torch.where(batch[f"visible/{view.key}"][:, None], box, whole)

    def valid_pairs(self, batch: Batch, view: View) -> Tensor:
        """Return (B,) bool: which moments have a box and, where asked for, a contact."""
        valid = batch[f"visible/{view.key}"]
        return valid & batch[f"contact/{view.sensor}"] if self.hsa.require_contact else valid

    def alignment(self, batch: Batch, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted HSA loss over the views and what is to be logged of it."""
        rivals = Rivals(batch["episode"], batch["time"], self.hsa.min_gap)
        total = batch["qpos"].new_zeros(())
        log: dict[str, Tensor] = {}
        kappa = self.temperature()
        for view in self.views:
            hard = None
            if self.hsa.region_rivals and self.region == "box":
                assert self.towers is not None
                box = self._finite_box(batch, view)
                hard = self.towers.of_other_regions(batch[f"image/{view.key}"], box, self.hsa.region_rivals)
            valid = self.valid_pairs(batch, view)
            result = self.loss(
                seen.touches[view.sensor].vector,
                seen.regions[view.key].vector,
                hard,
                rivals,
                temperature=kappa,
                valid=valid,
                stats=True,
            )
            loss, stats = result
            assert isinstance(stats, HSAStats)
            total = total + view.weight * loss
            log |= {
                f"hsa/{view.key}": loss.detach(),
                f"chance/{view.key}": stats.chance,
                f"pairs/{view.key}": stats.pairs,
                f"rivals/{view.key}": stats.rivals,
                f"no_box/{view.key}": (~batch[f"visible/{view.key}"]).sum(),
            }
        log["no_contact"] = torch.stack([(~batch[f"contact/{name}"]).sum() for name in self.sensors]).sum()
        log |= {f"excluded/{name}": count for name, count in rivals.excluded().items()}
        log["temperature"] = kappa.detach()
        return total, log

    def predict(self, batch: Batch, seen: Seen, with_actions: bool) -> ACTOutput:
        """Run ACT on a batch; `with_actions` encodes the actions into the latent, as in training."""
        assert self.act is not None and self.policy is not None
        tokens, absent = [], []
        if self.towers is not None and self.policy.region_tokens:
            for view in self.views:
                tokens.append(self.region_to_act(seen.regions[view.key].tokens))
                absent.append(~batch[f"visible/{view.key}"])
        if self.towers is not None and self.policy.touch_tokens:
            for sensor in self.sensors:
                tokens.append(self.touch_to_act(seen.touches[sensor].tokens))
                absent.append(torch.zeros_like(batch[f"contact/{sensor}"]))
        extra = torch.cat(tokens, dim=1) if tokens else None
        pad = torch.cat([a[:, None].expand(-1, POLICY_GRID**2) for a in absent], dim=1) if absent else None
        output: ACTOutput = self.act(
            batch["qpos"],
            self._camera_images(batch),
            extra,
            batch["action"] if with_actions else None,
            batch["is_pad"] if with_actions else None,
            extra_is_pad=pad,
        )
        return output

    def _camera_images(self, batch: Batch) -> Tensor | None:
        assert self.policy is not None
        if not self.policy.cameras:
            return None
        frames = torch.stack([batch[f"image/{camera_key(name)}"] for name in self.policy.cameras], dim=1)
        x = frames.permute(0, 1, 4, 2, 3).to(batch["qpos"].dtype) / 255.0
        mean, std = (x.new_tensor(v).view(1, 1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (x - mean) / std

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training loss of a batch and its parts, by name, for the log."""
        seen = self.see(batch)
        total = batch["qpos"].new_zeros(())
        log: dict[str, Tensor] = {}
        if self.act is not None and self.policy is not None:
            output = self.predict(batch, seen, with_actions=True)
            parts = act_loss(output, batch["action"], batch["is_pad"], self.policy.kl_weight)
            total = total + parts["total"]
            log |= {"l1": parts["l1"].detach(), "kl": parts["kl"].detach()}
        if self.towers is not None and self.hsa.weight > 0:
            hsa, more = self.alignment(batch, seen)
            total = total + self.hsa.weight * hsa
            log |= {"hsa": hsa.detach(), **more}
        log["loss"] = total.detach()
        return total, log


def camera_key(camera: str) -> str:
    """Return the batch key of a whole camera frame that ACT's own ResNet sees."""
    return f"camera-{camera}"


def _split(found: Features, names: tuple[str, ...]) -> dict[str, Features]:
    """Give each of the concatenated sources its rows back."""
    vectors, tokens = found.vector.chunk(len(names)), found.tokens.chunk(len(names))
    return {name: Features(v, t) for name, v, t in zip(names, vectors, tokens, strict=True)}

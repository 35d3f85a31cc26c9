"""ACT beside the alignment loss: one encoder feeds both, so what the loss teaches reaches the action."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from tactile_align.config.features import FeatureConfig
from tactile_align.config.hsa import HSAConfig
from tactile_align.config.policy import PolicyConfig
from tactile_align.features.towers import POLICY_GRID, Features, OpeningRegion, Towers
from tactile_align.losses.build import loss_of, temperature_of
from tactile_align.policies.act import ACT, ACTOutput, act_loss
from tactile_align.policies.act_inputs import act_config, camera_images
from tactile_align.policies.alignment import Memory, align
from tactile_align.policies.parts import Batch, Losses, Seen, View, Weights

__all__ = ["AlignedPolicy", "Batch", "Losses", "Seen", "View", "Weights"]


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
        stop_gradient: The action loss does not reach the encoders; only the alignment teaches them.
        fill: False leaves pretrained weights unread: a checkpoint is loaded right after.
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
        self.policy, self.hsa, self.views, self.region = policy, hsa, views, region
        self.stop_gradient = stop_gradient
        self.sensors = tuple(dict.fromkeys(view.sensor for view in views))
        self.act: ACT | None = None
        if policy is not None:
            shape = act_config(policy, state_dim, action_dim, len(views), len(self.sensors))
            self.act = ACT(shape, fill_vision=fill)
        if self.act is not None and policy is not None and policy.init_gain != 1.0:
            scale_weights(self.act, policy.init_gain)
        reads_tokens = policy is not None and bool(views) and (policy.region_tokens or policy.touch_tokens)
        self.towers = Towers(features, fill) if views and (hsa.weight > 0 or reads_tokens) else None
        self.memory: Memory | None = None
        if self.towers is None:
            return
        self.loss = loss_of(hsa, gather=True)
        self.temperature = temperature_of(hsa)
        if region == "opening":
            self.opening_region = OpeningRegion(features.dim)
        if self.act is not None and policy is not None:
            if policy.region_tokens:
                self.region_to_act = nn.Linear(self.towers.vision.width, policy.d_model)
            if policy.touch_tokens:
                self.touch_to_act = nn.Linear(self.towers.touch.width, policy.d_model)
        if hsa.weight == 0:
            self._freeze_unused(self.towers)
        if hsa.weight > 0 and hsa.bank and region == "box":
            self.memory = Memory(self, self.towers, features.dim)

    def _freeze_unused(self, towers: Towers) -> None:
        """Without the alignment loss nothing comes out of the heads, and a tower that ACT does not read is idle."""
        self.temperature.requires_grad_(False)
        for name, part in towers.named_children():
            if name not in ("vision", "touch"):
                part.requires_grad_(False)
        if towers.vision is not towers.touch:
            for tower, read in ((towers.vision, self.reads_regions), (towers.touch, self.reads_touches)):
                if not read:
                    tower.requires_grad_(False)

    @property
    def reads_regions(self) -> bool:
        """Whether ACT reads tokens of the views."""
        return self.towers is not None and self.policy is not None and self.policy.region_tokens

    @property
    def reads_touches(self) -> bool:
        """Whether ACT reads tokens of the touches."""
        return self.towers is not None and self.policy is not None and self.policy.touch_tokens

    def see(self, batch: Batch, alignment: bool = True) -> Seen:
        """Run each tower once over all the views and touches of a batch (see `datasets.moments.Batch`).

        Args:
            batch: The moments.
            alignment: Whether the loss will be asked for; otherwise only what ACT reads is looked at.
        """
        if self.towers is None:
            return Seen({}, {})
        touches: dict[str, Features] = {}
        regions: dict[str, Features] = {}
        if alignment or self.reads_touches:
            found = self.towers.of_touch(torch.cat([batch[f"image/{sensor}"] for sensor in self.sensors]))
            touches = _split(found, self.sensors)
        if self.region == "opening":
            for view in self.views:
                vector = self.opening_region(batch[f"opening/{view.sensor}"])
                regions[view.key] = Features(vector, vector[:0, None])
        elif alignment or self.reads_regions:
            images = torch.cat([batch[f"image/{view.key}"] for view in self.views])
            box = torch.cat([self.finite_box(batch, view) for view in self.views])
            widths = [sigma for view in self.views if (sigma := self.sigma(batch, view)) is not None]
            region = self.towers.of_region(images, box, *([torch.cat(widths)] if widths else []))
            regions = _split(region, tuple(view.key for view in self.views))
        return Seen(regions, touches)

    def finite_box(self, batch: Batch, view: View) -> Tensor:
        """Boxes (B, 4) with the whole image where there is none; such rows are never valid pairs."""
        assert self.towers is not None
        width, height = self.towers.vision.input_size
        box = batch[f"box/{view.key}"]
        whole = box.new_tensor([-0.5, -0.5, width - 0.5, height - 0.5])
        return torch.where(batch[f"visible/{view.key}"][:, None], box, whole)

    def sigma(self, batch: Batch, view: View) -> Tensor | None:
        """Return (B, 2) how uncertain the boxes are, px, 1 where there is none; None where the config states it."""
        if self.towers is None or self.towers.config.sigma_px != "rig":
            return None
        known = batch[f"sigma/{view.key}"]
        return torch.where(batch[f"visible/{view.key}"][:, None], known, torch.ones_like(known))

    def valid_pairs(self, batch: Batch, view: View) -> Tensor:
        """Return (B,) bool: which moments have a box and, where asked for, a contact."""
        valid = batch[f"visible/{view.key}"]
        return valid & batch[f"contact/{view.sensor}"] if self.hsa.require_contact else valid

    def alignment(self, batch: Batch, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the HSA loss, weighted over the views, and what is to be logged of it."""
        return align(self, batch, seen)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the means of a batch are taken over: rows, real action steps, valid pairs by view."""
        real = ~batch["is_pad"]
        if self.policy is not None and self.policy.loss_reduction == "all":
            real = torch.ones_like(real)
        found = {"rows": torch.tensor(len(real), device=real.device), "steps": real.sum()}
        return found | {f"pairs/{view.key}": self.valid_pairs(batch, view).sum() for view in self.views}

    def predict(self, batch: Batch, seen: Seen, with_actions: bool) -> ACTOutput:
        """Run ACT on a batch; `with_actions` encodes the actions into the latent, as in training."""
        assert self.act is not None and self.policy is not None
        tokens, absent = [], []
        b = len(batch["qpos"])
        if self.towers is not None and self.policy.region_tokens:
            for view in self.views:
                tokens.append(self.region_to_act(self._for_act(seen.regions[view.key].tokens)))
                absent.append(~batch[f"visible/{view.key}"])
        if self.towers is not None and self.policy.touch_tokens:
            for sensor in self.sensors:
                tokens.append(self.touch_to_act(self._for_act(seen.touches[sensor].tokens)))
                absent.append(torch.zeros(b, dtype=torch.bool, device=batch["qpos"].device))
        extra = torch.cat(tokens, dim=1) if tokens else None
        pad = torch.cat([a[:, None].expand(-1, POLICY_GRID**2) for a in absent], dim=1) if absent else None
        output: ACTOutput = self.act(
            batch["qpos"],
            camera_images(batch, self.policy.cameras),
            extra,
            batch["action"] if with_actions else None,
            batch["is_pad"] if with_actions else None,
            extra_is_pad=pad,
            noise=batch.get("noise") if with_actions else None,
        )
        return output

    def _for_act(self, tokens: Tensor) -> Tensor:
        return tokens.detach() if self.stop_gradient else tokens

    def losses(
        self, batch: Batch, weights: Weights | None = None, totals: Mapping[str, Tensor] | None = None
    ) -> Losses:
        """Return the losses of a batch.

        Args:
            batch: The moments.
            weights: What counts now; None: everything.
            totals: `counts` of the whole step, over micro-batches and processes, when this batch is only a part of it:
                each mean is then this part's share of the whole step's mean. "world" is the number of processes, over
                which gradients will be averaged.
        """
        w = weights or Weights()
        aligns = self.towers is not None and self.hsa.weight > 0 and (w.alignment > 0 or not self.training)
        acts = self.act is not None and (w.action > 0 or not self.training)
        seen = self.see(batch, alignment=aligns)
        action = alignment = None
        log: dict[str, Tensor] = {}
        if acts and self.policy is not None:
            output = self.predict(batch, seen, with_actions=True)
            parts = act_loss(
                output, batch["action"], batch["is_pad"], self.policy.kl_weight, self.policy.loss_reduction
            )
            here = self.counts(batch)
            l1, kl = parts["l1"], parts["kl"]
            if totals is not None:
                l1, kl = l1 * (here["steps"] / totals["steps"]), kl * (here["rows"] / totals["rows"])
            action = w.action * (l1 + self.policy.kl_weight * kl)
            if totals is not None:
                action = action * totals["world"]  # the mean over processes becomes their sum
            log |= {"l1": l1.detach(), "kl": kl.detach()}
        if aligns:
            hsa, more = align(self, batch, seen, totals)
            alignment = w.alignment * self.hsa.weight * hsa
            log |= {"hsa": hsa.detach(), "hsa_weight": hsa.new_tensor(w.alignment * self.hsa.weight), **more}
        return Losses(action, alignment, log)

    def forward(
        self, batch: Batch, weights: Weights | None = None, totals: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training loss of a batch and its parts, by name, for the log; see `losses`."""
        action, alignment, log = self.losses(batch, weights, totals)
        total = batch["qpos"].new_zeros(())
        for part in (action, alignment):
            total = total if part is None else total + part
        log["loss"] = total.detach()
        return total, log


@torch.no_grad()
def scale_weights(act: ACT, gain: float) -> None:
    """Multiply ACT's weight matrices by `gain`; embeddings and the ResNet stay as they are."""
    for name, p in act.named_parameters():
        if p.ndim > 1 and not name.startswith(("backbone", "encoder_img")) and "embed" not in name:
            p.mul_(gain)


def _split(found: Features, names: tuple[str, ...]) -> dict[str, Features]:
    """Give each of the concatenated sources its rows back."""
    vectors, tokens = found.vector.chunk(len(names)), found.tokens.chunk(len(names))
    return {name: Features(v, t) for name, v, t in zip(names, vectors, tokens, strict=True)}

"""A policy together with the alignment loss and the contact pointer, which all use the same encoders.

In names and texts, "ACT" and `act` stand for the policy's network, whatever its action head is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from tactile_align.config.features import FeatureConfig
from tactile_align.config.hsa import HSAConfig
from tactile_align.config.pointer import PointerOptions
from tactile_align.config.policy import OF_ACT, OF_RESNET, PolicyConfig
from tactile_align.features.towers import FRAME_GRID, POLICY_GRID
from tactile_align.moments.batch import AheadBatch, MomentBatch, ObservationBatch
from tactile_align.policies.act import IMAGENET_MEAN, IMAGENET_STD, ACTConfig, ObservationEncoder
from tactile_align.policies.alignment import Alignment, BatchFeatures, CopyFeatures, View, frame_keys
from tactile_align.policies.heads.build import make_head
from tactile_align.policies.heads.head import Observed
from tactile_align.policies.pointer import SINES, Pointer, PointerMaps, PointerOutput, entry_counts, sines


@dataclass(frozen=True)
class Weights:
    """Weights of the action loss and of the alignment loss at a training step.

    Attributes:
        action: Factor on the action loss; at 0, training does not run ACT.
        alignment: Factor on hsa.weight; at 0, training does not compute the alignment loss.
    """

    action: float = 1.0
    alignment: float = 1.0


class Losses(NamedTuple):
    """Weighted losses of a batch and the values to log.

    Attributes:
        action: Weighted action loss; None where it was not computed.
        alignment: Weighted alignment loss; None where it was not computed.
        pointer: Weighted loss of the contact pointer; None without a pointer.
        log: Values to log, by name.
        features: Features of the images of the batch, from `AlignedPolicy.see`.
    """

    action: Tensor | None
    alignment: Tensor | None
    pointer: Tensor | None
    log: dict[str, Tensor]
    features: BatchFeatures

    @property
    def terms(self) -> dict[str, Tensor]:
        """The losses that were computed, by name; their sum is the training loss."""
        terms = {"action": self.action, "alignment": self.alignment, "pointer": self.pointer}
        return {name: term for name, term in terms.items() if term is not None}


class AlignedPolicy(nn.Module):
    """Network of a policy, the alignment loss that trains the encoders of its tokens, and the contact pointer.

    The policy is built first and the pointer last, so that random weights do not depend on the parts that follow. With
    hsa.weight = 0, and if neither ACT nor a pointer uses the towers, the model has no alignment and is plain ACT.

    Args:
        policy: Architecture of ACT and the tokens that it uses; None trains the alignment only.
        features: Config of the towers.
        hsa: Config of the alignment loss.
        views: The (camera, sensor) pairs.
        state_dim: Number of columns of qpos.
        action_dim: Number of columns of an action.
        region: What the alignment loss compares with a touch. box: the image region of the sensor's box. opening: the
            gripper's opening, which is the baseline.
        pointer: Options of the contact pointer; None: no pointer.
        stop_gradient: Whether the gradients of the action loss and of the pointer's loss stop before the encoders, so
            that only the alignment loss trains the encoders.
        fill: Whether to read pretrained weights; False is for models whose checkpoint is loaded right after.

    Attributes:
        act: Network of the policy with its action head; None without a policy.
        alignment: Towers and alignment loss; None where nothing uses them.
        frame_keys: Key of the image that shows the whole frame, by camera, for the cameras whose frame tokens ACT uses.
        frame_to_act: Projection of frame tokens to ACT's token width; None where ACT does not use frame tokens.
        region_to_act: Projection of region tokens to ACT's token width; None where ACT does not use region tokens.
        touch_to_act: Projection of touch tokens to ACT's token width; None where ACT does not use touch tokens.
        pointer: Contact pointer; None without one.
        point_to_act: Projection of a predicted point to ACT's token width; None where ACT does not use points.
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
        pointer: PointerOptions | None = None,
        region: Literal["box", "opening"] = "box",
        stop_gradient: bool = False,
        fill: bool = True,
    ) -> None:
        super().__init__()
        self.views, self.stop_gradient = views, stop_gradient
        self.sensors = tuple(dict.fromkeys(view.sensor for view in views))
        self.frame_keys: dict[str, str] = {}
        self.act: ObservationEncoder | None = None
        self.alignment: Alignment | None = None
        self.frame_to_act: nn.Linear | None = None
        self.region_to_act: nn.Linear | None = None
        self.touch_to_act: nn.Linear | None = None
        self.pointer: Pointer | None = None
        self.point_to_act: nn.Linear | None = None
        self._pointed = () if pointer is None else tuple(v for k in pointer.views for v in views if v.key == k)
        regions = touches = points = False
        if policy is not None:
            regions, touches = bool(views) and policy.region_tokens, bool(views) and policy.touch_tokens
            points = bool(policy.pointer_token)
            if policy.vision == "tower":
                self.frame_keys = frame_keys(views)
            tokens = FRAME_GRID**2 * len(self.frame_keys)
            tokens += POLICY_GRID**2 * (regions * len(views) + touches * len(self.sensors))
            tokens += points * len(self._pointed)
            shape = act_config(policy, state_dim, action_dim, tokens)
            self.act = make_head(shape, fill_vision=fill)
            if policy.init_gain != 1.0:
                scale_weights(self.act, policy.init_gain)
        if views and (hsa.weight > 0 or self.frame_keys or regions or touches or pointer is not None):
            self.alignment = Alignment(features, hsa, views, region, fill)
            touched = touches or (pointer is not None and pointer.touch)
            if hsa.weight == 0:
                looked = bool(self.frame_keys) or regions or pointer is not None
                self.alignment.freeze_unread(vision=looked, touch=touched)
            elif hsa.pairs == "two_crops":
                self.alignment.freeze_touch(tower=stop_gradient or not touched)
            if policy is not None and regions:
                self.region_to_act = nn.Linear(self.alignment.towers.vision.width, policy.d_model)
            if policy is not None and touches:
                self.touch_to_act = nn.Linear(self.alignment.towers.touch.width, policy.d_model)
            if policy is not None and self.frame_keys:
                self.frame_to_act = nn.Linear(self.alignment.towers.vision.width, policy.d_model)
            if pointer is not None:
                vision, touch = self.alignment.towers.vision, self.alignment.towers.touch
                sizes = (vision.width, touch.width, vision.grid, vision.input_size)
                self.pointer = Pointer(pointer, state_dim, *sizes)
            if policy is not None and points:
                self.point_to_act = nn.Linear(SINES + 1, policy.d_model)

    @property
    def aligns(self) -> bool:
        """Whether the alignment loss is part of the training loss."""
        return self.alignment is not None and self.alignment.hsa.weight > 0

    @property
    def reads_regions(self) -> bool:
        """Whether ACT uses tokens of the image regions."""
        return self.region_to_act is not None

    @property
    def reads_touches(self) -> bool:
        """Whether ACT uses tokens of the touches, itself or through points of a pointer that does."""
        return self.touch_to_act is not None or (self.reads_points and self._touching)

    @property
    def reads_vision(self) -> bool:
        """Whether ACT uses tokens of the vision tower."""
        return self.frame_to_act is not None or self.reads_regions or self.reads_points

    @property
    def reads_points(self) -> bool:
        """Whether ACT uses points of the contact pointer."""
        return self.point_to_act is not None

    @property
    def pointed_keys(self) -> tuple[str, ...]:
        """Keys of the views in whose images the contact pointer points."""
        return tuple(view.key for view in self._pointed)

    @property
    def _touching(self) -> bool:
        return self.pointer is not None and self.pointer.options.touch

    def see(
        self,
        batch: ObservationBatch,
        alignment: bool = True,
        action: bool = True,
        beside: bool = True,
        pointer: bool = False,
    ) -> BatchFeatures:
        """Return the features of a batch; each tower runs once over all its images.

        Args:
            batch: The moments.
            alignment: Whether the alignment loss needs the features.
            action: Whether ACT needs the features.
            beside: Whether the alignment loss also needs the additional regions that are used as negatives, see
                `alignment.Beside`, and the second views.
            pointer: Whether the contact pointer needs the features, also if ACT does not use its points.
        """
        if self.alignment is None:
            return BatchFeatures()
        points = self.pointer is not None and (pointer or (action and self.reads_points))
        touches = (action and self.reads_touches) or (points and self._touching)
        return self.alignment.see(
            batch,
            regions=alignment or (action and self.reads_regions),
            touches=(alignment and self.alignment.compares_touches(batch)) or touches,
            frames=self.frame_keys if action else None,
            beside=alignment and beside,
            whole=self.pointed_keys if points else (),
        )

    def counts(self, batch: MomentBatch) -> dict[str, Tensor]:
        """Return the counts by which the summed losses of a batch are divided, by name.

        They are the numbers of rows, of actions that are not padding, of valid pairs of each view, and of the targets
        of the pointer.
        """
        real = ~batch.is_pad
        counts = {"rows": torch.tensor(len(real), device=real.device), "steps": real.sum()}
        counts |= {} if self.act is None else self.act.counts(batch)
        for key in self.pointed_keys:
            counts |= {f"{name}/{key}": count for name, count in entry_counts(self._ahead(batch, key)).items()}
        return counts if self.alignment is None else counts | self.alignment.counts(batch)

    def predict(self, batch: ObservationBatch, features: BatchFeatures, noise: Tensor | None = None) -> Tensor:
        """Return the normalised actions (B, C, A) of a batch, as on the robot; see `ActionHead.sample`.

        Args:
            batch: The moments.
            features: Features of the batch, from `see`.
            noise: (B, C, A) from `ActionHead.noise`; None: noise of seed 0, or none with head = "act".

        Raises:
            ValueError: The model has no policy.
        """
        if self.act is None:
            raise ValueError("this model has no policy, so it cannot predict actions. Train with train_policy = true")
        return self.act.sample(self.observed(batch, features), noise)

    def observed(self, batch: ObservationBatch, features: BatchFeatures) -> Observed:
        """Return the input of the policy's network for a batch with its features from `see`."""
        tokens, absent = [], []
        nowhere = torch.zeros(len(batch), dtype=torch.bool, device=batch.qpos.device)
        if self.frame_to_act is not None:
            tokens += [self.frame_to_act(self._for_act(features.frames[camera])) for camera in self.frame_keys]
            absent += [nowhere] * len(self.frame_keys)
        if self.region_to_act is not None:
            tokens += [self.region_to_act(self._for_act(features.regions[view.key].tokens)) for view in self.views]
            absent += [~batch.views[view.key].visible for view in self.views]
        if self.touch_to_act is not None:
            tokens += [self.touch_to_act(self._for_act(features.touches[sensor].tokens)) for sensor in self.sensors]
            absent += [nowhere] * len(self.sensors)
        if self.point_to_act is not None and self.pointer is not None:
            # The action loss does not train the pointer: its gradient would move points away from the contacts.
            with torch.no_grad():
                outputs = self.point(batch, features).values()
                first = [torch.cat([sines(self.pointer.share(o.points[:, 0])), o.done[:, :1]], dim=1) for o in outputs]
            tokens += [self.point_to_act(point)[:, None] for point in first]
            absent += [nowhere] * len(first)
        extra = torch.cat(tokens, dim=1) if tokens else None
        masks = [a[:, None].expand(-1, part.shape[1]) for a, part in zip(absent, tokens, strict=True)]
        pad = torch.cat(masks, dim=1) if masks else None
        cameras = () if self.act is None else self.act.config.cameras
        return Observed(batch.qpos, _camera_images(batch, cameras), extra, pad)

    def _for_act(self, tokens: Tensor) -> Tensor:
        return tokens.detach() if self.stop_gradient else tokens

    def point(self, batch: ObservationBatch, features: BatchFeatures) -> dict[str, PointerOutput]:
        """Return the next contacts that the pointer predicts in each of its views, by view key.

        Args:
            batch: The moments.
            features: Features of the batch, from `see` with pointer = True.

        Raises:
            ValueError: The model has no pointer.
        """
        if self.pointer is None:
            raise ValueError("this model has no contact pointer. Train with a [pointer] table in the config")
        found = self._maps(batch, features, self.pointer).items()
        return {key: self.pointer.output(maps, number) for number, (key, maps) in enumerate(found)}

    def _maps(
        self, batch: ObservationBatch, features: BatchFeatures, pointer: Pointer, truth: MomentBatch | None = None
    ) -> dict[str, PointerMaps]:
        """Return the maps of the pointer's views, by view key; `truth` gives history and memory the true places."""
        maps = {}
        for number, view in enumerate(self._pointed):
            touch = self._for_act(features.touches[view.sensor].tokens).mean(dim=1) if self._touching else None
            points = None if truth is None else self._ahead(truth, view.key).points
            maps[view.key] = pointer(self._for_act(features.whole[view.key]), batch.qpos, number, touch, points)
        return maps

    def _ahead(self, batch: MomentBatch, key: str) -> AheadBatch:
        if key not in batch.ahead:
            raise ValueError(
                f"the batch has no `ahead/{key}`, which is needed here. Prepare the episodes with the run's [pointer]"
            )
        return batch.ahead[key]

    def _pointing(
        self, batch: MomentBatch, features: BatchFeatures, pointer: Pointer, totals: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Return the pointer's loss, a mean over its views, as "pointer", and the values to log, by name."""
        log: dict[str, Tensor] = {"pointer": batch.qpos.new_zeros(())}
        for number, (key, maps) in enumerate(self._maps(batch, features, pointer, truth=batch).items()):
            target = self._ahead(batch, key)
            own = entry_counts(target)
            counts = own if totals is None else {name: totals[f"{name}/{key}"] for name in own}
            parts = pointer.losses(maps, number, target, counts)
            log["pointer"] = log["pointer"] + parts.pop("pointer") / len(self._pointed)
            log |= {f"{name if name in own else f'point_{name}'}/{key}": value for name, value in parts.items()}
        return log

    def losses(
        self,
        batch: MomentBatch,
        weights: Weights | None = None,
        totals: Mapping[str, Tensor] | None = None,
        copied: CopyFeatures | None = None,
    ) -> Losses:
        """Return the losses of a batch.

        Args:
            batch: The moments.
            weights: Weights of the losses; None: 1 for both.
            totals: `counts` of the complete step, summed over micro-batches and processes, if this batch is only a part
                of that step. Each loss is then the share of this part in the mean over the step. The entry "world" is
                the number of processes that gradients will be averaged over.
            copied: Result of `Alignment.copied` for the batch. None: computed where the alignment loss needs it.
        """
        w = weights or Weights()
        aligns = self.aligns and (w.alignment > 0 or not self.training)
        acts = w.action > 0 or not self.training
        features = self.see(batch, alignment=aligns, action=acts, pointer=True)
        action = alignment = pointer = None
        log: dict[str, Tensor] = {}
        if self.act is not None and acts:
            terms = self.act.losses(self.observed(batch, features), batch, totals)
            action = w.action * terms.pop("action")
            if totals is not None:
                action = action * totals["world"]  # the mean over processes then becomes a sum
            log |= {name: term.detach() for name, term in terms.items()}
        if self.alignment is not None and aligns:
            hsa, details = self.alignment(batch, features, totals, copied)
            weight = w.alignment * self.alignment.hsa.weight
            alignment = weight * hsa
            log |= {"hsa": hsa.detach(), "hsa_weight": hsa.new_tensor(weight), **details}
        if self.pointer is not None:
            found = self._pointing(batch, features, self.pointer, totals)
            pointer = self.pointer.options.weight * found["pointer"]
            if totals is not None:
                pointer = pointer * totals["world"]
            log |= {name: value.detach() for name, value in found.items()}
        losses = Losses(action, alignment, pointer, log, features)
        log["loss"] = sum(losses.terms.values(), batch.qpos.new_zeros(())).detach()
        return losses

    def forward(
        self,
        batch: MomentBatch,
        weights: Weights | None = None,
        totals: Mapping[str, Tensor] | None = None,
        copied: CopyFeatures | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training loss of a batch and the values to log, by name; see `losses` for the arguments."""
        losses = self.losses(batch, weights, totals, copied)
        return sum(losses.terms.values(), batch.qpos.new_zeros(())), losses.log


def act_config(policy: PolicyConfig, state_dim: int, action_dim: int, tokens: int) -> ACTConfig:
    """Return the config of the network of a policy.

    A field that both configs have must have the same name in both.

    Args:
        policy: Config of the policy.
        state_dim: Number of columns of qpos.
        action_dim: Number of columns of an action.
        tokens: Largest number of tokens of frames, regions and touches.
    """
    shared = {name: getattr(policy, name) for name in ACTConfig.model_fields if name in PolicyConfig.model_fields}
    own = {"state_dim": state_dim, "action_dim": action_dim, "extra_tokens": tokens}
    if policy.head != "act":
        shared = {name: value for name, value in shared.items() if name not in OF_ACT}
    if policy.vision != "resnet18":
        shared = {name: value for name, value in shared.items() if name not in OF_RESNET} | {"vision": "none"}
    return ACTConfig.model_validate({**shared, **own})


@torch.no_grad()
def scale_weights(act: ObservationEncoder, gain: float) -> None:
    """Multiply ACT's weight matrices by `gain`; embeddings and the ResNet do not change."""
    for name, p in act.named_parameters():
        if p.ndim > 1 and not name.startswith(("backbone", "encoder_img")) and "embed" not in name:
            p.mul_(gain)


def _camera_images(batch: ObservationBatch, cameras: tuple[str, ...]) -> Tensor | None:
    """Return the camera frames (B, cameras, 3, height, width), normalised as in ImageNet; None without cameras."""
    if not cameras:
        return None
    frames = torch.stack([batch.frames[name] for name in cameras], dim=1)
    x = frames.permute(0, 1, 4, 2, 3).to(batch.qpos.dtype) / 255.0
    mean, std = (x.new_tensor(v).view(1, 1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) / std

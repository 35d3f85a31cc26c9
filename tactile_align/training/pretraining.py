"""Self-supervised training of the touch encoder: its model for the training loop, and its validation values."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tactile_align.config.train import TrainConfig
from tactile_align.features.encoder import encoder_of
from tactile_align.features.health import effective_rank, eigenvalue_ratio, spread
from tactile_align.features.pooling import TimePooling
from tactile_align.losses.codebook import Codebook, usage
from tactile_align.losses.lejepa import LeJEPA, invariance
from tactile_align.losses.next_touch import NextTouch
from tactile_align.losses.sigreg import GAUSSIAN, POINT
from tactile_align.moments.augment import with_one_crop, with_two_crops
from tactile_align.moments.batch import MomentBatch, TouchBatch, ViewBatch
from tactile_align.policies.aligned import AlignedPolicy, Weights
from tactile_align.policies.alignment import CopyFeatures

Z = "z/touch"
"""End of the names of the values of `validate_pretraining` that describe z."""
SUMMED = ("invariance", "next", "sigreg", "commitment")
"""Logged values of a step of which each process and micro-batch computes its share."""


class Pretraining(nn.Module):
    """Touch encoder with a self-supervised objective, in the form in which the training loop trains a model.

    Args:
        config: Training config with [pretrain].
        fill: Whether to read pretrained weights; False is for models whose checkpoint is loaded right after.

    Attributes:
        tower: The encoder.
        objective: The objective, with its projector.
        act: None, because nothing acts.
        alignment: None, because nothing is aligned.
        aligns: False, for the same reason.
    """

    act: None = None
    alignment: None = None
    aligns = False

    def __init__(self, config: TrainConfig, fill: bool = True) -> None:
        super().__init__()
        assert config.pretrain is not None
        self.config, self.sensors = config.pretrain, config.pretrain.sensors
        self.differences = config.features.touch_input == "difference"
        self.tower = encoder_of(getattr(config.features, config.pretrained_side), fill, config.features.stacked_frames)
        c, width = config.pretrain, self.tower.width
        codebook = None if c.codebook is None else Codebook(width, c.codebook)
        common = (width, c.projector_width, c.projector_dim, c.sigreg_weight, c.directions, codebook)
        self.objective: LeJEPA
        if c.next is None:
            self.objective = LeJEPA(*common)
        else:
            predictor = TimePooling(width, c.next.context, c.next.over_time)
            self.objective = NextTouch(predictor, c.next.context, *common)

    def counts(self, batch: MomentBatch) -> dict[str, Tensor]:
        """Return the number of rows of a batch, by which the shares of its parts are computed."""
        return {"rows": torch.tensor(len(batch), device=batch.qpos.device)}

    def prepared(self, batch: MomentBatch, generator: torch.Generator, rows: tuple[int, int] = (0, 1)) -> MomentBatch:
        """Return a batch with two random augmentations of its images, or with noise on its windows of touches.

        Windows keep their crop and gain: features could recognise their own window by one crop of all its touches,
        and crops of their own would hide where the next touch lies.
        """
        if self.config.next is None:
            return with_two_crops(batch, self.config, generator, rows, self.differences)
        only_noise = self.config.model_copy(update={"crop": 1.0, "gain": 0.0})
        return with_one_crop(batch, only_noise, generator, rows, self.differences)

    def forward(
        self,
        batch: MomentBatch,
        weights: Weights | None = None,
        totals: Mapping[str, Tensor] | None = None,
        copied: CopyFeatures | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a prepared batch and the values to log, by name.

        Args:
            batch: Result of `prepared`, or a part of it.
            weights: Not used; nothing else is trained.
            totals: `counts` of the complete step, summed over micro-batches and processes, and "world", the number of
                processes that gradients are averaged over. Each part computes the objective of its own rows, and its
                loss is the share of these rows in the step.
            copied: Not used.
        """
        parts = self.objective(self.tower.tokens, _compared(batch))
        share = 1.0 if totals is None else len(batch) / totals["rows"]
        loss = parts["loss"] * share * (1 if totals is None else totals["world"])
        return loss, {name: value.detach() * share for name, value in parts.items()}

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a step from the values to log of all its parts."""
        return self.objective.total(parts)


def make_pretraining(config: TrainConfig, fill: bool = True) -> Pretraining:
    """Return the model of a config with [pretrain], see `Pretraining`; the same seed gives the same weights."""
    torch.manual_seed(config.seed)
    return Pretraining(config, fill)


def _images(touches: Mapping[str, TouchBatch], views: Mapping[str, ViewBatch]) -> Tensor:
    """Return images (N, H, W, 3) uint8: those of all touches, and those of the views whose box is visible."""
    return torch.cat([*(t.image for t in touches.values()), *(v.image[v.visible] for v in views.values())])


def _compared(batch: MomentBatch) -> Tensor:
    """Return the images (V, N, H, W, 3) uint8 of a prepared batch: two augmentations, or windows, the newest first."""
    first = _images(batch.touches, batch.views)
    if not batch.second_touches:
        return first.unflatten(3, (-1, 3)).movedim(3, 0)
    return torch.stack([first, _images(batch.second_touches, batch.second_views)])


@torch.no_grad()
def validate_pretraining(model: Pretraining, batches: Iterable[MomentBatch]) -> dict[str, float]:
    """Return the values of a validation pass over batches of held-out moments, equal for equal weights.

    - `loss`, `invariance` or `next`, `sigreg`: terms of the objective, with fixed random augmentations and directions.
    - `invariance_chance`: the invariance of augmentations of images of different moments. Equal features have neither.
    - `next_chance`, `next_still`: see `NextTouch.pull`.
    - `sigreg_gaussian`, `sigreg_point`: `sigreg` of standard normal features, and of features that all lie at 0.
    - `rank/WHAT/touch`, `spread/WHAT/touch`, `eigenvalue_ratio/WHAT/touch`: health of the features of one augmentation
      of all images, where WHAT is `token`, the mean token, or `z`, its projection. Rank and eigenvalue ratio depend on
      the encoder and the data: compare them with those of the random encoder, at step 0.
    - `std/z`: standard deviation of the elements of z over the images. SIGReg pulls it to 1.
    - `usage`, `perplexity`, `dead_codes`: use of the codebook by the tokens of all batches, see `usage`; not before its
      codes are initialised.
    """
    model.eval()
    generator = torch.Generator().manual_seed(0)
    read: dict[str, list[Tensor]] = {"token": [], "z": []}
    codebook = model.objective.codebook
    counts = None if codebook is None or not codebook.ready else torch.zeros(codebook.size)
    logs: list[dict[str, Tensor]] = []
    for batch in batches:
        crops = _compared(model.prepared(batch, generator))
        tokens = model.tower.tokens(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        embedded = model.objective.embed(tokens.float())
        z = embedded.z
        read["token"].append(tokens[0].float().mean(dim=(-3, -2)))
        read["z"].append(z[0])
        if counts is not None and embedded.code is not None:
            counts += torch.bincount(embedded.code.flatten().cpu(), minlength=len(counts))
        log = model.objective.losses(embedded)
        if "invariance" in log:
            log["invariance_chance"] = invariance(torch.stack([z[0], z[1].roll(len(batch) // 2, 0)]))
        bounds = {"sigreg_gaussian": z.new_tensor(GAUSSIAN), "sigreg_point": z.new_tensor(POINT * z.shape[1])}
        logs.append(log | bounds)
    means = {name: float(torch.stack([log[name] for log in logs]).mean()) for name in logs[0]}
    for what, parts in read.items():
        features = torch.cat(parts)
        means |= {
            f"rank/{what}/touch": float(effective_rank(features)),
            f"spread/{what}/touch": float(spread(features)),
        }
        if bool(torch.isfinite(features).all()):
            means[f"eigenvalue_ratio/{what}/touch"] = float(eigenvalue_ratio(features))
    means |= {} if counts is None else usage(counts)
    return means | {"std/z": float(torch.cat(read["z"]).std(dim=0).mean())}


Model = AlignedPolicy | Pretraining
"""Networks that the training loop trains."""

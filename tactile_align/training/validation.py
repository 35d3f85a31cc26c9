"""Validation: values of training on fixed held-out moments, and the errors by which weights are selected."""

import logging
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import hypergeom
from torch import Tensor

from tactile_align.config.train import TrainConfig
from tactile_align.errors import InputError
from tactile_align.features.health import effective_rank, spread
from tactile_align.moments.augment import augment, with_second_views
from tactile_align.moments.batch import MomentBatch
from tactile_align.moments.dataset import Moments
from tactile_align.moments.sampling import MomentSampler
from tactile_align.policies.aligned import AlignedPolicy
from tactile_align.policies.alignment import BatchFeatures, View
from tactile_align.policies.build import views_of
from tactile_align.policies.checkpoint import Measure
from tactile_align.training.data import contact_moments, contact_share, contacts_of, count_contacts
from tactile_align.training.optimiser import validation_weights
from tactile_align.training.step import measured

logger = logging.getLogger(__name__)

FEWEST = 8  # pairs; with fewer pairs, the rank depends more on their number than on the features
GALLERY = 64
"""Number of candidates that R@1 ranks, and smallest number of held-out contacts with which R@1 is measured.

R@1 is the share of queries for which the right candidate is the most similar.
"""


@torch.no_grad()
def validate(model: AlignedPolicy, moments: Moments, config: TrainConfig, device: torch.device) -> dict[str, float]:
    """Return the means of the logged training values over `validation_batches` fixed batches of held-out episodes.

    A mean over pairs is taken over the batches that have pairs, and is missing if there are none.

    Every pass uses the same moments, random numbers and loss weights, so that passes can be compared. The results also
    include, with one pass of the encoders over the batches:

    - `action_error`: mean absolute error of the actions, normalised, over recorded steps, as on the robot: ACT with a
      latent of zeros, other heads one sampled chunk. `standing_still`: the same error of the actions that keep the
      robot still, see `Columns.still`; missing if the kinds of action are unknown.
    - `recall/VIEW`: R@1, the share of queries for which the right one of 64 candidates is the most similar. It is the
      mean of two directions: a touch is the query and regions are the candidates, or a region is the query and touches
      are the candidates. The candidates are random contacts. Each contact of the batches contributes one moment. If the
      batches contain fewer than 64 contacts, other held-out contacts are added. Missing if fewer than 64 contacts are
      held out.
    - `rank/SIDE/VIEW` and `spread/SIDE/VIEW`: effective rank and spread of the features of a view, where SIDE is
      `touch` or `region`.

    With hsa.pairs = "permuted", all pairs are true ones, so a loss and R@1 at chance show that the control taught
    nothing. With "two_crops", each region without augmentation is compared with a random augmentation of it, and
    `recall` and the values of SIDE `touch` are missing, because the loss trains no touch features.
    """
    model.eval()
    count = config.validation_batches
    sums: dict[str, float] = {}
    times: dict[str, int] = {}
    error = idle = steps = 0.0
    stills = _still(moments)
    two_crops = model.aligns and config.hsa.pairs == "two_crops"
    asked = {view.key: _Contacts(moments, view) for view in model.views if model.aligns and not two_crops}
    generator = torch.Generator().manual_seed(0)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        for indices in held_out_sampler(moments, config):
            raw = moments.batch(indices).to(device)
            batch = augment(raw, config.augment)
            if two_crops:
                batch = with_second_views(batch, raw, config.augment, generator)
            *_, parts, features = model.losses(batch, validation_weights(config))
            for name, value in (measured(parts) | health(model, batch, features)).items():
                sums[name] = sums.get(name, 0.0) + float(value) / count
                times[name] = times.get(name, 0) + 1
            if model.act is not None:
                gaps = (model.predict(batch, features) - batch.action).abs()[~batch.is_pad]
                error, steps = error + float(gaps.sum()), steps + gaps.numel()
                if stills is not None:
                    still = torch.from_numpy(stills[np.array(indices)][:, None]).to(batch.action)
                    idle += float((still - batch.action).abs()[~batch.is_pad].sum())
            for contacts in asked.values():
                contacts.add(np.array(indices), features)
        missing = np.unique(np.concatenate([np.empty(0, int), *(c.missing() for c in asked.values())]))
        for rows in np.array_split(missing, -(-len(missing) // config.batch_size)) if len(missing) else ():
            batch = augment(moments.batch(rows.tolist()).to(device), config.augment)
            features = model.see(batch, action=False, beside=False)
            for contacts in asked.values():
                contacts.add(rows, features)
    # A batch without pairs has no loss, and one with few pairs no rank. Counted as 0, a loss would look perfect, and a
    # rank like a collapse.
    means = {name: value * count / times[name] if times[name] < count else value for name, value in sums.items()}
    recalls = {f"recall/{key}": contacts.recall() for key, contacts in asked.items() if contacts.enough}
    if steps:
        means |= {"action_error": error / steps} | ({} if stills is None else {"standing_still": idle / steps})
    return means | recalls


def _still(moments: Moments) -> np.ndarray | None:
    """Return the normalised actions (N, A) that keep the robot still; None if they are unknown."""
    statistics = moments.statistics
    if statistics is None or statistics.columns is None:
        return None
    qpos = np.concatenate([qpos for qpos, _ in moments.low_dim()])
    still = statistics.columns.still(qpos, moments.last_actions(np.array(statistics.action_mean)))
    return None if still is None else np.asarray(statistics.normalise_action(still))


class _Contacts:
    """Features of each held-out contact of a view, at one moment: the first that is added."""

    def __init__(self, moments: Moments, view: View) -> None:
        self.view, self._of = view, contacts_of(moments, view)
        self._rows = np.flatnonzero(self._of >= 0)
        self.enough = int(self._of.max()) + 1 >= GALLERY
        self._features: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, rows: np.ndarray, features: BatchFeatures) -> None:
        """Add the features of moments; a moment without a pair, or of a known contact, is ignored."""
        sides = features.touches[self.view.sensor].vector, features.regions[self.view.key].vector
        for row, touch, region in zip(rows.tolist(), *sides, strict=True):
            if self._of[row] >= 0:
                self._features.setdefault(int(self._of[row]), (touch, region))

    def missing(self) -> np.ndarray:
        """Return the moments to add so that 64 contacts have features, evenly over the held-out episodes."""
        if not self.enough or len(self._features) >= GALLERY:
            return np.empty(0, int)
        _, first = np.unique(self._of[self._rows], return_index=True)
        rows = np.array([row for row in self._rows[first].tolist() if int(self._of[row]) not in self._features])
        return rows[np.linspace(0, len(rows) - 1, GALLERY - len(self._features)).round().astype(int)]

    def recall(self) -> float:
        """Return R@1 with 64 candidates, as `recall/VIEW` of `validate`. A tie or a nan counts as a miss."""
        sides = (torch.stack([pair[side] for pair in self._features.values()]) for side in (0, 1))
        touch, region = (F.normalize(side.float(), dim=-1) for side in sides)
        near = (touch @ region.T).cpu().numpy()
        others = len(near) - 1
        better = [(~(scores < np.diag(scores)[:, None])).sum(axis=1) - 1 for scores in (near, near.T)]
        return float(hypergeom.cdf(0, others, np.concatenate(better), GALLERY - 1).mean())


def selected_measure(config: TrainConfig, held_out: Moments, quiet: bool = False) -> Measure | None:
    """Return the measure by which `select_by` selects weights on these held-out episodes; None: the last step.

    Args:
        config: Training config.
        held_out: The held-out episodes.
        quiet: Do not warn that the last step is used because too few contacts are held out.

    Raises:
        InputError: `select_by` = "retrieval", but too few contacts are held out.
    """
    if config.unselected:
        return None
    if config.selection in ("action", "hsa") or (config.selection == "auto" and config.train_policy):
        return "hsa" if config.selection == "hsa" else "action"
    counts = {view.key: count_contacts(held_out, view) for view in views_of(config)}
    if max(counts.values()) >= GALLERY:
        return "retrieval"
    few = ", ".join(f"{count} of view {key}" for key, count in counts.items())
    if config.select_by == "retrieval":
        raise InputError(
            f"the held-out episodes contain too few contacts ({few}); select_by = 'retrieval' needs {GALLERY}. Hold "
            f"out more episodes, or set select_by = 'last'"
        )
    unused = "" if config.patience is None else f", and patience = {config.patience} never ends the training"
    if not quiet:
        logger.warning(
            f"the held-out episodes contain too few contacts ({few}) to measure R@1 of {GALLERY}: the weights of the "
            f"last step are used{unused}. Hold out more episodes to select the best weights"
        )
    return None


def errors_of(means: Mapping[str, float], config: TrainConfig, step: int) -> dict[Measure, float]:
    """Return the errors of a validation pass by measure (smaller is better): the action error, 1 - R@1, the HSA loss.

    R@1 is the mean over the views; it is missing unless hsa.pairs = "true". The action error is missing while a
    pretraining stage does not train the policy, and the HSA loss is missing unless `select_by` = "hsa".
    """
    errors: dict[Measure, float] = {}
    if "action_error" in means and step > config.alignment.pretrain_steps:
        errors["action"] = means["action_error"]
    recalls = [value for name, value in means.items() if name.startswith("recall/")]
    if recalls and config.hsa.pairs == "true":
        errors["retrieval"] = 1 - float(np.mean(recalls))
    if config.select_by == "hsa" and "hsa" in means:
        errors["hsa"] = means["hsa"]
    return errors


def held_out_sampler(moments: Moments, config: TrainConfig) -> MomentSampler:
    """Return the sampler of the fixed validation batches, which are smaller than usual if few moments are held out."""
    size, contact = min(config.batch_size, len(moments)), contact_moments(moments, config)
    return MomentSampler(contact, size, contact_share(contact, config), 0, 0, config.validation_batches)


def health(model: AlignedPolicy, batch: MomentBatch, features: BatchFeatures) -> dict[str, Tensor]:
    """Return effective rank and spread of the compared features over the valid pairs of a batch, by view."""
    if model.alignment is None or not model.aligns:
        return {}
    values: dict[str, Tensor] = {}
    for view in model.views:
        pairs = model.alignment.valid_pairs(batch, view)
        if pairs.sum() < FEWEST:
            continue
        sides = {"region": features.regions[view.key]}
        if model.alignment.compares_touches(batch):
            sides["touch"] = features.touches[view.sensor]
        for side, found in sides.items():
            vectors = found.vector[pairs]
            values |= {f"rank/{side}/{view.key}": effective_rank(vectors), f"spread/{side}/{view.key}": spread(vectors)}
    return values


def sample_picture(moments: Moments, config: TrainConfig) -> np.ndarray | None:
    """Return one picture (H, W, 3) uint8 of validation pairs: each touch above its image with the box drawn in.

    The result is None if the config has no views.
    """
    if not config.views:
        return None
    batch = moments.batch(next(iter(held_out_sampler(moments, config)))[:8])
    first = views_of(config)[0]
    view, touches = batch.views[first.key], batch.touches[first.sensor].present
    columns = []
    for touch, image, box in zip(touches.numpy(), view.image.numpy(), view.box.numpy(), strict=True):
        height, width = image.shape[:2]
        shown = image.copy()
        if np.isfinite(box).all():
            u0, v0, u1, v1 = np.clip(np.round(box), 0, [width - 1, height - 1] * 2).astype(int)
            shown[[v0, v1], u0 : u1 + 1] = shown[v0 : v1 + 1, [u0, u1]] = (255, 176, 0)
        above = np.zeros((touch.shape[0], width, 3), np.uint8)
        above[:, : min(width, touch.shape[1])] = touch[:, :width]
        columns.append(np.concatenate([above, shown]))
    return np.concatenate(columns, axis=1)

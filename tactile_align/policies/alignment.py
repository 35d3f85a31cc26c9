"""The alignment loss of a model over its views, and what a log says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.errors import InputError
from tactile_align.features.towers import shifted_boxes
from tactile_align.losses.bank import Following, MemoryBank
from tactile_align.losses.gather import gather_facts, gather_rows, world
from tactile_align.losses.hsa import HSALoss, HSAStats
from tactile_align.losses.negatives import Negatives, touch_pattern, unlike
from tactile_align.losses.row_chunks import spans

if TYPE_CHECKING:
    from tactile_align.policies.aligned import AlignedPolicy, Batch, Seen, View


class RegionNegatives(NamedTuple):
    """N other regions of each touch of a view, for `hsa_loss`.

    Attributes:
        features: (B, N, dim).
        exist: (B, N) bool, where such a region is in sight.
        kinds: N names, of the rule each column is from.
    """

    features: Tensor
    exist: Tensor
    kinds: tuple[str, ...]

    def counts(self, valid: Tensor) -> dict[str, Tensor]:
        """Return how many of them the valid (B,) touches have, by kind."""
        found = (self.exist & valid[:, None]).sum(dim=0)
        return {
            kind: torch.stack([n for n, own in zip(found, self.kinds, strict=True) if own == kind]).sum()
            for kind in dict.fromkeys(self.kinds)
        }


def region_negatives(model: AlignedPolicy, batch: Batch, seen: Seen) -> dict[str, RegionNegatives]:
    """Return the other regions that the config asks for, by view key; no entry where there are none.

    One pass of the vision encoder for each view whose image is looked at beside the box.
    """
    hsa, towers = model.hsa, model.towers
    if towers is None or model.region != "box" or not hsa.looks_beside:
        return {}
    beside = {view.key: _beside(model, batch, view) for view in model.views}
    return {view.key: _of_view(model, batch, seen, view, beside) for view in model.views}


class _Looked(NamedTuple):
    """What was seen beside the box in one view's image: (B, n, dim) shifted boxes, (B, n) which of them exist, and
    (B, 1, dim) the other finger."""

    shifted: Tensor
    exist: Tensor
    finger: Tensor | None


def _beside(model: AlignedPolicy, batch: Batch, view: View) -> _Looked:
    hsa, towers = model.hsa, model.towers
    assert towers is not None
    box = model.finite_box(batch, view)
    wanted = any(other.sensor == view.sensor and other.camera != view.camera for other in model.views)
    count = max(hsa.region_negatives, int(hsa.camera_negative and wanted))
    moved, exist = shifted_boxes(box, count, towers.vision.input_size)
    places = [moved] if count else []
    if hsa.finger_negative:
        there = batch[f"other_box/{view.key}"]
        places.append(torch.where(finger_in_sight(model, batch, view)[:, None], there, box)[:, None])
    if not places:
        return _Looked(box.new_zeros((len(box), 0, towers.config.dim)), exist, None)
    found = towers.of_boxes(batch[f"image/{view.key}"], torch.cat(places, dim=1), model.sigma(batch, view))
    return _Looked(found[:, :count], exist, found[:, count:] if hsa.finger_negative else None)


def finger_in_sight(model: AlignedPolicy, batch: Batch, view: View) -> Tensor:
    """Return (B,) bool: whether the other finger's box is a region of its own.

    Its centre must lie in the image the encoder sees, and outside the sensor's box: fingers that close on something
    thin cover each other.
    """
    assert model.towers is not None
    box, other = batch[f"box/{view.key}"], batch[f"other_box/{view.key}"]
    centre = (other[:, :2] + other[:, 2:]) / 2
    border = other.new_tensor(model.towers.vision.input_size) - 0.5
    in_image = ((centre >= -0.5) & (centre <= border)).all(dim=1)
    in_box = ((centre >= box[:, :2]) & (centre <= box[:, 2:])).all(dim=1)
    return in_image & ~in_box & batch[f"visible/{view.key}"]


def _of_view(model: AlignedPolicy, batch: Batch, seen: Seen, view: View, beside: dict[str, _Looked]) -> RegionNegatives:
    hsa = model.hsa
    own, wanted = beside[view.key], hsa.region_negatives
    beside_it = zip(own.shifted[:, :wanted].unbind(1), own.exist[:, :wanted].unbind(1), strict=True)
    columns = [("beside", features, exist) for features, exist in beside_it]
    if own.finger is not None:
        columns.append(("finger", own.finger[:, 0], finger_in_sight(model, batch, view)))
    for other in model.views if hsa.camera_negative else ():
        if other.camera == view.camera:
            continue
        # The same sensor's box in another camera is this touch's pair there, never its negative.
        same = other.sensor == view.sensor
        there = beside[other.key].shifted[:, 0] if same else seen.regions[other.key].vector
        in_sight = batch[f"visible/{other.key}"]
        columns.append(("camera", there, in_sight & beside[other.key].exist[:, 0] if same else in_sight))
    kinds, features, exist = zip(*columns, strict=True)
    return RegionNegatives(torch.stack(features, dim=1), torch.stack(exist, dim=1), kinds)


PATTERN = 8  # side of the coarse touch the same-touch rule compares


def align(
    model: AlignedPolicy, batch: Batch, seen: Seen, totals: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the HSA loss, weighted over the views, and what is to be logged of it.

    Args:
        model: Its views, towers, loss, temperature and bank.
        batch: The moments.
        seen: Their features.
        totals: `counts` of the whole step when the batch is a part of it; the loss is then this part's share.
    """
    total = batch["qpos"].new_zeros(())
    log: dict[str, Tensor] = {}
    kappa = model.temperature()
    others = region_negatives(model, batch, seen)
    for view in model.views:
        other = others.get(view.key)
        tau, w = seen.touches[view.sensor].vector, seen.regions[view.key].vector
        past = model.memory.of(view) if model.memory is not None and model.training else None
        negatives, pairs = negatives_of(model, batch, view, past), model.valid_pairs(batch, view)
        valid = pairs & with_negatives(model, negatives, pairs, other)
        loss, stats = model.loss(
            tau,
            w,
            None if other is None else other.features,
            negatives,
            temperature=kappa,
            valid=valid,
            stats=True,
            bank=None if past is None else past.kept(),
            hard_valid=None if other is None else other.exist,
        )
        assert isinstance(stats, HSAStats)
        whole = stats.pairs if totals is None else totals[f"pairs/{view.key}"]
        share = stats.pairs / whole.clamp(min=1) if totals is not None else 1.0
        total = total + view.weight * share * loss
        hits, from_bank = first_hits(tau, w, negatives, valid)
        counts = {} if other is None else other.counts(valid)
        counts |= {} if past is None else {"bank": from_bank}
        log |= {
            f"hsa/{view.key}": share * loss.detach(),
            f"chance/{view.key}": share * stats.chance,
            f"negatives/{view.key}": share * stats.negatives,
            f"r1/{view.key}": hits / whole.clamp(min=1),
            f"pairs/{view.key}": stats.pairs,
            f"no_negative/{view.key}": (pairs & ~valid).sum(),
            f"no_box/{view.key}": (~batch[f"visible/{view.key}"]).sum(),
        }
        log |= {f"negatives_from/{kind}/{view.key}": n / whole.clamp(min=1) for kind, n in counts.items()}
        log |= {f"excluded/{name}/{view.key}": count for name, count in _excluded(model, negatives, len(tau)).items()}
    log["no_contact"] = torch.stack([(~batch[f"contact/{name}"]).sum() for name in model.sensors]).sum()
    log["temperature"] = kappa.detach()
    return total, log


def _excluded(model: AlignedPolicy, negatives: Negatives, count: int) -> dict[str, Tensor]:
    """Return what the rules take away from this process's rows, among the rows of all processes the loss looks at."""
    if not _gathers(model):
        return negatives.excluded()
    first = world()[0] * count
    return negatives.gathered().excluded(first, first + count)


def _gathers(model: AlignedPolicy) -> bool:
    return model.loss.gather


def negatives_of(model: AlignedPolicy, batch: Batch, view: View, past: MemoryBank | None) -> Negatives:
    """Return who in a batch, and in a memory of past regions, may be whose negative in a view."""
    facts = None if past is None else past.facts()
    touch = None
    if model.hsa.touch_ceiling is not None:
        touch = touch_pattern(batch[f"image/{view.sensor}"], PATTERN)
        everybody = gather_facts(touch) if _gathers(model) else touch
        if facts is not None and facts.touch is not None:
            everybody = torch.cat([everybody, facts.touch])
            facts = replace(facts, touch=unlike(facts.touch, everybody))
        touch = unlike(touch, everybody)
    return Negatives(
        batch["episode"], batch["time"], model.hsa.min_gap, touch=touch, ceiling=model.hsa.touch_ceiling, bank=facts
    )


@torch.no_grad()
def with_negatives(model: AlignedPolicy, negatives: Negatives, pairs: Tensor, other: RegionNegatives | None) -> Tensor:
    """Return (B,) bool: which rows have a negative among the pairs (B,) of all processes, the bank and other regions.

    A batch drawn from real episodes may hold a single contact: such a pair has nothing to be told apart from, its
    loss is 0 whatever the features are, and the mean over the pairs counts it as that.

    Raises:
        InputError: A batch of one moment, in training: no pair would ever have a negative.
    """
    if not isinstance(model.loss, HSALoss):
        return torch.ones_like(pairs)
    everyone, partners, first = negatives, pairs, 0
    if _gathers(model):
        everyone, partners, first = negatives.gathered(), gather_facts(pairs), world()[0] * len(pairs)
    if len(partners) < 2 and other is None and model.memory is None and model.training:
        raise InputError(
            "a batch of one moment has no negatives, so the alignment loss is no contrast. Needed: 2 moments or more, "
            "better 32. Raise batch_size, or lower optimiser.accumulate"
        )
    found = torch.zeros_like(pairs) if other is None else other.exist.any(dim=1)
    for start, stop in spans(len(pairs), len(partners), None):
        negative = everyone.rows(first + start, first + stop)
        negative[:, : len(partners)] &= partners
        found[start:stop] |= negative.any(dim=1)
    return found


@torch.no_grad()
def first_hits(tau: Tensor, w: Tensor, negatives: Negatives, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many valid touches are nearer to their own region than to that of any negative in the batch, and how
    many
    negatives all of them have in the bank; a span of rows at a time."""
    touch, region = F.normalize(tau.float(), dim=-1), F.normalize(w.float(), dim=-1)
    hits = past = torch.zeros((), dtype=torch.int64, device=tau.device)
    for start, stop in spans(len(tau), len(tau), None):
        near, here = touch[start:stop] @ region.T, valid[start:stop]
        negative = negatives.rows(start, stop) & here[:, None]
        best = near.masked_fill(~(negative[:, : len(tau)] & valid), -torch.inf).amax(dim=1)
        hits = hits + ((near.diagonal(start) > best) & here).sum()
        past = past + negative[:, len(tau) :].sum()
    return hits, past


class Memory(nn.Module):
    """Past regions of each view as further negatives, made by a following copy of the towers."""

    def __init__(self, model: AlignedPolicy, towers: nn.Module, dim: int) -> None:
        super().__init__()
        hsa = model.hsa
        touch = 0 if hsa.touch_ceiling is None else 3 * PATTERN**2
        self.banks = nn.ModuleList(MemoryBank(hsa.bank, dim, touch) for _ in model.views)
        self.following = Following(towers, hsa.bank_momentum)
        self.names = tuple(view.key for view in model.views)

    def of(self, view: View) -> MemoryBank | None:
        """Return a view's memory, None while it is empty."""
        bank = self.banks[self.names.index(view.key)]
        assert isinstance(bank, MemoryBank)
        return bank if len(bank) else None

    @torch.no_grad()
    def take_in(self, model: AlignedPolicy, batch: Batch) -> None:
        """Follow the towers after a step, and remember the batch's regions, those of all processes."""
        assert model.towers is not None
        self.following.follow(model.towers)
        for view, bank in zip(model.views, self.banks, strict=True):
            copy, box = self.following.module, model.finite_box(batch, view)
            found = copy.of_region(batch[f"image/{view.key}"], box, model.sigma(batch, view))  # type: ignore[operator]
            vector = found.vector
            touch = None
            if model.hsa.touch_ceiling is not None:
                touch = gather_rows(touch_pattern(batch[f"image/{view.sensor}"], PATTERN))
            facts = (batch["episode"], batch["time"], model.valid_pairs(batch, view) & batch[f"contact/{view.sensor}"])
            bank.add(gather_rows(vector), *(gather_facts(fact) for fact in facts), touch)  # type: ignore[operator]

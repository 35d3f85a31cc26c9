"""The alignment loss of a model over its views, and what a log says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.errors import InputError
from tactile_align.losses.bank import Following, MemoryBank
from tactile_align.losses.chunks import spans
from tactile_align.losses.gather import gather_facts, gather_rows, world
from tactile_align.losses.hsa import HSALoss, HSAStats
from tactile_align.losses.rivals import Rivals, touch_pattern, unlike
from tactile_align.policies.region_rivals import RegionRivals, region_rivals

if TYPE_CHECKING:
    from tactile_align.policies.aligned import AlignedPolicy, Batch, Seen, View

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
    others = region_rivals(model, batch, seen)
    for view in model.views:
        other = others.get(view.key)
        tau, w = seen.touches[view.sensor].vector, seen.regions[view.key].vector
        past = model.memory.of(view) if model.memory is not None and model.training else None
        rivals, pairs = rivals_of(model, batch, view, past), model.valid_pairs(batch, view)
        valid = pairs & with_rivals(model, rivals, pairs, other)
        loss, stats = model.loss(
            tau,
            w,
            None if other is None else other.features,
            rivals,
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
        hits, from_bank = first_hits(tau, w, rivals, valid)
        counts = {} if other is None else other.counts(valid)
        counts |= {} if past is None else {"bank": from_bank}
        log |= {
            f"hsa/{view.key}": share * loss.detach(),
            f"chance/{view.key}": share * stats.chance,
            f"rivals/{view.key}": share * stats.rivals,
            f"r1/{view.key}": hits / whole.clamp(min=1),
            f"pairs/{view.key}": stats.pairs,
            f"no_rival/{view.key}": (pairs & ~valid).sum(),
            f"no_box/{view.key}": (~batch[f"visible/{view.key}"]).sum(),
        }
        log |= {f"rivals_from/{kind}/{view.key}": n / whole.clamp(min=1) for kind, n in counts.items()}
        log |= {f"excluded/{name}/{view.key}": count for name, count in _excluded(model, rivals, len(tau)).items()}
    log["no_contact"] = torch.stack([(~batch[f"contact/{name}"]).sum() for name in model.sensors]).sum()
    log["temperature"] = kappa.detach()
    return total, log


def _excluded(model: AlignedPolicy, rivals: Rivals, count: int) -> dict[str, Tensor]:
    """Return what the rules take away from this process's rows, among the rows of all processes the loss looks at."""
    if not _gathers(model):
        return rivals.excluded()
    first = world()[0] * count
    return rivals.gathered().excluded(first, first + count)


def _gathers(model: AlignedPolicy) -> bool:
    return model.loss.gather


def rivals_of(model: AlignedPolicy, batch: Batch, view: View, past: MemoryBank | None) -> Rivals:
    """Return who in a batch, and in a memory of past regions, may be whose rival in a view."""
    facts = None if past is None else past.facts()
    touch = None
    if model.hsa.touch_ceiling is not None:
        touch = touch_pattern(batch[f"image/{view.sensor}"], PATTERN)
        everybody = gather_facts(touch) if _gathers(model) else touch
        if facts is not None and facts.touch is not None:
            everybody = torch.cat([everybody, facts.touch])
            facts = replace(facts, touch=unlike(facts.touch, everybody))
        touch = unlike(touch, everybody)
    return Rivals(
        batch["episode"], batch["time"], model.hsa.min_gap, touch=touch, ceiling=model.hsa.touch_ceiling, bank=facts
    )


@torch.no_grad()
def with_rivals(model: AlignedPolicy, rivals: Rivals, pairs: Tensor, other: RegionRivals | None) -> Tensor:
    """Return (B,) bool: which rows have a rival among the pairs (B,) of all processes, the bank and other regions.

    A batch drawn from real episodes may hold a single contact: such a pair has nothing to be told apart from, its
    loss is 0 whatever the features are, and the mean over the pairs counts it as that.

    Raises:
        InputError: A batch of one moment, in training: no pair would ever have a rival.
    """
    if not isinstance(model.loss, HSALoss):
        return torch.ones_like(pairs)
    everyone, partners, first = rivals, pairs, 0
    if _gathers(model):
        everyone, partners, first = rivals.gathered(), gather_facts(pairs), world()[0] * len(pairs)
    if len(partners) < 2 and other is None and model.memory is None and model.training:
        raise InputError(
            "a batch of one moment has no rival, so the alignment loss would say nothing. Needed: 2 moments or more, "
            "better 32. Raise batch_size, or lower optimiser.accumulate"
        )
    found = torch.zeros_like(pairs) if other is None else other.exist.any(dim=1)
    for start, stop in spans(len(pairs), len(partners), None):
        rival = everyone.rows(first + start, first + stop)
        rival[:, : len(partners)] &= partners
        found[start:stop] |= rival.any(dim=1)
    return found


@torch.no_grad()
def first_hits(tau: Tensor, w: Tensor, rivals: Rivals, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many valid touches are nearer to their own region than to that of any rival in the batch, and how many
    rivals all of them have in the bank; a span of rows at a time."""
    touch, region = F.normalize(tau.float(), dim=-1), F.normalize(w.float(), dim=-1)
    hits = past = torch.zeros((), dtype=torch.int64, device=tau.device)
    for start, stop in spans(len(tau), len(tau), None):
        near, here = touch[start:stop] @ region.T, valid[start:stop]
        rival = rivals.rows(start, stop) & here[:, None]
        best = near.masked_fill(~(rival[:, : len(tau)] & valid), -torch.inf).amax(dim=1)
        hits = hits + ((near.diagonal(start) > best) & here).sum()
        past = past + rival[:, len(tau) :].sum()
    return hits, past


class Memory(nn.Module):
    """Past regions of each view as further rivals, made by a following copy of the towers."""

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

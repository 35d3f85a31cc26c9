"""The alignment loss of a model over its views, and what a log says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.losses.bank import Following, MemoryBank
from tactile_align.losses.gather import gather_facts, gather_rows
from tactile_align.losses.hsa import HSAStats
from tactile_align.losses.rivals import Rivals, touch_pattern

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
    for view in model.views:
        hard = None
        if model.hsa.region_rivals and model.region == "box":
            assert model.towers is not None
            box = model.finite_box(batch, view)
            hard = model.towers.of_other_regions(batch[f"image/{view.key}"], box, model.hsa.region_rivals)
        valid = model.valid_pairs(batch, view)
        tau, w = seen.touches[view.sensor].vector, seen.regions[view.key].vector
        past = model.memory.of(view) if model.memory is not None and model.training else None
        rivals = rivals_of(model, batch, view, past)
        loss, stats = model.loss(
            tau, w, hard, rivals, temperature=kappa, valid=valid, stats=True, bank=None if past is None else past.kept()
        )
        assert isinstance(stats, HSAStats)
        whole = stats.pairs if totals is None else totals[f"pairs/{view.key}"]
        share = stats.pairs / whole.clamp(min=1) if totals is not None else 1.0
        total = total + view.weight * share * loss
        log |= {
            f"hsa/{view.key}": share * loss.detach(),
            f"chance/{view.key}": share * stats.chance,
            f"rivals/{view.key}": share * stats.rivals,
            f"r1/{view.key}": first_hits(tau, w, rivals, valid) / whole.clamp(min=1),
            f"pairs/{view.key}": stats.pairs,
            f"no_box/{view.key}": (~batch[f"visible/{view.key}"]).sum(),
        }
        log |= {f"excluded/{name}": count for name, count in rivals.excluded().items()}
    log["no_contact"] = torch.stack([(~batch[f"contact/{name}"]).sum() for name in model.sensors]).sum()
    log["temperature"] = kappa.detach()
    return total, log


def rivals_of(model: AlignedPolicy, batch: Batch, view: View, past: MemoryBank | None) -> Rivals:
    """Return who in a batch, and in a memory of past regions, may be whose rival in a view."""
    touch = None
    if model.hsa.touch_ceiling is not None:
        touch = touch_pattern(batch[f"image/{view.sensor}"], PATTERN)
    facts = None if past is None else past.facts()
    return Rivals(
        batch["episode"], batch["time"], model.hsa.min_gap, touch=touch, ceiling=model.hsa.touch_ceiling, bank=facts
    )


@torch.no_grad()
def first_hits(tau: Tensor, w: Tensor, rivals: Rivals, valid: Tensor) -> Tensor:
    """Return how many valid touches of a batch are nearer to their own region than to that of any rival in it."""
    near = F.normalize(tau.float(), dim=-1) @ F.normalize(w.float(), dim=-1).T
    other = rivals.rows(0, len(tau))[:, : len(tau)] & valid[:, None] & valid[None, :]
    best = near.masked_fill(~other, -torch.inf).amax(dim=1)
    return ((near.diagonal() > best) & valid).sum()


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
            vector = copy.of_region(batch[f"image/{view.key}"], box).vector  # type: ignore[operator, union-attr]
            touch = None
            if model.hsa.touch_ceiling is not None:
                touch = gather_rows(touch_pattern(batch[f"image/{view.sensor}"], PATTERN))
            facts = (batch["episode"], batch["time"], model.valid_pairs(batch, view) & batch[f"contact/{view.sensor}"])
            bank.add(gather_rows(vector), *(gather_facts(fact) for fact in facts), touch)  # type: ignore[operator]

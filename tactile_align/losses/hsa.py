"""HSA, the contrastive loss that pulls a touch to the image region where the sensor is.

Hierarchical Spatial Alignment of DreamTacVLA (arXiv 2512.23864): tactile features are pulled to the tokens inside
the sensor's box and pushed from rivals, which are other regions of the same image and other images.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.losses.block import Weighting
from tactile_align.losses.checks import check_choices, check_pairs, check_rivals, check_temperature, require_rivals
from tactile_align.losses.chunks import row_losses, spans, summed_loss
from tactile_align.losses.direction import Direction, MaskRule, RivalRule
from tactile_align.losses.gather import gather_facts, gather_rows, require_equal_rows, summed_over_ranks, world
from tactile_align.losses.rivals import Rivals

Reduction = Literal["mean", "sum", "none"]
Explicit = Literal["replace", "add"]


class HSAStats(NamedTuple):
    """What a loss value is to be read against; all scalars on the loss's device, over all ranks when gathered.

    Attributes:
        pairs: Number of valid rows.
        rivals: Mean number of rivals of a valid row.
        chance: Mean ln(1 + rivals of the row): the loss of features that know nothing.
    """

    pairs: Tensor
    rivals: Tensor
    chance: Tensor


def hsa_loss(
    h_tau: Tensor,
    h_w: Tensor,
    hard_negatives: Tensor | None = None,
    rival: Tensor | RivalRule | None = None,
    *,
    temperature: float | Tensor = 0.07,
    reduction: Reduction = "mean",
    explicit: Explicit = "replace",
    symmetric: bool = False,
    valid: Tensor | None = None,
    stats: bool = False,
    bank: Tensor | None = None,
    weighting: Weighting | None = None,
    gather: bool = False,
    chunk: int | None = None,
    hard_valid: Tensor | None = None,
) -> Tensor | tuple[Tensor, HSAStats]:
    """Return -log( e^(h_tau.h_w/kappa) / (e^(h_tau.h_w/kappa) + sum over rivals of e^(h_tau.h_w_i/kappa)) ).

    Features are brought to unit length first; similarities are computed in float32 (float64 inputs stay float64),
    also under autocast. Large batches are worked through a span of rows at a time, so memory stays linear in B.

    Args:
        h_tau: (B, D) touch features, any length.
        h_w: (B, D) region features, any length; row i belongs to touch i.
        hard_negatives: (B, N, D) explicit rivals of each touch, or None.
        rival: Who in the batch is a rival of whom: (B, B) bool, or float weights >= 0 that multiply the rival's
            exponential, or a rule evaluated by rows. The diagonal is ignored. None: every other row. With a bank of
            M there are M more columns.
        temperature: kappa > 0.
        reduction: "mean" over valid rows, "sum", or "none" for (B,) with zeros at invalid rows.
        explicit: Whether hard negatives replace the in-batch rivals (as the original did) or join them.
        symmetric: Average the touch-to-region and the region-to-touch direction; hard negatives and the bank enter
            the first.
        valid: (B,) bool. Rows without a box or contact stay in the call and give and receive nothing. None: all.
        stats: Also return HSAStats.
        bank: (M, D) past region features, further candidates of every touch; they receive no gradient.
        weighting: Which rivals count, and how much; None: all alike.
        gather: Take the candidates from all ranks of torch.distributed; every rank gets the loss of the whole batch.
            Gradients are to be AVERAGED over ranks, as DistributedDataParallel does; then they are exact.
        chunk: Rows of a span; None chooses, and takes small batches at once.
        hard_valid: (B, N) bool, which of the hard negatives exist: another region may be out of sight at some moments.
            The others count for nothing, whatever they hold. None: all.

    Returns:
        The loss, or (loss, stats). Without any valid row it is a zero connected to the graph.

    Raises:
        ValueError: Shapes that do not pair, an unknown `reduction` or `explicit`, a temperature <= 0, or a valid row
            that has no rival at all.
    """
    rank, ranks = world() if gather else (0, 1)
    in_batch = hard_negatives is None or explicit == "add"
    check_choices(reduction, explicit)
    check_temperature(temperature)
    check_pairs(h_tau, h_w, valid)
    check_rivals(h_tau, hard_negatives, hard_valid, rival, bank, ranks, in_batch)
    count, device = h_tau.shape[0], h_tau.device
    weighting = weighting or Weighting()
    with torch.autocast(device_type=device.type, enabled=False):
        tau, w = (_unit(h, valid) for h in (h_tau, h_w))
        of_pair = None if valid is None or hard_negatives is None else valid[:, None].expand(hard_negatives.shape[:2])
        if hard_valid is not None:
            of_pair = hard_valid if of_pair is None else of_pair & hard_valid
        hard = None if hard_negatives is None else _unit(hard_negatives, of_pair)
        keep = torch.ones(count, dtype=torch.bool, device=device) if valid is None else valid
        every_tau, every_w, every_keep = tau, w, keep
        if ranks > 1:
            require_equal_rows(count, device)
            every_tau, every_w = gather_rows(torch.stack([tau, w], dim=1)).unbind(1)
            every_keep = gather_facts(keep)
            rival = rival.gathered() if isinstance(rival, Rivals) else rival
        rule = MaskRule(rival, count) if isinstance(rival, Tensor) else rival
        keys, candidates = every_w, every_keep
        if bank is not None:
            keys = torch.cat([every_w, _unit(bank.detach(), None).to(every_w.dtype)])
            candidates = torch.cat([every_keep, every_keep.new_ones(len(bank))])
        kappa = torch.as_tensor(temperature, dtype=tau.dtype, device=device)
        run = row_losses if reduction == "none" else summed_loss
        parts = spans(count, len(keys), chunk)
        first_row = rank * count
        forward = Direction(rule, True, in_batch, keep, candidates, first_row, weighting)
        value, rivals = run(forward, parts, (tau, hard, hard_valid), (keys, kappa))
        fewest = rivals
        if symmetric:
            back = Direction(rule, False, True, keep, every_keep, first_row, weighting)
            back_value, back_rivals = run(back, parts, (w, None, None), (every_tau, kappa))
            value, fewest = (value + back_value) / 2, torch.minimum(rivals, back_rivals)
        return _finish(value, rivals, fewest, keep, first_row, reduction, stats, ranks)


def _unit(h: Tensor, keep: Tensor | None) -> Tensor:
    """Unit vectors in float32 or better; rows not kept become a constant, so no gradient and no nan leaves them."""
    h = h if h.dtype == torch.float64 else h.float()
    if keep is not None and not bool(keep.all()):
        h = torch.where(keep[..., None], h, torch.ones_like(h))
    return F.normalize(h, dim=-1)


def _finish(
    value: Tensor,
    rivals: Tensor,
    fewest: Tensor,
    keep: Tensor,
    first_row: int,
    reduction: Reduction,
    stats: bool,
    ranks: int,
) -> Tensor | tuple[Tensor, HSAStats]:
    """Reduce over rows and ranks and check that every valid row had a rival."""
    alone = (keep & ~(fewest > 0)).sum()
    sums = torch.stack([keep.sum(), alone, rivals.sum(), torch.log1p(rivals).sum(), value.detach().sum()]).to(
        value.dtype
    )
    if ranks > 1:
        sums = summed_over_ranks(sums)
    pairs, lonely, of_rivals, of_chance, total = sums.unbind()
    require_rivals(fewest, keep, first_row, bool(lonely > 0))
    at_least_one = pairs.clamp(min=1)
    if reduction != "none":
        shown = total
        # Each rank sends gradient for its own rows; averaged over the ranks, only `ranks` times that is the sum.
        value = value * ranks
        if reduction == "mean":
            value, shown = value / at_least_one, total / at_least_one
        if ranks > 1:
            value = value + (shown - value).detach()
    if not stats:
        return value
    return value, HSAStats(pairs, of_rivals / at_least_one, of_chance / at_least_one)


class HSALoss(nn.Module):
    """`hsa_loss` with its options kept; see there for shapes and errors."""

    def __init__(
        self,
        temperature: float = 0.07,
        reduction: Reduction = "mean",
        explicit: Explicit = "replace",
        symmetric: bool = False,
        weighting: Weighting | None = None,
        gather: bool = False,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        check_choices(reduction, explicit)
        check_temperature(temperature)
        self.temperature, self.reduction = temperature, reduction
        self.explicit, self.symmetric = explicit, symmetric
        self.weighting, self.gather, self.chunk = weighting or Weighting(), gather, chunk

    def forward(
        self,
        h_tau: Tensor,
        h_w: Tensor,
        hard_negatives: Tensor | None = None,
        rival: Tensor | RivalRule | None = None,
        *,
        temperature: float | Tensor | None = None,
        valid: Tensor | None = None,
        stats: bool = False,
        bank: Tensor | None = None,
        hard_valid: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, HSAStats]:
        """Return the loss; `temperature` overrides the kept one, as a learnt temperature does."""
        return hsa_loss(
            h_tau,
            h_w,
            hard_negatives,
            rival,
            temperature=self.temperature if temperature is None else temperature,
            reduction=self.reduction,
            explicit=self.explicit,
            symmetric=self.symmetric,
            valid=valid,
            stats=stats,
            bank=bank,
            weighting=self.weighting,
            gather=self.gather,
            chunk=self.chunk,
            hard_valid=hard_valid,
        )

"""HSA, the contrastive loss that pulls a touch to the image region where the sensor is.

Hierarchical Spatial Alignment of DreamTacVLA (arXiv 2512.23864): tactile features are pulled to the tokens inside
the sensor's box and pushed from negatives, which are other regions of the same image and other images. Read
`hsa_loss`, `Direction.losses` and `contrast`, in this order; the checks of the arguments stand last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.errors import InputError
from tactile_align.losses.gather import (
    gather_facts,
    gather_rows,
    require_equal_rows,
    sum_of_ranks,
    summed_over_ranks,
    world,
)
from tactile_align.losses.negatives import MaskRule, NegativeRule, Negatives
from tactile_align.losses.row_chunks import Features, in_spans

Reduction = Literal["mean", "sum", "none"]
Explicit = Literal["replace", "add"]


@dataclass(frozen=True)
class LossOptions:
    """Which contrasts are made, which of a row's negatives count, and how much.

    Attributes:
        symmetric: Average the touch-to-region and the region-to-touch direction; hard negatives and the bank enter
            the first.
        hardness: beta of arXiv 2010.04592: a negative weighs e^(beta s / kappa), on average 1. 0 weighs all alike.
        hardest: Only this many most similar negatives of each row count; None: all.
        chunk: Rows of a span; None chooses, and takes small batches at once. Memory only: the value does not change.

    Raises:
        InputError: A negative hardness, or fewer than 1 of `hardest` or `chunk`.
    """

    symmetric: bool = False
    hardness: float = 0.0
    hardest: int | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        if not self.hardness >= 0:
            raise InputError(f"hardness must be 0 or more; got {self.hardness}. Common values are 0.5 to 1")
        if self.hardest is not None and self.hardest < 1:
            raise InputError(f"hardest must be at least 1, or None for all negatives; got {self.hardest}")
        if self.chunk is not None and self.chunk < 1:
            raise InputError(f"chunk must be at least 1 row, or None to have it chosen; got {self.chunk}")


PLAIN = LossOptions()
"""One direction, all negatives alike: the original's loss."""


class HSAStats(NamedTuple):
    """What a loss value is to be read against; all scalars on the loss's device, over all ranks when gathered.

    Attributes:
        pairs: Number of valid rows.
        negatives: Mean number of negatives of a valid row.
        chance: Mean ln(1 + negatives of the row): the loss of features that know nothing.
    """

    pairs: Tensor
    negatives: Tensor
    chance: Tensor


def hsa_loss(
    h_tau: Tensor,
    h_w: Tensor,
    hard_negatives: Tensor | None = None,
    negative: Tensor | NegativeRule | None = None,
    *,
    temperature: float | Tensor = 0.07,
    reduction: Reduction = "mean",
    explicit: Explicit = "replace",
    options: LossOptions = PLAIN,
    gather: bool = False,
    valid: Tensor | None = None,
    stats: bool = False,
    bank: Tensor | None = None,
    hard_valid: Tensor | None = None,
) -> Tensor | tuple[Tensor, HSAStats]:
    """Return -log( e^(h_tau.h_w/kappa) / (e^(h_tau.h_w/kappa) + sum over negatives of e^(h_tau.h_w_i/kappa)) ).

    Features are brought to unit length first; similarities are computed in float32 (float64 inputs stay float64),
    also under autocast. Large batches are worked through a span of rows at a time, so memory stays linear in B.

    Args:
        h_tau: (B, D) touch features, any length.
        h_w: (B, D) region features, any length; row i belongs to touch i.
        hard_negatives: (B, N, D) explicit negatives of each touch, or None.
        negative: Which rows of the batch are negatives of which: (B, B) bool, or float weights >= 0 that multiply
            the negative's exponential, or a rule evaluated by rows. The diagonal is ignored. None: every other row.
            With a bank of M there are M more columns.
        temperature: kappa > 0.
        reduction: "mean" over valid rows, "sum", or "none" for (B,) with zeros at invalid rows.
        explicit: Whether hard negatives replace the in-batch negatives (as the original did) or join them.
        options: Symmetry, weights of the negatives, rows of a span.
        gather: Take the candidates from all ranks of torch.distributed; every rank gets the loss of the whole batch.
            Gradients are to be AVERAGED over ranks, as DistributedDataParallel does; then they are exact.
        valid: (B,) bool. Rows without a box or contact stay in the call and give and receive nothing. None: all.
        stats: Also return HSAStats.
        bank: (M, D) past region features, further candidates of every touch; they receive no gradient.
        hard_valid: (B, N) bool, which of the hard negatives exist: another region may be out of sight at some moments.
            The others count for nothing, whatever they hold. None: all.

    Returns:
        The loss, or (loss, stats). Without any valid row it is a zero connected to the graph.

    Raises:
        ValueError: Shapes that do not pair, an unknown `reduction` or `explicit`, a temperature <= 0, or a valid row
            that has no negative at all.
    """
    rank, ranks = world() if gather else (0, 1)
    in_batch = hard_negatives is None or explicit == "add"
    check_choices(reduction, explicit)
    check_temperature(temperature)
    check_pairs(h_tau, h_w, valid)
    check_negatives(h_tau, hard_negatives, hard_valid, negative, bank, ranks, in_batch)
    batch, device = len(h_tau), h_tau.device
    with torch.autocast(device_type=device.type, enabled=False):
        keep = torch.ones(batch, dtype=torch.bool, device=device) if valid is None else valid
        tau, w = unit(h_tau, keep), unit(h_w, keep)
        kappa = torch.as_tensor(temperature, dtype=tau.dtype, device=device)
        hard, exist = tau.new_empty((batch, 0, tau.shape[1])), keep.new_empty((batch, 0))
        if hard_negatives is not None:
            exist = keep[:, None].expand(hard_negatives.shape[:2])
            exist = exist if hard_valid is None else exist & hard_valid
            hard = unit(hard_negatives, exist)
        touches, regions, candidates = tau, w, keep
        if ranks > 1:
            require_equal_rows(batch, device)
            touches, regions = gather_rows(torch.stack([tau, w], dim=1)).unbind(1)
            candidates = gather_facts(keep)
            negative = negative.gathered() if isinstance(negative, Negatives) else negative
        keys, valid_keys = regions, candidates
        if bank is not None:
            keys = torch.cat([regions, unit(bank.detach()).to(regions.dtype)])
            valid_keys = torch.cat([candidates, candidates.new_ones(len(bank))])
        if negative is None:
            negative = keep.new_ones(()).expand(len(touches), len(keys))
        rule = MaskRule(negative, len(touches)) if isinstance(negative, Tensor) else negative

        first, summed = rank * batch, reduction != "none"
        to_region = Direction(rule.rows, valid_keys if in_batch else None, exist, keep, first, options)
        loss, negatives = in_spans(to_region.losses, Features(tau, hard, keys, kappa), options.chunk, summed)
        fewest = negatives
        if options.symmetric:
            to_touch = Direction(rule.columns, candidates, exist[:, :0], keep, first, options)
            features = Features(w, hard[:, :0], touches, kappa)
            back, back_negatives = in_spans(to_touch.losses, features, options.chunk, summed)
            loss, fewest = (loss + back) / 2, torch.minimum(negatives, back_negatives)

        alone = keep & ~(fewest > 0)
        sums = torch.stack([keep.sum(), alone.sum(), negatives.sum(), negatives.log1p().sum(), loss.detach().sum()])
        pairs, lonely, weight, chance, total = (summed_over_ranks(sums) if ranks > 1 else sums).to(loss.dtype).unbind()
        require_negatives(alone, first, bool(lonely > 0))
        at_least_one = pairs.clamp(min=1)
        if summed:
            loss = sum_of_ranks(loss, total, ranks)
        if reduction == "mean":
            loss = loss / at_least_one
    return (loss, HSAStats(pairs, weight / at_least_one, chance / at_least_one)) if stats else loss


def unit(h: Tensor, keep: Tensor | None = None) -> Tensor:
    """Return unit vectors (..., D) in float32 or better; those not kept (...) are a constant, so neither gradient nor
    nan leaves them."""
    h = h if h.dtype == torch.float64 else h.float()
    if keep is not None and not bool(keep.all()):
        h = torch.where(keep[..., None], h, torch.ones_like(h))
    return F.normalize(h, dim=-1)


@dataclass(frozen=True)
class Direction:
    """One direction of the contrast: touches against regions, or regions against touches.

    Attributes:
        weights: Weights (n, C), bool or float, of the candidates as negatives of rows first..last-1 among all ranks;
            a new tensor at each call.
        candidates: (C,) bool, valid candidates; None where explicit negatives replace them.
        exist: (B, N) bool, which explicit negatives exist.
        keep: (B,) bool, valid rows of this rank.
        first: Number of this rank's first row among all candidates.
        options: Which negatives count, and how much.
    """

    weights: Callable[[int, int], Tensor]
    candidates: Tensor | None
    exist: Tensor
    keep: Tensor
    first: int
    options: LossOptions

    def losses(self, start: int, stop: int, features: Features) -> tuple[Tensor, Tensor]:
        """Return losses and summed negative weights (n,) of rows start..stop-1; zeros where a row is not valid."""
        first, last = self.first + start, self.first + stop
        scaled = features.query / features.kappa
        if self.candidates is None:
            logits = (scaled * features.keys[first:last]).sum(dim=1, keepdim=True)
            own = torch.zeros_like(logits, dtype=torch.int64)
            negative = torch.zeros_like(own, dtype=torch.bool)
        else:
            logits = scaled @ features.keys.T
            own = torch.arange(first, last, device=logits.device)[:, None]
            negative = self._negatives(self.candidates, first, last)
        if self.exist.shape[1]:
            logits = torch.cat([logits, torch.einsum("nd,nkd->nk", scaled, features.hard)], dim=1)
            negative = torch.cat([negative, self.exist[start:stop].to(negative.dtype)], dim=1)
        losses, counts = contrast(logits, own, negative, self.options)
        keep = self.keep[start:stop]
        return torch.where(keep, losses, torch.zeros_like(losses)), torch.where(keep, counts, torch.zeros_like(counts))

    def _negatives(self, candidates: Tensor, first: int, last: int) -> Tensor:
        weights = self.weights(first, last)
        if weights.shape != (last - first, len(candidates)):
            raise ValueError(
                f"a negative rule must return shape {(last - first, len(candidates))} for rows {first}..{last - 1}: "
                f"one column for each row of the batch (of all ranks), then one for each row of the bank; got "
                f"{tuple(weights.shape)}"
            )
        if weights.dtype == torch.bool:
            return weights.logical_and_(candidates)
        return torch.where(candidates, weights, torch.zeros_like(weights))


def contrast(logits: Tensor, own: Tensor, negative: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """Return -log(p / (p + sum of the weighted negatives)) and the summed weight of the negatives, each (n,).

    Args:
        logits: (n, K) cosines over kappa of each row and all candidates; may be changed in place.
        own: (n, 1) column of each row's positive.
        negative: (n, K) bool or float weights of the candidates as negatives; changed in place at `own`.
        options: Which negatives count, and how much.
    """
    negative.scatter_(1, own, 0)
    if options.hardest is not None:
        similar = logits.detach().masked_fill(negative == 0, -torch.inf)
        hardest = similar.topk(min(options.hardest, similar.shape[1]), dim=1).indices
        negative = torch.zeros_like(negative).scatter_(1, hardest, negative.gather(1, hardest))
    count = negative.sum(dim=1).to(logits.dtype)
    if options.hardness:
        importance = options.hardness * logits
        # A row without negatives gets harmless numbers here, so that no nan enters its gradient.
        log_weight = negative.to(logits.dtype).log().masked_fill((count == 0)[:, None], 0)
        log_mean = torch.logsumexp(importance + log_weight, dim=1) - torch.logsumexp(log_weight, dim=1)
        logits = logits + (importance - log_mean[:, None]).scatter(1, own, 0.0)
    # With the positive in its own column one logsumexp gives the whole denominator, and no row is ever empty.
    negative.scatter_(1, own, 1)
    if negative.dtype == torch.bool:
        logits = logits.masked_fill_(~negative, -torch.inf)
    else:
        logits = logits + negative.to(logits.dtype).log()
    positive = logits.gather(1, own)[:, 0]
    return torch.logsumexp(logits, dim=1) - positive, count


class HSALoss(nn.Module):
    """`hsa_loss` with its options kept; see there for shapes and errors."""

    def __init__(
        self,
        temperature: float = 0.07,
        reduction: Reduction = "mean",
        explicit: Explicit = "replace",
        options: LossOptions = PLAIN,
        gather: bool = False,
    ) -> None:
        super().__init__()
        check_choices(reduction, explicit)
        check_temperature(temperature)
        self.temperature, self.reduction, self.explicit = temperature, reduction, explicit
        self.options, self.gather = options, gather

    def forward(
        self,
        h_tau: Tensor,
        h_w: Tensor,
        hard_negatives: Tensor | None = None,
        negative: Tensor | NegativeRule | None = None,
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
            negative,
            temperature=self.temperature if temperature is None else temperature,
            reduction=self.reduction,
            explicit=self.explicit,
            options=self.options,
            gather=self.gather,
            valid=valid,
            stats=stats,
            bank=bank,
            hard_valid=hard_valid,
        )


def check_temperature(temperature: float | Tensor) -> None:
    """Refuse what is not positive; a tensor of nan passes, as training names the rows behind a loss that is nan."""
    good = not bool((temperature <= 0).any()) if isinstance(temperature, Tensor) else temperature > 0
    if not good:
        raise InputError(f"temperature must be positive; got {temperature}. Common values are 0.05 to 0.2")


def check_choices(reduction: str, explicit: str) -> None:
    """Refuse names that are not known; lists those that are."""
    for name, value, known in (
        ("reduction", reduction, get_args(Reduction)),
        ("explicit", explicit, get_args(Explicit)),
    ):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}; got '{value}'")


def check_pairs(h_tau: Tensor, h_w: Tensor, valid: Tensor | None) -> None:
    """Refuse features that do not pair and a `valid` of another shape or type."""
    if h_tau.ndim != 2 or h_tau.shape != h_w.shape:
        raise ValueError(f"h_tau and h_w must both have shape (B, D); got {tuple(h_tau.shape)} and {tuple(h_w.shape)}")
    batch = h_tau.shape[0]
    if valid is not None and (valid.shape != (batch,) or valid.dtype != torch.bool):
        raise ValueError(f"valid must be bool of shape ({batch},); got {valid.dtype} {tuple(valid.shape)}")


def check_negatives(
    h_tau: Tensor,
    hard: Tensor | None,
    hard_valid: Tensor | None,
    negative: object,
    bank: Tensor | None,
    ranks: int,
    in_batch: bool,
) -> None:
    """Refuse explicit negatives, masks and banks of another shape."""
    batch, dim = h_tau.shape
    if hard is not None and (hard.ndim != 3 or hard.shape[0] != batch or hard.shape[2] != dim or hard.shape[1] < 1):
        raise ValueError(f"hard_negatives must have shape ({batch}, N >= 1, {dim}); got {tuple(hard.shape)}")
    if hard_valid is not None and (
        hard is None or hard_valid.shape != hard.shape[:2] or hard_valid.dtype != torch.bool
    ):
        needed = "hard_negatives, which are not given" if hard is None else f"bool of shape {tuple(hard.shape[:2])}"
        raise ValueError(f"hard_valid needs {needed}; got {hard_valid.dtype} {tuple(hard_valid.shape)}")
    if bank is not None and (bank.ndim != 2 or bank.shape[1] != dim):
        raise ValueError(f"bank must have shape (M, {dim}); got {tuple(bank.shape)}")
    if bank is not None and not in_batch:
        raise InputError(
            "explicit hard negatives that replace the in-batch negatives would replace the bank too; got both. Use "
            "explicit='add', or leave the bank out"
        )
    if not isinstance(negative, Tensor):
        return
    wanted = (batch, batch + (0 if bank is None else len(bank)))
    if ranks > 1:
        raise ValueError(
            f"candidates of {ranks} ranks need a rule, which can be asked about any row; got a mask of shape "
            f"{tuple(negative.shape)}. Pass Negatives(...) or None"
        )
    if negative.shape != wanted:
        raise ValueError(f"negative must have shape {wanted}; got {tuple(negative.shape)}")


def require_negatives(alone: Tensor, first: int, somewhere: bool) -> None:
    """Refuse valid rows without any negative.

    Args:
        alone: (B,) bool, such rows of this rank.
        first: Number of the first row among the rows of all ranks.
        somewhere: Whether such a row exists on any rank; then all ranks raise, so that none waits for another.
    """
    if not somewhere:
        return
    rows = (alone.nonzero().flatten() + first).tolist()
    which = f"rows {rows[:20]} are" if rows else "rows of another rank are"
    raise InputError(
        f"{which} valid but have no negative, so their loss would say nothing. Needed: at least one "
        f"negative for each valid row. Use a larger batch, draw it from more episodes, or relax the negative rules"
    )

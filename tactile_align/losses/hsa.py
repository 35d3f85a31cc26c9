"""HSA: the contrastive loss that aligns the feature of a touch with the feature of the image region at the sensor.

HSA is the Hierarchical Spatial Alignment of DreamTacVLA (arXiv 2512.23864). It makes touch features similar to the
tokens inside the sensor's box, and dissimilar to negatives: other regions of the same image, and other images. Read
`hsa_loss`, `Direction.losses` and `contrast`, in this order. The checks of the arguments are at the end of the file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
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
    """Options of the contrastive loss: its directions, and the choice and weights of the negatives.

    Attributes:
        symmetric: Whether to average the loss of touches against regions and the loss of regions against touches. Hard
            negatives are used only for touches against regions.
        hardness: beta of arXiv 2010.04592. A negative with cosine similarity s has weight e^(beta s / kappa), scaled so
            that the mean weight is 1; kappa is the temperature. 0: all weights are equal.
        hardest: Number of negatives that are used for each row. They are the most similar ones. None: all negatives.
        chunk: Number of rows that are computed at a time. None: chosen automatically; small batches are computed at
            once. It changes the memory use, not the loss.

    Raises:
        InputError: `hardness` is below 0, or `hardest` or `chunk` is below 1.
    """

    symmetric: bool = False
    hardness: float = 0.0
    hardest: int | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        if not self.hardness >= 0:
            raise InputError(f"hardness must be at least 0; got {self.hardness}. Use a value such as 0.5 or 1")
        if self.hardest is not None and self.hardest < 1:
            raise InputError(
                f"hardest, the number of negatives that are used, must be at least 1; got {self.hardest}. Use None for "
                f"all negatives"
            )
        if self.chunk is not None and self.chunk < 1:
            raise InputError(f"chunk must be at least 1 row; got {self.chunk}. Use None to choose it automatically")


SMALLEST_NORM = 1e-6
"""A feature with a smaller norm has no direction: it is used as it is, so that its gradient stays small."""

PLAIN = LossOptions()
"""Options of the loss of the original implementation: touches against regions, all negatives with equal weight."""


class HSAStats(NamedTuple):
    """Statistics that help to judge a loss value: scalars on the device of the loss.

    With the argument `gather` of `hsa_loss`, they are computed over all ranks.

    Attributes:
        pairs: Number of valid rows. A row is one touch-region pair of the batch.
        negatives: Mean number of negatives of a valid row; with weighted negatives, the mean sum of weights.
        chance: Chance level: mean over valid rows of ln(1 + number of negatives), the loss of uninformative features.
        bank_share: Share, from 0 to 1, that past candidates contribute to the denominator of the loss; mean over valid
            rows. Past candidates are the `past_touches` and `past_regions` of `Keys`. With uninformative features, the
            share is (number of past negatives) / (1 + number of all negatives). A much smaller share shows that the
            model tells past features from new ones by their age. 0 without `keys`.

    A symmetric loss averages `negatives`, `chance` and `bank_share` over its two directions.
    """

    pairs: Tensor
    negatives: Tensor
    chance: Tensor
    bank_share: Tensor


class Keys(NamedTuple):
    """Features from a slowly updated copy of the model, with which a symmetric loss compares the features of a batch.

    The loss has two directions: a touch is compared with regions, and a region with touches. In each direction, all
    candidates come from the copy: the positive, the other rows of the batch, and past rows. If only the past rows came
    from the copy, the model could lower the loss by telling old features from new ones.

    Attributes:
        touches: (B, D) features of the touches of the batch: B rows of length D.
        regions: (B, D) features of the regions of the batch.
        past_touches: (M, D) features of M touches of past batches, from a `MemoryBank`.
        past_regions: (M, D) features of M regions of past batches. Row m belongs to past touch m.
    """

    touches: Tensor
    regions: Tensor
    past_touches: Tensor
    past_regions: Tensor


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
    keys: Keys | None = None,
    hard_valid: Tensor | None = None,
) -> Tensor | tuple[Tensor, HSAStats]:
    """Return the contrastive loss of a batch of touch-region pairs.

    The loss of a pair is -log( e^(h_tau.h_w/kappa) / (e^(h_tau.h_w/kappa) + sum over i of e^(h_tau.h_w_i/kappa)) ),
    where h_tau is the feature of the touch, h_w the feature of its region, h_w_i the feature of the i-th negative, and
    kappa the temperature.

    Features are first scaled to unit length. Similarities are computed in float32 (float64 inputs stay float64), also
    under autocast. Large batches are computed a range of rows at a time, so that memory grows linearly with B.

    Args:
        h_tau: (B, D) touch features: B rows of length D. Their norms do not matter.
        h_w: (B, D) region features. Their norms do not matter. Row i belongs to touch i.
        hard_negatives: (B, N, D) N explicit negatives of each touch. None: no explicit negatives.
        negative: Which rows of the batch are negatives of each row. A (B, B) bool mask, (B, B) float weights >= 0 that
            multiply the exponential of each negative, or a `NegativeRule` that computes these. The diagonal is ignored.
            With `keys`, M more columns are needed, one for each of the M past rows; they count in both directions.
            None: all other rows are negatives.
        temperature: kappa > 0.
        reduction: "mean": mean over valid rows. "sum": sum over valid rows. "none": (B,) losses, 0 at invalid rows.
        explicit: "replace": hard negatives replace the in-batch negatives, as in the original implementation. "add":
            both are used.
        options: Directions, choice and weights of the negatives, and the number of rows computed at a time.
        gather: Whether to use candidates from all ranks of torch.distributed. Every rank then returns the loss of the
            whole batch. The caller must AVERAGE gradients over ranks, as DistributedDataParallel does; the gradients
            are then exact.
        valid: (B,) bool. Invalid rows (without a box or contact) are not used, neither as rows nor as negatives, and
            receive no gradient. None: all rows are valid.
        stats: Whether to return HSAStats as well.
        keys: Features of the batch and of past batches from a slowly updated copy of the model. They are the
            candidates of both directions in place of `h_w` and `h_tau`, and receive no gradient; `hard_negatives` must
            then come from the copy, too. Needs `options.symmetric`, because otherwise `h_w` would get no gradient.
        hard_valid: (B, N) bool, which hard negatives exist; a region may be invisible at some moments. The others are
            ignored, whatever values they contain. None: all exist.

    Returns:
        The loss, or (loss, stats). If no row is valid, the loss is a zero that is connected to the autograd graph.

    Raises:
        ValueError: Shapes do not match, `reduction` or `explicit` is unknown, the temperature is <= 0, or a valid row
            has no negative.
    """
    rank, ranks = world() if gather else (0, 1)
    in_batch = hard_negatives is None or explicit == "add"
    check_choices(reduction, explicit)
    check_temperature(temperature)
    check_pairs(h_tau, h_w, valid)
    check_keys(h_tau, keys, options.symmetric, in_batch)
    past = 0 if keys is None else len(keys.past_regions)
    check_negatives(h_tau, hard_negatives, hard_valid, negative, past, ranks)
    batch, device = len(h_tau), h_tau.device
    with torch.autocast(device_type=device.type, enabled=False):
        keep = torch.ones(batch, dtype=torch.bool, device=device) if valid is None else valid
        tau, w = unit(h_tau, keep), unit(h_w, keep)
        kappa = torch.as_tensor(temperature, dtype=tau.dtype, device=device)
        hard, exist = tau.new_empty((batch, 0, tau.shape[1])), keep.new_empty((batch, 0))
        if hard_negatives is not None:
            exist = keep[:, None].expand(hard_negatives.shape[:2])
            exist = exist if hard_valid is None else exist & hard_valid
            hard = unit(hard_negatives if keys is None else hard_negatives.detach(), exist)
        touches, regions, candidates = tau, w, keep
        if keys is not None:
            touches, regions = (unit(h.detach(), keep).to(tau.dtype) for h in (keys.touches, keys.regions))
        if ranks > 1:
            require_equal_rows(batch, device)
            touches, regions = gather_rows(torch.stack([touches, regions], dim=1)).unbind(1)
            candidates = gather_facts(keep)
            negative = negative.gathered() if isinstance(negative, Negatives) else negative
        rows = len(candidates)
        if keys is not None:
            touches, regions = (
                torch.cat([now, unit(h.detach()).to(now.dtype)])
                for now, h in ((touches, keys.past_touches), (regions, keys.past_regions))
            )
            candidates = torch.cat([candidates, candidates.new_ones(past)])
        if negative is None:
            negative = keep.new_ones(()).expand(rows, rows + past)
        rule = MaskRule(negative, rows) if isinstance(negative, Tensor) else negative

        first, summed = rank * batch, reduction != "none"
        to_region = Direction(rule.rows, candidates if in_batch else None, exist, keep, first, past, options)
        loss, counts = in_spans(to_region.losses, Features(tau, hard, regions, kappa), options.chunk, summed)
        negatives, from_past = counts.unbind(1)
        fewest, chance = negatives, negatives.log1p()
        if options.symmetric:
            to_touch = Direction(rule.columns, candidates, exist[:, :0], keep, first, past, options)
            features = Features(w, hard[:, :0], touches, kappa)
            back, counts = in_spans(to_touch.losses, features, options.chunk, summed)
            back_negatives, back_from_past = counts.unbind(1)
            fewest, chance = torch.minimum(negatives, back_negatives), (chance + back_negatives.log1p()) / 2
            loss, negatives = (loss + back) / 2, (negatives + back_negatives) / 2
            from_past = (from_past + back_from_past) / 2

        alone = keep & ~(fewest > 0)
        sums = torch.stack([x.detach().sum() for x in (keep, alone, loss, negatives, chance, from_past)])
        pairs, lonely, total, *means = (summed_over_ranks(sums) if ranks > 1 else sums).to(loss.dtype).unbind()
        require_negatives(alone, first, bool(lonely > 0))
        at_least_one = pairs.clamp(min=1)
        if summed:
            loss = sum_of_ranks(loss, total, ranks)
        if reduction == "mean":
            loss = loss / at_least_one
    return (loss, HSAStats(pairs, *(mean / at_least_one for mean in means))) if stats else loss


def unit(h: Tensor, keep: Tensor | None = None) -> Tensor:
    """Return the vectors `h` (..., D), scaled to unit length, in float32 or float64.

    `keep` contains one bool for each vector. Vectors where it is False become a constant.

    The constant keeps nan in these vectors out of the loss, and gives them no gradient. Vectors shorter than
    SMALLEST_NORM are returned as they are. Division by their norm would multiply their gradient by the reciprocal of
    that norm, up to infinity.
    """
    h = h if h.dtype == torch.float64 else h.float()
    if keep is not None and not bool(keep.all()):
        h = torch.where(keep[..., None], h, torch.ones_like(h))
    norm = torch.linalg.vector_norm(h, dim=-1, keepdim=True)
    return h / torch.where(norm < SMALLEST_NORM, torch.ones_like(norm), norm)


@dataclass(frozen=True)
class Direction:
    """One direction of the contrastive loss: touches against regions, or regions against touches.

    Each row (a touch, or a region) is compared with C candidates: its own partner, the positive, and possible
    negatives.

    Attributes:
        weights: Function of (first, last), which returns the weights of all C candidates as negatives of the rows
            `first:last`: a new tensor (last - first, C), bool or float. Rows are counted over all ranks.
        candidates: (C,) bool, which candidates are valid. None if explicit negatives replace them.
        exist: (B, N) bool, which of the N explicit negatives of each of this rank's B rows exist.
        keep: (B,) bool, which rows of this rank are valid.
        first: Index of this rank's first row among the candidates of all ranks.
        past: Number of candidates of past batches; they are the last ones.
        options: Choice and weights of the negatives.
    """

    weights: Callable[[int, int], Tensor]
    candidates: Tensor | None
    exist: Tensor
    keep: Tensor
    first: int
    past: int
    options: LossOptions

    def losses(self, start: int, stop: int, features: Features) -> tuple[Tensor, Tensor]:
        """Return losses (n,) and counts (n, 2) of the n rows `start:stop`, 0 for invalid rows, from their `features`.

        The two counts of a row are the summed weight of its negatives, and the share of past candidates in the
        denominator of its loss.
        """
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
        past = slice(len(features.keys) - self.past, len(features.keys))
        losses, counts = contrast(logits, own, negative, self.options, past)
        keep = self.keep[start:stop]
        counts = torch.where(keep[:, None], counts, torch.zeros_like(counts))
        return torch.where(keep, losses, torch.zeros_like(losses)), counts

    def _negatives(self, candidates: Tensor, first: int, last: int) -> Tensor:
        weights = self.weights(first, last)
        if weights.shape != (last - first, len(candidates)):
            raise ValueError(
                f"the rule `negative` returned shape {tuple(weights.shape)} for the rows {first}:{last}; expected "
                f"{(last - first, len(candidates))}. Return one column for each row of the batch (of all ranks), then "
                f"one for each past row of `keys`"
            )
        if weights.dtype == torch.bool:
            return weights.logical_and_(candidates)
        return torch.where(candidates, weights, torch.zeros_like(weights))


def contrast(logits: Tensor, own: Tensor, negative: Tensor, options: LossOptions, past: slice) -> tuple[Tensor, Tensor]:
    """Return the losses (n,) of n rows, and two counts of each row, (n, 2).

    The loss of a row is -log(p / (p + s)). p is the exponential of the logit of the row's positive. s is the weighted
    sum of the exponentials of the logits of its negatives. The counts are the summed weight of the negatives, and the
    share of past candidates in the denominator p + s.

    Args:
        logits: (n, C) cosine similarities of each row with all C candidates, divided by the temperature; may be changed
            in place.
        own: (n, 1) column of each row's positive.
        negative: (n, C) bool or float weights of the candidates as negatives; changed in place at `own`.
        options: Choice and weights of the negatives.
        past: Columns of the candidates of past batches.
    """
    negative.scatter_(1, own, 0)
    if options.hardest is not None:
        similar = logits.detach().masked_fill(negative == 0, -torch.inf)
        hardest = similar.topk(min(options.hardest, similar.shape[1]), dim=1).indices
        negative = torch.zeros_like(negative).scatter_(1, hardest, negative.gather(1, hardest))
    count = negative.sum(dim=1).to(logits.dtype)
    if options.hardness:
        importance = options.hardness * logits
        # A row without negatives gets finite numbers here, so that its gradient contains no nan.
        log_weight = negative.to(logits.dtype).log().masked_fill((count == 0)[:, None], 0)
        log_mean = torch.logsumexp(importance + log_weight, dim=1) - torch.logsumexp(log_weight, dim=1)
        logits = logits + (importance - log_mean[:, None]).scatter(1, own, 0.0)
    # With the positive included, one logsumexp gives the whole denominator, and no row is empty.
    negative.scatter_(1, own, 1)
    if negative.dtype == torch.bool:
        logits = logits.masked_fill_(~negative, -torch.inf)
    else:
        logits = logits + negative.to(logits.dtype).log()
    positive = logits.gather(1, own)[:, 0]
    denominator = torch.logsumexp(logits, dim=1)
    share = torch.zeros_like(count)
    if past.stop > past.start:
        share = torch.exp(torch.logsumexp(logits.detach()[:, past], dim=1) - denominator.detach())
    return denominator - positive, torch.stack([count, share], dim=1)


class HSALoss(nn.Module):
    """Alignment loss as a module, which calls `hsa_loss` with the arguments of its constructor; see `hsa_loss`."""

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
        keys: Keys | None = None,
        hard_valid: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, HSAStats]:
        """Return the loss; see `hsa_loss` for the arguments. A given `temperature` replaces that of the constructor."""
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
            keys=keys,
            hard_valid=hard_valid,
        )


def check_temperature(temperature: float | Tensor) -> None:
    """Raise InputError if the temperature is not positive. A nan is accepted: training reports the nan loss."""
    good = not bool((temperature <= 0).any()) if isinstance(temperature, Tensor) else temperature > 0
    if not good:
        raise InputError(f"temperature must be positive; got {temperature}. Use a value such as 0.07")


def check_choices(reduction: str, explicit: str) -> None:
    """Check that `reduction` and `explicit` are known options."""
    for name, value, known in (
        ("reduction", reduction, get_args(Reduction)),
        ("explicit", explicit, get_args(Explicit)),
    ):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}; got '{value}'. Choose one of these options")


def check_pairs(h_tau: Tensor, h_w: Tensor, valid: Tensor | None) -> None:
    """Check the shapes of the features, and shape and dtype of `valid`."""
    if h_tau.ndim != 2 or h_tau.shape != h_w.shape:
        raise ValueError(
            f"h_tau and h_w must both have shape (B, D); got {tuple(h_tau.shape)} and {tuple(h_w.shape)}. Pass one "
            f"touch feature and one region feature for each row"
        )
    batch = h_tau.shape[0]
    if valid is not None and (valid.shape != (batch,) or valid.dtype != torch.bool):
        raise ValueError(
            f"valid must be a bool tensor of shape ({batch},); got {valid.dtype} of shape {tuple(valid.shape)}. Pass "
            f"one bool for each row of h_tau"
        )


def check_keys(h_tau: Tensor, keys: Keys | None, symmetric: bool, in_batch: bool) -> None:
    """Check the shapes of the `Keys`, and that the other options can be used together with them."""
    if keys is None:
        return
    if not symmetric:
        raise InputError(
            "keys were given, but symmetric is False; keys get no gradient, so h_w would get none. Set symmetric to "
            "True, or omit keys"
        )
    if not in_batch:
        raise InputError(
            "both hard_negatives and keys were given, but explicit='replace' uses no negatives except hard_negatives. "
            "Set explicit='add', or omit keys"
        )
    past = len(keys.past_regions)
    wanted = (h_tau.shape, h_tau.shape, (past, h_tau.shape[1]), (past, h_tau.shape[1]))
    for name, value, shape in zip(Keys._fields, keys, wanted, strict=True):
        if value.shape != shape:
            raise ValueError(
                f"keys.{name} must have shape {tuple(shape)}; got {tuple(value.shape)}. Pass features of length "
                f"{h_tau.shape[1]}: one for each row of the batch, and as many past touches as past regions"
            )


def check_negatives(
    h_tau: Tensor, hard: Tensor | None, hard_valid: Tensor | None, negative: object, past: int, ranks: int
) -> None:
    """Check the shapes of `hard` and `hard_valid`, and of the mask `negative` over the batch and `past` past rows."""
    batch, dim = h_tau.shape
    if hard is not None and (hard.ndim != 3 or hard.shape[0] != batch or hard.shape[2] != dim or hard.shape[1] < 1):
        raise ValueError(
            f"hard_negatives must have shape ({batch}, N, {dim}) with N >= 1; got {tuple(hard.shape)}. Pass N "
            f"features of length {dim} for each touch"
        )
    if hard_valid is not None and (
        hard is None or hard_valid.shape != hard.shape[:2] or hard_valid.dtype != torch.bool
    ):
        if hard is None:
            raise ValueError("hard_valid was given without hard_negatives. Pass hard_negatives, or omit hard_valid")
        raise ValueError(
            f"hard_valid must be a bool tensor of shape {tuple(hard.shape[:2])}; got {hard_valid.dtype} of shape "
            f"{tuple(hard_valid.shape)}. Pass one bool for each hard negative"
        )
    if not isinstance(negative, Tensor):
        return
    wanted = (batch, batch + past)
    if ranks > 1:
        raise ValueError(
            f"negative is a tensor of shape {tuple(negative.shape)}, but with {ranks} ranks it must be a rule for the "
            f"rows of all ranks. Pass Negatives(...) or None"
        )
    if negative.shape != wanted:
        raise ValueError(
            f"negative must have shape {wanted}; got {tuple(negative.shape)}. Entry (i, j) states whether candidate j "
            f"is a negative of touch i; candidates are the regions of the batch, then the past ones in `keys`"
        )


def require_negatives(alone: Tensor, first: int, somewhere: bool) -> None:
    """Check that every valid row has a negative.

    Args:
        alone: (B,) bool, valid rows of this rank without any negative.
        first: Index of this rank's first row among the rows of all ranks.
        somewhere: Whether any rank has such a row. Then all ranks raise the error, because the others would otherwise
            wait forever for this rank.

    Raises:
        InputError: A valid row has no negative.
    """
    if not somewhere:
        return
    rows = (alone.nonzero().flatten() + first).tolist()
    which = f"pairs {rows[:20]} of the batch" if rows else "pairs of another rank"
    raise InputError(
        f"{which} are valid but have no negative; every valid touch-region pair needs at least one negative. "
        f"Use a larger batch, draw batches from more episodes, or relax the negative rules"
    )
